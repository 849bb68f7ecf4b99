"""How long a request that DingTalk or a load balancer waits for may wait for the database, and what follows from it.

Waits end in `callbacks.postgresql` and `callbacks.sqlite`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

Result = TypeVar("Result")

# DingTalk waits for 1.5 s, and 1.2 s are promised: what is left is for the work before and after.
ANSWER_WITHIN = 0.9
# What it takes to connect and to store; with less time left, neither is begun.
ENOUGH = 0.3

_until: ContextVar[float | None] = ContextVar("deadline", default=None)


def in_time(work: Callable[[], Result]) -> Result:
    """Call something that asks the database, which has ANSWER_WITHIN seconds for it (2.5 where it must connect first).

    A connection that died since its last use is replaced. Raises django.db.Error where the database can't, or is late.
    """
    with within(ANSWER_WITHIN):
        if connection.connection is not None:
            try:
                return _try(work)
            except (OperationalError, InterfaceError):
                if remaining() < ENOUGH:
                    raise
        return _try(work)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let this thread's waits for the database end so many seconds from now."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def is_set() -> bool:
    """Tell whether this thread has a deadline."""
    return _until.get() is not None


def remaining() -> float:
    """Return the seconds until this thread's deadline: 0 when it has passed, infinite where there is none."""
    until = _until.get()
    return float("inf") if until is None else max(until - time.monotonic(), 0.0)


def leave(seconds: float) -> None:
    """Put off this thread's deadline, so that at least so many seconds remain."""
    if remaining() < seconds:
        _until.set(time.monotonic() + seconds)


def _try(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except Exception:
        # Left open, Django would ask it at the next request whether it still works, and wait for that without end;
        # one that opened an SQLite file read-only would stay so.
        connection.close()
        raise
