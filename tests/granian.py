"""The service in a process of its own, behind the web server that runs it, for tests over a socket."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from django.conf import settings
from django.db import connection

from dingcallback.environment import isolated
from simulator.ports import free_port
from tests.settings import POSTGRESQL_URL

ROOT = Path(__file__).resolve().parent.parent
GRANIAN = Path(sys.executable).with_name("granian")
_NAMES = "SECRET_KEY DINGTALK_TOKEN DINGTALK_AES_KEY DINGTALK_APP_KEY DINGTALK_CORP_ID"


def test_database_url() -> str:
    """Return the address of the database that this test run uses."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(POSTGRESQL_URL)._replace(path=f"/{name}").geturl()


test_database_url.__test__ = False  # type: ignore[attr-defined]


def environment(**changes: str) -> dict[str, str]:
    """Return an environment with the tests' settings and these changes; an empty one is not set."""
    values = {name: str(getattr(settings, name)) for name in _NAMES.split()} | changes
    return isolated(os.environ, **{name: value for name, value in values.items() if value})


def command(*arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments and the tests' settings, and return how it ended."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass
class Server:
    """A running server: its port, and the file that it logs to."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def arguments(port: int) -> list[str]:
    return [
        str(GRANIAN),
        "--interface",
        "wsgi",
        "dingcallback.wsgi:application",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]


@contextmanager
def serving(log: Path, **changes: str) -> Iterator[Server]:
    """Run the web server with the tests' settings and these changes, until the block ends."""
    server = Server(free_port(), log)
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments(server.port), cwd=ROOT, env=environment(**changes), stdout=output, stderr=output
        )
    try:
        _wait(process, server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _wait(process: "subprocess.Popen[bytes]", server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the web server ended: {server.log.read_text()}")
        try:
            requests.get(f"{server.url}/healthz", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("the web server did not answer")
