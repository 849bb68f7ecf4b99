"""Endpoints under load, workers killed on the way, one of them always down: `python -m benchmarks.endpoints`."""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from benchmarks.acknowledge import CORP, ROOT
from benchmarks.busy import Pushes
from benchmarks.service import databases, deliver, environment, push, rows, web
from faults.subscribers import Mood, Subscriber, hang_up
from faults.tally import late

EVENTS = int(os.environ.get("BENCH_EVENTS", "5000"))
# So many before the clock starts: workers, connections and the circuit of the one that is down have found their state.
FIRST = 40
SUBJECTS = 40
ALL, SOME = "bench_*", "bench_a"
LIVE = (("standard", ALL), ("standard", SOME), ("dingtalk", ALL), ("dingtalk", SOME))
AT_MOST = 1.5
STUCK_AFTER = 60.0
OWED = "SELECT count(*) FROM callbacks_delivery WHERE state = 'pending' AND destination <> '{}'"
EMPTY = [f"DELETE FROM callbacks_{table}" for table in ("attempt", "delivery", "event", "endpoint")]  # noqa: S608


def hang(request: BaseHTTPRequestHandler) -> None:
    """Answer nothing, for as long as the other side waits."""
    request.close_connection = True
    request.rfile.read(1)


DOWN: dict[str, Mood] = {"one that hangs up": hang_up, "one that never answers": hang}


@dataclass(frozen=True)
class Bench:
    """Where the runs take place, and how many events a second they push."""

    vendor: str
    database: str
    settings: dict[str, str]
    rate: float


@dataclass(frozen=True)
class Run:
    """What came of one: the table's cells of each live endpoint, whether all is well, and the p99 (seconds)."""

    cells: list[list[str]]
    well: bool
    p99: float


def main() -> int:
    """Measure one database and print two tables; 1 where something was lost, forged, disordered or slowed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoints", description=__doc__)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--rate", type=float, default=20.0, help="events a second (default 20)")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds (default 5); 0: no first table")
    parser.add_argument("--rounds", type=int, default=2, help="of the second table (default 2); 0: none")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with databases() as found:
        database = dict(found)[arguments.database]
        settings = environment(database, LOG_LEVEL="ERROR", RELAY_BLOCKED_NETWORKS="")
        bench = Bench(arguments.database, database, settings, arguments.rate)
        with web(bench.vendor, settings):
            well = not arguments.kill_every or _killing(console, bench, arguments.kill_every)
            even = not arguments.rounds or _taking_turns(console, bench, arguments.rounds)
    return 0 if well and even else 1


def _killing(console: Console, bench: Bench, kill_every: float) -> bool:
    run = play(bench, EVENTS, hang_up, kill_every)
    title = f"{_title(bench, EVENTS)}, a worker killed every {kill_every:g} s, a fifth endpoint always down"
    table = Table("endpoint", "wanted", "taken", "wrongly signed", "disordered", "repeats", title=title)
    for cells in run.cells:
        table.add_row(*cells)
    console.print(table, f"p99 from push to taken, a killed worker's leases (30 s) included: {run.p99:.2f} s\n")
    return run.well


def _taking_turns(console: Console, bench: Bench, rounds: int) -> bool:
    """Compare, with nobody killed, as the wait for a dead worker's leases would be all that shows."""
    kinds: dict[str, Mood | None] = {"none": None, **DOWN}
    p99s: dict[str, list[float]] = {kind: [] for kind in kinds}
    well = True
    for _ in range(rounds):
        for kind, mood in kinds.items():
            run = play(bench, EVENTS // 5, mood, None)
            p99s[kind].append(run.p99)
            well = well and run.well
    table = Table("the fifth endpoint", "p99 ms", "÷ none", title=f"{_title(bench, EVENTS // 5)}, nobody killed")
    for kind, each in p99s.items():
        ratios = [beside / alone for beside, alone in zip(each, p99s["none"], strict=True)]
        ratio = statistics.median(ratios)
        well = well and ratio <= AT_MOST
        times = " ".join(f"{seconds * 1000:.0f}" for seconds in each)
        table.add_row(kind, times, f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    console.print(table)
    return well


def _title(bench: Bench, events: int) -> str:
    return f"{bench.vendor}, load average {os.getloadavg()[0]:.0f}: {events} events, {bench.rate:g} a second"


def play(bench: Bench, count: int, down: Mood | None, kill_every: float | None) -> Run:
    """Push so many events to four endpoints, and to one that is down where there is a mood for it; count."""
    rows(bench.database, *EMPTY)
    events = [_event(number) for number in range(FIRST + count)]
    with ExitStack() as stack:
        live = [stack.enter_context(_endpoint(bench, form, wants)) for form, wants in LIVE]
        fifth = stack.enter_context(_endpoint(bench, "standard", ALL, down)).destination if down else ""
        enough = stack.enter_context(_workers(bench.settings, kill_every))
        push(bench.settings, events[:FIRST])
        _wait_until_settled(bench, fifth)
        pushes = Pushes(bench.settings, events[FIRST:], bench.rate)
        pushes.run()
        if pushes.statuses != {200: count}:
            raise RuntimeError(f"answers to {count} pushes: {pushes.statuses}")
        enough.set()
        _wait_until_settled(bench, fifth)
    due = {event["reference"]: moment for event, moment in zip(events[FIRST:], pushes.due, strict=True)}
    return _counted(bench, live, events, due)


def _wait_until_settled(bench: Bench, but: str) -> None:
    """Wait until nothing is owed but to one destination, or nothing moves: the table says what is missing then."""
    owed, moved = -1, time.monotonic()
    while owed and time.monotonic() < moved + STUCK_AFTER:
        ((now,),) = rows(bench.database, OWED.format(but))
        if now != owed:
            owed, moved = now, time.monotonic()
        time.sleep(0.2)


def _counted(bench: Bench, live: list[Subscriber], events: list[dict[str, str]], due: dict[str, float]) -> Run:
    """Hold what each took against what it wants; `due`: when the events that are timed were pushed, by reference."""
    stored = rows(bench.database, "SELECT body, id, subject FROM callbacks_event")
    found = {str(_document(body)["reference"]): (pk, subject) for body, pk, subject in stored}
    cells, well, seconds = [], True, []
    for each, (form, wants) in zip(live, LIVE, strict=True):
        wanted = {event["reference"] for event in events if wants in (ALL, event["EventType"])}
        first = list(dict.fromkeys(each.taken))
        disordered = late([(reference, *found[reference]) for reference in first])
        well = well and wanted == set(first) and not each.forged and not disordered
        seconds += [moment - due[reference] for reference, moment in each.taken_at.items() if reference in due]
        counts = (len(wanted), len(first), each.forged, disordered, len(each.taken) - len(first))
        cells.append([f"{form}, {wants}", *map(str, counts)])
    return Run(cells, well, sorted(seconds)[int(len(seconds) * 0.99)])


def _document(body: str | dict[str, str]) -> dict[str, str]:
    return json.loads(body) if isinstance(body, str) else body


def _event(number: int) -> dict[str, str]:
    own = {"EventType": f"bench_{'ab'[number % 2]}", "eventId": uuid4().hex, "CorpId": CORP}
    instance = f"INSTANCE{random.randrange(SUBJECTS):02}"  # noqa: S311 - no secret
    return own | {"processInstanceId": instance, "reference": f"r{number}"}


@contextmanager
def _endpoint(bench: Bench, form: str, wants: str, mood: Mood | None = None) -> Iterator[Subscriber]:
    """Run a subscriber, and have the service know it; one with a mood gets the usual time limit."""
    subscriber = Subscriber(form)
    subscriber.mood = mood
    subscriber.start()
    try:
        command = [sys.executable, "manage.py", "endpoint", "add", *subscriber.arguments, "--timeout", "15"]
        command += ["--event-types", wants, "--json"]
        told = subprocess.run(command, cwd=ROOT, env=bench.settings, check=True, capture_output=True)
        subscriber.destination = json.loads(told.stdout)["destination"]
        yield subscriber
    finally:
        subscriber.stop()


@contextmanager
def _workers(settings: dict[str, str], kill_every: float | None) -> Iterator[threading.Event]:
    """Run two, of which one dies with both its processes every so many seconds until the yielded event is set."""
    enough = threading.Event()
    with ExitStack() as stack:
        running = [stack.enter_context(deliver(settings)) for _ in range(2)]

        def kill() -> None:
            number = 0
            while not enough.wait(kill_every):
                for process in running[number % 2]:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                running[number % 2] = stack.enter_context(deliver(settings))
                number += 1

        killer = threading.Thread(target=kill, name="killer")
        if kill_every:
            killer.start()
        try:
            yield enough
        finally:
            enough.set()
            if kill_every:
                killer.join()


if __name__ == "__main__":
    sys.exit(main())
