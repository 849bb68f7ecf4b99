"""A receiver of DingTalk's callbacks on a third-party SDK, as a company may have had one before this service."""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dingtalk.client import AppKeyClient
from dingtalk.core.exceptions import DingTalkException

CLIENT = AppKeyClient(
    os.environ["DINGTALK_OWNER_KEY"],
    "an-app-key",
    "an-app-secret",
    token=os.environ["DINGTALK_TOKEN"],
    aes_key=os.environ["DINGTALK_AES_KEY"],
)


class Callback(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query))
        message = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            text = CLIENT.crypto.decrypt_message(message, query["signature"], query["timestamp"], query["nonce"])
        except DingTalkException as error:
            self.answer(403, {"error": type(error).__name__})
            return
        print(json.dumps(text), flush=True)  # noqa: T201 - as text in one line, so that not a byte is lost
        self.answer(200, CLIENT.crypto.encrypt_message("success"))

    def answer(self, status: int, fields: dict[str, Any]) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Callback).serve_forever()
