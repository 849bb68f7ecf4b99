"""A TCP proxy in front of a server, which refuses, stalls or cuts connections where a test says so."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

STALL = 20.0  # seconds after which a stall ends by itself, so that no test hangs


class Proxy:
    """Carries bytes both ways on a port of its own, until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._flowing = threading.Event()
        self._cut_at: list[bytes] = []
        self._stall_at = b""
        self._answer_is_lost = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def refuse(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._close(self._listener)
        self.cut()

    def stall(self) -> None:
        """Carry nothing more; whoever connects is let in and hears nothing."""
        self._flowing.clear()

    def stall_at(self, text: bytes) -> None:
        """Stall as soon as a client sends this text, which does not arrive."""
        self._stall_at = text

    def cut(self) -> None:
        """Cut every connection; new ones are let in."""
        for each in list(self._sockets - {self._listener}):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut_at(self, text: bytes, *, times: int, answer_is_lost: bool) -> None:
        """Cut the connections of clients that send this text: before it arrives, or before its answer does."""
        self._cut_at = [text] * times
        self._answer_is_lost = answer_is_lost

    def recover(self) -> None:
        """Carry everything again, and what was held up before."""
        self._cut_at, self._stall_at = [], b""
        self._flowing.set()
        if self._listener.fileno() < 0:
            self._listener = self._listen(self.port)

    def __enter__(self) -> "Proxy":
        self.recover()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        self.refuse()
        for thread in self._threads:
            thread.join(20)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=100)
        self._sockets.add(listener)
        self._start(self._accept, listener)
        return listener

    def _start(self, work: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=work, args=[argument], daemon=True)
        self._threads.append(thread)
        thread.start()

    def _close(self, *sockets: socket.socket) -> None:
        for each in sockets:
            self._sockets.discard(each)
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # a thread that waits for it does not notice a close
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._sockets.add(client)
                self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        self._flowing.wait(STALL)
        with suppress(OSError), socket.create_connection(self._server) as server:
            self._sockets.add(server)
            while self._pass_on(client, server):
                pass
            self._sockets.discard(server)
        self._close(client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Carry what there is to carry; False where the connection ends."""
        for source in select.select([client, server], [], [])[0]:
            self._flowing.wait(STALL)
            data = source.recv(65536)
            if source is client and self._cut_at and self._cut_at[0] in data:
                self._cut_at.pop()
                if self._answer_is_lost:
                    server.sendall(data)
                    server.recv(65536)
                return False
            if source is client and self._stall_at and self._stall_at in data:
                self.stall()
                self._flowing.wait(STALL)
            (server if source is client else client).sendall(data)
            if not data:
                return False
        return True
