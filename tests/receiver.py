"""A receiver of DingTalk's pushes that answers rightly or in any wrong way, for the tests of the simulator."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from callbacks.dingcrypto import CallbackError, Credential, Keyring, Opened

TOKEN = "receiver-token-01"
AES_KEY = "q8ZtR2mXw5KcVb7NhYp3LsDf6GjTa9Ue4WxQo1EiMn0"
CORP_ID = "dingsimulatorcorp01"
APP_KEY = "dingsimulatorapp01"


class Receiver:
    """A receiver at `url`; `answer` is what it says to an envelope it could open: a status, headers and a body."""

    def __init__(self, answer: "Callable[[Opened], tuple[int, dict[str, str], str]] | None" = None) -> None:
        self.answer = answer or right
        self.keyring = Keyring([Credential(TOKEN, AES_KEY)], [CORP_ID, APP_KEY], max_age=3600)
        self.received: list[dict[str, Any]] = []
        self.queries: list[dict[str, str]] = []
        self.opened: list[Opened] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/callback?of=us"

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], str]:
        self.queries.append(query)
        try:
            opened = self.keyring.open(query, json.loads(body)["encrypt"], time.time())
            payload = json.loads(opened.text)
        except CallbackError as error:
            return error.status if hasattr(error, "status") else 400, {}, json.dumps({"msg": str(error)})
        except ValueError:
            return 400, {}, '{"msg": "no JSON"}'
        self.opened.append(opened)
        self.received.append(payload)
        return self.answer(opened)

    def events(self) -> list[dict[str, Any]]:
        """Return what came, the questions whether the address works left out."""
        return [payload for payload in self.received if payload["EventType"] != "check_url"]


def right(opened: Opened) -> tuple[int, dict[str, str], str]:
    return 200, {"Content-Type": "application/json"}, json.dumps(opened.seal("success", time.time()))


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, text = receiver.take(dict(parse_qsl(urlsplit(self.path).query)), body)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())
            except ConnectionError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler
