"""A subscriber's program in a process of its own, which prints a line for each event that it takes."""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from simulator.ports import free_port
from tests.processes import kill, wait_until

ROOT = Path(__file__).resolve().parent.parent


class Program:
    """What runs at `url`; `lines` are those that it has printed."""

    def __init__(self, pid: int, port: int, output: Path) -> None:
        self.pid = pid
        self.url = f"http://127.0.0.1:{port}/events?of=us"
        self._output = output

    @property
    def lines(self) -> list[str]:
        return self._output.read_text(encoding="utf-8").split("\n")[:-1]


@contextmanager
def running(command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> Iterator[Program]:
    """Run a program until the block ends, with these settings and the PORT that it is to listen on."""
    port, output = free_port(), folder / "output"
    known = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with output.open("wb") as out, (folder / "errors").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**known, **settings, "PORT": str(port)}, stdout=out, stderr=err
        )
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (folder / "errors").read_text()
        yield Program(process.pid, port, output)
    finally:
        kill(process)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
