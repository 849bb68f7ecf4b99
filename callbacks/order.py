"""Order per subject: of one subject's deliveries to one destination, only the first may be attempted, one at a time.

The first is that of the earliest event, also where an old event came to be owed later than a new one.
Only that head needs a due time. A later one is parked (it loses its due time) when a claim comes upon it, and the
head is promoted (gets a due time) whenever one of its subject is let go. On PostgreSQL every transaction that parks,
takes or lets go holds the subject's lock; without it a head was promoted while another transaction was about to park
it, and stayed parked for ever. On SQLite the one write lock does the same.
"""

import hashlib
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, Subquery, When
from django.db.models.functions import Coalesce, Now

from callbacks.composed import Ids, select, update
from callbacks.models import Delivery, DeliveryQuerySet

PARKED_AT_ONCE = 1000
# In SQL, so that it goes from each subject to its line in `delivery_subject`, whatever a planner knows of the rows.
BEHIND = """
    SELECT behind.id FROM (VALUES {first}) AS first CROSS JOIN callbacks_delivery AS behind
    WHERE behind.destination = %s AND behind.subject = first.column1 AND behind.event_id > first.column2
    AND behind.state = 'pending' AND NOT (behind.subject = '')
    AND behind.next_attempt_at IS NOT NULL AND behind.lease_token IS NULL
    LIMIT %s
"""


TRY_LOCKS = "SELECT k FROM unnest(%s::bigint[]) k WHERE pg_try_advisory_xact_lock(k)"


def lock(*deliveries: Delivery) -> None:
    """Hold the subjects' locks until the transaction ends; take them before any row's, or it may deadlock."""
    keys = sorted({_key(each.destination, each.subject) for each in deliveries if each.subject})
    if keys and connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(k) FROM unnest(%s::bigint[]) k", [keys])


class Candidate(NamedTuple):
    """What a claim needs to know of a due delivery."""

    pk: int
    destination: str
    subject: str
    event_id: int


def lockable(candidates: list[Candidate]) -> list[Candidate]:
    """Return those whose subject's lock is free, and hold those locks; waiting for one could deadlock."""
    keys = {each.subject: _key(each.destination, each.subject) for each in candidates if each.subject}
    if connection.vendor != "postgresql" or not keys:
        return candidates
    with connection.cursor() as cursor:
        cursor.execute(TRY_LOCKS, [list(keys.values())])
        held = {key for (key,) in cursor.fetchall()}
    return [each for each in candidates if not each.subject or keys[each.subject] in held]


def park_later(candidates: list[Candidate]) -> set[int]:
    """Park those that another of their subject goes before; return their ids. Their subjects are locked.

    With them go those behind them, up to PARKED_AT_ONCE, which a claim would come upon one by one. All are
    owed to one destination.
    """
    ordered = [each.pk for each in candidates if each.subject]
    later = {pk for (pk,) in _waiting(ids=ordered)} if ordered else set()
    if later:
        _park(ids=later | _behind([each for each in candidates if each.pk in later]))
        promote(later)
    return later


@select
def _waiting() -> QuerySet[Any, Any]:
    waits = Exists(_earlier_of_same_subject()) | Exists(_held_of_same_subject())
    return Delivery.objects.filter(waits, pk__in=Ids("ids")).values_list("pk")


@update(next_attempt_at=None, lease_token=None, leased_until=None)
def _park() -> DeliveryQuerySet:
    return Delivery.objects.filter(pk__in=Ids("ids"))


def _behind(later: list[Candidate]) -> set[int]:
    """Return the ids of deliveries behind these that are not parked and that nobody is at."""
    first: dict[str, int] = {}
    for each in later:
        first[each.subject] = min(each.event_id, first.get(each.subject, each.event_id))
    sql = BEHIND.format(first=", ".join(["(%s, CAST(%s AS bigint))"] * len(first)))
    if connection.vendor == "postgresql":
        sql += " FOR UPDATE OF behind SKIP LOCKED"
    parameters: list[Any] = [*chain(*first.items()), later[0].destination, PARKED_AT_ONCE]
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return {pk for (pk,) in cursor.fetchall()}


def promote(ids: Iterable[int]) -> None:
    """Make the heads of these deliveries' subjects due, where they are parked and none of their subject is held."""
    _promote(ids=ids)


@update(next_attempt_at=Now())
def _promote() -> DeliveryQuerySet:
    let_go = Delivery.objects.filter(pk__in=Ids("ids"))
    heads = let_go.annotate(head=_first(_of_same_subject())).values("head")
    return Delivery.objects.filter(~Exists(_held_of_same_subject()), pk__in=heads, next_attempt_at=None)


def head(delivery: Delivery) -> int | None:
    """Return the id of the delivery that this one waits behind, None where it waits behind none."""
    return with_heads(Delivery.objects.filter(pk=delivery.pk)).get().behind


def with_heads(deliveries: DeliveryQuerySet) -> DeliveryQuerySet:
    """Fill in `behind`: the id of the delivery that each waits behind, None where it waits behind none."""
    first = Coalesce(_first(_earlier_of_same_subject()), _first(_held_of_same_subject()))
    waits = Q(state=Delivery.State.PENDING, lease_token=None)
    return deliveries.annotate(behind=Case(When(waits, then=first), default=None))  # type: ignore[no-redef]


def _first(deliveries: DeliveryQuerySet) -> Subquery:
    return Subquery(deliveries.order_by("event_id").values("pk")[:1])


def _of_same_subject() -> DeliveryQuerySet:
    rows = Delivery.objects.pending().exclude(subject="")
    return rows.filter(destination=OuterRef("destination"), subject=OuterRef("subject"))


def _earlier_of_same_subject() -> DeliveryQuerySet:
    return _of_same_subject().filter(event_id__lt=OuterRef("event_id"))


def _held_of_same_subject() -> DeliveryQuerySet:
    return _of_same_subject().filter(~Q(pk=OuterRef("pk")), lease_token__isnull=False).held()


def _key(destination: str, subject: str) -> int:
    digest = hashlib.sha256(f"{destination}\n{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
