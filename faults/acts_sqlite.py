"""Faults of a SQLite file and of the disk that it lies on."""

import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

from faults.databases import SqliteFile
from faults.plan import fault
from faults.stage import Stage

OUTAGES = 5
CHUNK = b"\0" * 65536


@fault("SQLite's file locked by another process for some seconds", only="sqlite")
def lock_file(stage: Stage) -> None:
    """Hold the file exclusively from this process."""
    for _ in range(stage.times(OUTAGES)):
        with closing(sqlite3.connect(_file(stage), timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            stage.pause(2, 4)
            connection.execute("ROLLBACK")
        stage.pause(1, 3)


@fault("the disk full for some seconds", only="sqlite", small_disk=True)
def fill_disk(stage: Stage) -> None:
    """Fill up what is left of the disk, and free it again."""
    filler = _file(stage).with_name("filler")
    for _ in range(stage.times(OUTAGES)):
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(CHUNK)
        stage.pause(2, 4)
        filler.unlink()
        stage.pause(1, 3)


@fault("the disk read-only when the service starts, and writable some seconds later", only="sqlite", small_disk=True)
def write_protect_disk(stage: Stage) -> None:
    """Remount the disk read-only, which needs that nobody has a file open for writing, and writable again."""
    for _ in range(stage.times(OUTAGES)):
        stage.service.lose_power()
        try:
            _remount(stage, "ro")
            stage.service.start_again()
            stage.pause(4, 6)
        finally:
            _remount(stage, "rw")
        stage.service.wait_until_ready()
        stage.pause(1, 3)


def _file(stage: Stage) -> Path:
    assert isinstance(stage.database, SqliteFile)  # noqa: S101 - the registry sees to it
    return stage.database.path


def _remount(stage: Stage, mode: str) -> None:
    command = ["mount", "-o", f"remount,{mode}", str(_file(stage).parent)]
    end = time.monotonic() + 10
    while subprocess.run(command, check=time.monotonic() > end, capture_output=True).returncode:  # noqa: S603
        time.sleep(0.05)
