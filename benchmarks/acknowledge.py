"""Acknowledgements a second, beside the least that could acknowledge, Django answering a GET, and Celery being on.

`make bench` runs it; all take turns in one run, so that their ratios hold on a noisy machine.
"""

import http.client
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from callbacks.keys import new_aes_key, new_secret_key, new_token
from callbacks.web import GRANIAN_OPTIONS
from dingcallback.environment import isolated
from simulator.load import LoadReport, run
from simulator.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
NAME = f"dingcallback_bench_{os.getpid()}"
BROKER = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")

PORTS = {"service": free_port(), "bare": free_port(), "celery": free_port()}
CORP = "dingbenchcorp01"
EVENTS, CONNECTIONS, ROUNDS = int(os.environ.get("BENCH_EVENTS", "2000")), 8, 5


def main() -> None:
    """Measure each database that is there, and print a table for each."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    with tempfile.TemporaryDirectory() as folder:
        measure(console, "sqlite", f"sqlite:///{folder}/bench.sqlite3")
    try:
        with psycopg.connect(POSTGRESQL, autocommit=True, connect_timeout=2) as server:
            server.execute(f"DROP DATABASE IF EXISTS {NAME}")
            server.execute(f"CREATE DATABASE {NAME}")
    except psycopg.OperationalError:
        console.print("PostgreSQL is not reachable (TEST_POSTGRESQL_URL): not measured")
        return
    try:
        measure(console, "postgresql", urlsplit(POSTGRESQL)._replace(path=f"/{NAME}").geturl())
    finally:
        with psycopg.connect(POSTGRESQL, autocommit=True) as server:
            server.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def measure(console: Console, vendor: str, database: str) -> None:
    """Let them take turns on one database."""
    settings = environment(database)
    make_bare_table(database)
    reports: dict[str, list[LoadReport]] = {
        "service": [],
        "bare function (a)": [],
        "Django GET (b)": [],
        "service, CELERY_BROKER_URL set (c)": [],
    }
    with (
        server("dingcallback.wsgi", "service", vendor, settings),
        server("benchmarks.bare", "bare", vendor, settings),
        server("dingcallback.wsgi", "celery", vendor, settings | {"CELERY_BROKER_URL": BROKER}),
    ):
        for _ in track(range(ROUNDS), vendor, console=console):
            reports["service"].append(push("service", settings))
            reports["bare function (a)"].append(push("bare", settings))
            reports["Django GET (b)"].append(get("service"))
            reports["service, CELERY_BROKER_URL set (c)"].append(push("celery", settings))
    console.print(table(vendor, reports))


def environment(database: str, **changes: str) -> dict[str, str]:
    """Return settings of the service on a database, which they migrate."""
    settings = isolated(
        os.environ,
        SECRET_KEY=new_secret_key(),
        DATABASE_URL=database,
        DINGTALK_TOKEN=new_token(),
        DINGTALK_AES_KEY=new_aes_key(),
        DINGTALK_CORP_ID=CORP,
        **{"LOG_LEVEL": "WARNING", **changes},
    )
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=settings, check=True)
    return settings


def make_bare_table(database: str) -> None:
    """Make the one table that the bare function inserts into."""
    statement = "CREATE TABLE bare (id {} PRIMARY KEY, body text)"
    if database.startswith("sqlite"):
        with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
            connection.execute(statement.format("integer"))
        return
    with psycopg.connect(database) as postgresql:
        postgresql.execute(statement.format("bigserial"))


@contextmanager
def server(module: str, name: str, vendor: str, settings: dict[str, str]) -> Iterator[None]:
    """Serve a WSGI application the way `make run` serves the service."""
    options = [*GRANIAN_OPTIONS[vendor], "--port", str(PORTS[name]), "--log-level", "warning", f"{module}:application"]
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", *options]
    with subprocess.Popen(command, cwd=ROOT, env=settings) as process:
        try:
            wait_for(PORTS[name])
            yield
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    """Wait until a server listens."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.connect()
            connection.close()
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def push(name: str, settings: dict[str, str]) -> LoadReport:
    """Push distinct events; every one must be acknowledged."""
    url = f"http://127.0.0.1:{PORTS[name]}/dingtalk/callback/"
    credentials = (settings["DINGTALK_TOKEN"], settings["DINGTALK_AES_KEY"], CORP)
    report = run(url, *credentials, connections=CONNECTIONS, count=EVENTS, corp_id=CORP)
    if report.refusals:
        raise RuntimeError(f"{name} refused pushes: {report.refusals}")
    return report


def get(name: str) -> LoadReport:
    """Ask for the callback's GET as often as there are events."""
    report = LoadReport()
    lock = threading.Lock()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORTS[name], timeout=10)
        for _ in range(EVENTS // CONNECTIONS):
            began = time.perf_counter()
            connection.request("GET", "/dingtalk/callback/")
            with connection.getresponse() as response:
                response.read()
            with lock:
                report.latencies.append(time.perf_counter() - began)
                report.acknowledged.append({})
        connection.close()

    began = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.seconds = time.monotonic() - began
    return report


def table(vendor: str, reports: dict[str, list[LoadReport]]) -> Table:
    """Return each one's medians over the rounds, and the service's ratio to it, round by round."""
    result = Table(
        "",
        "a second",
        "p50 ms",
        "p99 ms",
        "service ÷ this",
        title=f"{vendor}: {CONNECTIONS} connections, {ROUNDS} rounds",
    )
    for name, rounds in reports.items():
        ratios = [ours.per_second / other.per_second for ours, other in zip(reports["service"], rounds, strict=True)]
        result.add_row(
            name,
            f"{statistics.median(r.per_second for r in rounds):.0f}",
            f"{statistics.median(r.p50 for r in rounds) * 1000:.1f}",
            f"{statistics.median(r.p99 for r in rounds) * 1000:.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        )
    return result


if __name__ == "__main__":
    main()
