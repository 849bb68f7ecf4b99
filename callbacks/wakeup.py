"""Wake the workers as soon as a push owes something: NOTIFY on PostgreSQL, a look at the file's version on SQLite.

Only a hint: one that is lost is made up for by the worker's own looking every half a second.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from queue import Empty, SimpleQueue

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, Error, connection, connections

logger = logging.getLogger(__name__)

CHANNEL = "callbacks_owed"
# A commit with a NOTIFY in it waits for every other such commit, so there are few, and none holds up a push.
AT_MOST_EVERY = 0.05
LOOK_EVERY = 0.05
HEAR_DONE_WITHIN = 0.5
RECONNECT_AFTER = 5.0

_owed = threading.Event()


class Alarm:
    """Ends a loop's wait as soon as there is something to look at.

    A queue, as a signal's handler may interrupt its `get` with a `put`; an Event's `set` could wait for ever.
    """

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """End the wait, or the next one."""
        self._rung.put(None)

    def wait(self, timeout: float) -> None:
        """Wait until it rings, or `timeout` seconds have passed."""
        with suppress(Empty):
            self._rung.get(timeout=timeout)
            while True:  # one look is enough for all
                self._rung.get_nowait()


def owed() -> None:
    """Have the workers told that something is owed; call it after the commit. It costs no database's time."""
    _owed.set()


def start() -> None:
    """Pass on what `owed` says for as long as this process lives; on SQLite the file itself tells the worker."""
    if connection.vendor == "postgresql":
        threading.Thread(target=_tell, name="tell", daemon=True).start()


def listen(wake: Callable[[], None], done: threading.Event) -> None:
    """Call `wake` whenever something may be owed, until `done`; a connection that dies is replaced."""
    hear = _hear if connection.vendor == "postgresql" else _look
    while not done.is_set():
        try:
            hear(wake, done)
        except Error as error:
            logger.debug("looking every half a second only, as wake-ups are not heard: %s", error)
            connection.close()
            done.wait(RECONNECT_AFTER)
    connection.close()


def _tell() -> None:
    while _owed.wait():
        _owed.clear()
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"NOTIFY {CHANNEL}")
        except Error:
            connection.close()  # the pushes themselves report a database that is out of reach
        time.sleep(AT_MOST_EVERY)


def _hear(wake: Callable[[], None], done: threading.Event) -> None:
    """Listen on a connection of its own, to the server itself: no pooler passes notifications on."""
    direct = connections.create_connection(DEFAULT_DB_ALIAS)
    direct.settings_dict = {**direct.settings_dict, **settings.DATABASE_DIRECT}
    with closing(direct), direct.wrap_database_errors, direct.cursor() as cursor:
        cursor.execute(f"LISTEN {CHANNEL}")
        while not done.is_set():
            for _ in cursor.connection.notifies(timeout=HEAR_DONE_WITHIN, stop_after=1):
                wake()


def _look(wake: Callable[[], None], done: threading.Event) -> None:
    """Wake when any other connection has committed to the file, which costs far less than asking what is due."""
    seen = None
    with connection.cursor() as cursor:
        while not done.wait(LOOK_EVERY):
            ((version,),) = cursor.execute("PRAGMA data_version").fetchall()
            if version != seen:
                seen = version
                wake()
