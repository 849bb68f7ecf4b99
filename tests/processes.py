"""The service's own processes on this test's database: started, waited for, stopped and killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from django.conf import settings
from django.db import connection

from dingcallback.environment import isolated
from tests.settings import POSTGRESQL_URL

ROOT = Path(__file__).resolve().parent.parent
_NAMES = ("SECRET_KEY", "DINGTALK_TOKEN", "DINGTALK_AES_KEY", "DINGTALK_APP_KEY", "DINGTALK_CORP_ID")

Process = subprocess.Popen[bytes]


def database_url(name: str = "") -> str:
    """Return the address of a database on this test's server, by default the one that this test uses."""
    name = name or str(connection.settings_dict["NAME"])
    return (
        f"sqlite:///{name}" if connection.vendor == "sqlite" else urlsplit(POSTGRESQL_URL)._replace(path=name).geturl()
    )


def environment(**changes: str) -> dict[str, str]:
    """Return an environment with the tests' credentials, their database and these changes, and no other setting."""
    sound = {name: str(getattr(settings, name)) for name in _NAMES}
    ours = {**sound, "DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "tests.shop.settings", **changes}
    return isolated(os.environ, **ours)


def manage(*arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of `manage.py` to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def deliver(log: Path, *arguments: str, **changes: str) -> Iterator[Process]:
    """Run `manage.py deliver` until the block ends, where it is killed if it still runs."""
    with _running(log, [sys.executable, "manage.py", "deliver", *arguments], **changes) as process:
        yield process


@contextmanager
def celery(log: Path, *arguments: str, **changes: str) -> Iterator[Process]:
    """Run a Celery worker until the block ends, where it is killed if it still runs."""
    worker = [sys.executable, "-m", "celery", "--quiet", "-A", "dingcallback", "worker", "--hostname", uuid4().hex]
    with _running(log, [*worker, *arguments], **changes) as process:
        yield process


@contextmanager
def web(log: Path, port: int, **changes: str) -> Iterator[Process]:
    """Run the web server until the block ends, where it is killed if it still runs."""
    server = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)]
    with _running(log, [*server, "dingcallback.wsgi:application"], **changes) as process:
        yield process


@contextmanager
def _running(log: Path, command: list[str], **changes: str) -> Iterator[Process]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**changes), stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: Process) -> None:
    """End a process and its children with SIGKILL, as a machine that loses its power does."""
    if process.poll() is not None:
        return
    found = children(process)
    process.kill()
    for child in found:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait(10)


def children(process: Process) -> list[int]:
    """Return the ids of a process's children."""
    if sys.platform != "linux":
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        return [int(child) for child in found.stdout.split()]
    ids = []
    for path in Path("/proc").glob("[0-9]*/stat"):  # as small machines have no pgrep
        with suppress(OSError):
            parent = path.read_text().rpartition(")")[2].split()[1]
            ids += [int(path.parent.name)] if parent == str(process.pid) else []
    return ids


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def wait_until_up(port: int) -> None:
    """Return once the web server answers that it is ready."""

    def ready() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).ok
        return False

    wait_until(ready)


class Gate:
    """An address that answers `GET /name` only when `name` is let through: something slow on the network."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self._open: set[str] = set()
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _gatekeeper(self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def let_through(self, *names: str) -> None:
        with self._changed:
            self._open.update(names)
            self._changed.notify_all()

    def pass_through(self, name: str) -> None:
        with self._changed:
            self.waiting.append(name)
            self._changed.wait_for(lambda: name in self._open or "*" in self._open, timeout=60)

    def __enter__(self) -> "Gate":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_through("*")
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _gatekeeper(gate: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            gate.pass_through(self.path.strip("/"))
            with suppress(OSError):  # whoever asked may have been killed meanwhile
                self.send_response(204)
                self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    return Handler
