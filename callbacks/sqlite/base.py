"""Django's SQLite backend, whose threads queue for the one write lock and whose processes ask for it often.

SQLite's own waiting asks ever more rarely, down to ten times a second, so that a push starves beside a busy worker; and
it keeps other threads from the connection meanwhile, which can be the ones that it waits for.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from callbacks import deadline

ASK_EVERY = 0.004

# One thread of a process begins a transaction; the others queue in memory, which costs nothing and starves nobody.
_turn = threading.Lock()


def _patience(limit: float) -> float:
    """Return how many seconds this thread may still wait."""
    return min(deadline.remaining(), limit)


def _file_at(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


class Cursor(base.SQLiteCursorWrapper):
    """Waits for whoever holds the file, until the thread's deadline or for the `timeout` of the settings."""

    limit: float

    def execute(self, query: Any, params: Any = None) -> Any:
        """Run one statement; one that found the file locked has done nothing, and is tried again."""
        return self._wait(lambda: super(Cursor, self).execute(query, params))

    def executemany(self, query: Any, param_list: Any) -> Any:
        """Run a statement for each of some parameters, in one transaction."""
        if self.connection.in_transaction:
            return super().executemany(query, param_list)
        self.execute("BEGIN IMMEDIATE")
        with self.connection:  # which commits, or rolls back
            return super().executemany(query, param_list)

    def _wait(self, run: Callable[[], Any]) -> Any:
        until = time.monotonic() + _patience(self.limit)
        while True:
            try:
                return run()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or self.connection.in_transaction or time.monotonic() > until:
                    raise
            time.sleep(ASK_EVERY)


class DatabaseWrapper(base.DatabaseWrapper):
    """One thread's way to the file; Django wants it by this name."""

    _has_turn = False
    _file: tuple[int, int] | None = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Open the file, unless it can only be read.

        A connection that is opened so makes every later one of its process read-only, also when the file no longer is.
        """
        name = str(self.settings_dict["NAME"])
        if os.path.exists(name) and not os.access(name, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise sqlite3.OperationalError("attempt to write a readonly database")
        opened = super().get_new_connection(conn_params)
        self._file = _file_at(name)
        return opened

    def close_if_unusable_or_obsolete(self) -> None:
        """Close the connection before a piece of work, also where its file was deleted or replaced since.

        It would go on taking rows that nobody ever sees.
        """
        is_free = self.connection is not None and not self.in_atomic_block
        if is_free and self._file != _file_at(str(self.settings_dict["NAME"])):
            self.close()
        super().close_if_unusable_or_obsolete()

    def create_cursor(self, name: str | None = None) -> Cursor:
        """Return a cursor that waits as this service wants it."""
        cursor: Cursor = self.connection.cursor(factory=Cursor)
        cursor.limit = self._limit()
        return cursor

    def _start_transaction_under_autocommit(self) -> None:
        """Begin a transaction when this thread has its turn and the file's lock is free."""
        if not _turn.acquire(timeout=_patience(self._limit())):
            raise OperationalError("database is locked by another thread")
        self._has_turn = True
        try:
            # Closed here: a cursor that an exception keeps would hold the file open beyond its connection's end.
            with self.cursor() as cursor:
                cursor.execute(f"BEGIN {self.transaction_mode}")  # type: ignore[attr-defined]
        except BaseException:
            self._leave()
            raise

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]
        self._leave()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._leave()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._leave()

    def _limit(self) -> float:
        return float(self.settings_dict["OPTIONS"]["timeout"])

    def _leave(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _turn.release()
