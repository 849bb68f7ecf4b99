"""Every documented event, in every shape that DingTalk has used, through the real view."""

import json

import pytest
from django.test import Client

from callbacks.models import Delivery, Event
from callbacks.payload import VALIDATION_TYPES, Payload, read
from simulator.samples import STYLES, event_types, make
from tests.pusher import Push, opened, seal_push, send

CORP = "dingtestcorp0001"
TYPES = [event_type for event_type in event_types() if event_type not in VALIDATION_TYPES]
BUILT_IN = {
    *("bpms_instance_change", "bpms_task_change", "user_add_org", "user_leave_org"),
    *("org_dept_create", "org_dept_modify", "org_dept_remove"),
}
# What an event of a type that begins like this is about, where it is about one thing.
SUBJECTS = {
    "bpms_": "instance",
    "user_": "user",
    "org_admin_": "user",
    "org_dept_": "dept",
    "chat_": "chat",
    "label_user_": "user",
    "check_in": "user",
}


def sample(event_type: str, style: str) -> Payload:
    return read(json.dumps(make(event_type, corp_id=CORP, style=style)), salt="one request")


def test_all_documented_types_are_there() -> None:
    assert len(TYPES) >= 156
    assert set(TYPES) >= BUILT_IN


@pytest.mark.django_db
@pytest.mark.parametrize("style", STYLES)
def test_every_documented_event_is_acknowledged_and_stored_once(client: Client, style: str) -> None:
    pushes: dict[str, Push] = {
        event_type: seal_push(make(event_type, corp_id=CORP, style=style)) for event_type in TYPES
    }
    for _ in range(2):
        for event_type, push in pushes.items():
            answer = send(client, push)
            assert (answer.status_code, opened(answer.json())) == (200, "success"), event_type
    assert sorted(Event.objects.values_list("event_type", flat=True)) == TYPES
    assert set(Event.objects.values_list("corp_id", flat=True)) == {CORP}
    owed = Delivery.objects.values_list("event__event_type", flat=True)
    assert set(owed) >= BUILT_IN
    assert {event_type: list(owed).count(event_type) for event_type in BUILT_IN} == dict.fromkeys(BUILT_IN, 1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("event_type", TYPES)
def test_two_events_of_a_type_are_two_and_say_whose_and_about_what_they_are(event_type: str, style: str) -> None:
    one, other = sample(event_type, style), sample(event_type, style)
    assert one.identity != other.identity
    assert one.event_type == event_type
    assert one.corp_id == CORP
    kind = next((kind for start, kind in SUBJECTS.items() if event_type.startswith(start)), None)
    if kind:
        assert one.subject.startswith(f"{CORP}:{kind}:"), one.data
    assert one.subject == "" or one.subject.split(":")[1] in ("instance", "chat", "user", "dept")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("event_type", TYPES)
def test_an_event_is_known_again_from_another_request_if_it_has_an_id_or_a_time(event_type: str, style: str) -> None:
    payload = make(event_type, corp_id=CORP, style=style)
    again = json.dumps(dict(reversed(payload.items())), ensure_ascii=False)
    known = read(json.dumps(payload), "one request").identity == read(again, "another").identity
    marks = {"eventid", "timestamp", "eventtime", "event_time"} & {key.lower() for key in payload}
    assert known is (bool(marks) or event_type.startswith("bpms_"))


def test_one_approval_is_one_event_in_every_shape() -> None:
    for event_type in ("bpms_instance_change", "bpms_task_change"):
        today = make(event_type, corp_id=CORP)
        envelope = ("EventTime", "CorpId", "BizId", "eventId")
        older = {key: value for key, value in today.items() if key not in envelope} | {"corpId": CORP}
        assert read(json.dumps(today), "1").identity == read(json.dumps(older), "2").identity
