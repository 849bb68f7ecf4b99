"""Receive events in the Standard Webhooks form: python standard_receiver.py, with WEBHOOK_SECRET and perhaps PORT set.

Python 3.10 or newer; pip install standardwebhooks
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

WEBHOOK = Webhook(os.environ["WEBHOOK_SECRET"])  # whsec_...
PORT = int(os.environ.get("PORT", "8080"))

seen: set[str] = set()  # yours is a unique column, in the transaction in which you store the event


def handle(message_id: str, event: dict[str, Any]) -> None:
    """Take an event: store it, and work later where the work takes longer than a few seconds."""
    if message_id in seen:
        return  # sent again, because the answer to the first was lost
    print(message_id, json.dumps(event, ensure_ascii=False), flush=True)
    seen.add(message_id)


class Receiver(BaseHTTPRequestHandler):
    """Verify a request, take its event, and answer."""

    def do_POST(self) -> None:
        """204: taken, and not sent again; anything else: sent again later."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            WEBHOOK.verify(body, dict(self.headers.items()))
        except WebhookVerificationError as error:
            print(f"refused: {error}", flush=True)
            self.answer(401)
            return
        handle(self.headers["webhook-id"], json.loads(body))
        self.answer(204)

    def answer(self, status: int) -> None:
        """Answer without a body."""
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Receiver).serve_forever()
