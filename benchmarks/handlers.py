"""Handlers that the benchmarks measure with."""

import os
import time
from typing import Any

from callbacks.models import Event
from callbacks.routing import router

NETWORK = 0.2


@router.on("bench_timed")
def timed(event: Event) -> dict[str, Any]:
    """Say how long ago the event was pushed."""
    return {"took": time.time() - event.payload["pushed_at"]}


@router.on("bench_good_1")
def good_1(event: Event) -> None:
    """Take as long as a request to a system of average speed."""
    time.sleep(NETWORK)


@router.on("bench_good_2")
def good_2(event: Event) -> None:
    """Take as long as a request to a system of average speed."""
    time.sleep(NETWORK)


@router.on("bench_good_3")
def good_3(event: Event) -> None:
    """Take as long as a request to a system of average speed."""
    time.sleep(NETWORK)


@router.on("bench_bad")
def bad(event: Event) -> None:
    """Hang, or refuse after BENCH_REFUSES_AFTER seconds."""
    time.sleep(float(os.environ.get("BENCH_REFUSES_AFTER", "3600")))
    raise ConnectionRefusedError("no, as always")


@router.on("bench_nothing")
def nothing(event: Event) -> None:
    """Just return."""
