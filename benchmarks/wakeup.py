"""From an idle push to its handler, and what an idle worker costs: `python -m benchmarks.wakeup`."""

import random
import statistics
import time
from uuid import uuid4

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.service import databases, deliver, environment, processor_seconds, push, rows, wait_until, web

PUSHES, IDLE = 60, 20.0


def main() -> None:
    """Measure each database that is there, and print a table."""
    console = Console()
    table = Table(
        "", "median ms", "p90 ms", "longest ms", "idle worker, % of a core", title=f"push to handler, {PUSHES} pushes"
    )
    with databases() as found:
        for vendor, database in found:
            settings = environment(database)
            with web(vendor, settings), deliver(settings) as processes:
                took = sorted(seconds * 1000 for seconds in time_pushes(vendor, database, settings))
                time.sleep(1)
                before = processor_seconds(processes)
                time.sleep(IDLE)
                idle = (processor_seconds(processes) - before) / IDLE
            figures = (statistics.median(took), took[int(len(took) * 0.9)], took[-1])
            table.add_row(vendor, *(f"{figure:.0f}" for figure in figures), f"{idle:.2%}")
    console.print(table)


def time_pushes(vendor: str, database: str, settings: dict[str, str]) -> list[float]:
    """Push one at a time to a service that has nothing else to do; return the seconds until each handler ran."""
    for number in track(range(PUSHES + 1), vendor):
        push(settings, [{"EventType": "bench_timed", "eventId": uuid4().hex, "pushed_at": time.time()}])
        wait_until(lambda number=number: len(took(database)) == number + 1)  # type: ignore[misc]
        time.sleep(random.uniform(0.1, 0.6))  # noqa: S311 - so that no push keeps time with a poll
    return took(database)[1:]  # the first finds connections not yet opened


def took(database: str) -> list[float]:
    """Return what the handler has said so far."""
    sql = "SELECT result FROM callbacks_delivery WHERE state = 'delivered' ORDER BY id"
    return [result["took"] for (result,) in rows(database, sql)]


if __name__ == "__main__":
    main()
