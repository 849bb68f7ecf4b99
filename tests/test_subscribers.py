"""The programs of docs/subscribers.md, each in a process of its own, behind the real relay."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from django.test import Client

from callbacks.endpoint import Endpoint
from callbacks.keys import new_aes_key, new_token, new_webhook_secret
from callbacks.models import Delivery
from callbacks.relay import parcel, send
from tests import pusher
from tests.conftest import needs_service
from tests.owed import carry_due
from tests.programs import ROOT, Program, running

PAGES = [ROOT / "docs" / "subscribers.md", ROOT / "docs" / "subscribers.zh-CN.md"]
FOLDER = ROOT / "docs" / "subscribers"
STANDARD = {"WEBHOOK_SECRET": new_webhook_secret()}
DINGTALK = {
    "DINGTALK_TOKEN": new_token(),
    "DINGTALK_AES_KEY": new_aes_key(),
    "DINGTALK_OWNER_KEY": "dingtestappkey0001",
}


@dataclass(frozen=True)
class Running:
    """A program of the page, and the endpoint's fields that fit it."""

    format: str
    program: Program
    fields: dict[str, str]

    def endpoint(self, **changes: str) -> Endpoint:
        fields = {"name": "of the page", "url": self.program.url, "format": self.format, **self.fields, **changes}
        endpoint: Endpoint = Endpoint.objects.create(**fields)
        return endpoint

    def lines(self, reference: str) -> list[str]:
        return [line for line in self.program.lines if reference in line]


def has_compiler() -> bool:
    """Tell whether a JDK of at least Java 17 is there, which runs a program from its source."""
    if not shutil.which("java"):
        return False
    done = subprocess.run(["java", "--list-modules"], capture_output=True, text=True, check=False)
    found = re.search(r"^jdk\.compiler@(\d+)", done.stdout, re.MULTILINE)
    return found is not None and int(found[1]) >= 17


def programs(form: str = "") -> Iterator[object]:
    commands = {"py": [sys.executable], "mjs": ["node"], "java": ["java"]}
    missing = {"py": "", "mjs": "" if shutil.which("node") else "there is no Node.js (node)"}
    missing["java"] = "" if has_compiler() else "there is no JDK 17 (java)"
    for path in sorted(FOLDER.iterdir()):
        kind = path.suffix[1:]
        marks = [needs_service(missing[kind])] if missing[kind] else []
        if form in path.stem.lower():
            yield pytest.param([*commands[kind], str(path)], id=path.name, marks=marks)


@pytest.fixture(scope="module", params=[*programs()])
def running_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command: list[str] = request.param
    if "standard" in Path(command[-1]).stem.lower():
        form, settings, fields = "standard", STANDARD, {"secret": STANDARD["WEBHOOK_SECRET"]}
    else:
        form, settings = "dingtalk", DINGTALK
        fields = {name.removeprefix("DINGTALK_").lower(): value for name, value in DINGTALK.items()}
    with running(command, tmp_path_factory.mktemp("program"), settings) as program:
        yield Running(form, program, fields)


def push(client: Client, endpoint: Endpoint) -> tuple[str, str, Delivery]:
    """Push an event to the service; return its reference, its text, and what is owed to the endpoint."""
    reference = uuid4().hex
    event = {"EventType": "user_add_org", "eventId": reference, "CorpId": "ding1", "UserId": ["张三 \U0001f600"]}
    text = json.dumps(event, ensure_ascii=False)
    assert pusher.opened(pusher.send(client, pusher.seal_push(text)).json()) == "success"
    return reference, text, Delivery.objects.get(destination=endpoint.destination, event__body=text)


def carried(delivery: Delivery) -> Delivery:
    carry_due()
    delivery.refresh_from_db()
    return delivery


@pytest.mark.django_db
def test_it_verifies_an_event_and_takes_it(client: Client, running_program: Running) -> None:
    reference, text, delivery = push(client, running_program.endpoint())

    delivery = carried(delivery)

    assert (delivery.state, delivery.last_error) == ("delivered", "")
    (line,) = running_program.lines(reference)
    if running_program.format == "dingtalk":
        assert line == text
        return
    message_id, _, event = line.partition(" ")
    assert message_id == delivery.idempotency_key
    assert json.loads(event)["type"] == "user_add_org"
    assert json.loads(event)["data"]["payload"] == json.loads(text)


@pytest.mark.django_db
def test_it_takes_an_event_once_that_is_sent_twice(client: Client, running_program: Running) -> None:
    reference, _, delivery = push(client, running_program.endpoint())

    for _ in range(2):
        assert carried(delivery).state == "delivered"
        Delivery.objects.filter(pk=delivery.pk).update(state="pending", next_attempt_at=delivery.created_at)

    assert len(running_program.lines(reference)) == 1


@pytest.mark.django_db
def test_it_refuses_what_is_signed_with_another_secret(client: Client, running_program: Running) -> None:
    wrong = {"standard": {"secret": new_webhook_secret()}, "dingtalk": {"token": new_token()}}[running_program.format]
    reference, _, delivery = push(client, running_program.endpoint(**wrong))

    delivery = carried(delivery)

    assert (delivery.state, delivery.last_error) == ("pending", "answered 401 Unauthorized")
    assert running_program.lines(reference) == []


@pytest.mark.django_db
def test_it_refuses_a_message_that_was_changed_on_its_way(running_program: Running) -> None:
    ready = parcel(running_program.endpoint(), "message", {"type": "one"}, '{"EventType": "one"}').message
    body = (
        ready.body.replace(b'"one"', b'"two"') if running_program.format == "standard" else ready.body[:-9] + b'AAAA"}'
    )

    answer = requests.post(ready.url, body, headers=dict(ready.headers), timeout=10)

    assert answer.status_code == 401
    assert running_program.lines("two") == []


@pytest.mark.django_db
@pytest.mark.parametrize("running_program", [*programs("standard")], indirect=True)
def test_it_goes_on_while_its_secret_is_rotated(client: Client, running_program: Running) -> None:
    endpoint = running_program.endpoint(secret=new_webhook_secret(), previous_secret=STANDARD["WEBHOOK_SECRET"])
    reference, _, delivery = push(client, endpoint)

    assert carried(delivery).state == "delivered"
    assert len(running_program.lines(reference)) == 1


@pytest.mark.django_db
def test_it_answers_the_question_whether_its_address_works(running_program: Running) -> None:
    endpoint = running_program.endpoint()
    fields = {"type": "test", "timestamp": "2026-01-01T00:00:00.000+00:00", "data": {}}

    send(endpoint, parcel(endpoint, uuid4().hex, fields, '{"EventType": "check_url"}'), {})

    assert running_program.lines("check_url") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_names_every_program_and_none_that_is_not_there(page: Path) -> None:
    named = re.findall(r"\]\(subscribers/([^)]+)\)", page.read_text(encoding="utf-8"))
    assert sorted(set(named)) == sorted(path.name for path in FOLDER.iterdir())
