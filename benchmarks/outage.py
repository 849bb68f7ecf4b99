"""Two hours without the service, and how what was missed comes in: `python -m benchmarks.outage`.

A simulated DingTalk pushes OUTAGE_EVENTS (default 1000) events while nothing answers, on a clock that runs OUTAGE_SCALE
(default 400) times as fast; some it forgets altogether. Then `failed`, `reconcile` and `failed --reimport` are each
killed half-way and run again, and a worker carries what came in.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.acknowledge import CORP, PORTS, ROOT, environment
from benchmarks.service import databases, rows, wait_until, web
from simulator.samples import make
from simulator.server import Options, Simulator

COUNT = int(os.environ.get("OUTAGE_EVENTS", "1000"))
SCALE = float(os.environ.get("OUTAGE_SCALE", "400"))
# The lease of a killed reader runs out in 45 s; a test lets it run out at once.
PATIENT = os.environ.get("OUTAGE_WAIT", "1") == "1"
ONLY = os.environ.get("OUTAGE_DATABASE", "")  # sqlite or postgresql
OUTAGE = 2 * 3600
CODE = "PROC-OUTAGE"
# What is pushed in vain, what DingTalk forgets to push, of each hundred events.
PUSHED = {"approval": 40, "user_add_org": 30, "bpms_task_change": 10}
FORGOTTEN = {"approval step": 15, "contact": 3, "deletion": 2}


class Tally(NamedTuple):
    """What one database showed."""

    figures: dict[str, int]
    calls: dict[str, int]
    carried: Counter[str]

    @property
    def sound(self) -> bool:
        """Tell whether everything that can be known came in, and nothing twice."""
        names = ("not found though it could be", "stored twice", "still owed")
        return not any(self.figures[name] for name in names)


def main() -> int:
    """Run it on each database that is there, and print what came of it."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    sound = True
    with databases() as found:
        for vendor, database in [each for each in found if ONLY in ("", each[0])]:
            tally = measure(console, vendor, database)
            console.print(_shown(vendor, tally))
            sound = sound and tally.sound
    return 0 if sound else 1


def measure(console: Console, vendor: str, database: str) -> Tally:
    """Live through the outage and after it."""
    url = f"http://127.0.0.1:{PORTS['service']}/dingtalk/callback/"
    with Simulator(Options(corp_id=CORP, clock_scale=SCALE, calls_per_second=20)) as simulator:
        settings = environment(
            database,
            DINGTALK_CALLBACK_URL=url,
            DINGTALK_APP_KEY=simulator.options.app_key,
            DINGTALK_APP_SECRET=simulator.options.app_secret,
            DINGTALK_OAPI_URL=simulator.url,
            DINGTALK_API_URL=simulator.url,
        )
        with web(vendor, settings):
            _run(settings, "dingtalk", "register")
            for number in range(COUNT // 10):
                simulator.push(_step(f"before-{number}", "start", 3 * 3600)).wait(30)
        console.print(f"{vendor}: the service is gone for {OUTAGE / SCALE:.0f} s, which are two hours")
        expected = _miss(simulator)
        wait_until(lambda: _shown_in_list(simulator) >= sum(PUSHED.values()) * COUNT // 100)
        with web(vendor, settings):
            since = datetime.fromtimestamp(time.time() - OUTAGE - 600, timezone.utc).isoformat()
            reconcile = ("reconcile", "--from", since, "--process-code", CODE, "--yes")
            spent: dict[str, int] = {}
            for name, half, command in (
                ("failed", _more_than(database, "failed_list", COUNT // 4), ("failed",)),
                ("reconcile", _more_than(database, "reconcile", COUNT // 20), reconcile),
                ("failed --reimport", _reimporting(database), ("failed", "--reimport")),
            ):
                before = _calls(database)
                _kill_half_way(settings, half, "dingtalk", *command)
                _let_lease_end(database)
                _run(settings, "dingtalk", *command)
                spent[name] = _calls(database) - before
            before = _calls(database)
            _run(settings, "deliver", "--once")
            spent["carrying it to the handlers"] = _calls(database) - before
        return _tally(database, expected, spent)


def _miss(simulator: Simulator) -> dict[str, set[tuple[str, str]]]:
    """Let two hours pass in which nothing answers; return what happened, as (what, which), by how it can be found."""
    expected: dict[str, set[tuple[str, str]]] = {"pushed": set(), "forgotten": set(), "unknowable": set()}
    happenings = [*_pushed(simulator, expected["pushed"]), *_forgotten(simulator, expected)]
    for happen in happenings:
        happen()
        time.sleep(OUTAGE / SCALE / len(happenings))
    return expected


def _pushed(simulator: Simulator, expected: set[tuple[str, str]]) -> Iterator[Callable[[], object]]:
    for number in range(PUSHED["approval"] * COUNT // 200):
        for change in ("start", "finish"):
            expected.add((f"pushed-{number}", change))
            yield lambda n=number, c=change: simulator.push(_step(f"pushed-{n}", c, OUTAGE - 60, 600))  # type: ignore[misc]
    for kind in ("user_add_org", "bpms_task_change"):
        for number in range(PUSHED[kind] * COUNT // 100):
            payload = make(kind, corp_id=CORP)
            payload["userId" if kind == "user_add_org" else "processInstanceId"] = (
                [f"user-{number}"] if kind == "user_add_org" else f"task-{number}"
            )
            expected.add((f"{'user' if kind == 'user_add_org' else 'task'}-{number}", kind))
            yield lambda p=payload: simulator.push(p)  # type: ignore[misc]


def _forgotten(simulator: Simulator, expected: dict[str, set[tuple[str, str]]]) -> Iterator[Callable[[], object]]:
    known = COUNT // 20  # these began before the outage; they end in it
    for number in range(FORGOTTEN["approval step"] * COUNT // 100):
        key = f"before-{number}" if number < known else f"forgotten-{(number - known) // 2}"
        change = "finish" if number < known or (number - known) % 2 else "start"
        expected["forgotten"].add((key, change))
        yield lambda k=key, c=change: simulator.happen(_step(k, c, OUTAGE - 60, 600))  # type: ignore[misc]
    for number in range(FORGOTTEN["deletion"] * COUNT // 100):
        key = f"before-{COUNT // 10 - 1 - number}"
        expected["unknowable"].add((key, "delete"))
        yield lambda k=key: simulator.happen(_step(k, "delete", 3 * 3600))  # type: ignore[misc]
    for number in range(FORGOTTEN["contact"] * COUNT // 100):
        expected["unknowable"].add((f"lost-{number}", "user_add_org"))
        yield lambda: None


def _step(key: str, change: str, began: int, ended: int = 0) -> dict[str, Any]:
    """Return what a push says of an approval; times in seconds before now, the same in each push of one approval."""
    now = int(time.time() / 60) * 60_000
    overrides = {"type": change, "processInstanceId": key, "processCode": CODE, "createTime": now - began * 1000}
    if change == "finish":
        overrides |= {"finishTime": now - ended * 1000, "result": "agree"}
    return make("bpms_instance_change", corp_id=CORP, overrides=overrides)


def _tally(database: str, expected: dict[str, set[tuple[str, str]]], spent: dict[str, int]) -> Tally:
    found: Counter[tuple[str, str]] = Counter()
    sources: Counter[str] = Counter()
    for kind, source, payload in rows(database, "SELECT event_type, source, payload FROM callbacks_event"):
        key = payload.get("processInstanceId") or (payload.get("userId") or payload.get("userid") or ["?"])[0]
        found[key, payload["type"] if kind == "bpms_instance_change" else kind] += 1
        sources[source] += 1
    can_be = expected["pushed"] | expected["forgotten"]
    states = rows(database, "SELECT state, count(*) FROM callbacks_delivery GROUP BY state")
    figures = {
        "missed": sum(map(len, expected.values())),
        "brought in by `failed`": sources["failed_list"],
        "made by `reconcile`": sources["reconcile"],
        "not found though it could be": len(can_be - set(found)),
        "can't be known": len(expected["unknowable"] - set(found)),
        "stored twice": sum(count - 1 for count in found.values()),
        "still owed": sum(count for state, count in states if state == "pending"),
    }
    return Tally(figures, spent, Counter({str(state): int(count) for state, count in states}))


def _shown(vendor: str, tally: Tally) -> Table:
    shown = Table("", "events or calls", title=f"{vendor}: {tally.figures['missed']} events missed in two hours")
    for name, count in tally.figures.items():
        shown.add_row(name, str(count))
    for name, count in tally.calls.items():
        shown.add_row(f"calls: {name}", str(count))
    return shown


def _run(settings: dict[str, str], *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")


def _kill_half_way(settings: dict[str, str], half: Callable[[], bool], *command: str) -> None:
    """Start a command and kill it as soon as it has done some of its work."""
    with _started(settings, *command) as process:
        while process.poll() is None and not half():
            time.sleep(0.01)
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended before it could be killed")
        process.send_signal(signal.SIGKILL)


@contextmanager
def _started(settings: dict[str, str], *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=settings, stdout=quiet, stderr=quiet
    ) as process:
        yield process


def _more_than(database: str, source: str, count: int) -> Callable[[], bool]:
    sql = f"SELECT count(*) FROM callbacks_event WHERE source = '{source}'"  # noqa: S608 - our own words
    return lambda: int(rows(database, sql)[0][0]) > count


def _reimporting(database: str) -> Callable[[], bool]:
    sql = "SELECT max(imported_at) FROM registrar_failedpage"
    before: list[Any] = []

    def begun() -> bool:
        latest = rows(database, sql)
        before[:] = before or [latest]
        return bool(latest != before[0])

    return begun


def _let_lease_end(database: str) -> None:
    if PATIENT:
        held = "SELECT count(*) FROM callbacks_duty WHERE leased_until > CURRENT_TIMESTAMP"
        wait_until(lambda: not rows(database, held)[0][0], 60)
    else:
        rows(database, "UPDATE callbacks_duty SET leased_until = NULL")


def _shown_in_list(simulator: Simulator) -> int:
    return len(simulator.dingtalk.failed_list)


def _calls(database: str) -> int:
    return int(rows(database, "SELECT coalesce(sum(calls), 0) FROM registrar_apicalls")[0][0])


if __name__ == "__main__":
    sys.exit(main())
