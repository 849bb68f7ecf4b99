"""The systems behind the service's endpoints: they verify what they are sent, take it or not, and count it."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from standardwebhooks.webhooks import Webhook

from callbacks.dingcrypto import Credential, Keyring
from callbacks.keys import new_aes_key, new_token, new_webhook_secret

OWNER_KEY = "dingfaultssubscriber"
DROP_EVERY = 0.2

# Answers a request in place of the subscriber, which takes nothing then.
Mood = Callable[[BaseHTTPRequestHandler], None]


def status(number: int, **headers: str) -> Mood:
    """Return a mood that answers with a status; an underscore in a header's name is a dash."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        _answer(request, number, b"", **headers)

    return answer


def drip(request: BaseHTTPRequestHandler) -> None:
    """Send the start of an answer byte by byte, until the other side has enough."""
    request.close_connection = True
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        request.wfile.write(b"x")
        time.sleep(DROP_EVERY)


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    request.close_connection = True


class Subscriber:
    """One system; `taken` are the references of the events it took, in that order, repeats among them.

    `taken_at`: when it took each at first, as of `time.monotonic`.
    """

    def __init__(self, form: str) -> None:
        self.name = f"{form} subscriber"
        self.form = form
        self.destination = ""
        self.mood: Mood | None = None
        self.taken: list[str] = []
        self.taken_at: dict[str, float] = {}
        self.refused = 0
        self.forged = 0
        self.know({"secret": new_webhook_secret(), "token": new_token(), "aes_key": new_aes_key()})
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def arguments(self) -> list[str]:
        """Return what `manage.py endpoint add` is told of it."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        secrets = ["--secret", self._secrets["secret"]]
        if self.form == "dingtalk":
            pair = ["--token", self._secrets["token"], "--aes-key", self._secrets["aes_key"]]
            secrets = [*pair, "--owner-key", OWNER_KEY]
        return [self.name, url, "--format", self.form, "--timeout", "2", *secrets]

    @property
    def number(self) -> str:
        """Return its endpoint's number."""
        return self.destination.removeprefix("endpoint:")

    def know(self, secrets: Mapping[str, str]) -> None:
        """Go by these from now on, and by no others: `secret`, or `token` and `aes_key`."""
        self._secrets = dict(secrets)

    def start(self) -> None:
        """Listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer a request, and note what it held where it is taken."""
        mood = self.mood
        if mood is not None:
            self._count("refused")
            mood(request)
            return
        try:
            reference, answer = self._opened(request, body)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not what the service should send
            self._count("forged")
            _answer(request, 401, b"")
            return
        with self._lock:
            self.taken.append(reference)
            self.taken_at.setdefault(reference, time.monotonic())
        _answer(request, 200, answer)

    def _opened(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[str, bytes]:
        """Return the reference of the event inside, and the answer that takes it."""
        if self.form == "standard":
            event = Webhook(self._secrets["secret"]).verify(body, dict(request.headers.items()))
            return str(event["data"]["payload"]["reference"]), b""
        query = dict(parse_qsl(urlsplit(request.path).query))
        pair = Credential(self._secrets["token"], self._secrets["aes_key"])
        opened = Keyring([pair], [OWNER_KEY], max_age=300).open(query, json.loads(body)["encrypt"], time.time())
        return str(json.loads(opened.text)["reference"]), json.dumps(opened.seal("success", time.time())).encode()

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)


def _answer(request: BaseHTTPRequestHandler, number: int, body: bytes, **headers: str) -> None:
    request.send_response(number)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _handler(subscriber: Subscriber) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            """Serve a connection, which whoever is killed breaks off."""
            with suppress(ConnectionError):
                super().handle()

        def do_POST(self) -> None:
            """Read a request and answer it."""
            with suppress(OSError):  # who asked may have had enough, or been killed
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) == length:  # and not half of one, from a sender that was killed
                    subscriber.take(self, body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    return Handler
