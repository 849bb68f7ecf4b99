"""The circuit: an endpoint that refuses everything is tried now and then, and everything follows once it takes one."""

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.utils.timezone import now
from pytest_django import Settings

from callbacks import circuit, deadline, due, outbox, settling
from callbacks.models import Attempt, Delivery, Endpoint
from tests.owed import WORKER, carry, carry_due, expire_leases, in_threads, owe
from tests.processes import database_url
from tests.settings import DATABASE
from tests.subscriber import Answer, Request, Subscriber, saying, sent

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
SECOND = timedelta(seconds=1)


def endpoint_at(url: str, **fields: Any) -> Endpoint:
    # a retry that falls due by itself would come in the way of a slow machine
    return Endpoint.objects.create(**{"name": "ERP", "url": url, "retry_schedule": [1000] * 9, **fields})


def opened_circuit(url: str, **fields: Any) -> Endpoint:
    """Return an endpoint that has refused ten deliveries, one each."""
    endpoint = endpoint_at(url, **fields)
    for _ in range(circuit.REFUSALS):
        carry(sent(endpoint))
    endpoint.refresh_from_db()
    return endpoint


def let_rest_end() -> None:
    Endpoint.objects.exclude(rests_until=None).update(rests_until=now() - SECOND)


def make_due() -> None:
    Delivery.objects.pending().update(next_attempt_at=now() - SECOND)


def test_nine_refusals_change_nothing_and_the_tenth_opens_the_circuit() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = endpoint_at(erp.url)
        for count in range(1, circuit.REFUSALS + 1):
            carry(sent(endpoint))
            endpoint.refresh_from_db()
            assert (endpoint.refusals, endpoint.condition) == (count, "failing")
            assert bool(endpoint.rests_until) == (count == circuit.REFUSALS)

    assert endpoint.last_error == "answered 500 Internal Server Error"
    assert endpoint.failing_since
    assert endpoint.rests_until
    assert 20 * SECOND < endpoint.rests_until - now() <= 30 * SECOND
    sent(endpoint)
    assert (due.destinations(), carry_due(), outbox.unattended()) == ([], [], 0)


def test_one_that_takes_something_now_and_then_is_left_alone() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = endpoint_at(erp.url)
        for _ in range(3):
            for _ in range(circuit.REFUSALS - 1):
                carry(sent(endpoint))
            erp.answer = saying(200)
            carry(sent(endpoint))
            erp.answer = saying(500)

    endpoint.refresh_from_db()
    assert (endpoint.refusals, endpoint.failing_since, endpoint.last_error) == (0, None, "")
    assert endpoint.condition == "ok"


def test_a_probe_is_the_oldest_due_delivery_and_leaves_nothing_but_an_attempt() -> None:
    with Subscriber(saying(500)) as erp:
        opened_circuit(erp.url)
        make_due()
        oldest = Delivery.objects.order_by("event_id")[0]
        Delivery.objects.exclude(pk=oldest.pk).update(next_attempt_at=now() - 60 * SECOND)
        for _ in range(3):
            let_rest_end()
            (probed,) = carry_due()
            assert probed.pk == oldest.pk
            assert carry_due() == []

    before = (oldest.state, oldest.attempts, oldest.next_attempt_at)
    oldest.refresh_from_db()
    assert (oldest.state, oldest.attempts, oldest.next_attempt_at) == before
    assert Attempt.objects.filter(delivery=oldest, outcome="failed").count() == 1 + 3
    assert oldest.last_error == "answered 500 Internal Server Error"


@committed
def test_what_was_sent_before_the_circuit_opened_counts_as_no_probe() -> None:
    count = circuit.REFUSALS + 2 * circuit.TRIES_OF_EACH
    together = threading.Barrier(count)

    def refuse(request: Request) -> Answer:
        together.wait(20)
        return 500, {}, b""

    with Subscriber(refuse) as erp:
        endpoint = endpoint_at(erp.url, concurrency=100)
        for _ in range(count):
            sent(endpoint)
        under_way = outbox.claim(100)
        in_threads(count, lambda number: outbox.attempt(under_way[number], WORKER))
        erp.answer = saying(500)
        make_due()
        let_rest_end()
        (probed,) = carry_due()

    assert probed.pk == under_way[0].pk


def test_a_probe_that_is_refused_for_its_own_sake_holds_up_no_other_for_ever() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = opened_circuit(erp.url)
        make_due()
        oldest = Delivery.objects.select_related("event").order_by("event_id")[0]
        refused = str(oldest.event.payload["eventId"]).encode()
        erp.answer = lambda request: (500 if refused in request.body else 200, {}, b"")
        probed = []
        for _ in range(circuit.TRIES_OF_EACH + 1):
            let_rest_end()
            probed += [each.pk for each in carry_due()]
        carry_due()

    endpoint.refresh_from_db()
    assert not endpoint.rests_until

    assert probed == [oldest.pk] * circuit.TRIES_OF_EACH + [oldest.pk + 1]
    assert list(Delivery.objects.exclude(state="delivered").values_list("pk", flat=True)) == [oldest.pk]


def test_a_probe_that_is_taken_makes_everything_due_at_once_in_order() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = opened_circuit(erp.url)
        later = sent(endpoint)
        Delivery.objects.filter(pk=later.pk).update(next_attempt_at=now() - 60 * SECOND)
        let_rest_end()
        erp.answer = saying(200)
        assert [each.pk for each in carry_due()] == [later.pk]
        pending = list(Delivery.objects.pending().order_by("id").values_list("pk", flat=True))
        assert len(pending) == circuit.REFUSALS
        assert [each.pk for each in carry_due()] == pending

    endpoint.refresh_from_db()
    assert (endpoint.condition, endpoint.rests_until) == ("ok", None)
    assert not Delivery.objects.exclude(state="delivered").exists()


def test_a_retry_after_lets_it_rest_longer_but_no_longer_than_a_day() -> None:
    with Subscriber(saying(503, Retry_After="600")) as erp:
        endpoint = opened_circuit(erp.url)
        assert endpoint.rests_until
        assert 500 * SECOND < endpoint.rests_until - now() <= 600 * SECOND
        erp.answer = saying(503, Retry_After="999999")
        make_due()
        let_rest_end()
        carry_due()

    endpoint.refresh_from_db()
    assert endpoint.rests_until - now() <= timedelta(days=1)


@committed
def test_workers_that_claim_at_the_same_time_send_one_probe() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = opened_circuit(erp.url)
        for _ in range(5):
            sent(endpoint)
        let_rest_end()

        taken = in_threads(4, lambda _: len(outbox.claim(5, endpoint.destination)))

    assert sorted(taken) == [0, 0, 0, 1]


def test_no_second_probe_starts_while_the_first_goes_on() -> None:
    with Subscriber(saying(500)) as erp:
        endpoint = opened_circuit(erp.url)
        sent(endpoint), sent(endpoint)
        let_rest_end()
        assert len(outbox.claim(5)) == 1
        let_rest_end()
        assert outbox.claim(5) == []
        expire_leases()
        let_rest_end()
        assert len(outbox.claim(5)) == 1


def test_a_worker_that_dies_in_the_last_attempt_leaves_the_delivery_pending(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = []
    endpoint = endpoint_at("http://127.0.0.1:1/", retry_schedule=[])
    delivery = sent(endpoint)
    settling.start(outbox.claim(1)[0], WORKER)
    expire_leases()

    assert [each.pk for each in outbox.claim(1)] == [delivery.pk]
    assert Attempt.objects.get(delivery=delivery).outcome == "lost"


# Disabled, enabled, paused, resumed


def test_what_refuses_everything_for_long_is_disabled_and_its_deliveries_stay(settings: Settings) -> None:
    settings.ENDPOINT_DISABLE_AFTER = 3600
    with Subscriber(saying(500)) as erp:
        endpoint = endpoint_at(erp.url)
        carry(sent(endpoint))
        Endpoint.objects.update(failing_since=now() - timedelta(seconds=3590))
        carry(sent(endpoint))
        endpoint.refresh_from_db()
        assert endpoint.enabled
        Endpoint.objects.update(failing_since=now() - timedelta(seconds=3601))
        carry(sent(endpoint))

        endpoint.refresh_from_db()
        assert (endpoint.enabled, endpoint.condition) == (False, "disabled")
        assert endpoint.disabled_because.startswith("it refused everything for 3601 s; the last time: answered 500")
        owed = Delivery.objects.pending().count()
        make_due()
        assert (carry_due(), owed) == ([], 3)
        with pytest.raises(Delivery.DoesNotExist):
            sent(endpoint)

        erp.answer = saying(200)
        circuit.enable(endpoint)
        assert len(carry_due()) == owed

    endpoint.refresh_from_db()
    assert (endpoint.condition, endpoint.disabled_because) == ("ok", "")


def test_one_that_is_enabled_by_changing_its_row_begins_anew(settings: Settings) -> None:
    settings.ENDPOINT_DISABLE_AFTER = 3600
    with Subscriber(saying(500)) as erp:
        endpoint = opened_circuit(erp.url)
        Endpoint.objects.update(failing_since=now() - timedelta(hours=2))
        make_due()
        let_rest_end()
        carry_due()
        endpoint.refresh_from_db()
        assert not endpoint.enabled
        endpoint.enabled = True
        endpoint.save()
        make_due()

        assert len(carry_due()) == circuit.REFUSALS

    endpoint.refresh_from_db()
    assert (endpoint.enabled, endpoint.refusals) == (True, circuit.REFUSALS)


def test_paused_it_is_owed_everything_and_sent_in_order_when_resumed() -> None:
    with Subscriber() as erp:
        endpoint = endpoint_at(erp.url)
        circuit.pause(endpoint)
        owed = [sent(endpoint, UserId=["u1"], number=number).pk for number in range(3)]
        assert (carry_due(), erp.requests, outbox.unattended()) == ([], [], 0)
        outbox.redeliver(Delivery.objects.all())
        assert carry_due() == []

        circuit.resume(endpoint)
        done: list[int] = []
        while some := carry_due():
            done += [each.pk for each in some]

    assert done == owed
    numbers = [request.verified(endpoint.secret)["data"]["payload"]["number"] for request in erp.requests]
    assert numbers == [0, 1, 2]


def test_pausing_one_leaves_the_others_alone() -> None:
    with Subscriber() as erp:
        paused, other = endpoint_at(erp.url), endpoint_at(erp.url)
        circuit.pause(paused)
        sent(other)

        assert [each.destination for each in carry_due()] == [other.destination]


# Limits of its own


def test_no_more_requests_run_at_the_same_time_than_it_allows() -> None:
    endpoint = endpoint_at("http://127.0.0.1:1/", concurrency=3)
    for _ in range(6):
        sent(endpoint)

    assert (len(outbox.claim(2)), len(outbox.claim(5)), len(outbox.claim(5))) == (2, 1, 0)
    expire_leases()
    assert len(outbox.claim(5)) == 3


def test_a_rate_is_kept_and_a_second_of_it_may_come_at_once() -> None:
    endpoint = endpoint_at("http://127.0.0.1:1/", rate=6)
    for _ in range(20):
        sent(endpoint)

    assert len(outbox.claim(10)) == 1
    assert due.destinations() == []
    Endpoint.objects.update(slow_until=now() - timedelta(hours=1), rate=240)
    assert len(outbox.claim(10)) == 4
    endpoint.refresh_from_db()
    assert endpoint.slow_until
    assert endpoint.slow_until - now() < SECOND
    Endpoint.objects.update(slow_until=now() - SECOND, rate=6)
    assert [len(outbox.claim(10)) for _ in range(2)] == [1, 0]


@pytest.mark.skipif(DATABASE != "postgresql", reason="SQLite has no row locks")
@committed
def test_a_claim_passes_over_an_endpoint_of_which_another_worker_claims() -> None:
    with Subscriber() as erp:
        row = endpoint_at(erp.url, event_types=["label_*"])
        delivery, other = sent(row), owe("shop_plain")
        with psycopg.connect(database_url()) as worker:
            worker.execute(f"SELECT 1 FROM callbacks_endpoint WHERE id = {row.pk} FOR UPDATE")
            with deadline.within(5):
                assert outbox.claim(10) == [other]
        assert outbox.claim(10) == [delivery]


# Rows that were made in any way


def test_a_rate_beyond_all_measure_is_no_rate() -> None:
    with Subscriber() as erp:
        endpoint = endpoint_at(erp.url, rate=2_000_000_000)
        for _ in range(2):
            assert carry(sent(endpoint)).state == "delivered"


@pytest.mark.parametrize("schedule", [["5"], "5,300", {"5": 300}, [None], [1e15], [-1], [True], 5])
def test_what_can_be_no_schedule_is_none(schedule: Any, settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [1000]
    with Subscriber(saying(500)) as erp:
        delivery = carry(sent(endpoint_at(erp.url, retry_schedule=schedule)))
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert delivery.next_attempt_at
    assert delivery.next_attempt_at - now() > 900 * SECOND
