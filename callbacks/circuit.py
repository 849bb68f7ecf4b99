"""How it goes with an endpoint, on its row: whether it may be sent something now, and what an answer changes.

After REFUSALS in a row the circuit is open: only the oldest due delivery is tried, every REST, until it is taken.
After some tries it is the next one's turn, and so on, lest one that is refused for its own sake hold up all others.
A row that says "not now" leaves its deliveries as they are; nobody claims them until it says otherwise.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from callbacks import endpoint as endpoints
from callbacks.batches import batches, ids_of
from callbacks.composed import select, slot
from callbacks.models import Delivery, DeliveryQuerySet, Endpoint

logger = logging.getLogger(__name__)

BY_HAND = "disabled by hand"
REFUSALS = 10
REST = timedelta(seconds=30)
TRIES_OF_EACH = 3
DAY = timedelta(days=1)
# How much of a rate may come at once.
BURST = timedelta(seconds=1)
_HOW_IT_GOES = ("enabled", "refusals", "failing_since", "rests_until", "last_error", "disabled_because")


@dataclass(frozen=True)
class Turn:
    """What a claim may take of one destination now, in which order, and how many of those it passes over."""

    most: int
    order: tuple[str, ...] = ("next_attempt_at", "id")
    passed_over: int = 0
    endpoint: "_Open | None" = None


class _Open(NamedTuple):
    """What a claim needs of the row of an endpoint that may be sent something, and the database's time."""

    pk: int
    refusals: int
    rests_until: datetime | None
    concurrency: int
    rate: int | None
    slow_until: datetime | None
    now: datetime


def turn(destination: str, wanted: int) -> Turn:
    """Return what a claim of `wanted` may take, in a transaction; an endpoint's row is locked until that ends."""
    if not endpoints.is_one(destination):
        return Turn(wanted)
    rows = _locked_to_claim(pk=endpoints.number_of(destination))
    if not rows:
        # Another worker claims of it at this moment. One that is gone takes them all: each attempt finds that out.
        return Turn(0 if endpoints.find(destination) else wanted)
    endpoint = _Open(*rows[0])
    held = len(_held(destination=destination))
    if endpoint.rests_until:  # a probe
        passed_over = max(endpoint.refusals - REFUSALS, 0) // TRIES_OF_EACH
        return Turn(0 if held else 1, ("event_id", "id"), passed_over, endpoint)
    most = min(wanted, max(endpoint.concurrency - held, 0), _rate_allows(endpoint) if endpoint.rate else wanted)
    return Turn(most, endpoint=endpoint)


@select
def _locked_to_claim() -> QuerySet[Any, Any]:
    rows = Endpoint.objects.open().filter(pk=slot("pk")).select_for_update(skip_locked=True)
    return rows.annotate(now=Now()).values_list(*_Open._fields)


@select
def _held() -> QuerySet[Any, Any]:
    rows = Delivery.objects.pending().filter(destination=slot("destination"), lease_token__isnull=False)
    return rows.held().order_by().values_list("pk")


def took(turn: Turn, count: int) -> None:
    """Note that the claim took so many, in its transaction: when the endpoint's next turn is."""
    endpoint = turn.endpoint
    if not count or endpoint is None:
        return
    rows = Endpoint.objects.filter(pk=endpoint.pk)
    if endpoint.rests_until:
        rows.update(rests_until=endpoint.now + REST)
    elif endpoint.rate:
        since = max(endpoint.slow_until or endpoint.now, endpoint.now - BURST)
        rows.update(slow_until=since + count * _interval(endpoint.rate))


def _interval(rate: int) -> timedelta:
    return max(timedelta(minutes=1) / rate, timedelta(microseconds=1))


def _rate_allows(endpoint: _Open) -> int:
    """Return how many requests the rate allows now; a rest of BURST is saved up for, and at least one is."""
    saved = min(endpoint.now - (endpoint.slow_until or endpoint.now), BURST)
    return max(int(saved / _interval(endpoint.rate or 1)), 1)


def succeeded(endpoint: Endpoint) -> None:
    """Note that an endpoint took something: where its circuit was open, everything pending falls due at once."""
    for refusals, failing_since, rests_until, last_error in _how_it_went(pk=endpoint.pk):
        if not (refusals or failing_since or rests_until or last_error):
            return
        Endpoint.objects.filter(pk=endpoint.pk, enabled=True, paused=False).update(**_clean())
        if rests_until:
            logger.info("endpoint %s takes events again", endpoint)
            release(endpoint.destination)


@select
def _how_it_went() -> QuerySet[Any, Any]:
    rows = Endpoint.objects.filter(pk=slot("pk"), enabled=True, paused=False)
    return rows.values_list("refusals", "failing_since", "rests_until", "last_error")


def answered(endpoint: Endpoint, line: str) -> None:
    """Note that an endpoint answered, if not in the way it should: that is no refusal, and ends a circuit's rest."""
    rested = [rests_until for _, _, rests_until, _ in _how_it_went(pk=endpoint.pk)]
    Endpoint.objects.filter(pk=endpoint.pk, enabled=True, paused=False).update(**{**_clean(), "last_error": line})
    if any(rested):
        release(endpoint.destination)


def refused(endpoint: Endpoint, line: str, *, gone: bool = False, rest: timedelta = timedelta(0)) -> None:
    """Note a refusal of what was sent to `endpoint` as it was then.

    Open the circuit after REFUSALS in a row, for REST or longer where it asked for a `rest`. Disable the endpoint where
    it is gone, or has refused everything for ENDPOINT_DISABLE_AFTER.
    """
    with transaction.atomic():
        row = _locked(endpoint.destination)
        if row is None or not row[0].enabled:
            return
        known, now = row
        if endpoint.rests_until or not known.rests_until:  # else it was sent before the circuit opened
            known.refusals += 1
        known.failing_since = known.failing_since or now
        known.last_error = line
        failing_for = now - known.failing_since
        if gone:
            _disable(known, line)
        elif failing_for >= timedelta(seconds=settings.ENDPOINT_DISABLE_AFTER):
            _disable(known, f"it refused everything for {failing_for.total_seconds():.0f} s; the last time: {line}")
        elif known.refusals >= REFUSALS:
            known.rests_until = max(known.rests_until or now + REST, now + min(rest, DAY))
            if known.refusals == REFUSALS:
                logger.warning("endpoint %s refused %s in a row: one delivery is tried at a time", known, REFUSALS)
        known.save(update_fields=_HOW_IT_GOES)


def hold(endpoint: Endpoint, line: str, *, until_resumed: bool) -> None:
    """Note why nothing can be sent to an endpoint at all: pause it, or let it rest before the next look."""
    if until_resumed:
        changes: dict[str, Any] = {"paused": True}
        logger.error("endpoint %s is paused: %s", endpoint, line)
    else:
        changes = {"rests_until": Now() + REST}
        logger.error("endpoint %s rests: %s", endpoint, line)
    Endpoint.objects.filter(pk=endpoint.pk).update(last_error=line, **changes)


def pause(endpoint: Endpoint) -> None:
    """Send nothing more until it is resumed; events go on being owed."""
    Endpoint.objects.filter(pk=endpoint.pk).update(paused=True)


def resume(endpoint: Endpoint) -> None:
    """Send what is owed again, in order."""
    Endpoint.objects.filter(pk=endpoint.pk).update(paused=False, **_clean())
    release(endpoint.destination)


def disable(endpoint: Endpoint, because: str) -> None:
    """Owe nothing new and send nothing; what is owed stays pending."""
    Endpoint.objects.filter(pk=endpoint.pk).update(enabled=False, disabled_because=because, **_clean())


def enable(endpoint: Endpoint) -> None:
    """Owe events again, and let go what was set aside."""
    Endpoint.objects.filter(pk=endpoint.pk).update(enabled=True, disabled_because="", **_clean())
    release(endpoint.destination)


def release(destination: str) -> int:
    """Make due at once, in the order in which they came to be owed, what waits for its retry; return how many."""
    count = 0
    for ids in batches(ids_of(_waiting(destination))):
        with transaction.atomic():
            locked = _waiting(destination).filter(pk__in=ids).select_for_update(skip_locked=True).order_by("pk")
            rows = Delivery.objects.filter(pk__in=list(locked.values_list("pk", flat=True)))
            count += rows.update(next_attempt_at=F("created_at"))
    return count


def _waiting(destination: str) -> DeliveryQuerySet:
    return Delivery.objects.pending().free().filter(destination=destination, next_attempt_at__gt=Now())


def _disable(endpoint: Endpoint, because: str) -> None:
    """Disable a row that is about to be saved; whoever enables it again, in whichever way, begins anew."""
    endpoint.enabled, endpoint.disabled_because = False, because
    endpoint.refusals, endpoint.failing_since, endpoint.rests_until = 0, None, None
    logger.error("endpoint %s is disabled: %s", endpoint, because)


def _clean() -> dict[str, Any]:
    return {"refusals": 0, "failing_since": None, "rests_until": None, "last_error": ""}


def _locked(destination: str) -> tuple[Endpoint, datetime] | None:
    """Return an endpoint's row, locked until the transaction ends, and the database's time."""
    locked = Endpoint.objects.filter(pk=endpoints.number_of(destination)).select_for_update()
    row = locked.annotate(now=Now()).first()
    return (row, row.now) if row else None
