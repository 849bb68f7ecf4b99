"""An approval instance tells what its pushes would have told."""

import json
from typing import Any

import pytest

from callbacks import payload
from registrar.steps import steps

START = {
    "EventType": "bpms_instance_change",
    "eventId": "e-1",
    "processInstanceId": "i-1",
    "corpId": "ding1",
    "createTime": 1608535826000,
    "title": "测试用户提交的请假",
    "type": "start",
    "staffId": "u-1",
    "url": "https://aflow.dingtalk.com/dingtalk/mobile/homepage.htm",
    "processCode": "PROC-1",
}
FINISH = {**START, "eventId": "e-2", "type": "finish", "result": "agree", "finishTime": 1608535827000}
TERMINATE = {**START, "eventId": "e-3", "type": "terminate", "finishTime": 1608535827000}
INSTANCE = {
    "title": "测试用户提交的请假",
    "create_time": "2020-12-21 15:30:26",
    "finish_time": "2020-12-21 15:30:27",
    "originator_userid": "u-1",
    "status": "COMPLETED",
    "result": "agree",
    "business_id": "20201",
}


def made(**changes: Any) -> list[dict[str, Any]]:
    return [json.loads(step.body) for step in steps({**INSTANCE, **changes}, "i-1", "PROC-1", "ding1")]


@pytest.mark.parametrize(
    ("changes", "pushes"),
    [
        ({}, [START, FINISH]),
        ({"result": "refuse"}, [START, {**FINISH, "result": "refuse"}]),
        ({"status": "TERMINATED", "result": ""}, [START, TERMINATE]),
        ({"status": "CANCELED", "result": ""}, [START, TERMINATE]),
        ({"status": "RUNNING", "result": "", "finish_time": ""}, [START]),
    ],
)
def test_each_step_is_the_event_that_a_push_of_it_would_be(
    changes: dict[str, Any], pushes: list[dict[str, Any]]
) -> None:
    events = made(**changes)
    assert len(events) == len(pushes)
    for event, push in zip(events, pushes, strict=True):
        ours, theirs = (payload.read(json.dumps(each), salt="") for each in (event, push))
        assert (ours.identity, ours.subject, ours.corp_id) == (theirs.identity, theirs.subject, theirs.corp_id)
        for name in ("EventType", "type", "title", "staffId", "processCode", "createTime"):
            assert event[name] == push[name]
        assert event.get("finishTime") == push.get("finishTime")
        assert event.get("result") == push.get("result")


def test_the_new_apis_minutes_are_chinas_and_not_exact() -> None:
    start, finish = steps(
        {**INSTANCE, "create_time": "2020-12-21T15:30Z", "finish_time": "2020-12-21T15:31Z"}, "i-1", "PROC-1", "ding1"
    )
    assert (start.at, start.is_exact) == (1608535800000, False)
    assert (finish.at, finish.is_exact) == (1608535860000, False)


@pytest.mark.parametrize("time", ["", None, "soon", 17])
def test_a_step_without_a_time_is_none(time: Any) -> None:
    assert [event["type"] for event in made(finish_time=time)] == ["start"]
    assert made(create_time=time, finish_time=time) == []
