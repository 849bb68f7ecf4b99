"""The simulator by hand: its control paths, its load and its command."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from callbacks.dingcrypto import Credential, Keyring
from simulator import load
from simulator.server import Simulator
from tests.caller import FAST, failed_page, register
from tests.receiver import AES_KEY, CORP_ID, TOKEN, Receiver, right

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def simulator(receiver: Receiver) -> Iterator[Simulator]:
    with Simulator(FAST) as simulator:
        register(simulator, receiver.url)
        yield simulator


def post(simulator: Simulator, verb: str, body: Any, status: int = 200) -> dict[str, Any]:
    answer = requests.post(f"{simulator.url}/_simulator/{verb}", data=json.dumps(body), timeout=10)
    assert answer.status_code == status
    data: dict[str, Any] = answer.json()
    return data


def test_push_pushes_a_type_and_tells_what_the_receiver_said(simulator: Simulator, receiver: Receiver) -> None:
    body = {"event_type": "user_add_org", "style": "pascal-2018", "set": {"userid": ["u1"]}}
    (told,) = post(simulator, "push", body)["pushes"]
    assert told["acknowledged"] is True
    assert told["attempts"][0]["status"] == 200
    assert told["payload"]["UserId"] == ["u1"]
    assert receiver.events() == [told["payload"]]


def test_push_pushes_any_json_as_often_as_asked(simulator: Simulator, receiver: Receiver) -> None:
    payload = {"EventType": "mine", "text": "半\ud800"}
    assert len(post(simulator, "push", {"payload": payload, "count": 3})["pushes"]) == 3
    assert receiver.events() == [payload] * 3


def test_push_pushes_faults_too(simulator: Simulator, receiver: Receiver) -> None:
    (told,) = post(simulator, "push", {"event_type": "user_add_org", "fault": "signature"})["pushes"]
    assert (told["acknowledged"], told["reason"]) == (False, "http statusCode is:403")
    assert len(post(simulator, "push", {"event_type": "user_add_org", "fault": "burst", "count": 5})["pushes"]) == 5
    assert len(receiver.events()) == 5


def test_fail_and_failed_list_do_what_their_names_say(simulator: Simulator) -> None:
    assert post(simulator, "fail", {"path": "/gettoken", "fault": "busy"}) == {"faults": {"/gettoken": ["busy"]}}
    assert requests.get(f"{simulator.url}/gettoken", timeout=5).json()["errcode"] == -1
    entry = {"call_back_tag": "check_in", "event_time": 1, "check_in": {}}
    post(simulator, "failed-list", entry)
    post(simulator, "failed-list", {"entries": [entry, entry]})
    assert failed_page(simulator)["failed_list"] == [entry] * 3


def test_state_tells_no_secret(simulator: Simulator, receiver: Receiver) -> None:
    simulator.push("user_add_org", wait=True)
    answer = requests.get(f"{simulator.url}/_simulator/state", timeout=5)
    assert answer.json()["callback"] == {"url": receiver.url, "owner_key": CORP_ID, "tags": ["user_add_org"]}
    assert answer.json()["acknowledged"] == 1
    assert "POST /call_back/register_call_back" in answer.json()["calls"]
    for secret in (TOKEN, AES_KEY, simulator.options.app_secret):
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("verb", "body", "status", "error"),
    [
        ("push", {}, 400, "`event_type`"),
        ("push", {"event_type": "user_add_org", "style": "x"}, 400, "unknown style"),
        ("push", {"event_type": "user_add_org", "fault": "x"}, 400, "unknown fault"),
        ("push", {"event_type": "user_add_org", "count": "many"}, 400, "many"),
        ("push", {"event_type": "user_add_org", "set": "userid=u1"}, 400, "`set`"),
        ("fail", {"fault": "x"}, 400, "unknown fault"),
        ("failed-list", {"entries": "x"}, 400, "`entries`"),
        ("nonsense", {}, 404, "push, fail, failed-list and state"),
    ],
)
def test_what_can_not_be_done_is_answered_with_the_reason(
    simulator: Simulator, verb: str, body: dict[str, Any], status: int, error: str
) -> None:
    assert error in post(simulator, verb, body, status)["error"]


def test_the_front_page_says_what_this_is(simulator: Simulator) -> None:
    page = requests.get(simulator.url, timeout=5)
    assert page.headers["Content-Type"].startswith("text/plain")
    assert f"{simulator.url}/_simulator/push" in page.text


# Load


def test_load_pushes_each_event_once_and_reports_what_was_acknowledged(receiver: Receiver) -> None:
    kinds = ("user_add_org", "bpms_instance_change")
    report = load.run(receiver.url, TOKEN, AES_KEY, CORP_ID, count=60, connections=4, event_types=kinds)
    assert len(report.acknowledged) == len(report.latencies) == 60
    assert not report.refusals
    assert 0 < report.p50 <= report.p99 <= report.seconds
    assert report.per_second == pytest.approx(60 / report.seconds)
    assert {json.dumps(each, sort_keys=True) for each in report.acknowledged} == {
        json.dumps(each, sort_keys=True) for each in receiver.received
    }
    assert {each["EventType"] for each in receiver.received} == set(kinds)


def test_load_counts_refusals_by_their_reason(receiver: Receiver) -> None:
    wrong = load.run(receiver.url, "wrong-token", AES_KEY, CORP_ID, count=3)
    assert not wrong.acknowledged
    assert [(reason[:22], count) for reason, count in wrong.refusals.items()] == [("403 signature mismatch", 3)]
    receiver.answer = lambda opened: right(opened) if len(receiver.received) > 2 else (200, {}, "success")
    some = load.run(receiver.url, TOKEN, AES_KEY, CORP_ID, payloads=[{"EventType": "a", "n": n} for n in range(5)])
    assert (len(some.acknowledged), some.refusals) == (3, {"the answer is not JSON": 2})


def test_load_survives_a_receiver_that_is_not_there() -> None:
    report = load.run("http://127.0.0.1:1/", TOKEN, AES_KEY, CORP_ID, count=4, connections=2)
    assert report.refusals == {"0 ConnectionRefusedError": 4}
    assert (report.p50, report.per_second) == (0.0, 0.0)


# The command


def run_command(*args: str, **settings: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")}
    environ = {**kept, "ENV_FILE": os.devnull, "PYTHONUNBUFFERED": "1", **settings}
    command = [sys.executable, "-W", "error", str(MANAGE), "simulator", *args]
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_runs_without_settings_until_it_is_told_to_stop(receiver: Receiver, number: int) -> None:
    receiver.keyring = Keyring([Credential("consoletoken", AES_KEY)], ["myapp"])
    flags = ["--subscribe", receiver.url, "--token", "consoletoken", "--aes-key", AES_KEY, "--app-key", "myapp"]
    process = run_command("--port", "0", "--push-every", "0.05", "--set", 'userId=["u9"]', *flags)
    assert process.stdout is not None
    welcome = process.stdout.readline()
    url = re.fullmatch(r"DingTalk simulator at (http://127\.0\.0\.1:\d+)\n", welcome)
    assert url, welcome
    while requests.get(f"{url[1]}/_simulator/state", timeout=5).json()["acknowledged"] < 2:
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert re.fullmatch(r"Stopped after \d+ acknowledged pushes\.", out.splitlines()[-1])
    assert receiver.events()[0]["userId"] == ["u9"]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--set", "nonsense"], "'nonsense' is not key=value"),
        (["--style", "x"], "invalid choice"),
        (["--retry-delays", "soon"], "invalid"),
        (["--port", "0", "--subscribe", "http://127.0.0.1:1/", "--token", "abc", "--aes-key", AES_KEY], "validation"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(flags: list[str], error: str) -> None:
    process = run_command(*flags)
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert error in err.splitlines()[-1]


def test_help_shows_how_to_begin() -> None:
    out, err = run_command("--help").communicate(timeout=20)
    assert err == ""
    assert "/call_back/register_call_back?access_token=" in out
    for flag in ("--clock-scale", "--query-names", "--push-every", "--no-allow-private"):
        assert flag in out
