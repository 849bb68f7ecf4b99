"""Django's SQLite backend, whose threads queue for the one write lock and whose processes ask for it often.

SQLite's own waiting asks ever more rarely, down to ten times a second, so that a push starves beside a busy worker.
"""

import os
import sqlite3
import threading
import time
from typing import Any

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from callbacks import deadline

ASK_EVERY = 0.004

# One thread of a process asks; the others queue in memory, which costs nothing and starves nobody.
_turn = threading.Lock()


class DatabaseWrapper(base.DatabaseWrapper):
    """One thread's way to the file; Django wants it by this name."""

    _has_turn = False

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Open the file, unless it can only be read.

        A connection that is opened so makes every later one of its process read-only, also when the file no longer is.
        """
        name = str(self.settings_dict["NAME"])
        if os.path.exists(name) and not os.access(name, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return super().get_new_connection(conn_params)

    def _start_transaction_under_autocommit(self) -> None:
        """Begin a transaction when this thread has its turn and the file's lock is free; until then it waits.

        It waits until the thread's deadline, or for the `timeout` of the settings.
        """
        until = time.monotonic() + min(deadline.remaining(), float(self.settings_dict["OPTIONS"]["timeout"]))
        if not _turn.acquire(timeout=max(until - time.monotonic(), 0)):
            raise OperationalError("database is locked by another thread")
        self._has_turn = True
        try:
            self._begin(until)
        except BaseException:
            self._leave()
            raise

    def _begin(self, until: float) -> None:
        ((usual,),) = self.connection.execute("PRAGMA busy_timeout").fetchall()
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    # Closed here, as an exception keeps its cursor: whichever thread collected that would wait for
                    # this connection, which may be waiting for a lock that the collecting thread holds.
                    with self.cursor() as cursor:
                        cursor.execute(f"BEGIN {self.transaction_mode}")  # type: ignore[attr-defined]
                except OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > until:
                        raise
                else:
                    return
                time.sleep(ASK_EVERY)
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {usual}")

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

    def _leave(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _turn.release()
