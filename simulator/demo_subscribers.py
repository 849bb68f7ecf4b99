"""The demo's two subscribers, as other teams would write them: one of each form, the first of which fails at first."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from callbacks.dingcrypto import Credential, Keyring, RefusedPush
from callbacks.models import Endpoint

FAILS_AT_FIRST = 2


class Erp:
    """Takes signed JSON, but refuses the first requests, as a system does that is just being started."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._refusals = FAILS_AT_FIRST
        self.taken: list[str] = []

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Return status and body."""
        if self._refusals:
            self._refusals -= 1
            return 503, b"starting"
        try:
            event = self._webhook.verify(body, headers)
        except WebhookVerificationError as error:
            return 401, str(error).encode()
        self.taken.append(event["type"])
        return 204, b""


class Oa:
    """Takes what DingTalk sends, and answers a sealed success; it knows of no relay."""

    def __init__(self, token: str, aes_key: str, owner_key: str) -> None:
        self._keyring = Keyring([Credential(token, aes_key)], [owner_key], max_age=3600)
        self.taken: list[str] = []

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Return status and body."""
        try:
            query = dict(parse_qsl(urlsplit(path).query))
            opened = self._keyring.open(query, json.loads(body)["encrypt"], time.time())
        except RefusedPush as error:
            return error.status, str(error).encode()
        self.taken.append(json.loads(opened.text)["EventType"])
        return 200, json.dumps(opened.seal("success", time.time())).encode()


@contextmanager
def subscribed() -> Iterator[list[Erp | Oa]]:
    """Run both on free ports of loopback, each with an endpoint of its own."""
    standard = Endpoint(name="ERP", format=Endpoint.Format.STANDARD, event_types=["user_*", "brand_new_*"])
    native = Endpoint(name="OA", format=Endpoint.Format.DINGTALK, event_types=["org_dept_*", "bpms_instance_change"])
    both: list[Erp | Oa] = [Erp(standard.secret), Oa(native.token, native.aes_key, native.owner_key)]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(each)) for each in both]
    for server, endpoint in zip(servers, (standard, native), strict=True):
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/events"
        endpoint.save()
    try:
        yield both
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(subscriber: Erp | Oa) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            """Answer as the subscriber says."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = subscriber.answer(self.path, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    return Handler
