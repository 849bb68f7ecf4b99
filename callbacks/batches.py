"""Many rows written in transactions so small that no push waits long for SQLite's one write lock."""

import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection
from django.db.models import QuerySet

MOST_ROWS = 200
PAUSE = 0.1  # seconds; SQLite's waiting polls at least so often, so that whoever waits finds the lock free once


def ids_of(rows: QuerySet[Any]) -> Sequence[int]:
    """Return the ids of rows as they are now, in order, in eight bytes each: there may be millions."""
    return array("q", rows.order_by("pk").values_list("pk", flat=True).iterator())


def batches(ids: Sequence[int], most: int = MOST_ROWS) -> Iterator[list[int]]:
    """Yield the ids by at most `most`, each to be a transaction; on SQLite with a pause between."""
    for number, part in enumerate(in_parts(ids, most)):
        if number:
            pause()
        yield part


def in_parts(ids: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the ids by at most `most`."""
    for start in range(0, len(ids), most):
        yield list(ids[start : start + most])


def pause() -> None:
    """Leave SQLite's write lock to others for a moment."""
    if connection.vendor == "sqlite":
        time.sleep(PAUSE)
