"""The relay: what an endpoint is sent, over a socket, and what its answer changes."""

import json
import time
from datetime import timedelta
from email.utils import formatdate
from ipaddress import ip_network
from typing import Any

import pytest
from django.db import Error
from django.utils.timezone import now
from pytest_django import Settings

from callbacks import circuit, outbox
from callbacks.dingcrypto import DingCrypto
from callbacks.keys import new_aes_key, new_token
from callbacks.models import Attempt, Delivery, Endpoint
from tests.owed import WORKER, attempts, carry, carry_due, claimed, owe, table_away
from tests.subscriber import Subscriber, closed_port, saying, sealing, sent

pytestmark = pytest.mark.django_db


def standard(url: str, **fields: Any) -> Endpoint:
    return Endpoint.objects.create(name="ERP", url=url, format="standard", **fields)


def native(url: str, **fields: Any) -> Endpoint:
    return Endpoint.objects.create(name="OA", url=url, format="dingtalk", **fields)


def waits(delivery: Delivery) -> float:
    """Return the seconds until a delivery's next attempt."""
    assert delivery.next_attempt_at
    return (delivery.next_attempt_at - now()).total_seconds()


# The standard form


def test_a_standard_endpoint_gets_json_that_its_library_verifies() -> None:
    with Subscriber() as erp:
        endpoint = standard(erp.url)
        delivery = carry(sent(endpoint, CorpId="dingtestcorp0001", UserId=["u1"], name="审批"))

    assert (delivery.state, delivery.attempts, delivery.last_error) == ("delivered", 1, "")
    (request,) = erp.requests
    event = delivery.event
    assert request.verified(endpoint.secret) == {
        "type": "label_user_change",
        "timestamp": event.received_at.isoformat(timespec="milliseconds"),
        "data": {
            "payload": json.loads(event.body),
            "corp_id": "dingtestcorp0001",
            "subject": "dingtestcorp0001:user:u1",
            "identity": event.identity,
            "source": "callback",
        },
    }
    assert request.path == "/hook?of=us"
    assert request.headers["Content-Type"] == "application/json"


def test_each_attempt_has_the_same_id_and_each_endpoint_one_of_its_own() -> None:
    with Subscriber(saying(500)) as erp, Subscriber() as shop:
        endpoint, other = standard(erp.url), standard(shop.url)
        sent(endpoint)
        assert {each.destination for each in carry_due()} == {endpoint.destination, other.destination}
        Delivery.objects.pending().update(next_attempt_at=now() - timedelta(seconds=1))
        carry_due()

    first, again = (request.headers["webhook-id"] for request in erp.requests)
    assert first == again
    assert shop.requests[0].headers["webhook-id"] != first


def test_while_a_secret_is_rotated_both_verify() -> None:
    with Subscriber() as erp:
        endpoint = standard(erp.url, previous_secret="whsec_" + "A" * 32)
        carry(sent(endpoint))

    (request,) = erp.requests
    assert request.verified(endpoint.secret) == request.verified("whsec_" + "A" * 32)
    assert len(request.headers["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success_and_its_start_is_kept(status: int) -> None:
    body = b"" if status == 204 else "好".encode() * 300
    with Subscriber(saying(status, body)) as erp:
        delivery = carry(sent(standard(erp.url)))

    attempt = Attempt.objects.get(delivery=delivery)
    assert (delivery.state, attempt.status, attempt.outcome) == ("delivered", status, "delivered")
    assert attempt.answer == ("" if status == 204 else "好" * 170)


def test_an_answer_that_is_no_text_is_not_kept() -> None:
    with Subscriber(saying(200, bytes(range(256)))) as erp:
        delivery = carry(sent(standard(erp.url)))

    assert Attempt.objects.get(delivery=delivery).answer == ""


# What was refused


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (500, "answered 500 Internal Server Error"),
        (404, "answered 404 Not Found"),
        (599, "answered 599"),
        (302, "answered 302 Found, a redirect, which is not followed: mend its address"),
    ],
)
def test_any_other_status_is_tried_again_by_the_schedule(status: int, line: str, settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [100, 200]
    with Subscriber() as elsewhere, Subscriber(saying(status, "why", Location=elsewhere.url)) as erp:
        delivery = carry(sent(standard(erp.url)))

    assert (delivery.state, delivery.attempts, delivery.last_error) == ("pending", 1, line)
    assert 95 < waits(delivery) < 121
    assert attempts(delivery) == [("failed", line)]
    assert elsewhere.requests == []


def test_where_nothing_listens_it_is_tried_again_and_dead_in_the_end(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [0]
    with closed_port() as url:
        delivery = carry(sent(standard(url)))
        assert delivery.state == "pending"
        delivery = carry(delivery)

    assert (delivery.state, delivery.attempts) == ("dead", 2)
    assert delivery.last_error


def test_an_endpoint_may_have_a_schedule_of_its_own(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [5, 5, 5]
    with Subscriber(saying(500)) as erp:
        delivery = carry(sent(standard(erp.url, retry_schedule=[1000])))

    assert 900 < waits(delivery) < 1300


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (lambda: "120", 100, 121),
        (lambda: formatdate(time.time() + 600, usegmt=True), 580, 601),
        (lambda: "31536000", 86300, 86401),
        (lambda: "99999999999999999999", 86300, 86401),
        (lambda: "0", -5, 2),
        (lambda: formatdate(time.time() - 600, usegmt=True), -5, 2),
        (lambda: "soon", 5000, 6001),
    ],
)
def test_retry_after_is_honoured_up_to_a_day(value: Any, least: float, most: float, settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [5000]
    with Subscriber(saying(503, Retry_After=value())) as erp:
        delivery = carry(sent(standard(erp.url)))

    assert delivery.state == "pending"
    assert least < waits(delivery) < most


def test_410_disables_the_endpoint_and_its_deliveries_stay_pending() -> None:
    with Subscriber(saying(410)) as erp:
        endpoint = standard(erp.url)
        delivery = carry(sent(endpoint))

    endpoint.refresh_from_db()
    assert (endpoint.enabled, endpoint.condition) == (False, "disabled")
    assert endpoint.disabled_because == "answered 410 Gone: it wants no more events"
    assert (delivery.state, delivery.attempts) == ("pending", 0)
    assert carry_due() == []


def test_an_endpoint_that_was_removed_leaves_its_deliveries_dead() -> None:
    endpoint = standard("http://127.0.0.1:1/")
    delivery = sent(endpoint)
    endpoint.delete()

    delivery = carry(delivery)

    assert (delivery.state, delivery.last_error) == ("dead", f"endpoint {delivery.destination[9:]} was removed")


def test_a_blocked_address_pauses_the_endpoint_and_leaves_its_deliveries_as_they_were(settings: Settings) -> None:
    settings.RELAY_BLOCKED_NETWORKS = [ip_network("127.0.0.0/8")]
    with Subscriber() as erp:
        endpoint = standard(erp.url)
        delivery = carry(sent(endpoint))
        endpoint.refresh_from_db()
        assert (endpoint.paused, endpoint.condition) == (True, "paused")
        assert endpoint.last_error.startswith("blocked: ")
        assert "127.0.0.0/8" in endpoint.last_error
        assert (delivery.state, delivery.attempts, delivery.last_error) == ("pending", 0, endpoint.last_error)
        assert (carry_due(), erp.requests) == ([], [])

        settings.RELAY_BLOCKED_NETWORKS = []
        circuit.resume(endpoint)
        assert [each.state for each in carry_due()] == ["delivered"]

    endpoint.refresh_from_db()
    assert (endpoint.condition, endpoint.last_error) == ("ok", "")


# DingTalk's own form


def test_a_receiver_written_for_dingtalk_gets_the_same_bytes_sealed_for_it() -> None:
    endpoint = native("", owner_key="suite-of-theirs")
    with Subscriber(sealing(endpoint)) as oa:
        Endpoint.objects.update(url=oa.url)
        delivery = carry(sent(endpoint, UserId=["u1"], name="审批 \\u0041"))

    assert (delivery.state, delivery.last_error) == ("delivered", "")
    (request,) = oa.requests
    assert request.opened(endpoint).text == delivery.event.body
    assert request.path.startswith("/hook?of=us&signature=")
    assert set(json.loads(request.body)) == {"encrypt"}


NOT_SUCCESS = [
    ("success", "the answer is not encrypted (it is no JSON)"),
    ('{"msg": "success"}', "the answer is not encrypted (it has no `encrypt`)"),
    ("[]", "the answer is not encrypted (it has no `encrypt`)"),
    ("", "the answer is empty"),
]


@pytest.mark.parametrize(("body", "wrong"), NOT_SUCCESS)
def test_an_answer_that_is_not_sealed_is_borne_as_dingtalk_bears_it(body: str, wrong: str, settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [1000, 1000, 1000, 1000]
    with Subscriber(saying(200, body)) as oa:
        delivery = sent(native(oa.url))
        for seconds in (10, 30):
            delivery = carry(delivery)
            assert delivery.state == "pending"
            assert seconds - 5 < waits(delivery) < seconds * 1.3
            Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=now() - timedelta(seconds=1))
        delivery = carry(delivery)

    assert (delivery.state, delivery.attempts) == ("dead", 3)
    assert delivery.last_error == f"answered 200 but not success: {wrong}"
    assert len(oa.requests) == 3


def test_a_receiver_that_answers_so_to_everything_is_cut_off_from_nothing() -> None:
    with Subscriber(saying(200, "success")) as oa:
        endpoint = native(oa.url, concurrency=100)
        deliveries = [sent(endpoint) for _ in range(circuit.REFUSALS + 5)]
        for _ in range(3):
            carry_due()
            Delivery.objects.pending().update(next_attempt_at=now() - timedelta(seconds=1))

    endpoint.refresh_from_db()
    assert (endpoint.condition, endpoint.refusals, endpoint.rests_until) == ("failing", 0, None)
    assert "answered 200 but not success" in endpoint.last_error
    assert len(oa.requests) == 3 * len(deliveries)
    assert not Delivery.objects.exclude(state="dead", attempts=3).exists()


def test_a_receiver_that_was_down_before_has_its_two_retries_all_the_same(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [0] * 9
    with Subscriber(saying(500)) as oa:
        delivery = sent(native(oa.url))
        for _ in range(4):
            delivery = carry(delivery)
        oa.answer = saying(200, "ok")
        delivery = carry(delivery)

    assert (delivery.state, delivery.attempts) == ("pending", 5)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"msg_signature": "0" * 40}, "its token differs"),
        ({"encrypt": "AAAA"}, "wrong signature"),
    ],
)
def test_a_sealed_answer_that_does_not_verify_follows_the_schedule(
    changes: dict[str, Any], line: str, settings: Settings
) -> None:
    settings.RETRY_SCHEDULE = [1000]
    endpoint = native("")
    with Subscriber(sealing(endpoint, **changes)) as oa:
        Endpoint.objects.update(url=oa.url)
        delivery = carry(sent(endpoint))

    assert delivery.state == "pending"
    assert waits(delivery) > 900
    assert line in delivery.last_error


@pytest.mark.parametrize(
    ("owner_key", "aes_key", "text", "status", "line"),
    [
        ("another-owner", "", "success", 200, "wrong owner key"),
        ("", "q8ZtR2mXw5KcVb7NhYp3LsDf6GjTa9Ue4WxQo1EiMn0", "success", 200, "its aes key differs"),
        ("", "", "failure", 200, "says 'failure', not success"),
        ("", "", "success", 201, "DingTalk takes nothing but 200"),
    ],
)
def test_the_error_names_what_is_wrong_with_a_sealed_answer(
    owner_key: str, aes_key: str, text: str, status: int, line: str, settings: Settings
) -> None:
    settings.RETRY_SCHEDULE = [1000]
    endpoint = native("")
    crypto = DingCrypto(aes_key or endpoint.aes_key, owner_key or endpoint.owner_key)
    encrypt = crypto.encrypt(text)
    signature = crypto.generate_signature("n", "29", endpoint.token, encrypt)
    answer = {"msg_signature": signature, "timeStamp": 29, "nonce": "n", "encrypt": encrypt}
    with Subscriber(saying(status, json.dumps(answer))) as oa:
        Endpoint.objects.update(url=oa.url)
        delivery = carry(sent(endpoint))

    assert delivery.state == "pending"
    assert waits(delivery) > 900
    assert line in delivery.last_error


def test_no_secret_of_an_endpoint_is_in_what_is_kept_of_an_attempt() -> None:
    token, aes_key = new_token(), new_aes_key()
    with Subscriber(saying(500, "no")) as oa:
        carry(sent(native(oa.url, token=token, aes_key=aes_key)))

    kept = json.dumps([list(Attempt.objects.values()), list(Delivery.objects.values())], default=str)
    assert "answered 500" in kept
    assert not any(secret in kept for secret in (token, aes_key))


# Handlers beside it


def test_a_handler_and_two_endpoints_have_fates_of_their_own() -> None:
    with Subscriber() as erp, Subscriber(saying(500)) as oa:
        good, bad = standard(erp.url), native(oa.url)
        delivery = owe("shop_plain")
        carry_due()

    states = dict(Delivery.objects.filter(event=delivery.event).values_list("destination", "state"))
    assert states == {delivery.destination: "delivered", good.destination: "delivered", bad.destination: "pending"}


def test_one_subject_is_sent_in_order_while_others_go_on() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = standard(erp.url, retry_schedule=[1000])
        first = carry(sent(endpoint, UserId=["u1"], number=1))
        erp.answer = saying(204)
        sent(endpoint, UserId=["u1"], number=2)
        other = sent(endpoint, UserId=["u2"], number=3)
        assert [each.pk for each in carry_due()] == [other.pk]
        Delivery.objects.filter(pk=first.pk).update(next_attempt_at=now() - timedelta(seconds=1))
        while carry_due():
            pass

    numbers = [request.verified(endpoint.secret)["data"]["payload"]["number"] for request in erp.requests]
    assert numbers == [1, 3, 1, 2]


@pytest.mark.django_db(transaction=True)
def test_a_database_that_fails_in_an_attempt_is_no_refusal_of_the_endpoint() -> None:
    with Subscriber() as erp:
        endpoint = standard(erp.url)
        delivery = claimed(sent(endpoint))
        with table_away("callbacks_attempt"), pytest.raises(Error):
            outbox.attempt(delivery, WORKER)

    endpoint.refresh_from_db()
    assert (endpoint.refusals, erp.requests) == (0, [])
