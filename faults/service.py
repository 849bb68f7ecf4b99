"""The service as an operator runs it: web servers, workers, feeders, each started again whenever it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import requests

from callbacks.web import GRANIAN_OPTIONS
from faults.plan import Plan
from faults.processes import ROOT, Marked, Process, children
from simulator.ports import free_port

READY_WITHIN = 60.0
LOOK_EVERY = 0.1
STOP_WITHIN = 20.0
COMMAND_TRIES = 5
WEB_NAME = "web"


class Service:
    """`web`, `web-2`…, `feeder-1`…, `worker-1`, `worker-2`…; a process manager's part is played by a thread."""

    def __init__(self, folder: Path, vendor: str, plan: Plan) -> None:
        self.ports = [free_port() for _ in range(plan.webs)]
        self.url = f"http://127.0.0.1:{self.ports[0]}/dingtalk/callback/"
        self.log = folder / "service.log"
        self.webs = [WEB_NAME, *(f"{WEB_NAME}-{number}" for number in range(2, plan.webs + 1))]
        self.feeders = [f"feeder-{number + 1}" for number in range(plan.feeders if plan.broker else 0)]
        self.workers = [f"worker-{number + 1}" for number in range(plan.workers)]
        python, deliver = sys.executable, [sys.executable, "manage.py", "deliver"]
        granian = [python, "-m", "granian", "--interface", "wsgi", *GRANIAN_OPTIONS[vendor], "--host", "127.0.0.1"]
        celery = [python, "-m", "celery", "--quiet", "-A", "dingcallback", "worker", "--concurrency", "2", "--hostname"]
        self._commands = {
            **{
                name: [*granian, "--port", str(port), "dingcallback.wsgi:application"]
                for name, port in zip(self.webs, self.ports, strict=True)
            },
            **{name: [*deliver, "--feed"] for name in self.feeders},
            **{
                name: [*plan.before_worker, *([*celery, f"{name}@localhost"] if plan.broker else deliver)]
                for name in self.workers
            },
        }
        self._running: dict[str, Process] = {}
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._manager = threading.Thread(target=self._manage, name="service", daemon=True)
        self.marked = Marked({})

    def start(self, settings: Mapping[str, str]) -> None:
        """Migrate, start everything and wait until the web server is ready."""
        self.marked = Marked(settings)
        self.command("migrate", "--verbosity", "0")
        self._wanted.set()
        self._manager.start()
        self.wait_until_ready()

    def command(self, *arguments: str) -> str:
        """Run a command of `manage.py`, and return what it printed; RuntimeError with what it said if it fails.

        One that the database fails, as a busy SQLite may, is run again, as it says.
        """
        for left in reversed(range(COMMAND_TRIES)):
            done = subprocess.run(  # noqa: S603 - this project's own command
                [sys.executable, "manage.py", *arguments],
                cwd=ROOT,
                env=self.marked.environment,
                check=False,
                capture_output=True,
                text=True,
                timeout=120,
            )
            if not done.returncode:
                return done.stdout
            if not left or "the database failed" not in done.stderr:
                break
        raise RuntimeError(f"manage.py {' '.join(arguments[:2])} failed: {done.stderr.strip()}")

    def wait_until_ready(self) -> None:
        """Return once each web server is ready."""
        end = time.monotonic() + READY_WITHIN
        waiting = list(self.ports)
        while waiting:
            with suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{waiting[0]}/readyz", timeout=3).ok:
                    waiting.pop(0)
                    continue
            if time.monotonic() > end:
                raise TimeoutError("the web server did not become ready")
            time.sleep(LOOK_EVERY)

    def find(self, name: str, child: bool = False) -> int | None:
        """Return the id of a process, or of the last of its children; None where there is none at this moment."""
        process = self._running.get(name)
        if process is None or process.poll() is not None:
            return None
        return next(reversed(children(process.pid)), None) if child else process.pid

    def strike(self, name: str, number: int, child: bool = False) -> int:
        """Send a signal to a process, or to its child, as soon as there is one; return its id."""
        end = time.monotonic() + READY_WITHIN
        while time.monotonic() < end:
            with suppress(ProcessLookupError):
                found = self.find(name, child)
                if found is not None:
                    os.kill(found, number)
                    return found
            time.sleep(LOOK_EVERY)
        raise TimeoutError(f"{name} did not run")

    def kill(self, name: str) -> None:
        """Kill a process and all its children, as soon as there is one."""
        found = self.strike(name, signal.SIGSTOP)  # so that it starts no other child
        for process in [*children(found), found]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def restart(self, **settings: str) -> None:
        """Change settings, and end one process after another, each of which starts again with them."""
        self.marked.environment.update(settings)
        for name in self._commands:
            process = self._running[name]
            process.terminate()
            try:
                process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.kill(name)
        self.wait_until_ready()

    def lose_power(self) -> None:
        """Kill everything at once, and start nothing until `start_again`."""
        self._wanted.clear()
        time.sleep(2 * LOOK_EVERY)
        self.marked.kill()

    def start_again(self) -> None:
        """Start what `lose_power` ended."""
        self._wanted.set()

    def end(self) -> None:
        """Stop everything, in order where it can."""
        self._wanted.clear()
        self._ended.set()
        if self._manager.is_alive():
            self._manager.join()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_WITHIN)
        self.marked.kill()

    def _manage(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            for name, command in self._commands.items():
                process = self._running.get(name)
                if not self._wanted.is_set() or (process and process.poll() is None):
                    continue
                if process and name in self.webs:  # what a killed parent left still listens
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                self._running[name] = self.marked.start(command, self.log)
