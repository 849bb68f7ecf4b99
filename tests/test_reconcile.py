"""Reconciling: the approval events that never came are made, none is doubled, and what it costs is told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from callbacks import payload, pruning
from callbacks.inbox import receive
from callbacks.models import Delivery, Event
from registrar import calls
from registrar.client import LIST_IDS, LIST_IDS_V1, DingTalkClient
from registrar.failed_list import read_failed_list
from registrar.models import ApiCalls
from simulator.server import Options, Simulator
from tests import processes
from tests.command import Said, dingtalk, document

CODE = "PROC-LEAVE"
CORP = "dingtestcorp0001"
GET = "/topapi/processinstance/get"
NOW = int(time.time()) * 1000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
FROM = datetime.fromtimestamp((NOW - 2 * DAY) / 1000, timezone.utc).isoformat()


@pytest.fixture
def simulator(settings: Any) -> Iterator[Simulator]:
    with Simulator(Options(corp_id=CORP)) as running:
        settings.DINGTALK_OAPI_URL = settings.DINGTALK_API_URL = running.url
        settings.DINGTALK_APP_KEY = running.options.app_key
        settings.DINGTALK_APP_SECRET = running.options.app_secret
        settings.DINGTALK_CALLS_PER_SECOND = 0
        yield running
    DingTalkClient._shared.clear()


def step(number: int, change: str, began: int, ended: int = 0, code: str = CODE) -> dict[str, Any]:
    """Return what a push says of an approval; times in ms before now."""
    end = {"finishTime": NOW - ended} if change != "start" else {}
    return {
        "EventType": "bpms_instance_change",
        "eventId": f"e-{number}-{change}",
        "processInstanceId": f"i-{number}",
        "corpId": CORP,
        "processCode": code,
        "createTime": NOW - began,
        "title": f"请假 {number}",
        "staffId": f"u-{number}",
        "type": change,
        **end,
        **({"result": "agree"} if change == "finish" else {}),
    }


def received(pushed: dict[str, Any]) -> None:
    receive(payload.read(json.dumps(pushed), salt="push"))


def run(*args: str) -> Said:
    return dingtalk("reconcile", "--from", FROM, *args)


def steps() -> Counter[tuple[str, str]]:
    """Return how often the inbox has each step of each instance."""
    rows = Event.objects.filter(event_type="bpms_instance_change").values_list("payload", flat=True)
    return Counter((data["processInstanceId"], data["type"]) for data in rows)


def outage(simulator: Simulator) -> None:
    """Let five approvals happen, of which the inbox heard in part."""
    for number, changes, began, ended, heard in (
        (1, ("start", "finish"), HOUR, 10 * MINUTE, ()),  # nothing
        (2, ("start", "finish"), HOUR, 10 * MINUTE, ("start",)),
        (3, ("start", "terminate"), 10 * DAY, HOUR, ("start",)),  # began before the period
        (4, ("start",), HOUR, 0, ("start",)),  # still running
        (5, ("start", "finish"), HOUR, MINUTE, ("start", "finish")),
        (6, ("start", "finish"), 10 * DAY, 9 * DAY, ()),  # before the period
    ):
        for change in changes:
            simulator.happen(step(number, change, began, ended))
            if change in heard:
                received(step(number, change, began, ended))


@pytest.mark.django_db
@pytest.mark.parametrize("workflow_api", ["topapi", "v1.0", "auto"])
def test_what_never_came_is_made_and_nothing_twice(simulator: Simulator, settings: Any, workflow_api: str) -> None:
    settings.DINGTALK_WORKFLOW_API = workflow_api
    outage(simulator)
    said = document(run("--yes", "--json"))
    expected = {("i-1", "start"), ("i-1", "finish"), ("i-2", "finish"), ("i-3", "terminate")}
    assert {(made["instance"], made["type"]) for made in said["events"]} == expected
    assert steps() == Counter(
        [*expected, ("i-2", "start"), ("i-3", "start"), ("i-4", "start"), ("i-5", "start"), ("i-5", "finish")]
    )
    assert Event.objects.filter(source="reconcile").count() == said["made"] == 4
    made = Event.objects.get(payload__processInstanceId="i-1", payload__type="finish")
    assert (made.corp_id, made.subject) == (CORP, f"{CORP}:instance:i-1")
    assert made.payload["result"] == "agree"
    assert Delivery.objects.pending().filter(event=made).exists()
    assert document(run("--yes", "--json"))["made"] == 0


@pytest.mark.django_db
def test_a_push_that_comes_later_is_known(simulator: Simulator) -> None:
    outage(simulator)
    run("--yes")
    for number, change in ((1, "start"), (1, "finish"), (2, "finish")):
        received(step(number, change, HOUR, 10 * MINUTE))
    assert max(steps().values()) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("workflow_api", ["topapi", "v1.0"])
def test_an_entry_of_the_failed_list_that_comes_later_is_known(
    simulator: Simulator, settings: Any, workflow_api: str
) -> None:
    settings.DINGTALK_WORKFLOW_API = workflow_api
    pushed = step(1, "finish", HOUR, 10 * MINUTE + 7_000)
    simulator.happen(pushed)
    received(step(2, "start", HOUR))
    run("--yes")
    inner = {"bpmsCallBackData": pushed, "corpid": CORP}
    simulator.add_failed({"call_back_tag": pushed["EventType"], "event_time": NOW, "bpms_instance_change": inner})
    (page,) = read_failed_list(DingTalkClient.from_settings())
    assert (page.new, page.known) == (0, 1)
    assert steps()["i-1", "finish"] == 1


@pytest.mark.django_db
def test_without_a_terminal_it_says_what_it_would_cost_and_touches_nothing(simulator: Simulator) -> None:
    outage(simulator)
    before = Event.objects.count()
    said = run("--process-code", CODE, "--process-code", "PROC-OTHER")
    assert said.status == 2
    assert "--yes" in said.err
    assert "at least 4, one more for each further 20 instances" in said.out
    assert "can't be found" in said.out
    assert not simulator.calls
    assert Event.objects.count() == before
    assert json.loads(run("--json").out)["least_calls"] == 2


@pytest.mark.django_db
def test_the_calls_that_it_tells_are_those_that_it_made(simulator: Simulator) -> None:
    outage(simulator)
    for number in range(100, 145):
        simulator.happen(step(number, "start", HOUR))
        received(step(number, "start", HOUR))
        simulator.happen(step(number, "finish", HOUR, MINUTE))
        received(step(number, "finish", HOUR, MINUTE))
    said = run("--yes")
    paths = Counter(path for _, path in simulator.calls)
    assert paths == {"/gettoken": 1, LIST_IDS: 4, GET: 5}
    assert "The lists took 5 calls. Instances to fetch: 5" in said.out
    assert "API calls spent: 10." in said.out
    assert calls.used() == 10


@pytest.mark.django_db
def test_many_that_still_run_are_not_fetched_where_the_list_can_tell(simulator: Simulator, settings: Any) -> None:
    settings.DINGTALK_WORKFLOW_API = "v1.0"
    for number in range(30):
        simulator.happen(step(number, "start", HOUR))
        received(step(number, "start", HOUR))
    simulator.happen(step(7, "finish", HOUR, 10 * MINUTE))
    assert document(run("--yes", "--json"))["fetched"] == 1
    assert steps()["i-7", "finish"] == 1
    assert [path for _, path in simulator.calls].count(LIST_IDS_V1) == 1 + 2 + 2


@pytest.mark.django_db
def test_a_long_period_is_listed_in_windows_that_dingtalk_takes(simulator: Simulator) -> None:
    for number, days in enumerate((1, 130, 200, 300, 340)):
        simulator.happen(step(number, "start", days * DAY))
    since = datetime.fromtimestamp((NOW - 330 * DAY) / 1000, timezone.utc).isoformat()
    said = document(dingtalk("reconcile", "--from", since, "--process-code", CODE, "--yes", "--json"))
    assert said["made"] == 4
    assert ("i-4", "start") not in steps()


@pytest.mark.django_db
def test_what_may_have_been_pruned_is_not_made_anew(simulator: Simulator) -> None:
    simulator.happen(step(1, "finish", 30 * HOUR, 28 * HOUR))
    simulator.happen(step(2, "finish", 30 * HOUR, HOUR))
    pruning.move_horizon(datetime.fromtimestamp((NOW - DAY) / 1000, timezone.utc))
    said = run("--process-code", CODE, "--yes")
    assert "may have been pruned" in said.out
    assert steps() == Counter([("i-2", "finish")])


@pytest.mark.django_db
def test_a_step_without_its_second_waits_until_no_push_of_it_can_come(simulator: Simulator, settings: Any) -> None:
    settings.DINGTALK_WORKFLOW_API = "v1.0"
    simulator.happen(step(1, "start", 0))
    assert "Left for two minutes" in run("--process-code", CODE, "--yes").out
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_the_inbox_is_compared_under_whichever_corp_id_it_has(simulator: Simulator, settings: Any) -> None:
    settings.DINGTALK_CORP_ID = "dinganothercorp"
    simulator.happen(step(1, "start", HOUR))
    received(step(1, "start", HOUR))
    assert document(run("--yes", "--json"))["made"] == 0


@pytest.mark.django_db
def test_it_stops_at_four_fifths_of_the_month_and_goes_on_later(simulator: Simulator, settings: Any) -> None:
    for number in range(30):
        simulator.happen(step(number, "finish", HOUR, MINUTE))
    settings.DINGTALK_MONTHLY_CALLS = 20
    said = run("--process-code", CODE, "--yes")
    assert said.status == 1
    assert "16 of this month's 20 API calls are used" in said.err
    assert "the same command goes on from there" in said.err
    made = Event.objects.filter(payload__type="finish").count()
    assert 0 < made < 30
    settings.DINGTALK_MONTHLY_CALLS = 5000
    assert document(run("--process-code", CODE, "--yes", "--json"))["fetched"] == 30 - made
    assert sum(steps().values()) == 60


@pytest.mark.django_db
def test_a_month_that_is_used_up_is_said(simulator: Simulator) -> None:
    simulator.fail(LIST_IDS, "quota")
    said = run("--process-code", CODE, "--yes")
    assert said.status == 1
    assert "90020" in said.err


@pytest.mark.django_db
def test_a_busy_dingtalk_is_asked_again(simulator: Simulator) -> None:
    simulator.happen(step(1, "start", HOUR))
    simulator.fail(LIST_IDS, "busy")
    simulator.fail(GET, "penalty")
    assert document(run("--process-code", CODE, "--yes", "--json"))["made"] == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--from", "soon"), "--from must be a day"),
        (("--from", "2026-01-02", "--to", "2026-01-01"), "before --to"),
        (("--from", "2999-01-01"), "future"),
        (("--from", "2020-01-01"), "365 days"),
        (("--from", FROM, "--lookback", "-1"), "--lookback"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(args: tuple[str, ...], words: str) -> None:
    said = dingtalk("reconcile", *args)
    assert said.status == 2
    assert words in said.err


@pytest.mark.django_db
def test_an_empty_inbox_knows_no_template(simulator: Simulator) -> None:
    said = run("--yes")
    assert said.status == 1
    assert "--process-code" in said.err
    assert not simulator.calls


@pytest.mark.django_db(transaction=True)
def test_a_run_that_is_killed_half_way_is_taken_up_by_the_next(simulator: Simulator) -> None:
    for number in range(60):
        simulator.happen(step(number, "finish", 2 * HOUR, HOUR))
    how = processes.environment(
        DINGTALK_OAPI_URL=simulator.url,
        DINGTALK_API_URL=simulator.url,
        DINGTALK_APP_KEY=simulator.options.app_key,
        DINGTALK_APP_SECRET=simulator.options.app_secret,
    )
    command = [sys.executable, "manage.py", "dingtalk", "reconcile", "--from", FROM, "--process-code", CODE, "--yes"]
    killed = subprocess.Popen(command, cwd=processes.ROOT, env=how, stdout=subprocess.DEVNULL)
    try:
        processes.wait_until(lambda: Event.objects.count() > 20)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    half = Event.objects.filter(payload__type="finish").count()
    assert half < 60
    said = document(run("--process-code", CODE, "--yes", "--json"))
    assert said["fetched"] <= 60 - half + 1
    assert steps() == Counter({(f"i-{n}", change): 1 for n in range(60) for change in ("start", "finish")})
    assert ApiCalls.objects.total() >= 60
