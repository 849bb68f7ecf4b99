"""Carry due deliveries with a few threads, keep their leases, and stop without losing any."""

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import Enum

from django.db import Error, close_old_connections, connection

from callbacks import chores, due, outbox, wakeup
from callbacks.fairness import SLOW, Fairness
from callbacks.models import LEASE, Delivery, LeaseLost

logger = logging.getLogger(__name__)

POLL = 0.5
AGAIN = 0.02
AFTER_DATABASE_ERROR = 1.0
GRACE = 8.0
TABLE_MISSING = re.compile(r"no such table|relation .* does not exist")


class Ending(Enum):
    """How a worker's run ended."""

    FINISHED = "every attempt has ended"
    GAVE_BACK = "some attempts still run, but their deliveries are given back: end this process at once"
    TIMED_OUT = "a handler hangs, and its delivery is settled as failed: end this process and start another"


@dataclass(frozen=True)
class Attempting:
    """A delivery that a thread attempts; times as of `time.monotonic`."""

    delivery: Delivery
    began: float
    deadline: float


class Worker:
    """Claims no more than it has threads for, so a claimed delivery is attempted at once.

    `threads` attempts run at the same time, and as many more where some are slow. `down`: destinations of which
    nothing good is expected.
    """

    def __init__(self, threads: int, down: Sequence[str] = ()) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._threads = threads
        self._stop = threading.Event()
        self._alarm = wakeup.Alarm()  # an attempt has ended, something is owed, or the worker is stopped
        self._running: dict[Future[bool | None], Attempting] = {}
        self._fairness = Fairness(threads, down)
        self.hung: list[str] = []

    def stop(self) -> None:
        """Claim nothing more; `run` returns when the running attempts have ended or its grace is over."""
        self._stop.set()
        self._alarm.ring()

    def run(self, *, once: bool = False) -> Ending:
        """Carry deliveries until stopped, until a handler hangs, or (`once`) until none is due.

        A database that can't be reached is waited for, except `once`: then its django.db.Error is raised.
        """
        done = threading.Event()
        keepers = [threading.Thread(target=keep_leases, args=(self._held, done), name="keeper", daemon=True)]
        if not once:
            keepers.append(
                threading.Thread(target=wakeup.listen, args=(self._alarm.ring, done), name="listen", daemon=True)
            )
        for keeper in keepers:
            keeper.start()
        enough = threading.Event()
        beside = [] if once else chores.start(enough)
        pool = ThreadPoolExecutor(2 * self._threads, thread_name_prefix="attempt")
        logger.info("worker %s carries deliveries, %s at a time", self.name, self._threads)
        try:
            while not self._stop.is_set() and not self._hung():
                pause = self._claim(pool, once)
                if pause is None and not self._running and once:
                    break
                if pause != 0 or not self._free():
                    self._alarm.wait(pause or POLL)
                self._forget_ended()
            enough.set()  # what is done beside ends while the attempts do
            return self._finish()
        finally:
            enough.set()
            done.set()
            ends = time.monotonic() + GRACE
            for chore in beside:
                chore.join(max(ends - time.monotonic(), 0))
            for keeper in keepers:
                keeper.join(2.0)  # one may hang on a stalled database; the process ends without it
            pool.shutdown(wait=False)

    def _hung(self) -> list[Future[bool | None]]:
        """Return the attempts that run beyond their time limit."""
        now = time.monotonic()
        return [future for future, each in self._running.items() if each.deadline < now and not future.done()]

    def _unfinished(self) -> set[Future[bool | None]]:
        return {future for future in self._running if not future.done()}

    def _free(self) -> int:
        """Return how many more attempts may be started; for each that is slow there may be one more."""
        slow = time.monotonic() - SLOW
        quick = sum(each.began > slow for each in self._running.values())
        return min(self._threads - quick, 2 * self._threads - len(self._running))

    def _claim(self, pool: ThreadPoolExecutor, once: bool) -> float | None:
        """Start due deliveries on the free threads; return the seconds until the next look, None where none is due."""
        if not self._free():
            return POLL
        try:
            close_old_connections()
            return self._start_claimed(pool)
        except Error as error:
            if once:
                raise
            logger.error("the database refuses claims, trying again in %.0f s: %s", AFTER_DATABASE_ERROR, kind(error))
            connection.close()
            self._stop.wait(AFTER_DATABASE_ERROR)
            return 0

    def _start_claimed(self, pool: ThreadPoolExecutor) -> float | None:
        pause = None
        for destination, room in self._fairness.deal(due.destinations(), self._free()):
            claimed = outbox.claim(min(room, self._free()), destination)
            for delivery in claimed:
                self._start(pool, delivery)
            # what is due may have to wait for its turn, or another worker is at it
            pause = 0 if claimed or pause == 0 else AGAIN
            if not self._free():
                break
        return pause

    def _start(self, pool: ThreadPoolExecutor, delivery: Delivery) -> None:
        now = time.monotonic()
        future = pool.submit(self._attempt, delivery)
        self._running[future] = Attempting(delivery, now, now + outbox.time_limit(delivery))
        self._fairness.started(delivery.destination, now)
        future.add_done_callback(lambda _: self._alarm.ring())

    def _attempt(self, delivery: Delivery) -> bool | None:
        refresh_connection()
        return attempt(delivery, self.name)

    def _forget_ended(self) -> None:
        for future in [future for future in self._running if future.done()]:
            each = self._running.pop(future)
            self._fairness.ended(each.delivery.destination, each.began, future.result())

    def _finish(self) -> Ending:
        """Give the running attempts some time, then settle those that hang and give back the others."""
        hung = self._hung()
        end = time.monotonic() + GRACE
        while time.monotonic() < end and (others := self._unfinished() - set(hung)):
            wait(others, POLL)
            hung = self._hung()
        for future in self._unfinished():
            each = self._running[future]
            try:
                outbox.time_out(each.delivery) if future in hung else outbox.give_back(each.delivery)
            except (LeaseLost, Error) as error:
                logger.warning("delivery %s falls due when its lease ends: %s", each.delivery.pk, kind(error))
        self.hung = sorted({self._running[future].delivery.destination for future in hung})
        if hung:
            return Ending.TIMED_OUT
        return Ending.FINISHED if all(future.done() for future in self._running) else Ending.GAVE_BACK

    def _held(self) -> list[Delivery]:
        return [each.delivery for each in list(self._running.values())]


def refresh_connection() -> None:
    """Leave a connection that the server has ended: better found out before an attempt than in it."""
    try:
        close_old_connections()
        usable = not connection.connection or connection.is_usable()
    except Error:
        usable = False
    if not usable:
        connection.close()


def attempt(delivery: Delivery, worker: str) -> bool | None:
    """Attempt a claimed delivery; return whether its destination works, None where the database failed."""
    try:
        return outbox.attempt(delivery, worker)
    except Exception as error:  # noqa: BLE001 - this thread and its process have other deliveries to carry
        logger.error("delivery %s is not settled and falls due when its lease ends: %s", delivery.pk, kind(error))
        connection.close()
        return None


def keep_leases(held: Callable[[], Iterable[Delivery]], done: threading.Event) -> None:
    """Prolong the leases of what `held` returns, long before they end, until `done`."""
    while not done.wait(LEASE.total_seconds() / 3):
        try:
            close_old_connections()
            outbox.renew(held())
        except Exception as error:  # noqa: BLE001 - without it another worker would take over what this one is at
            logger.error("leases could not be renewed, trying again: %s", kind(error))
            connection.close()
    connection.close()


def kind(error: Exception) -> str:
    """Return an error's kind and first line, as what follows may quote rows; where tables are missing, the remedy."""
    line = str(error).strip().partition("\n")[0]
    remedy = " (`manage.py migrate` makes the tables)" if TABLE_MISSING.search(line) else ""
    return f"{type(error).__name__}: {line}{remedy}"
