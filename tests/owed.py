"""Events in the inbox and work in the outbox, for the tests of both."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar
from uuid import uuid4

from django.db import connection
from django.db.models.functions import Now

from callbacks import outbox
from callbacks.inbox import receive
from callbacks.models import Attempt, Delivery
from callbacks.payload import Payload, read

Result = TypeVar("Result")
WORKER = "test:1"


def payload(event_type: str, **fields: Any) -> Payload:
    """Return an event that is new each time."""
    return read(json.dumps({"EventType": event_type, "eventId": uuid4().hex, **fields}), salt="")


def owe(event_type: str, **fields: Any) -> Delivery:
    """Store a new event; return its first delivery."""
    receipt = receive(payload(event_type, **fields))
    return Delivery.objects.filter(event_id=receipt.event_id).order_by("id")[0]


def claimed(delivery: Delivery) -> Delivery:
    """Claim what is due, and return the claim of one delivery."""
    return next(each for each in outbox.claim(100) if each.pk == delivery.pk)


def carry(delivery: Delivery) -> Delivery:
    """Claim and attempt a delivery as a worker does; return the row after that."""
    outbox.attempt(claimed(delivery), WORKER)
    delivery.refresh_from_db()
    return delivery


def carry_due() -> list[Delivery]:
    """Claim and attempt whatever is due now; return those rows after that."""
    taken = outbox.claim(100)
    for delivery in taken:
        outbox.attempt(delivery, WORKER)
        delivery.refresh_from_db()
    return taken


def attempts(delivery: Delivery) -> list[tuple[str, str]]:
    """Return outcome and error of each attempt, in order."""
    rows = Attempt.objects.filter(delivery=delivery).order_by("id")
    return list(rows.values_list("outcome", "error"))


def expire_leases() -> int:
    """Let every lease end now, as it would after some time without its worker."""
    return Delivery.objects.exclude(leased_until=None).update(leased_until=Now())


def waiting_for_locks() -> int:
    """Return how many connections to this PostgreSQL database wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # of which a transaction has one else
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


def in_threads(count: int, work: Callable[[int], Result]) -> list[Result]:
    """Call `work` in `count` threads at the same time, each with a connection of its own; return what they return."""
    ready = Barrier(count)

    def run(number: int) -> Result:
        try:
            ready.wait(20)
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@contextmanager
def table_away(name: str) -> Iterator[None]:
    """Let a table be missing for a while."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {name} RENAME TO away")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {name}")
