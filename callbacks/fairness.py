"""Which destination's turn it is: one that hangs or refuses everything leaves the threads to the others."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

# So many failures in a row, and a destination counts as down: a handler that now and then refuses is none.
DOWN_AFTER = 5
# A destination that is down gets a tenth of one thread while others wait: it rests nine times as long as it took.
REST = 9.0
LONGEST_REST = 30.0
NOTHING: Mapping[str, int] = MappingProxyType({})


class Fairness:
    """What one process knows of its destinations: the attempts that run, the failures in a row."""

    def __init__(self, threads: int, down: Sequence[str] = ()) -> None:
        self._threads = threads
        self._running: Counter[str] = Counter()
        self._failures: Counter[str] = Counter(dict.fromkeys(down, DOWN_AFTER))
        self._rests_until = dict.fromkeys(down, time.monotonic() + LONGEST_REST)

    def started(self, destination: str) -> None:
        """Note that an attempt at a destination has started."""
        self._running[destination] += 1

    def ended(self, destination: str, works: bool | None, seconds: float) -> None:
        """Note how an attempt at a destination has ended (None: nobody knows), and how long it took."""
        self._running[destination] -= 1
        if works is None:
            return
        if works:
            self._failures.pop(destination, None)
            self._rests_until.pop(destination, None)
            return
        self._failures[destination] += 1
        if self._is_down(destination):
            self._rests_until[destination] = time.monotonic() + min(REST * seconds, LONGEST_REST)

    def deal(self, due: Sequence[str], free: int, beyond: Mapping[str, int] = NOTHING) -> Iterator[tuple[str, int]]:
        """Return destinations, those with the fewest attempts running first, and how many more each may have.

        `due`: those that have due deliveries. One at rest has its turn only where all are. `beyond`: by how many
        attempts some may have more than the threads.
        """
        now = time.monotonic()
        ready = [each for each in due if self._rests_until.get(each, now) <= now] or due
        share = -(-free // max(len(ready), 1))
        for destination in sorted(ready, key=lambda each: self._running[each]):
            most = 1 if self._is_down(destination) else self._threads + beyond.get(destination, 0)
            room = most - self._running[destination]
            if room > 0:
                yield destination, min(room, share)

    def _is_down(self, destination: str) -> bool:
        return self._failures[destination] >= DOWN_AFTER
