"""Pushes on SQLite while a worker is busy and a prune runs: `python -m benchmarks.busy`."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from benchmarks.acknowledge import CORP, PORTS, ROOT
from benchmarks.service import URL, databases, deliver, environment, rows, wait_until, web
from simulator.receiver import Callback
from simulator.sealing import seal_push

A_SECOND, SECONDS, CONNECTIONS = 40, 30, 16
OLD_EVENTS = """
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 30000)
    INSERT INTO callbacks_event (event_type, corp_id, identity, subject, payload, body, source, received_at)
    SELECT 'old', '', 'old-' || n, '', '{}', '{}', 'callback', '2020-01-01 00:00:00' FROM number
"""
OLD_DELIVERIES = """
    INSERT INTO callbacks_delivery (event_id, destination, subject, state, next_attempt_at)
    SELECT id, 'handler:old', '', 'delivered', NULL FROM callbacks_event WHERE event_type = 'old'
"""
LEFT = "SELECT count(*) FROM callbacks_event WHERE event_type = 'old'"
BEHIND = "SELECT count(*) FROM callbacks_delivery WHERE state = 'pending'"


class Pushes:
    """Sealed pushes, each sent at its own time, whatever became of those before.

    `due` are those times, as of `time.monotonic`, in the events' order.
    """

    def __init__(self, settings: dict[str, str], events: Iterable[dict[str, Any]], a_second: float) -> None:
        callback = Callback(URL, settings["DINGTALK_TOKEN"], settings["DINGTALK_AES_KEY"], CORP)
        self._a_second = a_second
        self._sealed = [seal_push(callback, json.dumps(event), "signature") for event in events]
        self._local = threading.local()
        self.statuses: Counter[int] = Counter()
        self.took: list[float] = []
        self.due: list[float] = []

    def run(self) -> None:
        """Send them all; what they took is counted from the time at which each was to be sent."""
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for number, (address, body) in enumerate(self._sealed):
                due = began + number / self._a_second
                self.due.append(due)
                time.sleep(max(due - time.monotonic(), 0))
                pool.submit(self._push, due, address, body)

    def _push(self, due: float, address: str, body: str) -> None:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", PORTS["service"], timeout=10)
        parts = urlsplit(address)
        self._local.connection.request("POST", f"{parts.path}?{parts.query}", body)
        with self._local.connection.getresponse() as response:
            response.read()
            self.statuses[response.status] += 1
        self.took.append(time.monotonic() - due)


def main() -> None:
    """Measure without and with the worker and the prune, and print a table."""
    table = Table(
        "beside", "p50 ms", "p99 ms", "longest ms", "503", "still owed", title=f"sqlite: {A_SECOND} pushes a second"
    )
    with databases() as found:
        database = dict(found)["sqlite"]
        settings = environment(database)
        with web("sqlite", settings):
            table.add_row("nothing", *figures(settings), "all")
            with deliver(settings):
                wait_until(lambda: rows(database, BEHIND) == [(0,)])
                table.add_row("a busy worker", *figures(settings), str(rows(database, BEHIND)[0][0]))
                rows(database, OLD_EVENTS, OLD_DELIVERIES)
                with pruning(settings):
                    table.add_row("and a prune", *figures(settings), str(rows(database, BEHIND)[0][0]))
        table.caption = f"old events left by the prune: {rows(database, LEFT)[0][0]} of 30000"
    Console(width=None if sys.stdout.isatty() else 110).print(table)


@contextmanager
def pruning(settings: dict[str, str]) -> Iterator[None]:
    """Prune old events for as long as the block takes."""
    command = [sys.executable, "manage.py", "prune", "--days", "8"]
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def figures(settings: dict[str, str]) -> list[str]:
    """Push for a while; return what the table shows of it."""
    events = ({"EventType": "bench_nothing", "eventId": uuid4().hex} for _ in range(A_SECOND * SECONDS))
    pushes = Pushes(settings, events, A_SECOND)
    pushes.run()
    took = sorted(seconds * 1000 for seconds in pushes.took)
    quantiles = (took[len(took) // 2], took[int(len(took) * 0.99)], took[-1])
    if set(pushes.statuses) - {200, 503}:
        raise RuntimeError(f"answers: {pushes.statuses}")
    return [*(f"{quantile:.0f}" for quantile in quantiles), str(pushes.statuses[503])]


if __name__ == "__main__":
    main()
