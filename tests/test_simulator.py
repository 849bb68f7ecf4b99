"""The simulator as its users meet it: over sockets."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests

from callbacks.dingcrypto import Credential, DingCrypto, Keyring, Opened
from simulator.receiver import Callback, SubscriptionError, wrong_with
from simulator.server import Options, Simulator
from tests.caller import FAST, call, failed_entries, fields, register
from tests.receiver import AES_KEY, APP_KEY, CORP_ID, TOKEN, Receiver, right


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(FAST) as simulator:
        yield simulator


# Registering


def test_it_asks_the_address_before_it_registers_it(simulator: Simulator, receiver: Receiver) -> None:
    assert register(simulator, receiver.url) == {"errcode": 0, "errmsg": "ok"}
    assert [opened.text for opened in receiver.opened] == ['{"EventType":"check_url"}']
    assert receiver.opened[0].owner_key == CORP_ID
    assert simulator.callback is not None
    assert simulator.callback.url == receiver.url


def test_it_keeps_the_addresss_own_query_and_names_the_signature_as_told(receiver: Receiver) -> None:
    for names, expected in (
        ("signature", {"of", "signature", "timestamp", "nonce"}),
        ("msg_signature", {"of", "msg_signature", "timestamp", "nonce"}),
        ("both", {"of", "signature", "msg_signature", "timestamp", "nonce"}),
    ):
        with Simulator(replace(FAST, query_names=names)) as simulator:
            register(simulator, receiver.url)
            assert set(receiver.queries[-1]) == expected
            assert len(receiver.queries[-1]["timestamp"]) == 13
            assert len(receiver.queries[-1]["nonce"]) == 8


def test_it_gives_the_callback_back_and_forgets_it(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    found = call(simulator, "GET", "/call_back/get_call_back")
    assert found == {"errcode": 0, "errmsg": "ok", **fields(receiver.url)}
    assert call(simulator, "GET", "/call_back/delete_call_back")["errcode"] == 0
    assert call(simulator, "GET", "/call_back/get_call_back")["errcode"] == 71007
    assert call(simulator, "GET", "/call_back/delete_call_back")["errcode"] == 71007
    assert call(simulator, "POST", "/call_back/update_call_back", fields(receiver.url))["errcode"] == 71007


def test_it_registers_once_and_updates(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    assert register(simulator, receiver.url)["errcode"] == 71006
    answer = call(simulator, "POST", "/call_back/update_call_back", fields(receiver.url, call_back_tag=["check_in"]))
    assert answer["errcode"] == 0
    assert call(simulator, "GET", "/call_back/get_call_back")["call_back_tag"] == ["check_in"]
    assert len(receiver.received) == 2


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"call_back_tag": "user_add_org"}, 71010),
        ({"call_back_tag": []}, 71010),
        ({"call_back_tag": ["todo_task_create"]}, 71008),
        ({"token": "short"}, 71010),
        ({"token": "x" * 64}, 71010),
        ({"aes_key": "x" * 42}, 71010),
        ({"aes_key": "x" * 42 + "-"}, 71010),
        ({"url": None}, 71010),
        ({"url": "www.example.com"}, 71011),
        ({"url": "http://127.0.0.1:99999/"}, 71011),
    ],
)
def test_it_refuses_fields_of_a_wrong_form(
    simulator: Simulator, receiver: Receiver, changes: dict[str, Any], errcode: int
) -> None:
    assert register(simulator, **{"url": receiver.url, **changes})["errcode"] == errcode
    assert receiver.received == []


def test_it_refuses_a_private_address_where_it_is_told_to(receiver: Receiver) -> None:
    with Simulator(replace(FAST, allow_private=False)) as simulator:
        assert register(simulator, receiver.url)["errcode"] == 71013
    assert receiver.received == []


def test_it_tells_of_a_receiver_that_can_not_be_reached_in_dingtalks_words(simulator: Simulator) -> None:
    answer = register(simulator, "http://127.0.0.1:1/here")
    assert answer["errcode"] == 71012
    assert answer["errmsg"].startswith("url地址访问异常,错误原因为:org.apache.http.conn.HttpHostConnectException")
    assert " HttpRequest: curl 'http://127.0.0.1:1/here?signature=" in answer["errmsg"]
    assert answer["errmsg"].endswith("HttpCode:0   HttpReponse:null")


def test_it_does_not_follow_a_redirect(simulator: Simulator, receiver: Receiver) -> None:
    receiver.answer = lambda _: (301, {"Location": receiver.url}, "")
    answer = register(simulator, receiver.url)
    assert answer["errcode"] == 71012
    assert f"不允许3xx跳转.http statusCode is:301跳转后地址为:{receiver.url}" in answer["errmsg"]
    assert len(receiver.received) == 1


def test_it_refuses_a_late_answer(receiver: Receiver) -> None:
    go = threading.Event()

    def late(opened: Opened) -> tuple[int, dict[str, str], str]:
        go.wait(5)
        return right(opened)

    receiver.answer = late
    with Simulator(replace(FAST, time_limit=0.2)) as simulator:
        started = time.monotonic()
        answer = register(simulator, receiver.url)
        assert time.monotonic() - started < 2
    go.set()
    assert answer["errcode"] == 71012
    assert "java.net.SocketTimeoutException: Read timed out" in answer["errmsg"]


def sealed(opened: Opened, **changes: Any) -> tuple[int, dict[str, str], str]:
    answer = {**opened.seal("success", time.time()), **changes}
    return 200, {}, json.dumps({name: value for name, value in answer.items() if value is not None})


def with_line_break(opened: Opened) -> tuple[int, dict[str, str], str]:
    answer = opened.seal("success", time.time())
    answer["encrypt"] += "\n"
    answer["msg_signature"] = DingCrypto.generate_signature(
        answer["nonce"], answer["timeStamp"], TOKEN, answer["encrypt"]
    )
    return 200, {}, json.dumps(answer)


def in_other_spelling(opened: Opened) -> tuple[int, dict[str, str], str]:
    answer: dict[str, Any] = dict(opened.seal("success", time.time()))
    answer["timestamp"] = int(answer.pop("timeStamp"))
    return 200, {"Content-Type": "text/html"}, json.dumps({**answer, "more": True})


@pytest.mark.parametrize("answer", [with_line_break, in_other_spelling])
def test_it_bears_what_dingtalk_bears(simulator: Simulator, receiver: Receiver, answer: Any) -> None:
    receiver.answer = answer
    assert register(simulator, receiver.url)["errcode"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: (200, {}, "success"),
        lambda _: (200, {}, '"success"'),
        lambda opened: (200, {}, json.dumps(opened.seal("SUCCESS", time.time()))),
        lambda opened: sealed(opened, msg_signature="0" * 40),
        lambda opened: sealed(opened, msg_signature=None),
        lambda opened: sealed(opened, timeStamp=None),
        lambda opened: sealed(opened, nonce=None),
        lambda opened: sealed(opened, encrypt=base64.b64encode(b"x" * 64).decode()),
        lambda opened: (
            replace(opened, _crypto=DingCrypto(AES_KEY, APP_KEY)).seal("success", 1.0)
            and (200, {}, json.dumps(replace(opened, _crypto=DingCrypto(AES_KEY, APP_KEY)).seal("success", 1.0)))
        ),
    ],
    ids=["plain", "json-text", "other-word", "signature", "no-signature", "no-time", "no-nonce", "ciphertext", "owner"],
)
def test_it_refuses_an_answer_that_is_not_the_sealed_success(
    simulator: Simulator, receiver: Receiver, answer: Any
) -> None:
    receiver.answer = answer
    refused = register(simulator, receiver.url)
    assert refused["errcode"] == 71009
    assert refused["errmsg"].startswith("返回文本非success, HTTP请求结果校验返回字段值失败 HttpRequest: curl '")
    assert "HttpCode:200 HttpReponse:" in refused["errmsg"]
    assert simulator.callback is None


def test_it_accepts_a_published_answer() -> None:
    callback = Callback("", "tokenxxxx", "o1w0aum42yaptlz8alnhwikjd3jenzt9cb9wmzptgus", "dingxxxxxx")
    answer = {
        "msg_signature": "f36f4ba5337d426c7d4bca0dbcb06b3ddc1388fc",
        "timeStamp": "1605695694141",
        "nonce": "WelUQl6bCqcBa2fM",
        "encrypt": "X1VSe9cTJUMZu60d3kyLYTrBq5578ZRJtteU94wG0Q4Uk6E/wQYeJRIC0/UFW5Wkya1Ihz9oXAdLlyC9TRaqsQ==",
    }
    assert wrong_with(json.dumps(answer), callback) == ""
    assert "token" in wrong_with(json.dumps({**answer, "timeStamp": "1605695694142"}), callback)


@pytest.mark.parametrize("status", [201, 204, 302, 403, 500])
def test_it_refuses_any_status_but_200(simulator: Simulator, receiver: Receiver, status: int) -> None:
    receiver.answer = lambda opened: (status, {}, "" if status == 204 else right(opened)[2])
    answer = register(simulator, receiver.url)
    assert answer["errcode"] == 71012
    assert f"http statusCode is:{status}" in answer["errmsg"]


# Pushing


def test_it_pushes_an_event_and_knows_that_it_was_acknowledged(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    push = simulator.push("user_add_org", overrides={"userid": ["u1"]}, wait=True)
    assert push.acknowledged
    assert push.done()
    assert push.reason == ""
    assert [attempt.status for attempt in push.attempts] == [200]
    assert receiver.events() == [push.payload] == simulator.acknowledged
    assert push.payload["userId"] == ["u1"]


def test_it_seals_for_the_corp_or_the_app(receiver: Receiver) -> None:
    with Simulator(replace(FAST, owner_key_kind="app")) as simulator:
        register(simulator, receiver.url)
        simulator.push("user_add_org", wait=True)
    with Simulator(FAST) as simulator:
        register(simulator, receiver.url)
        simulator.push("user_add_org", wait=True)
    assert [opened.owner_key for opened in receiver.opened] == [APP_KEY, APP_KEY, CORP_ID, CORP_ID]


def test_it_tries_three_times_and_then_puts_the_event_on_the_failed_list(
    simulator: Simulator, receiver: Receiver
) -> None:
    register(simulator, receiver.url)
    receiver.answer = lambda _: (503, {}, "")
    started = time.monotonic()
    push = simulator.push("bpms_instance_change", wait=True)
    assert 0.2 <= time.monotonic() - started < 10, "40 seconds, divided by 200"
    assert not push.acknowledged
    assert [attempt.status for attempt in push.attempts] == [503, 503, 503]
    assert push.reason == "http statusCode is:503"
    assert receiver.events() == [push.payload] * 3
    assert simulator.acknowledged == []
    entry = failed_entries(simulator, 1)[0]
    assert entry["call_back_tag"] == "bpms_instance_change"
    assert entry["bpms_instance_change"] == {"bpmsCallBackData": push.payload, "corpid": CORP_ID}


def test_it_needs_one_good_answer_of_three(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    receiver.answer = lambda opened: right(opened) if len(receiver.events()) == 2 else (500, {}, "")
    push = simulator.push("user_add_org", wait=True)
    assert push.acknowledged
    assert [attempt.status for attempt in push.attempts] == [500, 200]
    assert len(simulator.dingtalk.failed_list) == 0


def test_a_dripping_receiver_does_not_hold_a_push(receiver: Receiver) -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"x" * 1000:
                    if stop.wait(0.05):
                        return
                    try:
                        connection.send(bytes([byte]))
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        with Simulator(replace(FAST, time_limit=0.3)) as simulator:
            answer = register(simulator, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        stop.set()
        thread.join()
    assert answer["errcode"] == 71012
    assert "Read timed out" in answer["errmsg"]


def test_a_push_without_a_callback_says_so(simulator: Simulator) -> None:
    push = simulator.push("user_add_org", wait=True)
    assert not push.acknowledged
    assert push.reason == "no callback is registered and none subscribed"


def test_stopping_gives_up_what_is_not_done(receiver: Receiver) -> None:
    with Simulator(Options(retry_delays=(3600.0,))) as simulator:
        register(simulator, receiver.url)
        receiver.answer = lambda _: (500, {}, "")
        push = simulator.push("user_add_org")
        assert push.wait_tried(5)
    assert push.wait(5)
    assert push.reason == "the simulator was stopped"
    assert simulator.push("user_add_org").done()


def test_stopping_cuts_calls_that_are_held_and_ends_every_thread(receiver: Receiver) -> None:
    before = set(threading.enumerate())
    with Simulator(FAST) as simulator, requests.Session() as session:
        simulator.fail("/gettoken", "timeout")
        held = threading.Thread(target=lambda: suppressed(session, f"{simulator.url}/gettoken"))
        held.start()
        while not simulator.calls:
            time.sleep(0.01)
        started = time.monotonic()
    held.join()
    assert time.monotonic() - started < 5
    assert set(threading.enumerate()) <= before


def suppressed(session: requests.Session, url: str) -> None:
    with pytest.raises(requests.RequestException):
        session.get(url, timeout=30)


def test_a_console_subscription_is_asked_and_sealed_for_the_app(simulator: Simulator, receiver: Receiver) -> None:
    receiver.keyring = Keyring([Credential("consoletoken", AES_KEY)], [APP_KEY])
    simulator.subscribe(receiver.url, "consoletoken", AES_KEY)
    assert simulator.push("check_in", wait=True).acknowledged
    assert [opened.owner_key for opened in receiver.opened] == [APP_KEY, APP_KEY]
    assert call(simulator, "GET", "/call_back/get_call_back")["errcode"] == 71007


def test_a_console_subscription_is_refused_with_the_reason(simulator: Simulator, receiver: Receiver) -> None:
    receiver.answer = lambda _: (200, {}, "success")
    receiver.keyring = Keyring([Credential("consoletoken", AES_KEY)], [APP_KEY])
    with pytest.raises(SubscriptionError, match="the answer is not JSON"):
        simulator.subscribe(receiver.url, "consoletoken", AES_KEY)
    with pytest.raises(SubscriptionError, match="a token of 3-32"):
        simulator.subscribe(receiver.url, "no-hyphens", AES_KEY)
    assert simulator.callback is None


# Pushes that go wrong


@pytest.mark.parametrize(
    ("fault", "msg"),
    [
        ("signature", "signature mismatch"),
        ("owner_key", "sealed for ding"),
        ("aes_key", "decryption failed"),
        ("padding", "decryption failed"),
        ("ciphertext", "whole AES blocks"),
        ("stale", "stale timestamp"),
        ("json", "no JSON"),
    ],
)
def test_a_spoilt_push_is_spoilt_in_the_way_that_was_asked_for(
    simulator: Simulator, receiver: Receiver, fault: str, msg: str
) -> None:
    register(simulator, receiver.url)
    (push,) = simulator.push_fault(fault)
    assert push.wait(5)
    assert len(push.attempts) == 1
    assert push.attempts[0].status in (400, 403)
    assert msg in push.attempts[0].answer
    assert receiver.events() == []


def test_a_duplicate_is_the_same_event_and_a_twin_has_another_id(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    same = simulator.push_fault("duplicate", "bpms_instance_change", count=3)
    twins = simulator.push_fault("twin", "bpms_instance_change")
    assert all(push.wait(5) and push.acknowledged for push in (*same, *twins))
    assert len(same) == 3
    assert same[0].payload == same[1].payload == same[2].payload
    assert twins[0].payload != twins[1].payload
    assert {**twins[0].payload, "eventId": ""} == {**twins[1].payload, "eventId": ""}


def test_a_burst_is_many_events(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    burst = simulator.push_fault("burst", count=40)
    assert all(push.wait(10) and push.acknowledged for push in burst)
    assert len({payload["eventId"] for payload in receiver.events()}) == 40


def test_reordered_is_the_finish_before_the_start_of_one_instance(simulator: Simulator, receiver: Receiver) -> None:
    register(simulator, receiver.url)
    assert all(push.wait(5) and push.acknowledged for push in simulator.push_fault("reordered"))
    first, second = receiver.events()
    assert (first["type"], second["type"]) == ("finish", "start")
    assert first["processInstanceId"] == second["processInstanceId"]
    assert first["createTime"] == second["createTime"]
    instance = call(
        simulator, "POST", "/topapi/processinstance/get", {"process_instance_id": first["processInstanceId"]}
    )
    assert instance["process_instance"]["status"] == "COMPLETED"
