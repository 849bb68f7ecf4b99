"""Old events that are owed to nobody any more, deleted with their deliveries and attempts, and how far that went."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, QuerySet

from callbacks.batches import MOST_ROWS, batches, pause
from callbacks.models import Attempt, Delivery, Event, Horizon


def horizon() -> datetime | None:
    """Return since when events are complete, None where none was ever pruned.

    What is older and not found among the events may have been pruned: it must not be stored as if it were new.
    """
    return Horizon.objects.values_list("complete_since", flat=True).first()


def move_horizon(before: datetime) -> None:
    """Record that what was received earlier may be pruned from now on; it never moves back."""
    Horizon.objects.get_or_create(pk=1, defaults={"complete_since": before})
    Horizon.objects.filter(complete_since__lt=before).update(complete_since=before)


def settled(before: datetime) -> QuerySet[Event]:
    """Return the events received earlier that are owed to nobody, whether they were once or never."""
    return Event.objects.filter(~Exists(_pending()), received_at__lt=before)


def owed(before: datetime) -> QuerySet[Event]:
    """Return the events received earlier that are still owed to somebody."""
    return Event.objects.filter(Exists(_pending()), received_at__lt=before)


def _pending() -> QuerySet[Delivery]:
    return Delivery.objects.pending().filter(event=OuterRef("pk"))


def prune(ids: Sequence[int]) -> Iterator[tuple[int, Counter[str]]]:
    """Delete events; yield after each transaction how many it dealt with, and its count of rows by model's label.

    An event that came to be owed again in the meantime is spared.
    """
    for batch in batches(ids):
        for group, size in _groups(batch):
            left = size
            while left > MOST_ROWS:  # one event that was tried very often
                left -= MOST_ROWS
                yield 0, _delete(group, _oldest_attempts)
                pause()
            yield len(group), _delete(group, _events)
            pause()


def _groups(ids: list[int]) -> Iterator[tuple[list[int], int]]:
    """Group events so that a group, with deliveries and attempts, is at most MOST_ROWS rows; add how many it is."""
    group: list[int] = []
    total = 0
    rows = 1 + Count("deliveries", distinct=True) + Count("deliveries__attempt", distinct=True)
    for event, size in Event.objects.filter(pk__in=ids).order_by("pk").values_list("pk", rows):
        if group and total + size > MOST_ROWS:
            yield group, total
            group, total = [], 0
        group.append(event)
        total += size
    if group:
        yield group, total


def _delete(ids: list[int], rows: Callable[[list[int]], QuerySet[Any]]) -> Counter[str]:
    """Delete the rows of those events that are still owed to nobody."""
    with transaction.atomic():
        _total, deleted = rows(_lock_settled(ids)).delete()
    return Counter(deleted)


def _lock_settled(ids: list[int]) -> list[int]:
    """Return those events that are owed to nobody, and keep it so until the transaction ends."""
    events = Event.objects.select_for_update().filter(pk__in=ids).order_by("pk")
    locked = list(events.values_list("pk", flat=True))
    deliveries = Delivery.objects.select_for_update().filter(event__in=locked).order_by("pk")
    pending = {event for event, state in deliveries.values_list("event", "state") if state == Delivery.State.PENDING}
    return [event for event in locked if event not in pending]


def _events(ids: list[int]) -> QuerySet[Any]:
    return Event.objects.filter(pk__in=ids).only("pk")


def _oldest_attempts(ids: list[int]) -> QuerySet[Any]:
    oldest = Attempt.objects.filter(delivery__event__in=ids).order_by("pk")[:MOST_ROWS]
    return Attempt.objects.filter(pk__in=oldest.values("pk"))
