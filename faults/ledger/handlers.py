"""Two handlers as anyone may write them, atomic and plain, which misbehave where the event's `act` says so."""

import os
import random
import time

from django.db import connection

from callbacks.models import Delivery, Event
from callbacks.payload import Fields
from callbacks.routing import router

KINDS = ("bpms_task_change", "bpms_instance_change", "faults_task")
HANG = 3600
CHUNK = 64 * 1024 * 1024


@router.on(*KINDS, atomic=True)
def once(event: Event, delivery: Delivery) -> None:
    """Write a row in the transaction that settles the delivery: exactly one for each event, whatever happens."""
    time.sleep(random.uniform(0, 0.004))  # noqa: S311 - a moment in which a fault may strike
    _write(
        "INSERT INTO faults_effect (reference, event_id, subject) VALUES (%s, %s, %s)",
        [_text(event, "reference"), event.pk, event.subject],
    )
    # on SQLite a hanging transaction keeps every other writer out, and `keyed` hangs instead
    if _text(event, "act") != "hang" or connection.vendor == "postgresql":
        _act(event, delivery)


@router.on(*KINDS)
def keyed(event: Event, delivery: Delivery) -> None:
    """Do something outside any transaction under the delivery's idempotency key: at least once, in effect once."""
    _write(
        "INSERT INTO faults_keyed (key, reference) VALUES (%s, %s) ON CONFLICT (key) DO NOTHING",
        [delivery.idempotency_key, _text(event, "reference")],
    )
    time.sleep(random.uniform(0, 0.02))  # noqa: S311 - as above
    _act(event, delivery)


@router.on(*KINDS, where={"poison": 1}, timeout=3, retry=[0, 1])
def poison(event: Event, delivery: Delivery) -> None:
    """Go wrong on every attempt: such a delivery ends as dead, and everything else goes on."""
    _misbehave(_text(event, "act"))


def _write(statement: str, values: list[str | int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def _text(event: Event, name: str) -> str:
    return Fields(event.payload).text(name)


def _act(event: Event, delivery: Delivery) -> None:
    if delivery.attempts <= int(_text(event, "until") or 0):
        _misbehave(_text(event, "act"))


def _misbehave(act: str) -> None:
    if act == "raise":
        raise RuntimeError("the handler refuses")
    if act == "hang":
        time.sleep(HANG)
    if act == "exit":
        os._exit(1)
    if act == "memory":
        eaten = []
        while True:
            eaten.append(bytearray(CHUNK))
