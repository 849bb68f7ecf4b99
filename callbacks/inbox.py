"""Store each event once, together with every delivery it is owed to; the only writer of Event."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models.functions import Now

from callbacks.models import Delivery, Event
from callbacks.payload import Payload
from callbacks.routing import router

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
    try:
        with _patience(within), transaction.atomic():
            _limit_statements(within)
            event = Event.objects.create(
                event_type=payload.event_type,
                corp_id=payload.corp_id,
                identity=payload.identity,
                subject=payload.subject,
                payload=payload.data,
                body=payload.body,
                source=source,
            )
            Delivery.objects.bulk_create(
                Delivery(event=event, destination=handler.destination, subject=payload.subject, next_attempt_at=Now())
                for handler in handlers
            )
    except IntegrityError:
        # Either another request stored the same identity first, or the row itself was refused: then there is no row
        # of that identity, and acknowledging it would lose the event.
        stored = Event.objects.filter(identity=payload.identity).values_list("pk", flat=True).first()
        if stored is None:
            raise
        return Receipt(stored, is_new=False, deliveries=0)
    return Receipt(event.pk, is_new=True, deliveries=len(handlers))


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


def _limit_statements(seconds: float | None) -> None:
    """Let PostgreSQL end a statement of this transaction that takes longer, its wait for locks included."""
    if seconds is not None and connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
