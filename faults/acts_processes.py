"""Faults of processes: killed, told to stop, stopped beyond their lease."""

import signal
import sqlite3
import time
from contextlib import closing

from faults.databases import SqliteFile
from faults.plan import fault
from faults.processes import is_stopped
from faults.service import WEB_NAME
from faults.stage import Stage

KILLS = 50
BURST = 12
STOPS = 10
FREEZES = 15


@fault("kill -9 of the web server's parent process", rate=3)
def kill_web(stage: Stage) -> None:
    """Kill it in the midst of many pushes."""
    _strike_web(stage, KILLS, signal.SIGKILL, child=False)


@fault("kill -9 of the web server's child process", rate=3)
def kill_web_child(stage: Stage) -> None:
    """Kill it in the midst of many pushes."""
    _strike_web(stage, KILLS, signal.SIGKILL, child=True)


@fault("kill -9 of a worker's parent process", endpoints=True)
def kill_worker(stage: Stage) -> None:
    """Kill it at any moment."""
    _strike_worker(stage, KILLS, signal.SIGKILL, child=False)


@fault("kill -9 of a worker's child process, which carries the deliveries", endpoints=True)
def kill_worker_child(stage: Stage) -> None:
    """Kill it at any moment."""
    _strike_worker(stage, KILLS, signal.SIGKILL, child=True)


@fault("SIGTERM of the web server under load", rate=3)
def stop_web(stage: Stage) -> None:
    """Stop it in the midst of many pushes."""
    _strike_web(stage, STOPS, signal.SIGTERM, child=False)


@fault("SIGTERM of a worker under load", endpoints=True)
def stop_worker(stage: Stage) -> None:
    """Stop it at any moment."""
    _strike_worker(stage, STOPS, signal.SIGTERM, child=False)


@fault("everything killed at once, as when a machine loses its power, and started again", endpoints=True)
def lose_power(stage: Stage) -> None:
    """Kill web server and workers together."""
    for _ in range(stage.times(STOPS)):
        stage.service.wait_until_ready()
        stage.pause(0.5, 2)
        stage.load.push(BURST)
        stage.pause(0, 0.15)
        stage.service.lose_power()
        stage.service.start_again()


@fault(
    "SIGSTOP of a worker in mid-attempt until its lease has ended and another has taken over, then SIGCONT",
    endpoints=True,
)
def freeze_worker(stage: Stage) -> None:
    """Stop a worker that holds a delivery, let its leases end, let the others work, and let it go on."""
    taken_over = 0
    for _ in range(stage.times(FREEZES)):
        name = stage.worker()
        if not _freeze(stage, name):
            continue
        held = {pk for (pk,) in stage.database.run(HELD)}
        stage.expire_leases(0)
        stage.pause(0.5, 2)
        taken_over += len(held - {pk for (pk,) in stage.database.run(HELD)})
        stage.service.strike(name, signal.SIGCONT, child=True)
        stage.pause(0.2, 0.6)
    stage.note += f" {taken_over} deliveries were held when their worker was stopped and let go before it went on."


HELD = "SELECT id FROM callbacks_delivery WHERE state = 'pending' AND lease_token IS NOT NULL"


def _freeze(stage: Stage, name: str) -> bool:
    """Stop a worker at a moment at which it holds deliveries of `once`, but not SQLite's write lock."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        stage.load.push(BURST)
        stage.pause(0, 0.3)
        process = stage.service.strike(name, signal.SIGSTOP, child=True)
        while not is_stopped(process):
            time.sleep(0.002)
        if _writable(stage) and _holds(stage):
            return True
        stage.service.strike(name, signal.SIGCONT, child=True)
    return False


def _holds(stage: Stage) -> bool:
    return bool(stage.database.run(f"{HELD} AND destination LIKE '%.once' LIMIT 1"))


def _writable(stage: Stage) -> bool:
    if not isinstance(stage.database, SqliteFile):
        return True
    with closing(sqlite3.connect(stage.database.path, timeout=0.05, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
    return True


def _strike_web(stage: Stage, times: int, number: int, *, child: bool) -> None:
    for _ in range(stage.times(times)):
        stage.service.wait_until_ready()
        stage.load.push(BURST)
        stage.pause(0, 0.15)
        stage.service.strike(WEB_NAME, number, child)


def _strike_worker(stage: Stage, times: int, number: int, *, child: bool) -> None:
    for _ in range(stage.times(times)):
        stage.pause(0.3, 2)
        stage.service.strike(stage.worker(), number, child)
