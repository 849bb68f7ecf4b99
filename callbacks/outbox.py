"""Owed work: claim a delivery under a lease, attempt it, settle it; the retry schedule.

The rows are the truth. A claim writes a fresh token and a lease's end on the row; a settle counts only with that token,
so a worker that lost its lease changes nothing. The database's clock decides what is due.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from callbacks import circuit, due, endpoint, idleness, order, relay, settling
from callbacks.batches import MOST_ROWS, batches, ids_of
from callbacks.composed import Ids, select, slot, update
from callbacks.models import LEASE, Attempt, Delivery, DeliveryQuerySet, LeaseLost, storable_result
from callbacks.order import Candidate
from callbacks.routing import GiveUp, Handler, RetryLater, router
from callbacks.settling import deliver, log, settle, start

logger = logging.getLogger(__name__)

# A claim locks so many at least, as some may have to wait; more, and it would keep those from other workers.
CANDIDATES = 16
# So often a claim looks for one that need not wait: the other destinations wait meanwhile.
LOOKS = 3
OVERDUE = timedelta(seconds=60)
NO_HANDLER_DELAY = timedelta(seconds=300)
SLOW_ATOMIC = 0.5


def claim(limit: int, destination: str = "") -> list[Delivery]:
    """Take up to `limit` due deliveries under a lease, of one destination or of any, none that waits for its turn.

    Of each destination the longest due first. Where those all have to wait for their turn, it may return none in spite
    of due ones behind them; call again then. An attempt left open by a worker that died is closed here; it counted
    when it started, so a handler that takes its process down ends as dead like any other.
    """
    taken: list[Delivery] = []
    # a read first: on SQLite what follows takes the one write lock
    for each in [destination] if destination else due.destinations():
        taken += _claim(limit - len(taken), each)
        if len(taken) == limit:
            break
    return taken


def _claim(limit: int, destination: str) -> list[Delivery]:
    taken: list[Delivery] = []
    for _ in range(LOOKS):
        with transaction.atomic():
            turn = circuit.turn(destination, limit)
            if not turn.most:
                break
            found = _locked_due(turn.order, max(turn.most, CANDIDATES))(destination=destination)
            candidates = order.lockable([Candidate(*each) for each in found])
            parked = order.park_later(candidates)
            ready = [each.pk for each in candidates if each.pk not in parked]
            first = turn.passed_over % len(ready) if ready else 0
            taken = _take(ready[first:][: turn.most])
            circuit.took(turn, len(taken))
        if taken or not parked:
            break
    return taken


@cache
def _locked_due(order: tuple[str, ...], most: int) -> Callable[..., list[tuple[Any, ...]]]:
    @select
    def rows() -> QuerySet[Any, Any]:
        due = Delivery.objects.due().filter(destination=slot("destination"))
        locked = due.order_by(*order).select_for_update(skip_locked=True)
        return locked.values_list(*Candidate._fields)[:most]

    return rows


def _take(ids: list[int]) -> list[Delivery]:
    if not ids:
        return []
    token = uuid.uuid4()
    _lease(ids=ids, token=token)
    _close_lost(ids)
    held = Delivery.objects.filter(pk__in=ids, lease_token=token).select_related("event")
    return sorted(held, key=lambda delivery: ids.index(delivery.pk))


@update(lease_token=slot("token", Delivery._meta.get_field("lease_token")), leased_until=Now() + LEASE)
def _lease() -> QuerySet[Any, Any]:
    return Delivery.objects.filter(pk__in=Ids("ids"))


@select
def _left_open() -> QuerySet[Any, Any]:
    running = Attempt.objects.filter(delivery__in=Ids("ids"), outcome=Attempt.Outcome.RUNNING)
    return running.order_by().values_list("pk", "delivery")


def _close_lost(taken: list[int]) -> None:
    running = _left_open(ids=taken)
    rows = Attempt.objects.filter(pk__in=[attempt for attempt, _ in running], outcome=Attempt.Outcome.RUNNING)
    error = "worker lost: its process died or lost the database"
    if running and rows.update(outcome=Attempt.Outcome.LOST, finished_at=Now(), error=error):
        lost = Delivery.objects.filter(pk__in=[delivery for _, delivery in running])
        for delivery in lost.select_related("event"):
            if endpoint.is_one(delivery.destination) or delivery.attempts <= len(_schedule(delivery)):
                log(delivery, f"attempt {delivery.attempts} was lost: {error}", logging.WARNING)
                continue  # what is sent to an endpoint takes down no process
            settle(delivery, **settling.settled(Delivery.State.DEAD, error))
            log(delivery, f"dead after {delivery.attempts} attempts: {error}", logging.ERROR)


def renew(held: Iterable[Delivery]) -> None:
    """Prolong the leases of deliveries that are still being attempted."""
    for delivery in held:
        rows = Delivery.objects.filter(pk=delivery.pk, lease_token=delivery.lease_token)
        rows.update(leased_until=Now() + LEASE)


def attempt(delivery: Delivery, worker: str) -> bool:
    """Try a claimed delivery once and settle it; return whether its destination works.

    django.db.Error where the database fails, and the lease runs out.
    """
    try:
        if endpoint.is_one(delivery.destination):
            return relay.attempt(delivery, worker)
        handler = router.find(delivery.destination)
        if handler is not None:
            return _attempt(handler, delivery, start(delivery, worker))
        _no_handler(delivery)
    except LeaseLost:
        log(delivery, "lost its lease to another worker; nothing of this attempt counts", logging.WARNING)
    return False


def _attempt(handler: Handler, delivery: Delivery, started: Attempt) -> bool:
    try:
        with idleness.of_a_handler(time_limit(delivery)):
            if handler.atomic:
                _run_atomic(handler, delivery, started)
            else:
                result = _run(handler, delivery)
    except LeaseLost:
        raise
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything, SystemExit too, with the same fate
        _fail(delivery, started, error)
        return isinstance(error, GiveUp)  # which tells of this delivery only
    if not handler.atomic:
        deliver(delivery, started, result)
    log(delivery, "delivered")
    return True


def time_out(delivery: Delivery) -> None:
    """Settle a delivery whose handler hangs as failed; the caller ends the process that the handler hangs in."""
    handler = router.find(delivery.destination)
    limit = "its timeout" if handler and handler.timeout else "HANDLER_TIMEOUT"
    error = TimeoutError(f"the handler took longer than {limit} ({time_limit(delivery):g} s)")
    running = Attempt.objects.filter(delivery=delivery, outcome=Attempt.Outcome.RUNNING)
    for started in running.order_by("-id")[:1]:
        _fail(delivery, started, error)


def give_back(delivery: Delivery) -> None:
    """Make a delivery that a stopping worker has not finished due at once."""
    with transaction.atomic():
        settle(delivery, **settling.due(Now(), "the worker was stopped in mid-attempt"))
        running = Attempt.objects.filter(delivery=delivery, outcome=Attempt.Outcome.RUNNING)
        running.update(outcome=Attempt.Outcome.STOPPED, finished_at=Now())


def redeliver(deliveries: DeliveryQuerySet) -> int:
    """Make deliveries in any state due now, with the whole schedule before them; return how many.

    Those that a worker holds at this moment are left to it. Their earlier attempts stay on record, and one that has
    to wait for an earlier one of its subject is parked when a worker comes upon it.
    """
    count = 0
    for ids in batches(ids_of(deliveries)):
        with transaction.atomic():
            free = Delivery.objects.filter(pk__in=_lock_free(ids))
            count += free.update(state=Delivery.State.PENDING, attempts=0, settled_at=None, **settling.due(Now()))
    return count


def give_up(deliveries: DeliveryQuerySet, by: str = "") -> int:
    """Make pending deliveries dead, as `by` wants it, and let those behind them go; return how many.

    Those that a worker holds at this moment are left to it.
    """
    count = 0
    error = f"given up by hand{by and f', by {by}'}"
    for ids in batches(ids_of(deliveries.pending()), MOST_ROWS // 2):  # each may let one more row go
        with transaction.atomic():
            free = _lock_free(ids, state=Delivery.State.PENDING)
            given_up = Delivery.objects.filter(pk__in=free)
            running = Attempt.objects.filter(delivery__in=given_up, outcome=Attempt.Outcome.RUNNING)
            running.update(outcome=Attempt.Outcome.LOST, finished_at=Now(), error=error)
            count += given_up.update(**settling.settled(Delivery.State.DEAD, error))
            order.promote(free)
    return count


def _lock_free(ids: list[int], **conditions: Any) -> list[int]:
    """Return those that no worker holds; their subjects and rows are locked until the transaction ends."""
    rows = Delivery.objects.filter(pk__in=ids)
    order.lock(*rows.only("destination", "subject"))
    locked = rows.free().filter(**conditions).select_for_update().order_by("pk")
    return list(locked.values_list("pk", flat=True))


def unattended() -> int:
    """Return how many deliveries have been due for a minute with no sign of a worker; 0 where one is at work.

    Those that a feeder has published and nobody has started are among them.
    """
    since = Delivery.objects.pending().filter(next_attempt_at__lte=Now() - OVERDUE)
    overdue = since.free().filter(destination__in=due.destinations())
    running = Attempt.objects.filter(delivery=OuterRef("pk"), outcome=Attempt.Outcome.RUNNING)
    unstarted = since.held().filter(~Exists(running)) if settings.CELERY_BROKER_URL else since.none()
    if not overdue.exists() and not unstarted.exists():
        return 0
    at_work = OVERDUE + timedelta(seconds=settings.HANDLER_TIMEOUT)
    newest = Attempt.objects.order_by("-id").values("pk")[:1]
    if Attempt.objects.filter(pk__in=newest, started_at__gt=Now() - at_work).exists():
        return 0
    return overdue.count() + unstarted.count()


def time_limit(delivery: Delivery) -> float:
    """Return the seconds that an attempt may take."""
    if endpoint.is_one(delivery.destination):
        return relay.TIME_LIMIT
    handler = router.find(delivery.destination)
    return handler.timeout if handler and handler.timeout else float(settings.HANDLER_TIMEOUT)


def _schedule(delivery: Delivery) -> Sequence[int]:
    handler = router.find(delivery.destination)
    schedule: Sequence[int] = settings.RETRY_SCHEDULE
    return schedule if handler is None or handler.retry is None else handler.retry


def _delay(delivery: Delivery, error: BaseException) -> timedelta | None:
    delay = settling.retry_delay(delivery.attempts, _schedule(delivery))
    if isinstance(error, GiveUp):
        return None
    return timedelta(seconds=error.seconds) if delay is not None and isinstance(error, RetryLater) else delay


def _fail(delivery: Delivery, started: Attempt, error: BaseException) -> None:
    line = settling.describe(error)
    settling.fail(delivery, started, _delay(delivery, error), line, settling.trace(error))


def _run(handler: Handler, delivery: Delivery) -> dict[str, Any] | None:
    return storable_result(handler(delivery.event, delivery))


def _run_atomic(handler: Handler, delivery: Delivery, started: Attempt) -> None:
    with transaction.atomic():
        began = time.monotonic()
        try:
            deliver(delivery, started, _run(handler, delivery))
        finally:
            _blame(handler, time.monotonic() - began)


def _blame(handler: Handler, held: float) -> None:
    if connection.vendor == "sqlite" and held > SLOW_ATOMIC:
        logger.warning(
            "atomic handler %s held SQLite's write lock for %.1f s, and every push waited; leave out atomic=True or "
            "do its slow part elsewhere",
            handler.name,
            held,
        )


def _no_handler(delivery: Delivery) -> None:
    """Leave a delivery whose handler is gone for later, without using up an attempt."""
    name = delivery.destination.removeprefix("handler:")
    line = f"no handler {name}: restart the workers if it is new; else, is its app in EXTRA_APPS, or was it renamed?"
    with transaction.atomic():
        settle(delivery, **settling.due(Now() + NO_HANDLER_DELAY, line))
    log(delivery, f"put back: {line}", logging.ERROR)
