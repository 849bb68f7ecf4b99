"""The whole way of an event, between real processes: what is acknowledged is stored once and delivered."""

import json
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Group

from callbacks.models import Delivery, Event
from simulator.load import LoadReport, run
from simulator.ports import free_port
from simulator.samples import make
from tests.owed import expire_leases
from tests.processes import Gate, Process, deliver, kill, wait_until, wait_until_up, web

pytestmark = pytest.mark.django_db(transaction=True)
CORP = "dingtestcorp0001"
KILLS = 3
# A round's end comes with the kill, long before its pushes run out.
PUSHES = 2000


def sample(event_type: str, **fields: Any) -> dict[str, Any]:
    return {**make(event_type, corp_id=CORP), **fields}


def load(port: int, payloads: Iterable[dict[str, Any]], stop: threading.Event | None = None) -> LoadReport:
    """Push over eight connections, sealed with the tests' credentials."""
    return run(
        f"http://127.0.0.1:{port}/dingtalk/callback/",
        settings.DINGTALK_TOKEN,
        settings.DINGTALK_AES_KEY,
        settings.DINGTALK_CORP_ID,
        payloads=payloads,
        stop=stop,
    )


def kill_under_load(port: int, processes: tuple[Process, Process]) -> LoadReport:
    """Kill web server and worker while events are pushed and carried; return what became of the pushes."""
    payloads = [sample("shop_atomic", act="row") if n % 2 else sample("user_add_org") for n in range(PUSHES)]
    stored = Event.objects.count()
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(load, port, payloads, stop)
        try:
            wait_until(lambda: Event.objects.count() > stored + 150 and Delivery.objects.exclude(lease_token=None))
            for process in processes:
                kill(process)
        finally:
            stop.set()
        return pushing.result()


def test_events_acknowledged_before_a_kill_of_web_and_worker_are_stored_once_and_delivered(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    acknowledged: list[dict[str, Any]] = []
    for _ in range(KILLS):
        with web(log, port) as server, deliver(log) as worker:
            wait_until_up(port)
            report = kill_under_load(port, (server, worker))
        assert report.acknowledged, "nothing was acknowledged before the kill"
        assert report.refusals, "the kill came after the load"
        acknowledged += report.acknowledged
        expire_leases()

    with deliver(log):
        wait_until(lambda: not Delivery.objects.pending().exists(), seconds=60)

    stored = Counter(json.loads(body)["eventId"] for body in Event.objects.values_list("body", flat=True))
    assert {payload["eventId"] for payload in acknowledged} <= set(stored)
    assert set(stored.values()) == {1}
    assert Delivery.objects.count() == Event.objects.count() == Delivery.objects.filter(state="delivered").count()
    # The atomic handler's rows: once for each event, however often a worker was killed at it.
    atomic = Event.objects.filter(event_type="shop_atomic").values_list("identity", flat=True)
    assert sorted(Group.objects.values_list("name", flat=True)) == sorted(atomic)


def test_a_handler_that_waits_on_a_network_delays_no_acknowledgement(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with ExitStack() as stack:
        gate = stack.enter_context(Gate())
        stack.enter_context(web(log, port))
        stack.enter_context(deliver(log))
        wait_until_up(port)
        first = load(port, [sample("shop_plain", act="fetch", url=gate.url("slow"))])
        wait_until(lambda: gate.waiting)

        report = load(port, [sample("user_add_org") for _ in range(50)])
        wait_until(lambda: Delivery.objects.filter(state="delivered").count() == 50)

        assert (len(first.acknowledged), len(report.acknowledged)) == (1, 50)
        assert max(report.latencies) < 0.8, "a push waited for the handler"
        assert Delivery.objects.get(state="pending").event.event_type == "shop_plain"
        gate.let_through("slow")
        wait_until(lambda: not Delivery.objects.pending().exists())
