"""The simulator over HTTP: `with Simulator() as simulator:` serves both of DingTalk's hosts at `simulator.url`."""

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from simulator import control
from simulator.messages import Answer, Request
from simulator.options import Options
from simulator.simulation import Simulation

__all__ = ["Options", "Simulator"]

MAX_BODY = 10_000_000


class Simulator(Simulation):
    """A DingTalk that listens on a port of this machine."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Return the address that stands for both `https://oapi.dingtalk.com` and `https://api.dingtalk.com`."""
        if self._server is None:
            raise RuntimeError("the simulator is not started")
        return f"http://{self.options.host}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Listen, and answer from now on."""
        self._server = _Server((self.options.host, self.options.port), self.answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="simulator")
        self._thread.start()
        self._pusher.start()

    def stop(self) -> None:
        """Close every connection, end every thread; pushes that are not done are given up."""
        if self._server and self._thread:
            self._server.stop()
            self._thread.join()
            self._pusher.stop()
            self._server = self._thread = None

    def __enter__(self) -> "Simulator":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def answer(self, request: Request) -> Answer:
        """Answer a request to an API, to the control paths or to the front page."""
        if request.path == "/":
            return control.front(self.url)
        if request.path.startswith(control.PREFIX):
            return control.answer(self, request)
        self.calls.append((request.method, request.path))
        return self.dingtalk.answer(request)


class _Server(ThreadingHTTPServer):
    """A thread for each connection; stopping cuts them all and waits for their threads."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer asks for this machine's full name, which can take seconds without a name server.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                _cut(connection)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is no error here.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _respond(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY or "Transfer-Encoding" in self.headers:
            self._send(Answer(b"a body needs a Content-Length", 411, "text/plain"))
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        answer = self.server.answer(Request(self.command, parts.path, query, headers, self.rfile.read(int(length))))
        if answer.delay:
            self.server.stopping.wait(answer.delay)
        self._send(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _respond  # noqa: N815 - http.server's names

    def _send(self, answer: Answer) -> None:
        if answer.cut:
            self.close_connection = True
        if answer.cut == "all":
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing: the default writes queries, and there are secrets in them."""


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
