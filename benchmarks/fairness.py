"""Throughput of three destinations alone, and beside one that hangs or refuses: `python -m benchmarks.fairness`."""

import statistics
import sys
from collections.abc import Iterator
from uuid import uuid4

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.service import databases, deliver, environment, push, rows, wait_until, web

GOOD, BAD, ROUNDS = 240, 300, 2
BESIDE = {
    "one that hangs": {},
    "one that hangs for HANDLER_TIMEOUT=5": {"HANDLER_TIMEOUT": "5"},
    "one that refuses at once": {"BENCH_REFUSES_AFTER": "0"},
    "one that refuses after 0.5 s": {"BENCH_REFUSES_AFTER": "0.5"},
    "one that refuses after 3 s": {"BENCH_REFUSES_AFTER": "3"},
}

COUNT = "SELECT count(*) FROM callbacks_delivery WHERE state = 'delivered'"
ATTEMPTS_AT_BAD = "SELECT coalesce(sum(attempts), 0) FROM callbacks_delivery WHERE destination LIKE '%bad'"
SPAN = {
    "sqlite": "SELECT (julianday(max(settled_at)) - julianday(min(settled_at))) * 86400"
    " FROM callbacks_delivery WHERE state = 'delivered'",
    "postgresql": "SELECT extract(epoch FROM max(settled_at) - min(settled_at))"
    " FROM callbacks_delivery WHERE state = 'delivered'",
}


def main() -> None:
    """Measure each database that is there, and print a table for each."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    with databases() as found:
        for vendor, database in found:
            settings = environment(database, LOG_LEVEL="ERROR")
            table = Table("beside", "a second", "alone", "ratio", "attempts at it", title=f"{vendor}: 4 threads")
            for name, changes in track(BESIDE.items(), vendor, console=console):
                alone, beside, attempts = [], [], 0
                for _ in range(ROUNDS):  # the two take turns, so that the ratio holds on a noisy machine
                    alone.append(throughput(vendor, database, settings, bad=0))
                    beside.append(throughput(vendor, database, settings | changes, bad=BAD))
                    ((attempts,),) = rows(database, ATTEMPTS_AT_BAD)
                ratios = [ours / other for ours, other in zip(beside, alone, strict=True)]
                figures = [f"{statistics.mean(beside):.1f}", f"{statistics.mean(alone):.1f}"]
                span = f"{statistics.mean(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
                table.add_row(name, *figures, span, str(attempts))
            console.print(table)


def throughput(vendor: str, database: str, settings: dict[str, str], *, bad: int) -> float:
    """Let a worker carry what is owed to the good ones, after what is owed to the bad one; return their rate."""
    rows(database, "DELETE FROM callbacks_attempt", "DELETE FROM callbacks_delivery")
    with web(vendor, settings):
        push(settings, events(bad, ["bench_bad"]))
        push(settings, events(GOOD, ["bench_good_1", "bench_good_2", "bench_good_3"]))
    with deliver(settings):
        wait_until(lambda: rows(database, COUNT) == [(GOOD,)], 300)
    ((seconds,),) = rows(database, SPAN[vendor])
    return (GOOD - 1) / float(seconds)


def events(count: int, types: list[str]) -> Iterator[dict[str, str]]:
    """Return new events of these types in turn."""
    for number in range(count):
        yield {"EventType": types[number % len(types)], "eventId": uuid4().hex}


if __name__ == "__main__":
    main()
