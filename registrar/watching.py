"""Read the failed list whenever it is time, on behalf of all machines: any number of processes may watch.

None of them has to be there: each looks at the rows every few seconds, and whichever finds it time reads, under the
lease of the list's one reader.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error, close_old_connections, connection

from callbacks.worker import kind
from registrar import schedule
from registrar.client import DingTalkClient
from registrar.errors import DingTalkError, ListHeld, QuotaSpared, QuotaUsedUp, Throttled
from registrar.failed_list import read_failed_list
from registrar.protocol import CHINA

logger = logging.getLogger(__name__)

LOOK_EVERY = 15.0

Say = Callable[[int, str], None]  # a logging level and a sentence


def chore(done: threading.Event) -> None:
    """Watch as FAILED_LIST_WATCH says; for workers."""
    if settings.FAILED_LIST_WATCH:
        watch(settings.FAILED_LIST_WATCH, done)
        connection.close()


def watch(interval: int, done: threading.Event, say: Say = logger.log) -> None:
    """Read the list every `interval` seconds and after each lapse, until `done`; say what comes of it."""
    say(logging.INFO, f"watching the failed list: it is read every {interval} s, and after each lapse of ours")
    while not done.is_set():
        try:
            close_old_connections()
            look(interval, done, say)
        except Error as error:
            say(logging.ERROR, f"the failed list is not read, as the database refuses: {kind(error)}")
            connection.close()
        done.wait(LOOK_EVERY)


def look(interval: int, done: threading.Event, say: Say = logger.log) -> None:
    """Read the list if it is time, until `done`; django.db.Error where the database fails."""
    if not schedule.due(interval):
        return
    pages = []
    try:
        client = DingTalkClient.from_settings()
        with closing(read_failed_list(client, due=lambda: schedule.due(interval), spare=True)) as reading:
            for page in reading:
                pages.append(page)
                if done.is_set():
                    break  # between two pages nothing is lost; the rest is read within a minute by whoever watches
    except ListHeld:
        return  # whoever reads it reads it for all
    except DingTalkError as error:
        wait = schedule.failed(interval, _penalty(error))
        say(
            logging.ERROR, f"the failed list is not read: {error} (next try in {wait.total_seconds() / 60:.0f} minutes)"
        )
        return
    if pages:
        new, known = sum(page.new for page in pages), sum(page.known for page in pages)
        unreadable = sum(page.page.entries_unreadable for page in pages)
        say(logging.INFO, f"failed list read: new events {new}, known before {known}, unreadable entries {unreadable}")


def _penalty(error: DingTalkError) -> timedelta:
    """Return how long to wait at least."""
    if isinstance(error, Throttled) and error.until:
        return timedelta(seconds=max(error.until - time.time(), 0))
    if isinstance(error, QuotaUsedUp):
        now = datetime.now(CHINA)
        return (now.replace(day=1, hour=0, minute=5, second=0) + timedelta(days=32)).replace(day=1) - now
    return timedelta(seconds=schedule.DEFAULT_INTERVAL) if isinstance(error, QuotaSpared) else timedelta(0)
