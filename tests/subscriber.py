"""A subscriber's HTTP server on this machine, which answers as a test says and keeps what it was sent."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from standardwebhooks.webhooks import Webhook

from callbacks.dingcrypto import Credential, Keyring, Opened
from callbacks.inbox import receive
from callbacks.models import Delivery, Endpoint
from tests.owed import payload


@dataclass(frozen=True)
class Request:
    """What came: a path with its query, headers and the body's bytes."""

    path: str
    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> Any:
        """Return the JSON inside, its signature checked by the library that subscribers use."""
        return Webhook(secret).verify(self.body, self.headers)

    def opened(self, endpoint: Endpoint) -> Opened:
        """Return what is sealed inside, signature, aes key and owner key checked."""
        keyring = Keyring([Credential(endpoint.token, endpoint.aes_key)], [endpoint.owner_key], max_age=60)
        return keyring.open(dict(parse_qsl(urlsplit(self.path).query)), json.loads(self.body)["encrypt"], time.time())


Answer = tuple[int, dict[str, str], bytes]
Answering = Callable[[Request], Answer]


class Subscriber:
    """A server at `url`; `answer` says what it answers."""

    def __init__(self, answer: Answering | None = None) -> None:
        self.answer = answer or saying(204)
        self.requests: list[Request] = []
        self.at_once: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook?of=us"

    def __enter__(self) -> "Subscriber":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, request: Request) -> Answer:
        self.at_once["now"] += 1
        self.at_once["most"] = max(self.at_once["most"], self.at_once["now"])
        try:
            answer = self.answer(request)
            self.requests.append(request)
            return answer
        finally:
            self.at_once["now"] -= 1


def saying(status: int, body: str | bytes = b"", **headers: str) -> Answering:
    """Always answer the same; an underscore in a header's name is a dash."""
    text = body.encode() if isinstance(body, str) else body
    return lambda request: (status, {name.replace("_", "-"): value for name, value in headers.items()}, text)


def sealing(endpoint: Endpoint, text: str = "success", status: int = 200, **changes: Any) -> Answering:
    """Answer as a receiver written for DingTalk does, or with something else sealed; `changes` to its fields."""

    def answer(request: Request) -> Answer:
        fields = {**request.opened(endpoint).seal(text, time.time()), **changes}
        return status, {"Content-Type": "application/json"}, json.dumps(fields).encode()

    return answer


def sent(endpoint: Endpoint, event_type: str = "label_user_change", **fields: Any) -> Delivery:
    """Store a new event; return its delivery to an endpoint."""
    receipt = receive(payload(event_type, **fields))
    return Delivery.objects.get(event_id=receipt.event_id, destination=endpoint.destination)


@contextmanager
def closed_port() -> Iterator[str]:
    """Give an address at which nothing listens."""
    with Subscriber() as gone:
        url = gone.url
    yield url


def _handler(subscriber: Subscriber) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 1.0  # lets the thread of a connection that is kept open end

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, text = subscriber.take(Request(self.path, dict(self.headers), body))
            with suppress(ConnectionError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler
