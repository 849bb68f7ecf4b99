"""A listener that notes who connects and what is asked, and answers on the raw socket as a test says."""

import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

# Answers a request, given its number from 0; False: the connection is closed.
Talk = Callable[[socket.socket, int], bool]


def ok(connection: socket.socket, number: int) -> bool:
    return says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(connection, number)


def says(answer: bytes, *, keep: bool = True) -> Talk:
    """Return a talk that sends these bytes."""

    def talk(connection: socket.socket, number: int) -> bool:
        connection.sendall(answer)
        return keep

    return talk


def drips(start: bytes, drop: bytes, seconds: float = 0.1) -> Talk:
    """Return a talk that sends `start`, then `drop` every so many seconds until its peer has enough."""

    def talk(connection: socket.socket, number: int) -> bool:
        connection.sendall(start)
        connection.settimeout(seconds)
        while True:
            connection.sendall(drop)
            with suppress(TimeoutError):
                if not connection.recv(1):
                    return False

    return talk


class Listener:
    """Listens on every address of this machine until it is left."""

    def __init__(self, talk: Talk = ok, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections: list[str] = []  # the address that each was made to
        self.ended = threading.Event()  # set as soon as a connection is over
        self._talk = talk
        self._context = context
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._listener = socket.create_server(("", 0), family=family, backlog=50, dualstack_ipv6=both)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}/events?key=hunter2"

    def __enter__(self) -> "Listener":
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection.getsockname()[0].removeprefix("::ffff:"))
                self._sockets.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            wrapped = self._context.wrap_socket(connection, server_side=True) if self._context else connection
            with wrapped:
                while request := _read(wrapped):
                    self.requests.append(request)
                    if not self._talk(wrapped, len(self.requests) - 1):
                        break
        self.ended.set()


def _read(connection: socket.socket) -> bytes:
    """Return one request, b"" where the connection ended."""
    request = b""
    while not (end := request.find(b"\r\n\r\n") + 4) > 3 or len(request) < end + _length(request):
        if not (piece := connection.recv(65536)):
            return b""
        request += piece
    return request


def _length(request: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", request)
    return int(found[1]) if found else 0
