"""`make demo`: the whole job on real traffic, with a simulated DingTalk; everything it makes is in `.demo/`."""

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from rich.console import Console

from callbacks.keys import new_aes_key, new_secret_key, new_token
from callbacks.ports import PortUnusable, port_number, require_free
from dingcallback.environment import isolated
from simulator.options import Options
from simulator.server import Simulator

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN = 30.0
HANDLED_WITHIN = 60.0


class DemoFailed(Exception):
    """The demo could not show what it is there to show; the text says what and what to do."""


def main() -> int:
    """Run the demo; 0 where every event was handled."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit after the table")
    once = parser.parse_args().once
    host = os.environ.get("HOST") or "127.0.0.1"
    console = Console(width=None if sys.stdout.isatty() else 140)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        port, simulator_port = _port("PORT", host, "8000"), _port("SIMULATOR_PORT", "127.0.0.1", "8001")
        if port == simulator_port:
            raise DemoFailed(f"PORT and SIMULATOR_PORT are both {port}; name another: make demo PORT={port + 10}")
        home = ROOT / ".demo" / str(port)
        with Simulator(Options(port=simulator_port, clock_scale=10)) as simulator:
            _prepare(home, simulator, host, port)
            with _service(home, host, port):
                _show(console, simulator, once, f"http://{host}:{port}/admin/")
    except (DemoFailed, PortUnusable) as error:
        console.print(f"[red]demo: {error}")
        return 1
    except KeyboardInterrupt:
        console.print("demo: stopped")
    return 0


def _port(name: str, host: str, default: str) -> int:
    port = port_number(name, os.environ.get(name) or default)
    require_free(name, host, port, "make demo")
    return port


def _prepare(home: Path, simulator: Simulator, host: str, port: int) -> None:
    """Give this process and its children settings of their own, and an empty database."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    settings = isolated(
        os.environ,
        SECRET_KEY=new_secret_key(),
        DATABASE_URL=f"sqlite:///{home / 'demo.sqlite3'}",
        DINGTALK_TOKEN=new_token(),
        DINGTALK_AES_KEY=new_aes_key(),
        DINGTALK_APP_KEY=simulator.options.app_key,
        DINGTALK_APP_SECRET=simulator.options.app_secret,
        DINGTALK_CORP_ID=simulator.options.corp_id,
        DINGTALK_CALLBACK_URL=f"http://{host}:{port}/dingtalk/callback/",
        DINGTALK_OAPI_URL=simulator.url,
        DINGTALK_API_URL=simulator.url,
        RETRY_SCHEDULE="1,2,5",
        RELAY_BLOCKED_NETWORKS="",  # the demo's subscribers are on loopback
    )
    os.environ.clear()
    os.environ.update(settings)
    _manage("migrate", "--verbosity", "0")


@contextmanager
def _service(home: Path, host: str, port: int) -> Iterator[None]:
    """Run web server and worker as `make run` does, with their output in a file."""
    log = home / "service.log"
    command = [sys.executable, "manage.py", "serve", "--host", host, "--port", str(port)]
    with log.open("w") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as service:
        try:
            _wait_until_ready(service, f"http://{host}:{port}/readyz", log)
            yield
        finally:
            service.terminate()
            service.wait()


def _wait_until_ready(service: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and service.poll() is None:
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise DemoFailed(f"the web server did not start; see {log.relative_to(ROOT)}")


def _show(console: Console, simulator: Simulator, once: bool, admin: str) -> None:
    _manage("dingtalk", "register")
    if simulator.callback is None:
        raise DemoFailed("the callback was not registered")
    console.print(f"registered {simulator.callback.url} after a check_url handshake")
    from simulator import demo_events, demo_subscribers  # noqa: PLC0415 - their models need the settings made above

    with demo_subscribers.subscribed() as subscribers:
        rows = demo_events.push_all(simulator)
        handled = demo_events.wait_until_handled(rows, HANDLED_WITHIN)
        console.print(demo_events.table(rows))
        for subscriber in subscribers:
            console.print(
                f"{type(subscriber).__name__.upper()} took, verified by itself: {', '.join(subscriber.taken)}"
            )
        if not handled:
            raise DemoFailed("not everything was handled; see service.log in .demo/")
        if not once:
            _stay(console, simulator, admin)


def _stay(console: Console, simulator: Simulator, admin: str) -> None:
    password = secrets.token_urlsafe(9)
    _manage("createsuperuser", "--noinput", "--username", "admin", "--email", "", DJANGO_SUPERUSER_PASSWORD=password)
    console.print(f"\nAdmin: {admin}   user: admin   password (this run only): {password}")
    console.print(f'Push more: curl -d \'{{"event_type": "user_add_org"}}\' {simulator.url}/_simulator/push')
    console.print("What the web server and the worker did is in service.log under .demo/. Ctrl-C ends the demo.")
    threading.Event().wait()


def _manage(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoFailed(f"`manage.py {' '.join(arguments[:2])}` failed: {done.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
