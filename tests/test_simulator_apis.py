"""The simulated APIs: tokens, process instances, the failed list, and what goes wrong with them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests

from simulator.failed import entry
from simulator.faults import NAMES
from simulator.server import Simulator
from tests.caller import FAST, call, failed_entries, failed_page, register, token_of
from tests.receiver import CORP_ID, Receiver

OLD = "/topapi/processinstance/get"
NEW = "/v1.0/workflow/processInstances"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(FAST) as simulator:
        yield simulator


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def get(simulator: Simulator, path: str, **query: str) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(simulator.url + path, params=query, timeout=5).json()
    return answer


def new_api(simulator: Simulator, instance_id: str, token: str | None = None) -> requests.Response:
    headers = {"x-acs-dingtalk-access-token": token_of(simulator) if token is None else token}
    query = {"processInstanceId": instance_id}
    return requests.get(simulator.url + NEW, params=query, headers=headers, timeout=5)


# Tokens


def test_gettoken_gives_the_same_token_until_it_expires_or_is_revoked(simulator: Simulator) -> None:
    first = token_of(simulator)
    assert token_of(simulator) == first
    simulator.revoke_tokens()
    assert token_of(simulator) != first


def test_gettoken_reads_the_query_only(simulator: Simulator) -> None:
    secrets = {"appkey": simulator.options.app_key, "appsecret": simulator.options.app_secret}
    answer = requests.get(f"{simulator.url}/gettoken", data=secrets, timeout=5).json()
    assert answer == {"errcode": 40035, "errmsg": "缺少参数 corpid or appkey"}


def test_gettoken_knows_its_app(simulator: Simulator) -> None:
    answer = get(simulator, "/gettoken", appkey=simulator.options.app_key, appsecret="wrong")
    assert answer == {"errcode": 40096, "errmsg": "不合法的appKey或appSecret"}


def test_the_new_access_token_is_a_token_of_the_old_apis(simulator: Simulator) -> None:
    body = {"appKey": simulator.options.app_key, "appSecret": simulator.options.app_secret}
    answer = requests.post(f"{simulator.url}/v1.0/oauth2/accessToken", json=body, timeout=5).json()
    assert answer == {"accessToken": token_of(simulator), "expireIn": 7200}
    refused = requests.post(f"{simulator.url}/v1.0/oauth2/accessToken", json={**body, "appSecret": "x"}, timeout=5)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalidClientIdOrSecret")


@pytest.mark.parametrize(
    ("token", "errcode", "wrapped", "code"),
    [
        ("", 41001, "40000", "AuthenticationFailed.MissingParameter"),
        ("unknown", 40014, "40014", "InvalidAuthentication"),
    ],
)
def test_a_missing_or_wrong_token_is_told_of_by_each_api_in_its_way(
    simulator: Simulator, token: str, errcode: int, wrapped: str, code: str
) -> None:
    assert get(simulator, "/call_back/get_call_back", access_token=token)["errcode"] == errcode
    topapi = requests.post(simulator.url + OLD, params={"access_token": token}, timeout=5).json()
    assert (topapi["errcode"], topapi["sub_code"]) == (88, wrapped)
    answer = new_api(simulator, "x", token)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_an_old_token_has_expired() -> None:
    with Simulator(replace(FAST, token_lifetime=0.0)) as simulator:
        token = token_of(simulator)
        assert get(simulator, "/call_back/get_call_back", access_token=token)["errcode"] == 42001
        assert token_of(simulator) != token


@pytest.mark.parametrize(
    ("method", "path", "errcode"),
    [
        ("POST", "/call_back/get_call_back", 43001),
        ("POST", "/call_back/delete_call_back", 43001),
        ("DELETE", "/call_back/delete_call_back", 43001),
        ("POST", "/call_back/get_call_back_failed_result", 43001),
        ("GET", "/call_back/register_call_back", 43002),
        ("GET", "/call_back/update_call_back", 43002),
        ("GET", OLD, 43002),
        ("GET", "/call_back/no_such_call", 22),
    ],
)
def test_each_api_has_one_method(simulator: Simulator, method: str, path: str, errcode: int) -> None:
    assert call(simulator, method, path)["errcode"] == errcode


def test_calls_are_noted_without_their_secrets(simulator: Simulator) -> None:
    call(simulator, "GET", "/call_back/get_call_back")
    assert simulator.calls == [("GET", "/gettoken"), ("GET", "/call_back/get_call_back")]
    assert simulator.options.app_secret not in repr(simulator.options)


# Process instances


def test_an_instance_put_in_by_hand_is_served_by_both_apis(simulator: Simulator) -> None:
    simulator.instances["p-1"] = {
        "title": "请假",
        "create_time": "2026-09-21 09:30:15",
        "originator_userid": "u1",
        "approver_userids": ["u2"],
        "cc_userids": [],
        "form_component_values": [{"component_type": "TextField", "name": "天数", "value": "1"}],
        "operation_records": [{"userid": "u1", "operation_type": "START_PROCESS_INSTANCE", "operation_result": "NONE"}],
        "tasks": [{"taskid": "7", "userid": "u2", "task_status": "RUNNING", "task_result": "NONE", "url": "https://x"}],
    }
    old = call(simulator, "POST", OLD, {"process_instance_id": "p-1"})
    assert old["errcode"] == 0
    assert old["process_instance"] == simulator.instances["p-1"]
    new = new_api(simulator, "p-1").json()
    assert new["success"] == "true"
    assert new["result"] == {
        "title": "请假",
        "createTime": "2026-09-21T09:30Z",
        "originatorUserId": "u1",
        "approverUserIds": ["u2"],
        "ccUserIds": [],
        "formComponentValues": [{"componentType": "TextField", "name": "天数", "value": "1"}],
        "operationRecords": [{"userId": "u1", "type": "START_PROCESS_INSTANCE", "result": "NONE"}],
        "tasks": [{"taskId": "7", "userId": "u2", "status": "RUNNING", "result": "NONE", "pcUrl": "https://x"}],
    }
    assert simulator.fetches == {"p-1": 2}


@pytest.mark.parametrize(
    ("changes", "status", "result"),
    [
        ({"type": "start"}, "RUNNING", ""),
        ({"type": "finish", "result": "refuse"}, "COMPLETED", "refuse"),
        ({"type": "terminate"}, "TERMINATED", ""),
    ],
)
def test_a_pushed_instance_can_be_fetched_as_it_then_stands(
    simulator: Simulator, changes: dict[str, str], status: str, result: str
) -> None:
    payload = simulator.push("bpms_instance_change", overrides=changes, wait=True).payload
    instance = call(simulator, "POST", OLD, {"process_instance_id": payload["processInstanceId"]})["process_instance"]
    assert (instance["status"], instance["result"]) == (status, result)
    assert instance["originator_userid"] == payload["staffId"]
    assert instance["title"] == payload["title"]


def test_an_instance_that_is_unknown_deleted_or_set_to_missing_is_not_found(simulator: Simulator) -> None:
    deleted = simulator.push("bpms_instance_change", overrides={"type": "delete"}, wait=True).payload
    missing = simulator.push("bpms_instance_change", wait=True).payload
    simulator.missing_instances.add(missing["processInstanceId"])
    for instance_id in ("never-heard-of", deleted["processInstanceId"], missing["processInstanceId"]):
        assert call(simulator, "POST", OLD, {"process_instance_id": instance_id})["errcode"] == 820005
        answer = new_api(simulator, instance_id)
        assert (answer.status_code, answer.json()["code"]) == (400, "processInstanceNotExist")


def test_a_newer_app_has_no_permission_for_the_old_instance_api() -> None:
    with Simulator(replace(FAST, old_workflow_permission=False)) as simulator:
        simulator.instances["p-1"] = {"title": "请假"}
        answer = call(simulator, "POST", OLD, {"process_instance_id": "p-1"})
        assert (answer["errcode"], answer["sub_code"]) == (88, "60011")
        assert new_api(simulator, "p-1").json()["result"] == {"title": "请假"}


# The failed list


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"call_back_tag": "check_in", "event_time": number, "check_in": {}} for number in range(count)]


def test_the_failed_list_comes_in_pages_and_goes_with_the_next_read(simulator: Simulator) -> None:
    for each in numbered(450):
        simulator.add_failed(each)
    pages = [failed_page(simulator) for _ in range(4)]
    assert [(len(page["failed_list"]), page["has_more"]) for page in pages] == [
        (200, True),
        (200, True),
        (50, False),
        (0, False),
    ]
    assert [each["event_time"] for page in pages for each in page["failed_list"]] == list(range(450))


@pytest.mark.parametrize(("delete_on_next_read", "left"), [(True, 3), (False, 0)])
def test_a_page_stays_until_the_next_read_unless_told_otherwise(delete_on_next_read: bool, left: int) -> None:
    with Simulator(replace(FAST, delete_on_next_read=delete_on_next_read)) as simulator:
        for each in numbered(3):
            simulator.add_failed(each)
        failed_page(simulator)
        assert len(simulator.dingtalk.failed_list) == left


def test_a_failed_push_shows_up_after_a_while(receiver: Receiver) -> None:
    with Simulator(replace(FAST, failed_list_delay=60 * FAST.clock_scale)) as simulator:
        register(simulator, receiver.url)
        receiver.answer = lambda _: (500, {}, "")
        simulator.push("user_add_org", wait=True)
        assert len(simulator.dingtalk.failed_list) == 1
        assert failed_page(simulator)["failed_list"] == []


def test_an_entry_has_the_shape_that_was_asked_for() -> None:
    user = {"EventType": "user_add_org", "eventId": "e", "CorpId": CORP_ID, "timeStamp": "1", "userId": ["u1"]}
    head = {"call_back_tag": "user_add_org", "event_time": 2000}
    for shape, expected in (
        ("callbackData", {"user_add_org": {"callbackData": {"userId": ["u1"]}, "corpid": CORP_ID}}),
        ("inlined", {"user_add_org": {"userid": ["u1"], "corpid": CORP_ID}}),
        ("flat", {"userid": ["u1"], "corpid": CORP_ID}),
    ):
        assert entry(user, shape, CORP_ID, 2.0) == {**expected, **head}
    label = entry({"EventType": "label_conf_add", "labelIdList": [1]}, "inlined", CORP_ID, 2.0)
    assert label["label_conf_add"] == {"roleLabelChange": {"labelIdList": [1]}, "corpid": CORP_ID}


@pytest.mark.parametrize("shape", ["inlined", "flat"])
def test_a_failed_push_is_listed_in_the_shape_of_the_switch(receiver: Receiver, shape: str) -> None:
    with Simulator(replace(FAST, failed_shape=shape)) as simulator:
        register(simulator, receiver.url)
        receiver.answer = lambda _: (500, {}, "")
        push = simulator.push("user_add_org", wait=True)
        (listed,) = failed_entries(simulator, 1)
    inner = listed["user_add_org"] if shape == "inlined" else listed
    assert inner["userid"] == push.payload["userId"]


# Faults


def test_a_fault_lasts_as_long_as_was_asked_for_and_hits_its_path_only(simulator: Simulator) -> None:
    token = token_of(simulator)
    simulator.fail("/call_back/get_call_back", "throttled", times=2)
    codes = [get(simulator, "/call_back/get_call_back", access_token=token)["errcode"] for _ in range(3)]
    assert codes == [90018, 90018, 71007]
    simulator.fail("*", "busy")
    assert get(simulator, "/gettoken")["errcode"] == -1


@pytest.mark.parametrize(
    ("fault", "errcode", "wrapped", "new"),
    [
        ("busy", -1, None, (503, "ServiceUnavailable")),
        ("throttled", 90018, "90018", (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi")),
        ("quota", 90020, "90020", (403, "Forbidden.AccessDenied.ApiCountLimitForOrg")),
        ("token_expired", 42001, "42001", (400, "InvalidAuthentication")),
        ("token_invalid", 40014, "40014", (400, "InvalidAuthentication")),
        ("permission", 60011, "60011", (403, "Forbidden.AccessDenied.AccessTokenPermissionDenied")),
        ("ip", 60020, "60020", (403, "Forbidden.AccessDenied.IpNotInWhiteList")),
    ],
)
def test_an_error_on_demand_has_the_form_of_each_api(
    simulator: Simulator, fault: str, errcode: int, wrapped: str | None, new: tuple[int, str]
) -> None:
    simulator.fail("/call_back/get_call_back", fault)
    assert call(simulator, "GET", "/call_back/get_call_back")["errcode"] == errcode
    simulator.fail(OLD, fault)
    topapi = call(simulator, "POST", OLD)
    assert (topapi["errcode"], topapi.get("sub_code")) == ((88, wrapped) if wrapped else (errcode, None))
    simulator.fail(NEW, fault)
    answer = new_api(simulator, "x")
    assert (answer.status_code, answer.json()["code"]) == new
    assert set(answer.json()) == {"code", "message", "requestid"}


@pytest.mark.parametrize("fault", ["half", "drop", "timeout"])
def test_a_broken_connection_on_demand_is_one(fault: str) -> None:
    with Simulator(replace(FAST, hold_seconds=0.1)) as simulator:
        simulator.fail("/gettoken", fault)
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            requests.get(f"{simulator.url}/gettoken", timeout=5)


def test_answers_that_are_none_of_the_apis_own(simulator: Simulator) -> None:
    for fault in ("500", "html", "punish"):
        simulator.fail("/gettoken", fault)
    broken, page, punished = (requests.get(f"{simulator.url}/gettoken", timeout=5) for _ in range(3))
    assert broken.status_code == 500
    assert page.headers["Content-Type"] == "text/html"
    assert punished.json()["punish"] == "deny"


def test_a_slow_call_is_answered_in_the_end() -> None:
    with Simulator(replace(FAST, slow_seconds=0.3)) as simulator:
        simulator.fail("/gettoken", "slow")
        answer = requests.get(f"{simulator.url}/gettoken", timeout=5)
    assert answer.elapsed.total_seconds() >= 0.3
    assert answer.json()["errcode"] == 40035


def test_an_unknown_fault_names_those_there_are(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="it is one of busy"):
        simulator.fail("/gettoken", "nonsense")
    assert "busy" in NAMES
