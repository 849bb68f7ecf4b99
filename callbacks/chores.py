"""What a worker does beside carrying deliveries, each in its own thread; other apps add theirs when they are ready."""

import threading
from collections.abc import Callable

# Works until the event is set, and then soon returns; waits by itself for a database that is out of reach.
Chore = Callable[[threading.Event], None]

_chores: list[Chore] = []


def add(chore: Chore) -> None:
    """Have every worker of this installation do a chore."""
    _chores.append(chore)


def start(done: threading.Event) -> list[threading.Thread]:
    """Begin all chores and return their threads, for whoever sets `done` to wait for."""
    threads = [threading.Thread(target=chore, args=(done,), name="chore", daemon=True) for chore in _chores]
    for thread in threads:
        thread.start()
    return threads
