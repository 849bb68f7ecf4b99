"""How long a transaction may do nothing before PostgreSQL ends it and frees what it locks.

A worker that is stopped or swapped out, or whose machine is gone, would keep the others waiting for ever.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of a worker's own transactions, which do nothing but send statements.
BRIEF = 10.0
# So much longer than a handler may take: its worker ends it before.
BEYOND_A_HANDLER = 10.0

_process: float | None = None
_thread = threading.local()


def limit() -> None:
    """Limit all transactions of this process: a worker's."""
    global _process  # noqa: PLW0603 - one process, one kind of work
    _process = BRIEF


def limited_to() -> float | None:
    """Return the seconds that this thread's next transaction may do nothing; None: any number."""
    return getattr(_thread, "seconds", _process)


@contextmanager
def of_a_handler(seconds: float) -> Iterator[None]:
    """Leave the transactions of this block as much time as a handler has, which may do other things meanwhile."""
    before = limited_to()
    _thread.seconds = seconds + BEYOND_A_HANDLER
    try:
        yield
    finally:
        _thread.seconds = before
