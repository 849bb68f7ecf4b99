"""Pushes on their way: tried at once, twice again after a while, and then given to the failed list."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from simulator import failed
from simulator.options import Options
from simulator.receiver import Attempt, Callback, attempt
from simulator.sealing import plaintext, seal_push

CONNECTIONS = 16
NO_CALLBACK = "no callback is registered and none subscribed"
STOPPED = "the simulator was stopped"


class Push:
    """One event on its way to the receiver, and what became of it."""

    def __init__(self, payload: Mapping[str, Any], *, retry: bool = True, fault: str = "") -> None:
        self.payload = dict(payload)
        self.attempts: list[Attempt] = []
        self.acknowledged = False
        self.reason = ""
        self.retry = retry
        self.fault = fault
        self._changed = threading.Condition()
        self._done = False

    def done(self) -> bool:
        """Tell whether no further attempt will be made."""
        return self._done

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no further attempt will be made; tell whether that is so."""
        with self._changed:
            return self._changed.wait_for(self.done, timeout)

    def wait_tried(self, timeout: float | None = None) -> bool:
        """Wait until a first attempt has been made; tell whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done or bool(self.attempts), timeout)

    def tried(self, made: Attempt, *, last: bool) -> None:
        """Note an attempt; `last`: no further one will be made."""
        with self._changed:
            self.attempts.append(made)
            self.reason = made.reason
            self.acknowledged = not made.reason
            self._done = last
            self._changed.notify_all()

    def give_up(self, reason: str) -> None:
        """Note why no further attempt will be made."""
        with self._changed:
            self.reason = reason
            self._done = True
            self._changed.notify_all()


class Later:
    """One thread that calls functions when their time has come."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="simulator-later", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call(self, delay: float, function: Callable[[], object]) -> None:
        """Call `function` in `delay` seconds, unless stopped before."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + delay, next(self._order), function))
            self._changed.notify_all()

    def stop(self) -> None:
        """Forget what is due, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._stopped:
                    return
                function = heapq.heappop(self._due)[2]
            function()


class Pusher:
    """Carry pushes to the callback that `callback` returns at the time of each attempt."""

    def __init__(
        self, options: Options, callback: Callable[[], Callback | None], failed_list: failed.FailedList
    ) -> None:
        self.acknowledged: list[dict[str, Any]] = []
        self._options = options
        self._callback = callback
        self._failed_list = failed_list
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="simulator-push")
        self._later = Later()
        self._lock = threading.Lock()
        self._open: set[Push] = set()
        self._stopped = False

    def start(self) -> None:
        """Start the clock that retries need."""
        self._later.start()

    def stop(self) -> None:
        """Finish the attempts that are being made, and give up everything else."""
        with self._lock:
            self._stopped = True
        self._later.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for push in self._open:
            push.give_up(STOPPED)

    def submit(self, push: Push) -> None:
        """Make the next attempt at `push` as soon as a connection is free."""
        with self._lock:
            if not self._stopped:
                self._open.add(push)
                self._pool.submit(self._try, push)
                return
        push.give_up(STOPPED)

    def _try(self, push: Push) -> None:
        callback = self._callback()
        if callback is None:
            self._close(push)
            push.give_up(NO_CALLBACK)
            return
        options = self._options
        url, body = seal_push(callback, plaintext(push.payload), options.query_names, push.fault)
        made = attempt(callback, url, body, options.time_limit)
        retries = len(push.attempts)
        if made.reason and push.retry and retries < len(options.retry_delays):
            push.tried(made, last=False)
            self._later.call(options.retry_delays[retries] / options.clock_scale, lambda: self.submit(push))
            return
        # Whoever waits for the push finds it in the lists.
        if not made.reason:
            self.acknowledged.append(push.payload)
        elif push.retry:
            entry = failed.entry(push.payload, options.failed_shape, options.corp_id, time.time())
            self._failed_list.add(entry, options.failed_list_delay / options.clock_scale)
        self._close(push)
        push.tried(made, last=True)

    def _close(self, push: Push) -> None:
        with self._lock:
            self._open.discard(push)
