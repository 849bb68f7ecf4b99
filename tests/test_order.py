"""Order per subject: one at a time, in the order of the inbox, whatever fails and however many work."""

import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from callbacks import order, outbox, settling, worker
from callbacks.models import LEASE, Delivery, Event
from callbacks.routing import GiveUp, RetryLater
from tests.owed import WORKER, attempts, carry, claimed, expire_leases, in_threads, owe
from tests.settings import DATABASE
from tests.shop.handlers import Script, scripts

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_scripts() -> Iterator[None]:
    yield
    scripts.clear()


def about(user: str, **fields: Any) -> Delivery:
    """Store an event about a user; return its delivery."""
    return owe("shop_plain", CorpId="c", UserId=[user], **fields)


def claimable() -> list[int]:
    return [each.pk for each in outbox.claim(100)]


def raising(error: Exception) -> Script:
    def act(event: Event, delivery: Delivery) -> None:
        raise error

    return act


def test_only_the_first_of_a_subject_is_claimed_and_other_subjects_are_not_hindered() -> None:
    first, second, other = about("u1"), about("u1"), about("u2")
    assert claimable() == [first.pk, other.pk]
    second.refresh_from_db()
    assert second.next_attempt_at is None
    assert order.head(second) == first.pk
    assert claimable() == []


def test_a_long_line_behind_a_first_that_is_retried_is_parked_by_one_claim() -> None:
    first, other = about("u1"), about("u2")
    for _ in range(outbox.CANDIDATES + 50):
        about("u1")
    Delivery.objects.filter(pk=first.pk).update(next_attempt_at=Now() + timedelta(hours=1))
    assert [each.pk for each in outbox.claim(1)] == [other.pk]
    behind = Delivery.objects.filter(subject=first.subject).exclude(pk=first.pk)
    assert not behind.exclude(next_attempt_at=None).exists()
    assert order.head(behind.latest("id")) == first.pk


@pytest.mark.skipif(DATABASE != "sqlite", reason="PostgreSQL keeps statistics by itself")
def test_a_claim_looks_subjects_up_in_their_indexes_also_where_sqlite_knows_nothing_of_the_rows() -> None:
    about("u1")
    with CaptureQueriesContext(connection) as captured:
        assert len(outbox.claim(1)) == 1
    plans = []
    with connection.cursor() as cursor:
        for sql in (each["sql"] for each in captured if each["sql"].startswith("SELECT")):
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}".replace("%", "%%"), [])
            plans += [row[-1] for row in cursor.fetchall()]
    assert any("delivery_subject" in plan for plan in plans)
    assert any("delivery_held" in plan for plan in plans)
    assert not [plan for plan in plans if "delivery_state_newest" in plan or plan.startswith("SCAN callbacks_delivery")]


def test_what_has_no_subject_has_no_order() -> None:
    ids = [owe("shop_plain").pk for _ in range(3)]
    assert claimable() == ids


def test_a_handler_may_do_without_order() -> None:
    ids = [owe("shop_unordered", CorpId="c", UserId=["u1"]).pk for _ in range(3)]
    assert claimable() == ids


def test_the_next_has_its_turn_when_the_first_is_delivered() -> None:
    first, second = about("u1"), about("u1")
    assert claimable() == [first.pk]
    expire_leases()
    assert carry(first).state == "delivered"
    assert carry(second).state == "delivered"


def test_later_ones_wait_while_the_first_is_retried_and_a_dead_one_lets_them_go(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [3600]
    first, second = about("u1"), about("u1")
    scripts["plain"] = raising(ValueError("no"))
    assert carry(first).state == "pending"
    assert claimable() == []
    Delivery.objects.filter(pk=first.pk).update(next_attempt_at=Now())
    assert carry(first).state == "dead"
    assert claimable() == [second.pk]


def test_giving_up_lets_the_next_go_at_once() -> None:
    first, second = about("u1"), about("u1")
    scripts["plain"] = raising(GiveUp("it was deleted"))
    assert carry(first).state == "dead"
    assert first.last_error == "GiveUp: it was deleted"
    assert claimable() == [second.pk]


def test_a_handler_may_name_the_time_of_the_next_attempt(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [3600]
    later = about("u1")
    scripts["plain"] = raising(RetryLater(20))
    carry(later)
    assert later.next_attempt_at is not None
    wait = Delivery.objects.filter(pk=later.pk).annotate(now=Now()).values_list("now", flat=True).get()
    assert 15 < (later.next_attempt_at - wait).total_seconds() <= 20


@pytest.mark.parametrize("seconds", ["60", None, float("inf"), float("nan"), -1, 1e15])
def test_a_time_that_is_none_fails_the_attempt_like_any_error(seconds: Any, settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [3600]

    def act(event: Event, delivery: Delivery) -> None:
        raise RetryLater(seconds)

    scripts["plain"] = act
    delivery = carry(about("u1"))
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert delivery.last_error.startswith("ValueError: RetryLater takes seconds")


def test_an_error_that_nobody_thought_of_ends_no_worker() -> None:
    surprise = RetryLater(1)
    surprise.seconds = "soon"  # type: ignore[assignment]
    scripts["plain"] = raising(surprise)
    delivery = claimed(about("u1"))
    assert worker.attempt(delivery, WORKER) is None
    delivery.refresh_from_db()
    assert (delivery.state, bool(delivery.leased_until)) == ("pending", True), "it falls due when its lease ends"


def test_a_worker_that_is_stopped_gives_its_place_back_and_not_its_turn() -> None:
    first, second = about("u1"), about("u1")
    (held,) = outbox.claim(100)
    settling.start(held, WORKER)
    outbox.give_back(held)
    assert claimable() == [first.pk]
    assert order.head(second) == first.pk


def test_an_earlier_one_that_is_redelivered_goes_first_but_never_beside_one_that_runs() -> None:
    first, second, third = about("u1"), about("u1"), about("u1")
    assert carry(first).state == "delivered"
    (running,) = outbox.claim(100)
    assert running.pk == second.pk
    outbox.redeliver(Delivery.objects.filter(pk=first.pk))
    assert claimable() == []  # the second runs
    outbox.attempt(running, WORKER)
    assert claimable() == [first.pk]
    assert order.head(third) == first.pk


def test_an_earlier_one_is_not_forgotten_when_the_worker_of_a_later_one_dies() -> None:
    first, second = about("u1"), about("u1")
    assert carry(first).state == "delivered"
    assert claimable() == [second.pk]
    outbox.redeliver(Delivery.objects.filter(pk=first.pk))
    assert claimable() == []  # and the first is parked now
    expire_leases()
    assert claimable() == [first.pk]
    expire_leases()
    assert carry(first).state == "delivered"
    assert carry(second).state == "delivered"


def test_a_lease_that_a_wrong_clock_put_far_ahead_counts_as_ended() -> None:
    delivery = about("u1")
    assert claimable() == [delivery.pk]
    Delivery.objects.update(leased_until=Now() + 10 * LEASE)
    assert claimable() == [delivery.pk]


def test_a_handler_may_have_a_schedule_and_a_time_limit_of_its_own(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [5, 5, 5]
    impatient = owe("shop_impatient")
    scripts["impatient"] = raising(ValueError("no"))
    assert outbox.time_limit(impatient) == 2
    assert carry(impatient).state == "dead"
    assert [outcome for outcome, _ in attempts(impatient)] == ["failed"]


SUBJECTS, EVENTS, WORKERS = 40, 25, 4


def test_each_subjects_sequence_is_intact_while_many_work_and_a_third_is_refused(settings: Settings) -> None:
    settings.RETRY_SCHEDULE = [0] * 100
    done: dict[str, list[int]] = defaultdict(list)
    running: dict[str, int] = defaultdict(int)
    overlaps: list[str] = []
    guard, chance = threading.Lock(), random.Random(7)

    def act(event: Event, delivery: Delivery) -> dict[str, Any]:
        user = event.payload["UserId"][0]
        with guard:
            running[user] += 1
            if running[user] > 1:
                overlaps.append(user)
            refuse = chance.random() < 0.3
        try:
            if refuse:
                raise ValueError("refused")
            done[user].append(event.payload["n"])
            return {"n": event.payload["n"]}
        finally:
            with guard:
                running[user] -= 1

    scripts["plain"] = act
    for number in range(EVENTS):
        for user in range(SUBJECTS):
            about(f"u{user}", n=number)

    def work(_: int) -> None:
        while Delivery.objects.pending().exists():
            for delivery in outbox.claim(4):
                outbox.attempt(delivery, WORKER)

    in_threads(WORKERS, work)
    assert overlaps == []
    assert done == {f"u{user}": list(range(EVENTS)) for user in range(SUBJECTS)}
