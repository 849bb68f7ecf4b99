"""The inbox: an event is stored once, together with every delivery it is owed to."""

import json
from dataclasses import replace
from typing import Any, cast

import pytest
from django.db import Error, IntegrityError

from callbacks.deadline import within
from callbacks.inbox import receive
from callbacks.models import Delivery, Endpoint, Event
from callbacks.payload import read
from tests.owed import in_threads, payload, table_away

pytestmark = pytest.mark.django_db


def test_it_stores_an_event_with_what_it_says_and_what_it_is_owed_to() -> None:
    pushed = payload("shop_twice", CorpId="dingtestcorp0001", UserId=["u1"])

    receipt = receive(pushed)

    event = Event.objects.get()
    assert (receipt.event_id, receipt.is_new, receipt.deliveries) == (event.pk, True, 2)
    assert (event.event_type, event.corp_id, event.identity) == ("shop_twice", "dingtestcorp0001", pushed.identity)
    assert (event.subject, event.source) == ("dingtestcorp0001:user:u1", "callback")
    assert (event.payload, event.body) == (json.loads(pushed.body), pushed.body)
    owed = Delivery.objects.order_by("id")
    assert [each.destination for each in owed] == [
        "handler:tests.shop.handlers.first",
        "handler:tests.shop.handlers.second",
    ]
    assert {each.subject for each in owed} == {event.subject}
    assert Delivery.objects.due().count() == 2


def test_a_repeat_adds_nothing() -> None:
    pushed = payload("shop_twice")
    first = receive(pushed)

    again = receive(pushed, source=Event.Source.FAILED_LIST)

    assert (again.event_id, again.is_new, again.deliveries) == (first.event_id, False, 0)
    assert Event.objects.get().source == "callback"
    assert Delivery.objects.count() == 2


def test_a_repeat_does_not_revive_what_is_settled() -> None:
    pushed = payload("shop_plain")
    receive(pushed)
    Delivery.objects.update(state=Delivery.State.DELIVERED, next_attempt_at=None)

    receive(pushed)

    assert Delivery.objects.get().state == "delivered"


@pytest.mark.django_db(transaction=True)
def test_twenty_threads_that_push_one_event_all_succeed_and_store_it_once() -> None:
    pushed = payload("shop_twice")

    receipts = in_threads(20, lambda _: receive(pushed))

    assert {receipt.event_id for receipt in receipts} == {Event.objects.get().pk}
    assert sorted(receipt.is_new for receipt in receipts) == [False] * 19 + [True]
    assert Delivery.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_an_event_whose_deliveries_can_not_be_stored_is_not_stored_either() -> None:
    pushed = payload("shop_plain")

    with table_away("callbacks_delivery"), pytest.raises(Error):
        receive(pushed)

    assert not Event.objects.exists()
    assert receive(pushed).is_new


@pytest.mark.django_db(transaction=True)
def test_a_row_that_the_database_refuses_is_never_taken_for_a_repeat() -> None:
    refused = replace(payload("shop_plain"), corp_id=cast(str, None))

    with pytest.raises(IntegrityError):
        receive(refused)

    assert not Event.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_after_a_refused_row_the_same_connection_stores_the_next_event() -> None:
    pushed = payload("shop_plain")
    with within(1.0), pytest.raises(IntegrityError):
        receive(replace(pushed, corp_id=cast(str, None)))

    with within(1.0):
        assert receive(pushed).is_new


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (r'"a\u0000b"', "a\ufffdb"),
        (r'"a\ud83db"', "a\ufffdb"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1e400", "1e400"),
        (str(10**400), 10**400),
        (r'{"\u0000": [1, {"\udc00": null}]}', {"\ufffd": [1, {"\ufffd": None}]}),
    ],
)
def test_it_stores_what_json_allows_and_a_database_refuses(written: str, kept: Any) -> None:
    body = f'{{"EventType": "shop_plain",  "eventId": "e1", "odd": {written}}}\n'

    receive(read(body, salt=""))

    event = Event.objects.get()
    assert event.payload["odd"] == kept
    assert event.body == body


def test_it_stores_an_event_type_and_a_corp_id_with_a_zero_character() -> None:
    receive(read(r'{"EventType": "shop\u0000plain", "CorpId": "\u0000", "eventId": "e\u0000"}', salt=""))

    event = Event.objects.get()
    assert (event.event_type, event.corp_id) == ("shop\ufffdplain", "\ufffd")


@pytest.mark.parametrize(
    ("fields", "owed"),
    [
        ({"processCode": "PROC-1", "type": "finish"}, 1),
        ({"ProcessCode": "PROC-2", "TYPE": "finish"}, 1),
        ({"processCode": "PROC-3", "type": "finish"}, 0),
        ({"processCode": "PROC-1", "type": "start"}, 0),
        ({"processCode": "PROC-1"}, 0),
    ],
)
def test_it_owes_an_event_only_to_handlers_that_want_it(fields: dict[str, str], owed: int) -> None:
    receipt = receive(payload("shop_choosy", **fields))

    assert receipt.deliveries == owed
    assert Delivery.objects.count() == owed


def test_an_event_that_nobody_wants_is_stored_and_owed_to_nobody() -> None:
    receipt = receive(payload("a_type_of_next_year"))

    assert (receipt.is_new, receipt.deliveries) == (True, 0)
    assert Event.objects.get().event_type == "a_type_of_next_year"


def test_an_endpoint_gets_what_comes_after_it_was_made_changed_or_disabled_and_no_more() -> None:
    def owed(event_type: str) -> int:
        return receive(payload(event_type)).deliveries

    assert owed("label_a") == 0
    endpoint = Endpoint.objects.create(name="ERP", url="http://127.0.0.1:1/", format="standard")
    assert (owed("label_a"), owed("label_a"), owed("label_b")) == (1, 1, 1)
    Endpoint.objects.update(event_types=["label_b"])
    assert (owed("label_a"), owed("label_b")) == (0, 1)
    second = Endpoint.objects.create(name="OA", url="http://127.0.0.1:1/", format="dingtalk")
    assert (owed("label_a"), owed("label_b")) == (1, 2)
    Endpoint.objects.filter(pk=endpoint.pk).update(enabled=False)
    assert (owed("label_b"), owed("shop_twice")) == (1, 3)
    pushed = payload("label_b")
    assert [receive(pushed).is_new, receive(pushed).is_new] == [True, False]
    second.delete()
    assert (owed("label_b"), receive(pushed).is_new) == (0, False)


@pytest.mark.parametrize("name", ["userId", "UserId", "userid"])
def test_a_handler_finds_a_field_in_whichever_case_it_was_sent(name: str) -> None:
    receipt = receive(read('{"EventType": "user_add_org", "UserId": ["u1"]}', salt=""))
    event = Event.objects.get(pk=receipt.event_id)
    assert event.field(name) == ["u1"]
    assert event.field("corpId") is None
