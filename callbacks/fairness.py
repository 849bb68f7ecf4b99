"""Which destination's turn it is: one that hangs or refuses everything leaves the threads to the others."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

# An attempt that has run so many seconds is slow.
SLOW = 1.0
# So many failures in a row, and a destination counts as down: a handler that now and then refuses is none.
DOWN_AFTER = 5
# A destination that is down gets a tenth of one thread while others wait: it rests nine times as long as it took.
REST = 9.0
LONGEST_REST = 30.0
NOTHING: Mapping[str, int] = MappingProxyType({})


class Fairness:
    """What one process knows of its destinations: the attempts that run, the last success, the failures in a row."""

    def __init__(self, threads: int, down: Sequence[str] = ()) -> None:
        self._threads = threads
        self._running: defaultdict[str, list[float]] = defaultdict(list)
        self._succeeded: dict[str, float] = {}
        self._failures: Counter[str] = Counter(dict.fromkeys(down, DOWN_AFTER))
        self._rests_until = dict.fromkeys(down, time.monotonic() + LONGEST_REST)

    def started(self, destination: str, began: float) -> None:
        """Note that an attempt at a destination has started, as of `time.monotonic`."""
        self._running[destination].append(began)

    def ended(self, destination: str, began: float, works: bool | None) -> None:
        """Note how an attempt at a destination has ended (None: nobody knows)."""
        self._running[destination].remove(began)
        if works is None:
            return
        now = time.monotonic()
        if works:
            self._succeeded[destination] = now
            self._failures.pop(destination, None)
            self._rests_until.pop(destination, None)
            return
        self._failures[destination] += 1
        if self._is_down(destination):
            self._rests_until[destination] = now + min(REST * (now - began), LONGEST_REST)

    def deal(self, due: Sequence[str], free: int, beyond: Mapping[str, int] = NOTHING) -> Iterator[tuple[str, int]]:
        """Return destinations, those with the fewest attempts running first, and how many more each may have.

        `due`: those that have due deliveries. One that rests or may hang has its turn only where all do. `beyond`: by
        how many attempts some may have more than the threads.
        """
        ready = [each for each in due if not self._rests(each) and not self._may_hang(each)] or due
        share = -(-free // max(len(ready), 1))
        for destination in sorted(ready, key=lambda each: len(self._running[each])):
            most = 1 if self._is_down(destination) else self._threads + beyond.get(destination, 0)
            room = most - len(self._running[destination])
            if room > 0:
                yield destination, min(room, share)

    def _is_down(self, destination: str) -> bool:
        return self._failures[destination] >= DOWN_AFTER

    def _rests(self, destination: str) -> bool:
        return self._rests_until.get(destination, 0.0) > time.monotonic()

    def _may_hang(self, destination: str) -> bool:
        """Tell whether an attempt is slow, and nothing at its destination has succeeded since it began."""
        oldest = min(self._running[destination], default=time.monotonic())
        return oldest < time.monotonic() - SLOW and self._succeeded.get(destination, oldest) <= oldest
