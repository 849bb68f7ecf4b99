"""Feed a queue that workers elsewhere take from: claim what is due, publish it, and claim it back where nothing comes.

The rows stay the truth. The queue is kept short, so that whose turn it is is decided here and not by the queue, and
what is in it may be lost, doubled or late: see `callbacks.handover`.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from django.db import Error, close_old_connections, connection

from callbacks import chores, due, duty, handover, outbox, wakeup
from callbacks.dingcrypto import CallbackError
from callbacks.fairness import SLOW, Fairness
from callbacks.models import LEASE, Attempt, Delivery
from callbacks.worker import AFTER_DATABASE_ERROR, POLL, kind

logger = logging.getLogger(__name__)

DUTY = "feeder"
STAND_BY = 5.0
LOOK_EVERY = 0.02
RENEW_EVERY = LEASE.total_seconds() / 3
# A message that nobody has started by then counts as lost: a queue may be purged, and a broker forget.
EXPIRES_AFTER = 60.0
LONGEST_PAUSE = 30.0

Publish = Callable[[Delivery], None]


class Unpublished(CallbackError):
    """The broker did not take a message, or did not say that it has."""


@dataclass
class Published:
    """A delivery that somebody may be at; times as of `time.monotonic`, `running_since` once it was seen started."""

    destination: str
    token: UUID
    attempts: int
    at: float
    running_since: float | None = None

    @property
    def began(self) -> float:
        """Return since when it has been running, or waiting."""
        return self.running_since or self.at


class Feeder:
    """Keeps up to `ahead` unstarted messages of each destination in the queue; of any number of feeders, one acts.

    A destination whose attempts are slow, or not yet known to be quick, has no more than `ahead` attempts altogether,
    so that with more processes than that the others always find some free.
    """

    def __init__(self, publish: Publish, ahead: int) -> None:
        self._publish = publish
        self._ahead = ahead
        self._stop = threading.Event()
        self._alarm = wakeup.Alarm()
        self._published: dict[int, Published] = {}
        self._fairness = Fairness(ahead)
        self._quick: set[str] = set()
        self._deserted = False
        self._warn_at = 0.0
        self._stands_by = False
        self._renew_at = 0.0
        self._publish_at = 0.0
        self._pause = 0.0

    def stop(self) -> None:
        """Publish nothing more; `run` returns when what nobody has started is given back."""
        self._stop.set()
        self._alarm.ring()

    def run(self) -> None:
        """Feed, or stand by while another feeder does, until stopped; a database out of reach is waited for.

        What a worker does beside carrying deliveries, this does beside feeding.
        """
        done = threading.Event()
        listener = threading.Thread(target=wakeup.listen, args=(self._alarm.ring, done), name="listen", daemon=True)
        listener.start()
        beside = [listener, *chores.start(done)]
        try:
            while not self._stop.is_set():
                self._stop.wait(self._try_to_act())
        finally:
            done.set()
            for thread in beside:
                thread.join(2.0)  # one may hang on a stalled database; the process ends without it

    def _try_to_act(self) -> float:
        """Act for as long as this feeder is the one; return after how many seconds to try again."""
        try:
            close_old_connections()
            with duty.hold(DUTY) as renew:
                self._stands_by = False
                logger.info("this feeder acts, %s ahead for each destination", self._ahead)
                self._act(renew)
        except duty.DutyHeld as error:
            logger.log(logging.DEBUG if self._stands_by else logging.INFO, "this feeder stands by: %s", error)
            self._stands_by = True
            return STAND_BY
        except Error as error:
            logger.error("the database refuses, trying again in %.0f s: %s", AFTER_DATABASE_ERROR, kind(error))
            connection.close()
            return AFTER_DATABASE_ERROR
        return 0.0

    def _act(self, renew: Callable[[], None]) -> None:
        self._begin()
        while not self._stop.is_set():
            self._keep(renew)
            self._look()
            self._feed()
            self._alarm.wait(LOOK_EVERY if self._published else POLL)
        self._take_back(self._unstarted())

    def _begin(self) -> None:
        """Know what others hold, and have nothing else in the queue: what was published may be lost by now."""
        self._take_back(self._unstarted())
        for pk in list(self._published):
            self._forget(pk, None)
        now = time.monotonic()
        for delivery in Delivery.objects.pending().held().only("destination", "lease_token", "attempts"):
            self._note(delivery, now)

    def _note(self, delivery: Delivery, running_since: float | None = None) -> None:
        assert delivery.lease_token  # noqa: S101 - it was claimed
        if delivery.pk in self._published:  # it ended, and fell due again, since the last look
            self._forget(delivery.pk, None)
        now = time.monotonic()
        self._published[delivery.pk] = Published(
            delivery.destination, delivery.lease_token, delivery.attempts, now, running_since
        )
        self._fairness.started(delivery.destination, running_since or now)

    def _runs(self, each: Published, now: float) -> None:
        """Note that somebody has started it, which is what counts from now on."""
        self._fairness.ended(each.destination, each.began, None)
        each.running_since = now
        self._fairness.started(each.destination, now)

    def _forget(self, pk: int, works: bool | None) -> None:
        each = self._published.pop(pk)
        self._fairness.ended(each.destination, each.began, works)

    def _keep(self, renew: Callable[[], None]) -> None:
        """Renew the duty, and the leases of what waits in the queue."""
        if time.monotonic() < self._renew_at:
            return
        renew()
        handover.renew(self._unstarted())
        self._renew_at = time.monotonic() + RENEW_EVERY

    def _unstarted(self, destinations: Collection[str] | None = None) -> dict[int, UUID]:
        """Return what waits in the queue, of some destinations or of all, by id and token."""
        return {
            pk: each.token
            for pk, each in self._published.items()
            if each.running_since is None and (destinations is None or each.destination in destinations)
        }

    def _look(self) -> None:
        """Learn what has been started and what has ended since the last look."""
        now = time.monotonic()
        held = handover.tokens(list(self._published))
        ended = []
        for pk, each in self._published.items():
            token = held.get(pk)
            if token == handover.started_token(each.token):
                if each.running_since is None:
                    self._runs(each, now)
                self._deserted = False
            elif token != each.token:
                ended.append(pk)
        self._learn(ended)
        self._slow_down(now)
        expired = {pk: token for pk, token in self._unstarted().items() if self._published[pk].at < now - EXPIRES_AFTER}
        if expired:
            self._expire(expired)

    def _learn(self, ended: list[int]) -> None:
        """Note of each what its attempt, if there was one, tells of its destination."""
        if not ended:
            return
        rows = {each.pk: each for each in Delivery.objects.filter(pk__in=ended).only("state", "attempts")}
        last = {each.delivery_id: each for each in Attempt.objects.filter(delivery__in=ended).order_by("id")}
        for pk in ended:
            each, row, attempt = self._published[pk], rows.get(pk), last.get(pk)
            works = _works(attempt, row.state) if row and attempt and row.attempts > each.attempts else None
            if attempt and attempt.finished_at and works is not None:
                quick = (attempt.finished_at - attempt.started_at).total_seconds() < SLOW
                (self._quick.add if quick else self._quick.discard)(each.destination)
                self._deserted = False
            self._forget(pk, works)

    def _slow_down(self, now: float) -> None:
        """Take back what waits for destinations that turn out to be slow: it would take the others' processes."""
        slow = {e.destination for e in self._published.values() if e.running_since and e.running_since < now - SLOW}
        turned = slow & self._quick
        self._quick -= slow
        if turned:
            self._take_back(self._unstarted(turned))

    def _expire(self, expired: dict[int, UUID]) -> None:
        given_back = self._take_back(expired)
        if given_back and not any(each.running_since for each in self._published.values()):
            self._deserted = True
            if time.monotonic() >= self._warn_at:
                self._warn_at = time.monotonic() + EXPIRES_AFTER
                logger.warning(
                    "none of %s messages was started in %.0f s: does a worker run (`celery -A dingcallback worker`)?",
                    given_back,
                    EXPIRES_AFTER,
                )

    def _take_back(self, unstarted: dict[int, UUID]) -> int:
        given_back = handover.give_back(unstarted) if unstarted else 0
        for pk in unstarted:
            self._forget(pk, None)
        return given_back

    def _feed(self) -> None:
        """Publish what is due and has its turn; where the broker refuses, take everything back and wait longer."""
        if time.monotonic() < self._publish_at:
            return
        try:
            self._publish_due()
        except Unpublished as error:
            self._pause = min(2 * self._pause, LONGEST_PAUSE) or 1.0
            self._publish_at = time.monotonic() + self._pause
            count = self._take_back(self._unstarted())
            logger.error("the broker refuses, %s given back, trying again in %.0f s: %s", count, self._pause, error)

    def _publish_due(self) -> None:
        waiting = due.destinations()
        running = Counter(each.destination for each in self._published.values() if each.running_since)
        beyond = {destination: running[destination] for destination in self._quick}
        for destination, room in self._fairness.deal(waiting, self._ahead * len(waiting), beyond):
            claimed = outbox.claim(1 if self._deserted else room, destination)
            for delivery in claimed:
                self._note(delivery)
            for delivery in claimed:
                self._publish(delivery)
                self._pause = 0.0


def _works(attempt: Attempt, state: str) -> bool | None:
    """Return whether an attempt's destination works; a delivery that was given up tells nothing of it."""
    if attempt.outcome == Attempt.Outcome.DELIVERED:
        return True
    return False if attempt.outcome == Attempt.Outcome.FAILED and state == Delivery.State.PENDING else None
