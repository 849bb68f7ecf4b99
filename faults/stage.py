"""Where a fault happens: database, service, simulated DingTalk and load, made for one run and ended with it."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from callbacks.keys import new_aes_key, new_secret_key, new_token
from dingcallback.environment import isolated
from faults.brokers import Broker
from faults.databases import Database, PostgresqlServer, SqliteFile
from faults.ledger import tables
from faults.load import Load
from faults.plan import CLOCK_LIBRARY, Fault, Plan
from faults.processes import ROOT, stopping
from faults.service import Service
from faults.subscribers import Subscriber
from faults.tally import Tally, count, with_endpoints
from simulator.options import Options
from simulator.server import Simulator

# DingTalk's 10 and 30 s until the retries are half a second and a second and a half, its 180 s one second.
OPTIONS = Options(clock_scale=20, failed_list_delay=20, slow_seconds=2, hold_seconds=5)
LEASE = 30  # seconds, as in callbacks.models
LEASE_SHORTENED_TO = 5
STUCK_AFTER = 40.0
SETTLED_WITHIN = 900.0
LONG_AGO = "2000-01-01 00:00:00"  # UTC on SQLite, any time zone on PostgreSQL
SMALL_DISK = "24m"
KEPT = ROOT / ".faults"


class Stage:
    """What a fault has at hand."""

    def __init__(self, fault: Fault, vendor: str, seed: int, scale: float, folder: Path) -> None:
        self.random = random.Random(f"{seed}:{fault.name}:{vendor}")  # noqa: S311 - to be repeated, not to be secret
        self.folder = folder
        self.plan: Plan = fault.plan
        self.clock = folder / "clock"
        self.settings = self._settings()
        self.database: Database = (
            SqliteFile(folder / "disk") if vendor == "sqlite" else PostgresqlServer(folder, self._timed())
        )
        self.broker = Broker(self.plan.broker, folder, self.settings) if self.plan.broker else None
        self.service = Service(folder, vendor, self.plan)
        self.simulator = Simulator(OPTIONS)
        self.load = Load(self.simulator, self.random, self.plan)
        self.subscribers = [Subscriber(form) for form in ("standard", "dingtalk") if self.plan.endpoints]
        self.extra_pushes = 0
        self.extra_sent: set[str] = set()
        self.extra_acknowledged: set[str] = set()
        self.note = ""
        self._scale = scale
        self._hurried = threading.Event()

    def times(self, full: int) -> int:
        """Return how often to do what a full run does `full` times."""
        return max(round(full * self._scale), min(full, 2))

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time."""
        self.sleep(self.random.uniform(least, most))

    def sleep(self, seconds: float) -> None:
        """Wait; leave with SystemExit where the suite is told to stop."""
        if stopping.wait(seconds):
            sys.exit("stopped")

    def last(self, seconds: float) -> None:
        """Let the fault go on for so many seconds of a full run, and for a few of a small one."""
        self.sleep(max(seconds * self._scale, 4))

    def worker(self) -> str:
        """Return one of the workers' names."""
        return self.random.choice(self.service.workers)

    def expire_leases(self, longer_than: int) -> None:
        """Let each lease end now that has been held for so many seconds, as if it had been that short."""
        ahead = LEASE - longer_than
        until = {
            "sqlite": f"strftime('%Y-%m-%d %H:%M:%f', 'now', '+{ahead} seconds')",
            "postgresql": f"now() + interval '{ahead} s'",
        }
        self.database.run(
            f"UPDATE callbacks_delivery SET leased_until = '{LONG_AGO}' "  # noqa: S608 - constants
            f"WHERE state = 'pending' AND leased_until < {until[self.database.vendor]}"
        )

    def expire_duty(self) -> None:
        """Let the acting feeder's lease end now, as if it had not been heard of for long."""
        self.database.run(f"UPDATE callbacks_duty SET leased_until = '{LONG_AGO}' WHERE name = 'feeder'")  # noqa: S608 - constants

    def set_clock(self, seconds: int) -> None:
        """Move the clock of the service, and of a PostgreSQL server, by so many seconds from the true time."""
        self.clock.write_text(f"{seconds:+d}")
        time.sleep(1.5)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Start everything, and end it however the block ends."""
        with ExitStack() as stack:
            stack.callback(self.database.end)
            self.database.start()
            self.simulator.start()
            stack.callback(self.simulator.stop)
            urls = {"DINGTALK_OAPI_URL": self.simulator.url, "DINGTALK_API_URL": self.simulator.url}
            if self.broker:
                stack.callback(self.broker.end)
                self.broker.start()
                urls["CELERY_BROKER_URL"] = self.broker.url
            stack.callback(self.service.end)
            hasty = {"DINGTALK_CALLS_PER_SECOND": "0"}  # thousands of instances are fetched in a minute
            self.service.start({**self._timed(), **urls, **hasty, "DATABASE_URL": self.database.url})
            tables.make(self.database)
            self._add_endpoints(stack)
            self.simulator.subscribe(
                self.service.url, self.settings["DINGTALK_TOKEN"], self.settings["DINGTALK_AES_KEY"]
            )
            stack.callback(self._hurried.set)
            if self.plan.hurry:
                threading.Thread(target=self._hurry, name="hurry", daemon=True).start()
            yield

    def settle(self) -> None:
        """Let DingTalk try its retries, import its failed list, and wait until nothing is owed or nothing moves."""
        self.service.wait_until_ready()
        for push in self.load.pushes:
            push.wait(30)
        end = time.monotonic() + 60
        while len(self.simulator.dingtalk.failed_list) and time.monotonic() < end:
            self.sleep(1)
            with suppress(RuntimeError):
                self.service.command("dingtalk", "failed")
        owed, moved = None, time.monotonic()
        end = moved + SETTLED_WITHIN
        while owed != (0, None) and time.monotonic() < min(moved + STUCK_AFTER, end):
            ((pending, attempts),) = self.database.run(
                "SELECT count(*), sum(attempts) FROM callbacks_delivery WHERE state = 'pending'"
            )
            if owed != (pending, attempts):
                owed, moved = (pending, attempts), time.monotonic()
            self.sleep(0.2)
        if owed != (0, None):
            self.note += f" {owed[0] if owed else 'some'} deliveries were still owed at the end."

    def tally(self) -> Tally:
        """Count, when the service has ended."""
        sent = {str(push.payload["reference"]) for push in self.load.pushes} | self.extra_sent
        acknowledged = {str(payload["reference"]) for payload in self.simulator.acknowledged} | self.extra_acknowledged
        poisoned = [str(push.payload["reference"]) for push in self.load.pushes if push.payload.get("poison")]
        pushes = sum(len(push.attempts) for push in self.load.pushes) + self.extra_pushes
        tally = count(self.database, pushes, sent, acknowledged, poisoned, self.note.strip())
        return with_endpoints(tally, self.database, self.subscribers, all_owed=not self.plan.may_be_disabled)

    def _add_endpoints(self, stack: ExitStack) -> None:
        for subscriber in self.subscribers:
            subscriber.start()
            stack.callback(subscriber.stop)
            made = json.loads(self.service.command("endpoint", "add", *subscriber.arguments, "--json"))
            subscriber.destination = f"endpoint:{made['id']}"

    def _settings(self) -> dict[str, str]:
        return isolated(
            os.environ,
            DJANGO_SETTINGS_MODULE="faults.settings",
            SECRET_KEY=new_secret_key(),
            DINGTALK_TOKEN=new_token(),
            DINGTALK_AES_KEY=new_aes_key(),
            DINGTALK_APP_KEY=OPTIONS.app_key,
            DINGTALK_APP_SECRET=OPTIONS.app_secret,
            DINGTALK_CORP_ID=OPTIONS.corp_id,
            DINGTALK_CALLBACK_URL="http://127.0.0.1:8000/dingtalk/callback/",
            HANDLER_TIMEOUT="10",
            RELAY_BLOCKED_NETWORKS="",
            RETRY_SCHEDULE="0,1,1," + ",".join(["2"] * 30),
            **self.plan.settings,
        )

    def _timed(self) -> dict[str, str]:
        """Return the settings, with the clock's library where the plan asks for it."""
        if not self.plan.clock:
            return self.settings
        self.clock.write_text("+0")
        faked = {"FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_CACHE_DURATION": "1"}
        return {**self.settings, **faked, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "LD_PRELOAD": str(CLOCK_LIBRARY)}

    def _hurry(self) -> None:
        """Shorten every lease: who died holding one is not waited for half a minute."""
        while not self._hurried.wait(1):
            with suppress(Exception):  # the database may be what fails
                self.expire_leases(LEASE_SHORTENED_TO)


def play(fault: Fault, vendor: str, seed: int, scale: float) -> Tally:
    """Let one fault happen on one database under load, and count what came of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        folder.chmod(0o755)
        disk = folder / "disk"
        disk.mkdir()
        if fault.plan.small_disk:
            stack.enter_context(_small_disk(disk))
        stage = Stage(fault, vendor, seed, scale, folder)
        tally = _play(fault, stage)
        if not tally.sound and stage.service.log.exists():
            KEPT.mkdir(exist_ok=True)
            shutil.copy(stage.service.log, KEPT / f"{vendor}-{fault.name}.log")
        return tally


def _play(fault: Fault, stage: Stage) -> Tally:
    try:
        with stage.up():
            stage.load.start()
            try:
                stage.pause(1, 1.5)
                fault.act(stage)
                stage.pause(0.5, 1)
            finally:
                stage.load.stop()
            stage.settle()
            stage.service.end()
            return stage.tally()
    except Exception as error:  # noqa: BLE001 - a row that broke off is not sound, and keeps no other from its turn
        return Tally(note=f"{stage.note.strip()} Broke off: {type(error).__name__}: {error}.".strip())


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)], check=True)  # noqa: S603, S607
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S603, S607
