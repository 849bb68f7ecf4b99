"""The simulated lists of approval instances, and what the simulator says to whoever calls too often or too much."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from simulator.instances import CHINA
from simulator.server import Options, Simulator
from tests.caller import call, token_of

OLD = "/topapi/processinstance/listids"
NEW = "/v1.0/workflow/processes/instanceIds/query"
CODE = "PROC-LEAVE"
DAY = 86_400_000
NOW = int(time.time()) * 1000


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


def begin(simulator: Simulator, number: int, days_ago: float, **fields: Any) -> None:
    step = {"EventType": "bpms_instance_change", "processInstanceId": f"i-{number}", "processCode": CODE}
    simulator.happen({**step, "type": "start", "createTime": NOW - int(days_ago * DAY), **fields})


def new(simulator: Simulator, **body: Any) -> dict[str, Any]:
    body = {"processCode": CODE, "nextToken": 0, "maxResults": 20, **body}
    headers = {"x-acs-dingtalk-access-token": token_of(simulator)}
    answer: dict[str, Any] = requests.post(simulator.url + NEW, json=body, headers=headers, timeout=5).json()
    return answer


def old(simulator: Simulator, **body: Any) -> dict[str, Any]:
    return call(simulator, "POST", OLD, {"process_code": CODE, "size": 20, **body})


def test_instances_are_listed_by_template_and_start_twenty_at_a_time(simulator: Simulator) -> None:
    for number in range(45):
        begin(simulator, number, days_ago=10 - number / 100)
    begin(simulator, 90, days_ago=40)
    begin(simulator, 91, days_ago=5, processCode="PROC-OTHER")
    begin(simulator, 92, days_ago=5, type="delete")
    since, expected = NOW - 20 * DAY, [f"i-{number}" for number in range(45)]
    pages = [old(simulator, start_time=since, cursor=cursor)["result"] for cursor in (0, 20, 40)]
    assert [page.get("next_cursor") for page in pages] == [20, 40, None]
    assert [key for page in pages for key in page["list"]] == expected
    pages = [new(simulator, startTime=since, endTime=NOW, nextToken=cursor)["result"] for cursor in (0, 20, 40)]
    assert [page.get("nextToken") for page in pages] == ["20", "40", None]
    assert [key for page in pages for key in page["list"]] == expected


def test_the_new_list_can_be_asked_for_a_status(simulator: Simulator) -> None:
    for number, step in enumerate(("start", "finish", "terminate")):
        begin(simulator, number, days_ago=1, type=step)
    since = NOW - 2 * DAY
    assert new(simulator, startTime=since, statuses=["RUNNING"])["result"]["list"] == ["i-0"]
    assert new(simulator, startTime=since, statuses=["COMPLETED", "TERMINATED"])["result"]["list"] == ["i-1", "i-2"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"processCode": ""}, "invalidProcessCode"),
        ({"startTime": None}, "invalidInstanceListIdsStartTime"),
        ({"maxResults": 21}, "invalidMaxResults"),
        ({"nextToken": None}, "invalidNextToken"),
        ({"startTime": NOW - 121 * DAY, "endTime": NOW}, "invalidEndTime"),
        ({"startTime": NOW - 370 * DAY, "endTime": NOW - 300 * DAY}, "invalidEndTime"),
        ({"startTime": NOW, "endTime": NOW - DAY}, "invalidEndTime"),
    ],
)
def test_what_dingtalk_refuses_to_list_is_refused(simulator: Simulator, changes: dict[str, Any], code: str) -> None:
    assert new(simulator, **{"startTime": NOW - DAY, **changes})["code"] == code


def test_the_old_list_is_refused_to_apps_that_lack_its_permission() -> None:
    with Simulator(Options(old_workflow_permission=False)) as simulator:
        assert old(simulator, start_time=NOW - DAY)["sub_code"] == "60011"


def test_an_api_that_is_called_too_often_names_the_end_of_the_penalty() -> None:
    with Simulator(Options(calls_per_second=5, penalty_seconds=1)) as simulator:
        answers = [call(simulator, "GET", "/call_back/get_call_back_failed_result") for _ in range(6)]
        assert [answer["errcode"] for answer in answers] == [0, 0, 0, 0, 0, 90018]
        named = answers[-1]["errmsg"].partition("处罚将在 ")[2].removesuffix(" 结束.")
        end = datetime.strptime(named, "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp()
        assert 0 < end - time.time() <= 2
        assert old(simulator, start_time=NOW - DAY)["errcode"] == 0  # another API is not punished


def test_calls_count_against_the_months_quota_and_then_every_api_refuses() -> None:
    with Simulator(Options(monthly_calls=2)) as simulator:
        for _ in range(2):
            call(simulator, "GET", "/call_back/get_call_back_failed_result")
        assert old(simulator, start_time=NOW - DAY)["sub_code"] == "90020"
        assert new(simulator, startTime=NOW - DAY)["code"].endswith("ApiCountLimitForOrg")
        assert simulator.state()["calls_used"] == 2


def test_a_step_can_happen_that_nobody_is_told_of(simulator: Simulator) -> None:
    step = {"set": {"type": "finish", "processInstanceId": "i-1", "processCode": CODE, "createTime": NOW - DAY}}
    told = requests.post(f"{simulator.url}/_simulator/happen", json=step, timeout=5).json()
    assert told["payload"]["processInstanceId"] == "i-1"
    assert old(simulator, start_time=NOW - 2 * DAY)["result"]["list"] == ["i-1"]
    assert simulator.acknowledged == []
