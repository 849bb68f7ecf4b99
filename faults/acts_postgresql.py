"""Faults of a PostgreSQL server that the suite started itself."""

import signal
import time
from contextlib import ExitStack, suppress

import psycopg

from faults.databases import PostgresqlServer
from faults.plan import fault
from faults.stage import Stage

OUTAGES = 5
CUTS = 100

OURS = "faults"
SERVICE = f"backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> '{OURS}'"
CUT_ALL = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {SERVICE}"  # noqa: S608 - constants
BUSY = f"SELECT pid, query FROM pg_stat_activity WHERE {SERVICE} AND state <> 'idle'"  # noqa: S608 - constants


@fault("PostgreSQL stopped, and started some seconds later", only="postgresql")
def stop_database(stage: Stage) -> None:
    """Let the server send its clients away and be gone for a while."""
    for _ in range(stage.times(OUTAGES)):
        _server(stage).stop()
        stage.pause(2, 4)
        _server(stage).start()
        stage.pause(1, 3)


@fault("PostgreSQL crashed (SIGQUIT) and restarted at once", only="postgresql")
def crash_database(stage: Stage) -> None:
    """Let the server break off everything, and recover."""
    for _ in range(stage.times(OUTAGES)):
        stage.pause(1, 3)
        _server(stage).stop(signal.SIGQUIT)
        _server(stage).start()


@fault("PostgreSQL stalled: all its processes under SIGSTOP for some seconds", only="postgresql")
def stall_database(stage: Stage) -> None:
    """Let the server keep its connections and answer nothing."""
    for _ in range(stage.times(OUTAGES)):
        try:
            _server(stage).signal_all(signal.SIGSTOP)
            stage.pause(2, 4)
        finally:
            _server(stage).signal_all(signal.SIGCONT)
        stage.pause(1, 3)


@fault("PostgreSQL out of connections: the service's are cut, and others take all", only="postgresql")
def no_connections(stage: Stage) -> None:
    """Cut the service's connections and take those that come free, faster than it can, for some seconds."""
    for _ in range(stage.times(OUTAGES)):
        with ExitStack() as stack:
            first = stack.enter_context(_take(stage))
            end = time.monotonic() + stage.random.uniform(2, 4)
            while time.monotonic() < end:
                first.execute(CUT_ALL)
                with suppress(psycopg.OperationalError):
                    while True:
                        stack.callback(_take(stage).close)
        stage.pause(1, 3)


@fault("pg_terminate_backend of connections in mid-statement and in mid-commit", only="postgresql")
def cut_connections(stage: Stage) -> None:
    """Cut busy connections at random moments; a delay before each flush makes most of those moments a commit."""
    for setting in ("commit_delay = 20000", "commit_siblings = 0"):
        stage.database.run(f"ALTER SYSTEM SET {setting}")
    stage.database.run("SELECT pg_reload_conf()")
    cut = commits = 0
    for _ in range(stage.times(CUTS)):
        stage.pause(0.02, 0.15)
        busy = stage.database.run(BUSY)
        if busy:
            pid, query = stage.random.choice(busy)
            stage.database.run(f"SELECT pg_terminate_backend({pid})")
            cut, commits = cut + 1, commits + (query == "COMMIT")
    stage.note += f" {cut} connections were cut, {commits} of them in COMMIT."


def _take(stage: Stage) -> psycopg.Connection:
    return psycopg.connect(stage.database.url, application_name=OURS, autocommit=True, connect_timeout=5)


def _server(stage: Stage) -> PostgresqlServer:
    assert isinstance(stage.database, PostgresqlServer)  # noqa: S101 - the registry sees to it
    return stage.database
