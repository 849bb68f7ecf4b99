"""Carry due deliveries with a few threads, keep their leases, and stop without losing any."""

import logging
import os
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from enum import Enum

from django.db import Error, close_old_connections, connection

from callbacks import outbox
from callbacks.models import LEASE, Delivery, LeaseLost

logger = logging.getLogger(__name__)

POLL = 0.25
AFTER_DATABASE_ERROR = 1.0
GRACE = 8.0


class Ending(Enum):
    """How a worker's run ended."""

    FINISHED = "every attempt has ended"
    GAVE_BACK = "some attempts still run, but their deliveries are given back: end this process at once"
    TIMED_OUT = "a handler hangs, and its delivery is settled as failed: end this process and start another"


class Worker:
    """Claims no more than it has threads for, so a claimed delivery is attempted at once."""

    def __init__(self, threads: int) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._threads = threads
        self._stop = threading.Event()
        self._running: dict[Future[None], Delivery] = {}
        self._deadlines: dict[Future[None], float] = {}

    def stop(self) -> None:
        """Claim nothing more; `run` returns when the running attempts have ended or its grace is over."""
        self._stop.set()

    def run(self, *, once: bool = False) -> Ending:
        """Carry deliveries until stopped, until a handler hangs, or (`once`) until none is due.

        A database that can't be reached is waited for, except `once`: then its django.db.Error is raised.
        """
        done = threading.Event()
        keeper = threading.Thread(target=self._keep_leases, args=(done,), name="keeper", daemon=True)
        keeper.start()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="attempt")
        logger.info("worker %s carries deliveries, %s at a time", self.name, self._threads)
        try:
            while not self._stop.is_set() and not self._hung():
                if not self._claim(pool, once) and not self._running and once:
                    break
                self._collect(POLL)
            return self._finish()
        finally:
            done.set()
            keeper.join()
            pool.shutdown(wait=False)

    def _hung(self) -> list[Future[None]]:
        """Return the attempts that run beyond their time limit."""
        now = time.monotonic()
        return [f for f, deadline in self._deadlines.items() if deadline < now and not f.done()]

    def _claim(self, pool: ThreadPoolExecutor, once: bool) -> bool:
        """Start due deliveries on the free threads; True where there were any, or the database can't tell."""
        free = self._threads - len(self._running)
        if not free:
            return True
        try:
            close_old_connections()
            claimed = outbox.claim(free)
        except Error as error:
            if once:
                raise
            logger.error("the database refuses claims, trying again in %.0f s: %s", AFTER_DATABASE_ERROR, kind(error))
            connection.close()
            self._stop.wait(AFTER_DATABASE_ERROR)
            return True
        for delivery in claimed:
            future = pool.submit(self._attempt, delivery)
            self._running[future] = delivery
            self._deadlines[future] = time.monotonic() + outbox.time_limit(delivery)
        return bool(claimed)

    def _attempt(self, delivery: Delivery) -> None:
        try:
            close_old_connections()
            if connection.connection and not connection.is_usable():
                connection.close()  # the server was restarted since: better found out before the attempt than in it
            outbox.attempt(delivery, self.name)
        except Error as error:
            logger.error("delivery %s is not settled and falls due when its lease ends: %s", delivery.pk, kind(error))
            connection.close()

    def _collect(self, timeout: float) -> None:
        """Wait until an attempt ends or `timeout` seconds have passed, and forget those that have ended."""
        if not self._running:
            self._stop.wait(timeout)
            return
        ended, _ = wait(self._running, timeout, FIRST_COMPLETED)
        for future in ended:
            del self._running[future], self._deadlines[future]
            future.result()

    def _finish(self) -> Ending:
        """Give the running attempts some time, then settle those that hang and give back the others."""
        hung = self._hung()
        wait([future for future in self._running if future not in hung], GRACE)
        for future in [future for future in self._running if not future.done()]:
            delivery = self._running[future]
            try:
                outbox.time_out(delivery) if future in hung else outbox.give_back(delivery)
            except (LeaseLost, Error) as error:
                logger.warning("delivery %s falls due when its lease ends: %s", delivery.pk, kind(error))
        if hung:
            return Ending.TIMED_OUT
        return Ending.FINISHED if all(future.done() for future in self._running) else Ending.GAVE_BACK

    def _keep_leases(self, done: threading.Event) -> None:
        while not done.wait(LEASE.total_seconds() / 3):
            try:
                close_old_connections()
                outbox.renew(list(self._running.values()))
            except Error as error:
                logger.error("leases could not be renewed, trying again: %s", kind(error))
                connection.close()
        connection.close()


def kind(error: Exception) -> str:
    """Return an error's kind and first line: what follows may quote rows."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
