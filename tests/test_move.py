"""docs/subscribers.md: a receiver that DingTalk calls is moved behind the service in three steps; nothing is lost."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from callbacks.keys import new_aes_key, new_token
from callbacks.models import Delivery, Event
from registrar.client import DingTalkClient
from simulator.options import Options
from simulator.pushing import Push
from simulator.server import Simulator
from tests.owed import carry_due
from tests.programs import Program, running

OPTIONS = Options(time_limit=0.5, clock_scale=100, failed_list_delay=30)
PAIR = {"DINGTALK_TOKEN": new_token(), "DINGTALK_AES_KEY": new_aes_key()}


@pytest.fixture
def dingtalk(settings: Settings) -> Iterator[Simulator]:
    with Simulator(OPTIONS) as simulator:
        settings.DINGTALK_OAPI_URL = settings.DINGTALK_API_URL = simulator.url
        settings.DINGTALK_APP_KEY, settings.DINGTALK_APP_SECRET = OPTIONS.app_key, OPTIONS.app_secret
        settings.DINGTALK_CORP_ID = OPTIONS.corp_id
        for name, value in PAIR.items():
            setattr(settings, name, value)
        yield simulator
    DingTalkClient._shared.clear()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Program]:
    known = {**PAIR, "DINGTALK_OWNER_KEY": OPTIONS.app_key}
    with running([sys.executable, "-m", "tests.sdk_receiver"], tmp_path, known) as program:
        yield program


def taken(receiver: Program) -> list[str]:
    """Return the user of each event that the receiver took."""
    payloads = [json.loads(json.loads(line)) for line in receiver.lines]
    return [payload["userId"][0] for payload in payloads if payload["EventType"] == "user_add_org"]


def test_a_receiver_that_dingtalk_calls_is_moved_behind_the_service_without_losing_an_event(
    dingtalk: Simulator, receiver: Program, live_server: LiveServer
) -> None:
    pushes: list[Push] = []

    def push(name: str) -> Push:
        pushes.append(dingtalk.push("user_add_org", overrides={"userId": [name]}))
        return pushes[-1]

    dingtalk.subscribe(receiver.url, **{name.removeprefix("DINGTALK_").lower(): value for name, value in PAIR.items()})
    assert push("called directly").wait(10)

    call_command(
        *("endpoint", "add", "erp", receiver.url, "--format", "dingtalk", "--owner-key", OPTIONS.app_key),
        *("--token", PAIR["DINGTALK_TOKEN"], "--aes-key", PAIR["DINGTALK_AES_KEY"]),
    )
    call_command("endpoint", "test", "erp")
    assert push("called directly, the endpoint is there").wait(10)

    os.kill(receiver.pid, signal.SIGSTOP)
    assert push("not answered at the old address").wait_tried(10)
    address = f"{live_server.url}/dingtalk/callback/"
    assert pushes[-1].wait(30)
    os.kill(receiver.pid, signal.SIGCONT)
    dingtalk.subscribe(address, PAIR["DINGTALK_TOKEN"], PAIR["DINGTALK_AES_KEY"])
    assert push("through the service").wait(10)

    while len(dingtalk.dingtalk.failed_list):
        call_command("dingtalk", "failed")
    while carry_due():
        pass

    assert [each.acknowledged for each in pushes] == [True, True, False, True]
    assert Event.objects.get(source="failed_list").payload["userId"] == ["not answered at the old address"]
    assert set(taken(receiver)) == {each.payload["userId"][0] for each in pushes}
    # it heard of this one as it woke up, too
    assert taken(receiver)[-1] == "not answered at the old address"
    assert set(Delivery.objects.values_list("state", flat=True)) == {"delivered"}
