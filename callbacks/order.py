"""Order per subject: of one subject's deliveries to one destination, only the first may be attempted, one at a time.

The first is that of the earliest event, also where an old event came to be owed later than a new one.
Only that head needs a due time. A later one is parked (it loses its due time) when a claim comes upon it, and the
head is promoted (gets a due time) whenever one of its subject is let go. On PostgreSQL every transaction that parks,
takes or lets go holds the subject's lock; without it a head was promoted while another transaction was about to park
it, and stayed parked for ever. On SQLite the one write lock does the same.
"""

import hashlib

from django.db import connection
from django.db.models import Case, Exists, OuterRef, Q, Subquery, When
from django.db.models.functions import Coalesce, Now

from callbacks.models import Delivery, DeliveryQuerySet


def lock(*deliveries: Delivery) -> None:
    """Hold the subjects' locks until the transaction ends; take them before any row's, or it may deadlock."""
    keys = sorted({_key(delivery) for delivery in deliveries if delivery.subject})
    if keys and connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(k) FROM unnest(%s::bigint[]) k", [keys])


def lockable(deliveries: list[Delivery]) -> list[Delivery]:
    """Return the deliveries whose subject's lock is free, and hold those locks; waiting for one could deadlock."""
    if connection.vendor != "postgresql":
        return deliveries
    keys = {_key(delivery) for delivery in deliveries if delivery.subject}
    with connection.cursor() as cursor:
        cursor.execute("SELECT k FROM unnest(%s::bigint[]) k WHERE pg_try_advisory_xact_lock(k)", [list(keys)])
        held = {key for (key,) in cursor.fetchall()}
    return [delivery for delivery in deliveries if not delivery.subject or _key(delivery) in held]


def park_later(deliveries: list[Delivery]) -> set[int]:
    """Park those that another of their subject goes before; return their ids. Their subjects are locked."""
    rows = Delivery.objects.filter(pk__in=[delivery.pk for delivery in deliveries if delivery.subject])
    later = set(
        rows.filter(Exists(_earlier_of_same_subject()) | Exists(_held_of_same_subject())).values_list("pk", flat=True)
    )
    if later:
        Delivery.objects.filter(pk__in=later).update(next_attempt_at=None, lease_token=None, leased_until=None)
        promote(Delivery.objects.filter(pk__in=later))
    return later


def promote(deliveries: DeliveryQuerySet) -> None:
    """Make the heads of these deliveries' subjects due, where they are parked and none of their subject is held."""
    heads = deliveries.annotate(head=_first(_of_same_subject())).values("head")
    parked = Delivery.objects.filter(pk__in=heads, next_attempt_at=None).filter(~Exists(_held_of_same_subject()))
    parked.update(next_attempt_at=Now())


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


def _key(delivery: Delivery) -> int:
    digest = hashlib.sha256(f"{delivery.destination}\n{delivery.subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
