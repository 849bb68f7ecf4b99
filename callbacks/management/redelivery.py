"""What `manage.py redeliver` would do: choose deliveries or events, say what they are, and do it batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet

from callbacks import endpoint, latecomer, order, outbox
from callbacks.batches import MOST_ROWS, ids_of
from callbacks.models import Delivery, DeliveryQuerySet, Event
from callbacks.routing import Destination, router

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The rows in question by their ids, how to read them, and the verb for at most a batch of them."""

    noun: str
    verb: str
    question: str
    done: str
    left: str
    ids: Sequence[int]
    read: Callable[[list[int]], list[Row]]
    carry_out: Callable[[list[int]], int]

    def rows(self, most: int | None = None) -> Iterator[Row]:
        """Read the rows, for people at most so many."""
        ids = self.ids[:most]
        for start in range(0, len(ids), MOST_ROWS):
            yield from self.read(list(ids[start : start + MOST_ROWS]))


@dataclass(frozen=True)
class Choice:
    """Which deliveries or events are meant."""

    ids: list[int]
    event_type: str | None
    state: str | None
    destination: str | None
    since: datetime | None

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing was chosen."""
        return not (self.ids or self.event_type or self.state or self.destination or self.since)

    def deliveries(self) -> DeliveryQuerySet:
        """Return the chosen deliveries; CommandError where a number is no delivery's."""
        rows = Delivery.objects.filter(**self._conditions("event__"))
        if self.state:
            rows = rows.filter(state=self.state)
        if self.destination:
            rows = rows.filter(destination=self.destination)
        if self.ids:
            rows = rows.filter(pk__in=self.ids)
            missing = set(self.ids) - set(rows.values_list("pk", flat=True))
            if missing:
                numbers = ", ".join(str(each) for each in sorted(missing))
                raise CommandError(f"there is no delivery {numbers}; the admin shows the numbers, nothing was changed")
        return rows

    def events(self) -> QuerySet[Event]:
        """Return the events of the chosen deliveries, or those chosen by what they are themselves."""
        if self.ids or self.state or self.destination:
            return Event.objects.filter(pk__in=self.deliveries().values("event"))
        return Event.objects.filter(**self._conditions(""))

    def _conditions(self, prefix: str) -> dict[str, Any]:
        conditions = {f"{prefix}event_type": self.event_type, f"{prefix}received_at__gte": self.since}
        return {name: value for name, value in conditions.items() if value}


def to_where_they_were(choice: Choice) -> Plan:
    """Plan to make the chosen deliveries due again."""
    chosen = choice.deliveries()
    ids = ids_of(chosen)
    if not ids:
        raise CommandError("no delivery matches; choose otherwise, or look at the admin's list of deliveries")
    return Plan(
        "deliveries",
        "redelivered",
        f"Redeliver what is shown, {len(ids)} in all?",
        "due again",
        "left, as a worker holds them or they changed in the meantime",
        ids,
        _deliveries,
        lambda batch: outbox.redeliver(chosen.filter(pk__in=batch)),
    )


def to_a_latecomer(choice: Choice, destination: str) -> Plan:
    """Plan to owe the chosen events to a handler or an endpoint that was added later."""
    to = _found(destination)
    events = choice.events()
    ids = latecomer.missed(events, to)
    if not ids:
        raise CommandError(_why_none(events, to))
    return Plan(
        "events",
        "owed",
        f"Owe what is shown, {len(ids)} in all, to {to.destination}?",
        f"owed to {to.destination}",
        "left, as they were owed or pruned in the meantime",
        ids,
        _events,
        lambda batch: latecomer.owe(batch, to),
    )


def _found(destination: str) -> Destination:
    if endpoint.is_one(destination):
        found = endpoint.find(destination)
        if found is None:
            raise CommandError(f"no {destination}: `manage.py endpoint list` shows them; nothing was changed")
        return found
    handler = router.find(destination)
    if handler is None:
        step = "name it by module and function, and have its app in INSTALLED_APPS"
        raise CommandError(f"no handler {destination.removeprefix('handler:')}: {step}; nothing was changed")
    return handler


def _why_none(events: QuerySet[Event], to: Destination) -> str:
    count = events.count()
    if not count:
        return "no event matches; choose otherwise, or look at the admin's list of events"
    wanted = ", ".join(to.patterns)
    step = "to try those it was owed again, leave out --to and give --destination"
    return f"{to.destination} was owed the {count} events already, or doesn't want them (it wants {wanted}); {step}"


def _deliveries(ids: list[int]) -> list[Row]:
    chosen = Delivery.objects.filter(pk__in=ids)
    held = set(chosen.held().values_list("pk", flat=True))
    rows = order.with_heads(chosen).select_related("event").defer("result", "event__payload", "event__body")
    return [
        {
            "id": delivery.pk,
            "event": delivery.event_id,
            "event_type": delivery.event.event_type,
            "destination": delivery.destination,
            "state": delivery.state,
            "held": delivery.pk in held,
            "attempts": delivery.attempts,
            "waits_behind": delivery.behind,
            "last_error": delivery.last_error,
        }
        for delivery in rows.order_by("pk")
    ]


def _events(ids: list[int]) -> list[Row]:
    rows = Event.objects.filter(pk__in=ids).order_by("pk")
    return [dict(row) for row in rows.values("id", "event_type", "subject", "source", "received_at")]
