"""Old events owed to a handler or an endpoint that was added after they came."""

from array import array
from collections.abc import Sequence

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from callbacks.batches import MOST_ROWS, ids_of, in_parts
from callbacks.models import Delivery, Event
from callbacks.routing import Destination


def missed(events: QuerySet[Event], to: Destination) -> Sequence[int]:
    """Return the ids of those events that the destination wants and was never owed, in the order of the inbox."""
    owed = Delivery.objects.filter(event=OuterRef("pk"), destination=to.destination)
    rows = Event.objects.order_by("pk").values_list("pk", "event_type", "payload")
    wanted = array("q")
    for ids in in_parts(ids_of(events.filter(~Exists(owed))), MOST_ROWS):  # as their payloads may be too much at once
        wanted.extend(pk for pk, name, data in rows.filter(pk__in=ids) if to.wants(name, data))
    return wanted


def owe(ids: Sequence[int], to: Destination) -> int:
    """Owe at most MOST_ROWS events in one transaction, each only once; return how many the destination was not owed.

    A delivery takes the place in its subject's order that it would have had from the start.
    """
    with transaction.atomic():
        # locked, so that nobody else owes them the same at this moment, or prunes them
        events = list(Event.objects.select_for_update().filter(pk__in=ids).order_by("pk").only("subject"))
        rows = Delivery.objects.filter(event__in=events, destination=to.destination)
        owed = set(rows.values_list("event", flat=True))
        new = [
            Delivery(event=event, destination=to.destination, subject=event.subject if to.ordered else "")
            for event in events
            if event.pk not in owed
        ]
        return len(Delivery.objects.bulk_create(new))
