"""Many machines: `python -m faults.machines` pushes many events at two web servers and three workers, killing one each.

PostgreSQL, and a queue on RabbitMQ, on Redis, or none (workers of `deliver`); all processes are on this machine.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from faults.brokers import KINDS
from faults.plan import Fault, Plan
from faults.stage import Stage
from faults.tally import Tally, count
from simulator.load import LoadReport, run

WAYS = (*KINDS, "deliver")
SUBJECTS = 400
DELIVERIES = 2  # to the atomic and to the plain handler
SETTLED = "SELECT count(*) FROM callbacks_delivery WHERE state <> 'pending'"
STUCK_AFTER = 120.0


def main() -> int:
    """Run each way; 1 where an event was lost, an effect doubled, or an order broken."""
    parser = argparse.ArgumentParser(prog="python -m faults.machines", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="events (default 20000)")
    parser.add_argument("--way", choices=[*WAYS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 10**6))  # noqa: S311 - to be repeated
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=160)
    sound = True
    for way in WAYS if arguments.way == "all" else [arguments.way]:
        tally = play(way, arguments.count, arguments.seed)
        good = tally.sound and not tally.disordered and tally.delivered == arguments.count
        sound = sound and good
        console.print(f"{'ok  ' if good else 'FAIL'} {way}, seed {arguments.seed}: {tally}")
    return 0 if sound else 1


def play(way: str, events: int, seed: int) -> Tally:
    """Push so many events at two web servers, kill one process of each kind on the way, and count."""
    plan = Plan(webs=2, workers=3, feeders=1, broker=way if way in KINDS else "", hurry=False)
    with tempfile.TemporaryDirectory(prefix="machines-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "disk").mkdir()
        stage = Stage(
            Fault(f"machines_{way}", way, lambda stage: None, plan=plan), "postgresql", seed, 1.0, Path(folder)
        )
        with stage.up():
            payloads = [_payload(stage, number) for number in range(events)]
            began = time.monotonic()
            with ThreadPoolExecutor(len(stage.service.ports)) as pool:
                servers = len(stage.service.ports)
                pushing = [
                    pool.submit(_push, stage, port, payloads[index::servers])
                    for index, port in enumerate(stage.service.ports)
                ]
                _kill_one_of_each(stage, events)
                acknowledged = [reference for each in pushing for reference in each.result()]
            pushed = time.monotonic() - began
            _wait_until_settled(stage)
            note = f"pushed in {pushed:.0f} s, settled in {time.monotonic() - began:.0f} s"
            stage.service.end()
            sent = {payload["reference"] for payload in payloads}
            return count(stage.database, len(payloads), sent, acknowledged, [], note)


def _payload(stage: Stage, number: int) -> dict[str, Any]:
    instance = f"INSTANCE{stage.random.randrange(SUBJECTS):04}"
    own = {"EventType": "faults_task", "eventId": uuid4().hex, "CorpId": stage.simulator.options.corp_id}
    return own | {"processInstanceId": instance, "reference": f"r{number}"}


def _push(stage: Stage, port: int, payloads: list[dict[str, Any]]) -> list[str]:
    """Push until every event is acknowledged, as DingTalk's retries and its failed list would; return those."""
    credentials = [stage.settings[f"DINGTALK_{name}"] for name in ("TOKEN", "AES_KEY", "APP_KEY")]
    url = f"http://127.0.0.1:{port}/dingtalk/callback/"
    left, acknowledged = payloads, []
    while left:
        report: LoadReport = run(url, *credentials, connections=4, payloads=left)
        acknowledged += [str(payload["reference"]) for payload in report.acknowledged]
        done = set(acknowledged)
        left = [payload for payload in left if payload["reference"] not in done]
        if left:
            stage.service.wait_until_ready()
    return acknowledged


def _kill_one_of_each(stage: Stage, events: int) -> None:
    """Kill a web server, a feeder and a worker, each with all its processes."""
    for number, kind in enumerate([stage.service.webs, stage.service.feeders, stage.service.workers], 1):
        settled = 0
        while settled < DELIVERIES * events * number / 6:
            time.sleep(0.5)
            ((settled,),) = stage.database.run(SETTLED)
        if kind:
            stage.service.kill(stage.random.choice(kind))


def _wait_until_settled(stage: Stage) -> None:
    settled, moved = -1, time.monotonic()
    while time.monotonic() < moved + STUCK_AFTER:
        ((owed,),) = stage.database.run("SELECT count(*) FROM callbacks_delivery WHERE state = 'pending'")
        ((now,),) = stage.database.run(SETTLED)
        if not owed:
            return
        if now != settled:
            settled, moved = now, time.monotonic()
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
