"""Processes that the suite starts, each with a mark in its environment, so that none outlives its run."""

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "FAULT_SUITE_RUN"
# Set where the suite is told to stop: whatever waits leaves, and ends what it started.
stopping = threading.Event()

Process = subprocess.Popen[bytes]


class Marked:
    """Processes with one environment and one mark, which their children inherit."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        self.environment = {**environment, MARK: self._mark}
        self._started: list[Process] = []

    def start(self, command: list[str], log: Path, **account: Any) -> Process:
        """Start a command in a session of its own."""
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - this project's own commands, and PostgreSQL's
                command, cwd=ROOT, env=self.environment, stdout=output, stderr=output, start_new_session=True, **account
            )
        self._started.append(process)
        return process

    def alive(self) -> Iterator[int]:
        """Yield the ids of the processes that run, with all their children, however they were orphaned."""
        mark = f"{MARK}={self._mark}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    yield int(path.parent.name)

    def signal(self, number: int) -> None:
        """Send a signal to each."""
        for process in self.alive():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """End them all."""
        while list(self.alive()):
            self.signal(signal.SIGKILL)
            for process in self._started:
                process.poll()
        for process in self._started:
            process.wait(10)


def children(parent: int) -> list[int]:
    """Return the ids of a process's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(path.parent.name))
    return found


def is_stopped(process: int) -> bool:
    """Tell whether a process has come to rest after SIGSTOP: its threads do so one after another."""
    with suppress(OSError):
        tasks = Path(f"/proc/{process}/task").glob("[0-9]*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)
    return True
