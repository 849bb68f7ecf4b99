"""Django's PostgreSQL backend, whose waits end at the thread's deadline and whose crowd knocks at no closed door.

A server that stalls ignores its own time-outs, and a network that swallows packets tells nobody. The other way round,
the server ends a transaction whose process does nothing any more.
"""

import threading
from typing import Any

import psycopg
from django.db.backends.postgresql import base
from psycopg.abc import RV, PQGen

from callbacks import deadline, idleness

# How long the others wait for the one that tries to connect: longer than it takes where the server is well again.
MOMENT = 0.2

_failing = threading.Event()
_attempt = threading.Lock()


class Connection(psycopg.Connection[Any]):
    """A connection that is closed, without a word to the server, when its thread's deadline passes."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does for each of its answers, but not beyond the deadline."""
        if not deadline.is_set():
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, deadline.remaining())
        except psycopg.OperationalError:
            if deadline.remaining():
                raise
            self.close()
            _failing.set()
            raise psycopg.OperationalError("the database did not answer in time") from None


class DatabaseWrapper(base.DatabaseWrapper):
    """One thread's way to the database; Django wants it by this name."""

    def connect(self) -> None:
        """Connect; a thread with a deadline does so alone while the server fails, or gives up in a MOMENT."""
        if not deadline.is_set():
            super().connect()
            return
        if _failing.is_set():
            if not _attempt.acquire(timeout=MOMENT):
                raise psycopg.OperationalError("another request is trying to connect")
            try:
                if _failing.is_set():
                    self._try_to_connect()
                    return
            finally:
                _attempt.release()
        self._try_to_connect()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, within `connect_timeout` for each address of the server: libpq knows nothing below 2 s."""
        connection = super().get_new_connection(conn_params)
        connection.__class__ = Connection
        if deadline.is_set():
            deadline.leave(deadline.ENOUGH)
        return connection

    def _start_transaction_under_autocommit(self) -> None:
        """Begin a transaction and limit its idleness, with one message; nothing of it is left to the session."""
        seconds = idleness.limited_to()
        limit = f"; SET LOCAL idle_in_transaction_session_timeout = {int(seconds * 1000)}" if seconds else ""
        with self.wrap_database_errors:
            self.connection.execute(f"BEGIN{limit}")

    def _try_to_connect(self) -> None:
        try:
            super().connect()
        except Exception:
            _failing.set()
            raise
        _failing.clear()
