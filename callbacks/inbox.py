"""Store each event once, together with every delivery it is owed to; the only writer of Event."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from callbacks.models import Event
from callbacks.payload import Payload
from callbacks.routing import router

# In SQL, as this is where a push spends its time, and the ORM can't say DO NOTHING for one constraint only.
INSERT_EVENT = """
    INSERT INTO callbacks_event (event_type, corp_id, identity, subject, payload, body, source)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (identity) DO NOTHING RETURNING id
"""
INSERT_DELIVERY = "INSERT INTO callbacks_delivery (event_id, destination, subject) VALUES (%s, %s, %s)"

_sqlite_writer = threading.Lock()


@dataclass(frozen=True)
class Receipt:
    """What `receive` did: the event's id, whether it is new, and how many deliveries it is owed to."""

    event_id: int
    is_new: bool
    deliveries: int


def receive(payload: Payload, source: str = Event.Source.CALLBACK, within: float | None = None) -> Receipt:
    """Store the event and its deliveries in one transaction, unless its identity is there already.

    `within`: seconds that a lock or a statement of the database may take; None: as long as it takes elsewhere.
    Raises django.db.Error where the database can't store it; then nothing is stored.
    """
    handlers = router.wanting(payload.event_type, payload.data)
    with _patience(within), transaction.atomic(), connection.cursor() as cursor:
        _limit_statements(cursor, within)
        cursor.execute(INSERT_EVENT, [*_columns(payload), source])
        inserted = cursor.fetchone()
        if inserted is None:
            # No id and no row of that identity would be an event lost; DoesNotExist says so.
            stored = Event.objects.values_list("pk", flat=True).get(identity=payload.identity)
            return Receipt(stored, is_new=False, deliveries=0)
        for handler in handlers:
            # no subject, no order
            subject = payload.subject if handler.ordered else ""
            cursor.execute(INSERT_DELIVERY, [inserted[0], handler.destination, subject])
    return Receipt(inserted[0], is_new=True, deliveries=len(handlers))


def _columns(payload: Payload) -> list[str]:
    data = json.dumps(payload.data)
    return [payload.event_type, payload.corp_id, payload.identity, payload.subject, data, payload.body]


@contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    """Wait no longer than `seconds` for SQLite's one write lock.

    Threads of this process queue for it in memory: SQLite's own waiting is polling, and starves some of them.
    """
    if seconds is None or connection.vendor != "sqlite":
        yield
        return
    until = time.monotonic() + seconds
    if not _sqlite_writer.acquire(timeout=seconds):
        raise OperationalError("database is locked by another request")
    try:
        usual = connection.settings_dict["OPTIONS"]["timeout"]
        with _busy_timeout(until - time.monotonic(), usual):
            yield
    finally:
        _sqlite_writer.release()


@contextmanager
def _busy_timeout(seconds: float, usual: float) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {max(int(seconds * 1000), 1)}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {int(usual * 1000)}")


def _limit_statements(cursor: CursorWrapper, seconds: float | None) -> None:
    """Let PostgreSQL end a statement of this transaction that takes longer, its wait for locks included."""
    if seconds is not None and connection.vendor == "postgresql":
        cursor.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
