"""Deliveries a second with 1, 2 and 4 workers, each way to carry them: `python -m benchmarks.workers`."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from kombu import Connection
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.acknowledge import BROKER, ROOT
from benchmarks.service import databases, environment, push, rows, wait_until, web

EVENTS = int(os.environ.get("BENCH_EVENTS", "600"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
WORKERS = (1, 2, 4)
BROKERS = {
    "RabbitMQ": BROKER,
    "Redis": os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/0"),
}
SETTLED = "SELECT count(*) FROM callbacks_delivery WHERE state = 'delivered'"
# The first tenth is left out: processes start then.
SPAN = """
    SELECT count(*) / extract(epoch FROM max(settled_at) - min(settled_at)) FROM (
        SELECT settled_at FROM callbacks_delivery ORDER BY settled_at OFFSET {}
    ) AS later
"""


def main() -> None:
    """Measure each way in turn, and print a table."""
    ways = ["deliver", *BROKERS]
    rates: dict[tuple[str, int], list[float]] = {(way, workers): [] for way in ways for workers in WORKERS}
    console = Console(width=None if sys.stdout.isatty() else 110)
    with databases() as found:
        database = dict(found)["postgresql"]
        settings = environment(database, LOG_LEVEL="ERROR")
        for _ in range(ROUNDS):
            for way, workers in track(rates, "workers", console=console):
                rates[way, workers].append(rate(database, settings, way, workers))
    table = Table("", *(f"{count} worker{'s' * (count > 1)}" for count in WORKERS), title="deliveries a second")
    for way in ways:
        cells = [rates[way, count] for count in WORKERS]
        table.add_row(way, *(f"{statistics.mean(each):.0f} ({min(each):.0f}–{max(each):.0f})" for each in cells))
    console.print(table)


def rate(database: str, settings: dict[str, str], way: str, workers: int) -> float:
    """Owe many deliveries of a handler that does nothing, have workers carry them, and return how many a second."""
    rows(database, "DELETE FROM callbacks_attempt", "DELETE FROM callbacks_delivery")
    with web("postgresql", settings):
        push(settings, ({"EventType": "bench_nothing", "eventId": uuid4().hex} for _ in range(EVENTS)))
    deliver = [sys.executable, "manage.py", "deliver"]
    with ExitStack() as stack:
        if way in BROKERS:
            settings = settings | {
                "CELERY_BROKER_URL": BROKERS[way],
                "CELERY_QUEUE": stack.enter_context(_queue(BROKERS[way])),
            }
            stack.enter_context(_running([*deliver, "--feed"], settings))
        celery = [sys.executable, "-m", "celery", "--quiet", "-A", "dingcallback", "worker", "--concurrency", "4"]
        for number in range(workers):
            command = [*celery, "--hostname", f"bench-{number}@localhost"] if way in BROKERS else deliver
            stack.enter_context(_running(command, settings))
        wait_until(lambda: rows(database, SETTLED) == [(EVENTS,)], 600)
    ((measured,),) = rows(database, SPAN.format(EVENTS // 10))
    return float(measured)


@contextmanager
def _running(command: list[str], settings: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def _queue(url: str) -> Iterator[str]:
    """Give the name of a queue of the benchmark's own, and delete it."""
    name = f"bench-{uuid4().hex}"
    try:
        yield name
    finally:
        with Connection(url) as connection:
            connection.SimpleQueue(name).queue.delete()


if __name__ == "__main__":
    main()
