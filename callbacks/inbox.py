"""Store each event once, together with every delivery it is owed to; the only writer of Event."""

import json
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from callbacks import deadline, filters
from callbacks.filters import DIGEST, Filters
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
# PostgreSQL takes both as one statement: one round trip, and no transaction that a dying connection leaves half done.
# It stores nothing where the endpoints are no longer those to which the deliveries are owed.
INSERT_BOTH = f"""
    WITH event AS (
        INSERT INTO callbacks_event (event_type, corp_id, identity, subject, payload, body, source)
        SELECT %s, %s, %s, %s, %s::jsonb, %s, %s WHERE {DIGEST} = %s
        ON CONFLICT (identity) DO NOTHING RETURNING id
    ), delivery AS (
        INSERT INTO callbacks_delivery (event_id, destination, subject)
        SELECT event.id, owed.* FROM event, unnest(%s::text[], %s::text[]) AS owed
    )
    SELECT id FROM event
"""  # noqa: S608 - a statement of our own in it


_known = Filters({})


@dataclass(frozen=True)
class Receipt:
    """What `receive` did: the event's id, whether it is new, and how many deliveries it is owed to."""

    event_id: int
    is_new: bool
    deliveries: int


def receive(payload: Payload, source: str = Event.Source.CALLBACK) -> Receipt:
    """Store the event and its deliveries, all or nothing, unless its identity is there already.

    Raises django.db.Error where the database can't store it, or did not say in time that it has.
    """
    store = _store_in_one_statement if connection.vendor == "postgresql" else _store_in_a_transaction
    event_id, deliveries = store(payload, [*_columns(payload), source])
    if event_id is None:
        # No id and no row of that identity would be an event lost; DoesNotExist says so.
        stored = Event.objects.values_list("pk", flat=True).get(identity=payload.identity)
        return Receipt(stored, is_new=False, deliveries=0)
    return Receipt(event_id, is_new=True, deliveries=deliveries)


def _owed(payload: Payload, known: Filters) -> list[tuple[str, str]]:
    """Return to which destinations the event is owed, each with the subject whose order it keeps ('': no order)."""
    handlers = router.wanting(payload.event_type, payload.data)
    to_handlers = [(handler.destination, payload.subject if handler.ordered else "") for handler in handlers]
    return to_handlers + [(each, payload.subject) for each in known.wanting(payload.event_type, payload.data)]


def _columns(payload: Payload) -> list[str]:
    data = json.dumps(payload.data)
    return [payload.event_type, payload.corp_id, payload.identity, payload.subject, data, payload.body]


def _store_in_a_transaction(payload: Payload, event: list[str]) -> tuple[int | None, int]:
    with transaction.atomic(), connection.cursor() as cursor:
        owed = _owed(payload, filters.read())
        cursor.execute(INSERT_EVENT, event)
        inserted = cursor.fetchone()
        if inserted is None:
            return None, 0
        for destination, subject in owed:
            cursor.execute(INSERT_DELIVERY, [inserted[0], destination, subject])
    return int(inserted[0]), len(owed)


def _store_in_one_statement(payload: Payload, event: list[str]) -> tuple[int | None, int]:
    global _known  # noqa: PLW0603 - what all threads know of the endpoints; each statement checks it
    while True:
        known = _known
        owed = _owed(payload, known)
        event_id = _insert(event, known.digest, owed)
        if event_id is not None:
            return event_id, len(owed)
        _known = filters.read()
        if _known.digest == known.digest:  # then it was stored before
            return None, 0


def _insert(event: list[str], digest: str, owed: list[tuple[str, str]]) -> int | None:
    destinations, subjects = [destination for destination, _ in owed], [subject for _, subject in owed]
    parameters: list[Any] = [*event, digest, destinations, subjects]
    with connection.cursor() as cursor:
        if deadline.is_set():
            # For the server's sake, which would go on waiting for a lock when we have left. Two statements sent
            # together are one transaction: that is how long LOCAL lasts.
            limit = max(int(deadline.remaining() * 800), 1)
            cursor.execute(f"SET LOCAL statement_timeout = {limit}; {INSERT_BOTH}", parameters)
            cursor.nextset()
        else:
            cursor.execute(INSERT_BOTH, parameters)
        inserted = cursor.fetchone()
    return None if inserted is None else int(inserted[0])
