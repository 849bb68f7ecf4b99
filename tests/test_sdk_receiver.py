"""A receiver written for DingTalk on a third-party SDK, behind a real socket: it works behind us without a change."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from callbacks.keys import new_aes_key, new_token
from callbacks.models import Endpoint
from callbacks.payload import VALIDATION_TYPES
from callbacks.relay import parcel, send
from simulator.samples import STYLES, event_types, make
from tests import pusher
from tests.owed import carry_due
from tests.programs import Program, running

CORP = "dingtestcorp0001"
TYPES = [event_type for event_type in event_types() if event_type not in VALIDATION_TYPES]
SETTINGS = {"DINGTALK_TOKEN": new_token(), "DINGTALK_AES_KEY": new_aes_key(), "DINGTALK_OWNER_KEY": CORP}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Program]:
    with running([sys.executable, "-m", "tests.sdk_receiver"], tmp_path, SETTINGS) as program:
        yield program


def endpoint_of(receiver: Program) -> Endpoint:
    endpoint: Endpoint = Endpoint.objects.create(
        name="written for DingTalk",
        url=receiver.url,
        format="dingtalk",
        token=SETTINGS["DINGTALK_TOKEN"],
        aes_key=SETTINGS["DINGTALK_AES_KEY"],
        owner_key=CORP,
    )
    return endpoint


@pytest.mark.django_db
@pytest.mark.parametrize("style", STYLES)
def test_it_decrypts_every_documented_event_byte_for_byte_as_dingtalk_pushed_it(
    client: Client, receiver: Program, style: str
) -> None:
    endpoint = endpoint_of(receiver)
    # written in each of the ways that JSON allows, as a copy that was parsed and written anew would not be
    forms: list[dict[str, Any]] = [
        {"ensure_ascii": True},
        {"ensure_ascii": False, "separators": (",", ":")},
        {"indent": 1},
    ]
    pushed = []
    for number, event_type in enumerate(TYPES):
        pushed.append(json.dumps(make(event_type, corp_id=CORP, style=style), **forms[number % 3]))
        answer = pusher.send(client, pusher.seal_push(pushed[-1]))
        assert pusher.opened(answer.json()) == "success"

    carried = []
    while taken := carry_due():
        carried += [each for each in taken if each.destination == endpoint.destination]

    assert len(TYPES) >= 156
    assert {(each.state, each.attempts) for each in carried} == {("delivered", 1)}
    assert sorted(map(json.loads, receiver.lines)) == sorted(pushed)


@pytest.mark.django_db
def test_it_answers_check_url(receiver: Program) -> None:
    question = json.dumps({"EventType": "check_url", "TestSuiteTicket": "测试"}, ensure_ascii=False)

    send(endpoint_of(receiver), parcel(endpoint_of(receiver), "test", {}, question), {})

    assert list(map(json.loads, receiver.lines)) == [question]
