"""A database of the suite's own: a SQLite file, or a PostgreSQL server that it starts itself."""

import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

import psycopg

from faults.processes import Marked, children
from simulator.ports import free_port

VENDORS = ("sqlite", "postgresql")
ACCOUNT = "postgres"
CONNECTIONS = 60
START_WITHIN = 30.0


class Database(Protocol):
    """What a run asks of its database."""

    vendor: str
    url: str

    def run(self, sql: str) -> list[Any]:
        """Run a statement and return its rows."""

    def start(self) -> None:
        """Have it ready."""

    def end(self) -> None:
        """End whatever runs."""


class SqliteFile:
    """A file in a folder."""

    vendor = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "faults.sqlite3"
        self.url = f"sqlite:///{self.path}"

    def run(self, sql: str) -> list[Any]:
        """Run a statement and return its rows."""
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    def start(self) -> None:
        """Leave it to the service to make the file."""

    def end(self) -> None:
        """Leave the file to whoever removes the folder."""


class PostgresqlServer:
    """A server with its data in a folder and a port of its own, run by another account than root."""

    vendor = "postgresql"

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"postgresql://{ACCOUNT}@127.0.0.1:{self.port}/postgres"
        self.marked = Marked(settings)
        self._folder = folder
        self._data = folder / "postgresql"
        self._account: dict[str, Any] = {}

    def run(self, sql: str) -> list[Any]:
        """Run a statement and return its rows."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server, making its data first where there are none."""
        if not self._data.exists():
            self._make()
        where = ["-D", str(self._data), "-p", str(self.port), "-k", str(self._data)]
        options = ["-c", f"max_connections={CONNECTIONS}", "-c", "listen_addresses=127.0.0.1"]
        self._server = self.marked.start(
            [str(_binary("postgres")), *where, *options], self._folder / "postgresql.log", **self._account
        )
        end = time.monotonic() + START_WITHIN
        while True:
            try:
                self.run("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT sends clients away, SIGQUIT is as good as a crash."""
        self._server.send_signal(number)
        self._server.wait(30)

    def signal_all(self, number: int) -> None:
        """Send a signal to the server's first process and to all those that it started."""
        for process in [self._server.pid, *children(self._server.pid)]:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def end(self) -> None:
        """Kill the server; what it started ends when it finds its parent gone."""
        self.marked.kill()

    def _make(self) -> None:
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            account = pwd.getpwnam(ACCOUNT)
            os.chown(self._data, account.pw_uid, account.pw_gid)
            self._account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        make = [str(_binary("initdb")), "-D", str(self._data), "-U", ACCOUNT, "-A", "trust", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd="/", **self._account)  # noqa: S603 - found beside postgres


def missing_postgresql() -> str:
    """Return why no PostgreSQL server can be started here, or ''."""
    if not _binary("initdb").exists():
        return "no PostgreSQL server is installed"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(ACCOUNT)
        except KeyError:
            return f"root may not run PostgreSQL, and there is no account {ACCOUNT}"
    return ""


def postgresql_version() -> str:
    """Return what the server says of its version."""
    asked = subprocess.run([str(_binary("postgres")), "--version"], check=True, capture_output=True, text=True)  # noqa: S603
    return next((word for word in asked.stdout.split() if word[0].isdigit()), asked.stdout.strip())


def _binary(name: str) -> Path:
    """Return a program of the newest PostgreSQL that is installed, on the path or where Debian has it."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4].split(".")[0]))
    return found[-1] if found else Path(shutil.which(name) or f"/nonexistent/{name}")
