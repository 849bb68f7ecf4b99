"""The service on a database of the benchmark's own: web server, workers, and what their processes cost."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from benchmarks import acknowledge
from benchmarks.acknowledge import CORP, NAME, PORTS, POSTGRESQL, ROOT, server
from simulator.load import run

URL = f"http://127.0.0.1:{PORTS['service']}/dingtalk/callback/"


@contextmanager
def databases() -> Iterator[list[tuple[str, str]]]:
    """Make an empty database of each kind that is there; return their vendors and addresses."""
    with tempfile.TemporaryDirectory() as folder:
        found = [("sqlite", f"sqlite:///{folder}/bench.sqlite3")]
        try:
            with psycopg.connect(POSTGRESQL, autocommit=True, connect_timeout=2) as postgresql:
                postgresql.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
                postgresql.execute(f"CREATE DATABASE {NAME}")
        except psycopg.OperationalError:
            yield found
            return
        try:
            yield [*found, ("postgresql", urlsplit(POSTGRESQL)._replace(path=f"/{NAME}").geturl())]
        finally:
            with psycopg.connect(POSTGRESQL, autocommit=True) as postgresql:
                postgresql.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def environment(database: str, **changes: str) -> dict[str, str]:
    """Return settings of the service on a database that they migrate, with the benchmarks' handlers."""
    return acknowledge.environment(database, DJANGO_SETTINGS_MODULE="benchmarks.settings", **changes)


@contextmanager
def web(vendor: str, settings: dict[str, str]) -> Iterator[None]:
    """Run the web server."""
    with server("dingcallback.wsgi", "service", vendor, settings):
        yield


@contextmanager
def deliver(settings: dict[str, str]) -> Iterator[list[int]]:
    """Run a worker; return the ids of its two processes."""
    command = [sys.executable, "manage.py", "deliver"]
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.DEVNULL) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda: children.read_text().split())
            yield [process.pid, *map(int, children.read_text().split())]
        finally:
            process.terminate()


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def processor_seconds(processes: list[int]) -> float:
    """Return what processes have used of a core so far."""
    ticks = 0
    for process in processes:
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def push(settings: dict[str, str], payloads: Iterable[Mapping[str, Any]]) -> None:
    """Push events; every one must be acknowledged."""
    credentials = (settings["DINGTALK_TOKEN"], settings["DINGTALK_AES_KEY"], CORP)
    report = run(URL, *credentials, payloads=payloads)
    if report.refusals:
        raise RuntimeError(f"pushes were refused: {report.refusals}")


def rows(database: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements in one transaction; return the rows of the last. JSON comes parsed."""
    if database.startswith("sqlite"):
        with closing(sqlite3.connect(database.removeprefix("sqlite:///"), timeout=30)) as connection, connection:
            cursors = [connection.execute(statement) for statement in statements]
            found = cursors[-1].fetchall()
        return [tuple(_parsed(value) for value in row) for row in found]
    with psycopg.connect(database) as postgresql:
        results = [postgresql.execute(statement) for statement in statements]
        return results[-1].fetchall() if results[-1].description else []


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value
