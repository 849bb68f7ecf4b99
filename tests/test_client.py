"""The client over real sockets to the simulator; `responses` only where a clock or an odd answer is needed."""

import io
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import responses

from registrar import errors
from registrar.client import DingTalkClient
from registrar.instances import old_shape
from registrar.transport import exchange
from simulator.server import Options, Simulator
from tests.listener import Listener

SECRET = "client-secret-k2Lm9QxZ"
OAPI = "https://oapi.dingtalk.com"
GET_FAILED = "/call_back/get_call_back_failed_result"
OLD_INSTANCE = "/topapi/processinstance/get"
NEW_INSTANCE = "/v1.0/workflow/processInstances"

INSTANCE = {
    "title": "采购申请",
    "create_time": "2026-10-01 09:00:00",
    "originator_userid": "u-17",
    "approver_userids": ["u-18"],
    "cc_userids": ["u-19"],
    "status": "COMPLETED",
    "result": "agree",
    "business_id": "202610010001",
    "biz_action": "NONE",
    "form_component_values": [
        {"component_type": "TextField", "name": "事由", "id": "T1", "value": "纸", "ext_value": ""}
    ],
    "operation_records": [
        {
            "date": "2026-10-01 09:00:00",
            "operation_type": "START_PROCESS_INSTANCE",
            "operation_result": "NONE",
            "userid": "u-17",
        }
    ],
    "tasks": [
        {
            "taskid": "880017",
            "userid": "u-18",
            "task_status": "COMPLETED",
            "task_result": "AGREE",
            "url": "https://a.example",
        }
    ],
}


@pytest.fixture(autouse=True)
def _forget_tokens() -> Iterator[None]:
    yield
    DingTalkClient._shared.clear()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Options(app_secret=SECRET, hold_seconds=5)) as running:
        yield running


def client_of(simulator: Simulator, **changes: Any) -> DingTalkClient:
    options = simulator.options
    fields = {"app_key": options.app_key, "app_secret": options.app_secret, "oapi_url": simulator.url}
    return DingTalkClient(**{**fields, "api_url": simulator.url, **changes})


def paths(simulator: Simulator) -> list[str]:
    return [path for _, path in simulator.calls]


def test_the_token_is_asked_for_once_by_all_threads_and_clients_of_an_app(simulator: Simulator) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: client_of(simulator).token(), range(40)))
    assert len(tokens) == 1
    assert paths(simulator) == ["/gettoken"]


def test_another_app_gets_a_token_of_its_own(simulator: Simulator) -> None:
    client_of(simulator).token()
    with pytest.raises(errors.Refused, match="40096"):
        client_of(simulator, app_secret="another").token()


def test_a_token_is_renewed_before_it_expires() -> None:
    with responses.RequestsMock() as dingtalk:
        dingtalk.get(f"{OAPI}/gettoken", json={"errcode": 0, "access_token": "first", "expires_in": 1})
        asked = DingTalkClient("dingkey", SECRET)
        assert asked.token() == "first"
        dingtalk.upsert("GET", f"{OAPI}/gettoken", json={"errcode": 0, "access_token": "second", "expires_in": 7200})
        assert asked.token() == "first"
        time.sleep(0.55)
        assert asked.token() == "second"
        kept_for = asked._state().renew_at - time.monotonic()
        assert 6800 < kept_for < 7000


@pytest.mark.parametrize("fault", ["token_expired", "token_invalid"])
@pytest.mark.parametrize(
    ("path", "call"),
    [
        (GET_FAILED, lambda client: client.failed_callbacks()),
        (OLD_INSTANCE, lambda client: client.process_instance("i-1")),
        (NEW_INSTANCE, lambda client: client.process_instance("i-1")),
    ],
)
def test_an_expired_token_is_renewed_once_and_the_call_repeated(
    simulator: Simulator, path: str, call: Callable[[DingTalkClient], Any], fault: str
) -> None:
    simulator.instances["i-1"] = INSTANCE
    asking = client_of(simulator, workflow_api="v1.0" if path == NEW_INSTANCE else "topapi")
    simulator.fail(path, fault)
    assert call(asking)
    assert paths(simulator) == ["/gettoken", path, "/gettoken", path]

    simulator.fail(path, fault, times=2)
    with pytest.raises(errors.TokenExpired):
        call(asking)
    assert paths(simulator)[4:] == [path, "/gettoken", path]


def test_a_revoked_token_costs_one_renewal_for_all_calls_after_it(simulator: Simulator) -> None:
    asking = client_of(simulator)
    asking.failed_callbacks()
    simulator.revoke_tokens()
    asking.failed_callbacks()
    asking.failed_callbacks()
    assert paths(simulator).count("/gettoken") == 2


def test_a_missing_permission_drops_the_token_once(simulator: Simulator) -> None:
    asking = client_of(simulator)
    simulator.fail(GET_FAILED, "permission")
    assert json.loads(asking.failed_callbacks())["failed_list"] == []
    simulator.fail(GET_FAILED, "permission", times=2)
    with pytest.raises(errors.PermissionMissing, match="权限管理"):
        asking.failed_callbacks()
    assert paths(simulator) == ["/gettoken", GET_FAILED, "/gettoken", GET_FAILED, GET_FAILED, "/gettoken", GET_FAILED]


def test_the_calls_use_the_documented_methods_and_bodies() -> None:
    with responses.RequestsMock() as dingtalk:
        dingtalk.get(f"{OAPI}/gettoken", json={"errcode": 0, "access_token": "t-9", "expires_in": 7200})
        for verb, name in (("POST", "register"), ("POST", "update"), ("GET", "get"), ("GET", "delete")):
            dingtalk.add(verb, f"{OAPI}/call_back/{name}_call_back", json={"errcode": 0, "errmsg": "ok"})
        asking = DingTalkClient("dingkey", SECRET)
        asking.register_callback("https://shop.example/cb", ["user_add_org"], "tok", "a" * 43)
        asking.update_callback("https://shop.example/cb", ["user_add_org"], "tok", "a" * 43)
        asking.query_callback()
        asking.delete_callback()
        sent = [call.request for call in dingtalk.calls]
    assert sent[0].url == f"{OAPI}/gettoken?appkey=dingkey&appsecret={SECRET}"
    assert all((request.url or "").endswith("?access_token=t-9") for request in sent[1:])
    body = b'{"call_back_tag": ["user_add_org"], "token": "tok", "aes_key": "%s", "url": "https://shop.example/cb"}'
    assert [request.body for request in sent[1:]] == [body % (b"a" * 43), body % (b"a" * 43), None, None]


def test_both_instance_apis_give_the_same_shape(simulator: Simulator) -> None:
    simulator.instances["i-1"] = INSTANCE
    old = client_of(simulator, workflow_api="topapi").process_instance("i-1")
    new = client_of(simulator, workflow_api="v1.0").process_instance("i-1")
    assert old == INSTANCE
    times = {"create_time": "2026-10-01T09:00Z"}  # as they are sent
    records = [{**INSTANCE["operation_records"][0], "date": "2026-10-01T09:00Z"}]  # type: ignore[dict-item]
    assert new == {**INSTANCE, **times, "operation_records": records}


def test_every_documented_field_of_the_new_api_has_its_old_name() -> None:
    record = {
        "userId": "u",
        "date": "d",
        "type": "T",
        "result": "R",
        "remark": "m",
        "ccUserIds": ["c"],
        "activityId": "a",
        "showName": "s",
        "images": ["x"],
        "attachments": [{"fileName": "f", "fileSize": "1", "spaceId": 2}],
    }
    task = {
        "taskId": 9,
        "userId": "u",
        "status": "S",
        "result": "R",
        "createTime": "c",
        "finishTime": "f",
        "mobileUrl": "m",
        "pcUrl": "p",
        "processInstanceId": "i",
        "activityId": "a",
        "taskGroupName": "g",
    }
    shaped = old_shape(
        {
            "title": "t",
            "createTime": "c",
            "finishTime": "2022-08-31T11:52Z",
            "originatorUserId": "o",
            "originatorDeptId": "1",
            "originatorDeptName": "n",
            "status": "RUNNING",
            "approverUserIds": ["a"],
            "ccUserIds": ["c"],
            "result": "agree",
            "businessId": "b",
            "bizAction": "NONE",
            "bizData": "{}",
            "attachedProcessInstanceIds": [],
            "mainProcessInstanceId": "m",
            "operationRecords": [record],
            "tasks": [task],
            "formComponentValues": [{"id": "1", "extValue": "e", "componentType": "k", "bizAlias": "z", "value": "V"}],
        }
    )
    assert set(shaped) == {
        "title",
        "create_time",
        "finish_time",
        "originator_userid",
        "originator_dept_id",
        "originator_dept_name",
        "status",
        "approver_userids",
        "cc_userids",
        "result",
        "business_id",
        "biz_action",
        "biz_data",
        "attached_process_instance_ids",
        "main_process_instance_id",
        "operation_records",
        "tasks",
        "form_component_values",
    }
    assert shaped["finish_time"] == "2022-08-31T11:52Z"
    assert set(shaped["operation_records"][0]) == {
        "userid",
        "date",
        "operation_type",
        "operation_result",
        "remark",
        "cc_userids",
        "activity_id",
        "show_name",
        "images",
        "attachments",
    }
    assert shaped["operation_records"][0]["attachments"] == [{"file_name": "f", "file_size": "1", "space_id": 2}]
    assert set(shaped["tasks"][0]) == {
        "taskid",
        "userid",
        "task_status",
        "task_result",
        "create_time",
        "finish_time",
        "mobile_url",
        "url",
        "process_instance_id",
        "activity_id",
        "task_group_name",
    }
    assert set(shaped["form_component_values"][0]) == {"id", "ext_value", "component_type", "biz_alias", "value"}


def test_an_instance_with_odd_or_missing_lists_is_no_crash() -> None:
    odd = {"tasks": None, "operationRecords": ["x", {"attachments": None}], "formComponentValues": "v"}
    assert old_shape(odd) == {
        "tasks": None,
        "operation_records": ["x", {"attachments": None}],
        "form_component_values": "v",
    }


def test_a_new_app_falls_to_the_new_instance_api_and_remembers_it() -> None:
    with Simulator(Options(app_secret=SECRET, old_workflow_permission=False)) as simulator:
        simulator.instances.update({"i-1": INSTANCE, "i-2": INSTANCE})
        assert client_of(simulator).process_instance("i-1")["originator_userid"] == "u-17"
        assert paths(simulator) == ["/gettoken", OLD_INSTANCE, "/gettoken", OLD_INSTANCE, NEW_INSTANCE]
        client_of(simulator).process_instance("i-2")
        assert paths(simulator)[5:] == [NEW_INSTANCE]


def test_an_app_forced_to_the_old_instance_api_stays_there() -> None:
    with Simulator(Options(app_secret=SECRET, old_workflow_permission=False)) as simulator:
        with pytest.raises(errors.PermissionMissing):
            client_of(simulator, workflow_api="topapi").process_instance("i-1")
        assert NEW_INSTANCE not in paths(simulator)


@pytest.mark.parametrize("api", ["topapi", "v1.0"])
def test_an_instance_that_dingtalk_does_not_know_is_told_apart(simulator: Simulator, api: str) -> None:
    simulator.missing_instances.add("i-gone")
    with pytest.raises(errors.InstanceUnknown):
        client_of(simulator, workflow_api=api).process_instance("i-gone")


def test_an_undocumented_code_for_an_unknown_instance_is_known_by_its_words() -> None:
    with responses.RequestsMock() as dingtalk:
        dingtalk.get(f"{OAPI}/gettoken", json={"errcode": 0, "access_token": "t", "expires_in": 7200})
        dingtalk.post(
            f"{OAPI}{OLD_INSTANCE}", json={"errcode": 88, "sub_code": "isv.4711", "sub_msg": "流程实例不存在"}
        )
        with pytest.raises(errors.InstanceUnknown, match="流程实例不存在"):
            DingTalkClient("dingkey", SECRET).process_instance("i-1")


@pytest.mark.parametrize("words", ["微应用不存在", "企业不存在或者已经被解散", "企业部门不存在"])
def test_another_thing_that_does_not_exist_is_no_unknown_instance(words: str) -> None:
    with responses.RequestsMock() as dingtalk:
        dingtalk.get(f"{OAPI}/gettoken", json={"errcode": 0, "access_token": "t", "expires_in": 7200})
        dingtalk.post(f"{OAPI}{OLD_INSTANCE}", json={"errcode": 52019, "errmsg": words})
        with pytest.raises(errors.Refused, match=words) as caught:
            DingTalkClient("dingkey", SECRET).process_instance("i-1")
        assert not isinstance(caught.value, errors.InstanceUnknown)


def test_a_failed_list_that_comes_slowly_is_waited_for() -> None:
    def talk(connection: socket.socket, number: int) -> bool:
        token, page = b'{"errcode":0,"access_token":"t","expires_in":7200}', b'{"errcode":0,"failed_list":[]}'
        answer = page if number else token
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
        for part in (answer[:10], answer[10:]) if number else (answer,):
            time.sleep(0.6 * number)
            connection.sendall(part)
        return True

    with Listener(talk) as slow:
        client = DingTalkClient("dingkey", SECRET, oapi_url=f"http://127.0.0.1:{slow.port}", timeout=0.5)
        assert json.loads(client.failed_callbacks()) == {"errcode": 0, "failed_list": []}


@pytest.mark.parametrize("fault", ["busy", "throttled", "500", "html", "punish", "half", "drop"])
def test_what_passes_is_retryable(simulator: Simulator, fault: str) -> None:
    simulator.instances["i-1"] = INSTANCE
    simulator.fail(OLD_INSTANCE, fault)
    with pytest.raises(errors.TemporaryFailure) as caught:
        client_of(simulator).process_instance("i-1")
    assert caught.value.retryable
    assert client_of(simulator).process_instance("i-1")


@pytest.mark.parametrize("fault", ["quota", "ip"])
def test_what_somebody_must_mend_is_final(simulator: Simulator, fault: str) -> None:
    simulator.fail(OLD_INSTANCE, fault)
    with pytest.raises(errors.Refused) as caught:
        client_of(simulator).process_instance("i-1")
    assert not caught.value.retryable


def test_half_an_answer_of_the_failed_list_is_handed_over_as_far_as_it_came(simulator: Simulator) -> None:
    simulator.add_failed({"call_back_tag": "user_add_org", "event_time": 1, "user_add_org": {"userid": ["u-1"]}})
    simulator.fail(GET_FAILED, "half")
    half = client_of(simulator).failed_callbacks()
    assert half.startswith('{"errcode":')
    assert not half.endswith("}")


def test_a_call_that_gets_no_answer_ends_with_its_time_limit(simulator: Simulator) -> None:
    simulator.fail(OLD_INSTANCE, "timeout")
    began = time.monotonic()
    with pytest.raises(errors.NotReached, match="no answer"):
        client_of(simulator, timeout=0.3).process_instance("i-1")
    assert time.monotonic() - began < 2


def test_a_body_that_drips_ends_with_the_time_limit_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            status, body = exchange("GET", f"http://127.0.0.1:{port}/", {}, 0.4)
        finally:
            stop.set()
            thread.join()
    assert status == 200
    assert 1 <= len(body) < 30


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """Collect every record of every logger at DEBUG, as a careless logging set-up would."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def everything_told(error: BaseException) -> str:
    """Return all that an exception and what hangs on it can tell, whether or not it is shown."""
    told, seen = [], set[int]()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        told += [repr(one), str(one), repr(one.args), repr(vars(one)), "".join(traceback.format_exception(one))]
        pending += [one.__cause__, one.__context__]
    return "\n".join(told)


@pytest.mark.parametrize("fault", ["", "drop", "timeout", "500", "html", "half", "token_invalid", "permission"])
@pytest.mark.parametrize("path", ["/gettoken", OLD_INSTANCE, NEW_INSTANCE, GET_FAILED])
def test_no_secret_reaches_a_log_or_an_exception(
    simulator: Simulator,
    everything_logged: io.StringIO,
    fault: str,
    path: str,
) -> None:
    asking = client_of(simulator, workflow_api="v1.0" if path == NEW_INSTANCE else "topapi", timeout=0.3)
    token = asking.token()
    DingTalkClient._shared.clear()
    told = repr(asking)
    if fault:
        simulator.fail(path, fault, times=4)
    for call in (asking.failed_callbacks, lambda: asking.process_instance("i-1")):
        try:
            call()
        except errors.DingTalkError as error:
            told += everything_told(error)
    told += everything_logged.getvalue()
    assert "/gettoken" in everything_logged.getvalue()  # urllib3 did log, so there was something to mask
    assert SECRET not in told
    assert token not in told


def test_no_secret_is_told_of_a_host_that_cannot_be_reached() -> None:
    with pytest.raises(errors.NotReached) as caught:
        DingTalkClient("dingkey", SECRET, "http://127.0.0.1:1").token()
    assert SECRET not in everything_told(caught.value)
    assert "DINGTALK_OAPI_URL" in str(caught.value)


def test_a_redirect_is_not_followed_with_the_token() -> None:
    with responses.RequestsMock() as dingtalk:
        dingtalk.get(f"{OAPI}/gettoken", status=302, headers={"Location": "https://evil.example/"})
        with pytest.raises(errors.Refused, match="HTTP 302"):
            DingTalkClient("dingkey", SECRET).token()


def test_the_settings_make_a_client_or_name_what_is_missing(settings: Any) -> None:
    settings.DINGTALK_WORKFLOW_API = "v1.0"
    made = DingTalkClient.from_settings()
    assert (made.app_key, made.workflow_api) == (settings.DINGTALK_APP_KEY, "v1.0")
    settings.DINGTALK_APP_SECRET = ""
    with pytest.raises(errors.SettingsUnfit, match="DINGTALK_APP_SECRET"):
        DingTalkClient.from_settings()
