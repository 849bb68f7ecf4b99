"""The outbox: claim under a lease, attempt, settle; what fails falls due again, what was lost is found."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils.timezone import now
from pytest_django import Settings

from callbacks import outbox, settling, watch
from callbacks.models import LEASE, Attempt, Delivery, DeliveryQuerySet, Event, LeaseLost
from callbacks.routing import router
from tests.owed import WORKER, attempts, carry, claimed, expire_leases, in_threads, owe, waiting_for_locks
from tests.processes import wait_until
from tests.shop import handlers

pytestmark = pytest.mark.django_db
# For what other connections must see, and for `keep`, which refuses to work inside a transaction.
committed = pytest.mark.django_db(transaction=True)
SECOND = timedelta(seconds=1)


Scripting = Callable[[str, handlers.Script], None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Scripting:
    """Say what one of the shop's handlers does."""
    return lambda name, deed: monkeypatch.setitem(handlers.scripts, name, deed)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Return what this app logs, which otherwise goes to the console and no further."""
    monkeypatch.setattr(logging.getLogger("callbacks"), "propagate", True)
    return caplog


def raising(error: BaseException) -> handlers.Script:
    def deed(event: Event, delivery: Delivery) -> None:
        raise error

    return deed


def returning(result: Any) -> handlers.Script:
    return lambda event, delivery: result


def make_due(delivery: Delivery) -> None:
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=Now())


def stolen(delivery: Delivery) -> Delivery:
    """Let a delivery's lease run out and another worker claim it."""
    Delivery.objects.filter(pk=delivery.pk).update(leased_until=Now())
    return claimed(delivery)


# Claim


def test_a_claim_takes_what_is_due_longest_due_first_and_no_more_than_asked_for() -> None:
    late, early, later = owe("shop_plain"), owe("shop_plain"), owe("shop_plain")
    Delivery.objects.filter(pk=early.pk).update(next_attempt_at=Now() - 60 * SECOND)
    Delivery.objects.filter(pk=later.pk).update(next_attempt_at=Now() + 60 * SECOND)

    assert [each.pk for each in outbox.claim(1)] == [early.pk]
    assert [each.pk for each in outbox.claim(5)] == [late.pk]
    assert outbox.claim(5) == []


@pytest.mark.parametrize("state", ["delivered", "dead"])
def test_what_is_settled_is_not_claimed(state: str) -> None:
    delivery = owe("shop_plain")
    Delivery.objects.filter(pk=delivery.pk).update(state=state)

    assert outbox.claim(5) == []


@committed
def test_workers_that_claim_at_the_same_time_never_get_the_same_delivery() -> None:
    owed = {owe("shop_plain").pk for _ in range(48)}

    def work(_: int) -> list[int]:
        taken: list[int] = []
        while some := outbox.claim(3):
            taken += [each.pk for each in some]
        return taken

    taken = [pk for each in in_threads(8, work) for pk in each]
    taken += [each.pk for each in outbox.claim(100)]
    assert sorted(taken) == sorted(owed)


@committed
@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no row locks")
def test_a_claim_passes_over_rows_that_another_claim_is_taking() -> None:
    held, free = owe("shop_plain"), owe("shop_plain")
    locked, done = threading.Event(), threading.Event()

    def work(number: int) -> list[int]:
        if number:
            locked.wait(10)
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '5s'")
            claim = [each.pk for each in outbox.claim(5)]
            done.set()
            return claim
        with transaction.atomic():
            Delivery.objects.select_for_update().get(pk=held.pk)
            locked.set()
            assert done.wait(10), "the claim waits for the lock"
        return []

    assert in_threads(2, work) == [[], [free.pk]]


@committed
@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no row locks")
@pytest.mark.parametrize("verb", [outbox.redeliver, outbox.give_up])
def test_a_lease_that_a_statement_had_to_wait_for_counts(verb: Callable[[DeliveryQuerySet], int]) -> None:
    delivery = owe("shop_unordered")
    rows = Delivery.objects.filter(pk=delivery.pk)
    locked = threading.Event()

    def work(number: int) -> int:
        if number:
            assert locked.wait(10)
            return verb(rows)
        with transaction.atomic():
            rows.select_for_update().get()
            locked.set()
            wait_until(waiting_for_locks)
            # as by a claim whose statement began after the other's
            return rows.update(lease_token=uuid4(), leased_until=Now() + LEASE)

    assert in_threads(2, work) == [1, 0]
    delivery.refresh_from_db()
    assert (delivery.state, bool(delivery.lease_token)) == ("pending", True)


def test_a_claim_is_a_lease_of_its_own_that_ends_within_a_minute() -> None:
    first = claimed(owe("shop_plain"))
    second = claimed(owe("shop_plain"))

    for delivery in (first, second):
        assert delivery.lease_token
        assert delivery.leased_until
        assert now() + 10 * SECOND < delivery.leased_until < now() + 60 * SECOND
    assert first.lease_token != second.lease_token


def test_renewing_prolongs_own_leases_and_no_others() -> None:
    mine, lost, done = (claimed(owe("shop_plain")) for _ in range(3))
    outbox.attempt(done, WORKER)
    other = stolen(lost)
    Delivery.objects.exclude(leased_until=None).update(leased_until=Now() + SECOND)

    outbox.renew([mine, lost, done])

    prolonged, free = (
        Delivery.objects.filter(leased_until__gt=now() + 10 * SECOND),
        Delivery.objects.filter(lease_token=None),
    )
    assert [each.pk for each in prolonged] == [mine.pk]
    assert [each.pk for each in free] == [done.pk]
    assert Delivery.objects.get(pk=other.pk).lease_token == other.lease_token


def test_a_lease_that_ran_out_is_claimed_again_and_its_open_attempt_closed_as_lost() -> None:
    delivery = owe("shop_plain")
    settling.start(claimed(delivery), "dead:1")
    assert outbox.claim(5) == []

    expire_leases()
    again = claimed(delivery)
    outbox.attempt(again, WORKER)

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("delivered", 2)
    assert [outcome for outcome, _ in attempts(delivery)] == ["lost", "delivered"]
    assert "worker lost" in attempts(delivery)[0][1]
    assert Attempt.objects.filter(delivery=delivery, finished_at=None).count() == 0


def test_a_handler_that_takes_its_process_down_each_time_ends_as_dead(
    settings: Settings, log: pytest.LogCaptureFixture
) -> None:
    settings.RETRY_SCHEDULE = [1]
    delivery = owe("shop_plain")
    for _ in range(2):
        settling.start(claimed(delivery), "dead:1")
        expire_leases()

    assert outbox.claim(5) == []

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.next_attempt_at) == ("dead", 2, None)
    assert "worker lost" in delivery.last_error
    assert delivery.settled_at
    assert [outcome for outcome, _ in attempts(delivery)] == ["lost", "lost"]
    assert f"delivery {delivery.pk} to handler:tests.shop.handlers.plain: dead after 2 attempts" in log.text


def test_a_delivery_given_back_on_its_last_attempt_does_not_die_with_another_ones_worker(
    settings: Settings,
) -> None:
    settings.RETRY_SCHEDULE = [1]
    given_back, lost = owe("shop_plain"), owe("shop_plain")
    Delivery.objects.filter(pk=given_back.pk).update(attempts=1)
    stopping = claimed(given_back)
    settling.start(stopping, WORKER)
    outbox.give_back(stopping)
    Delivery.objects.filter(pk=lost.pk).update(leased_until=None)
    settling.start(claimed(lost), "dead:1")
    expire_leases()
    Delivery.objects.update(leased_until=Now(), next_attempt_at=Now())

    assert {each.pk for each in outbox.claim(5)} == {given_back.pk, lost.pk}


# Attempt and settle


def test_count_and_attempt_are_written_before_the_handler_runs(script: Scripting) -> None:
    seen: list[tuple[int, list[tuple[str, str]]]] = []

    def look(event: Event, delivery: Delivery) -> None:
        fresh = Delivery.objects.get(pk=delivery.pk)
        seen.append((fresh.attempts, attempts(fresh)))

    script("plain", look)
    delivery = carry(owe("shop_plain"))

    assert seen == [(1, [("running", "")])]
    assert attempts(delivery) == [("delivered", "")]
    row = Attempt.objects.get()
    assert row.worker == WORKER
    assert row.finished_at is not None
    assert row.started_at <= row.finished_at


def test_a_delivered_one_holds_no_lease_no_error_and_no_due_time(script: Scripting) -> None:
    delivery = owe("shop_plain")
    Delivery.objects.update(last_error="what went wrong before")
    script("plain", returning({"ticket": 7, "at": datetime(2026, 1, 1, tzinfo=timezone.utc), "sum": Decimal("1.50")}))

    carry(delivery)

    assert delivery.state == "delivered"
    assert delivery.result == {"ticket": 7, "at": "2026-01-01T00:00:00Z", "sum": "1.50"}
    assert delivery.last_error == ""
    assert delivery.settled_at
    assert (delivery.next_attempt_at, delivery.lease_token, delivery.leased_until) == (None, None, None)


@committed
def test_a_handler_runs_outside_any_transaction_unless_it_is_atomic(script: Scripting) -> None:
    inside: list[bool] = []

    def look(event: Event, delivery: Delivery) -> None:
        inside.append(connection.in_atomic_block)

    script("plain", look)
    script("atomic", look)
    carry(owe("shop_plain"))
    carry(owe("shop_atomic"))

    assert inside == [False, True]


def test_a_failure_falls_due_again_by_the_schedule_with_a_fifth_of_jitter_at_most(
    script: Scripting, settings: Settings
) -> None:
    settings.RETRY_SCHEDULE = [100, 1000]
    script("plain", raising(ValueError("the printer is on fire\nand so is the desk")))
    delivery = owe("shop_plain")

    for number, delay in ((1, 100), (2, 1000)):
        before = now()
        carry(delivery)
        assert (delivery.state, delivery.attempts) == ("pending", number)
        assert delivery.last_error == "ValueError: the printer is on fire"
        assert delivery.next_attempt_at
        assert before + delay * SECOND <= delivery.next_attempt_at <= now() + delay * 1.2 * SECOND
        assert outbox.claim(5) == []
        make_due(delivery)
    carry(delivery)

    assert (delivery.state, delivery.attempts, delivery.next_attempt_at) == ("dead", 3, None)
    assert delivery.settled_at
    assert delivery.last_error == "ValueError: the printer is on fire"
    assert [outcome for outcome, _ in attempts(delivery)] == ["failed"] * 3
    assert "and so is the desk" in attempts(delivery)[0][1]
    assert "tests/test_outbox.py" in attempts(delivery)[0][1]
    make_due(delivery)
    assert outbox.claim(5) == []


def test_jitter_spreads_the_delays() -> None:
    delays = [settling.retry_delay(1, [100]) for _ in range(200)]

    assert all(delay is not None and 100 * SECOND <= delay <= 120 * SECOND for delay in delays)
    assert len(set(delays)) > 100
    assert settling.retry_delay(2, [100]) is None


def test_a_delay_of_nothing_is_no_last_attempt(
    script: Scripting, settings: Settings, log: pytest.LogCaptureFixture
) -> None:
    settings.RETRY_SCHEDULE = [0]
    script("plain", raising(ValueError("no")))

    delivery = carry(owe("shop_plain"))

    assert delivery.state == "pending"
    assert [record.levelname for record in log.records] == ["WARNING"]


class Unprintable(Exception):
    """An exception of somebody's whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: no message"),
        (GeneratorExit(), "GeneratorExit: no message"),
        (ValueError("a\x00b\ud83d"), "ValueError: a\ufffdb\ufffd"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 488}"),
        (Unprintable(), "Unprintable: its message can't be read"),
    ],
    ids=["exit", "interrupt", "generator", "odd-text", "long-text", "unprintable"],
)
@pytest.mark.parametrize("name", ["plain", "atomic"])
def test_whatever_a_handler_raises_is_a_failed_attempt(
    script: Scripting, name: str, error: BaseException, line: str
) -> None:
    script(name, raising(error))

    delivery = carry(owe(f"shop_{name}"))

    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert delivery.last_error.startswith(line)
    assert len(delivery.last_error) <= 500
    assert [outcome for outcome, _ in attempts(delivery)] == ["failed"]


@pytest.mark.parametrize(
    "text",
    [
        "GET https://oapi.dingtalk.com/x?access_token=s3cret&id=7 failed",
        "/gettoken?appkey=ding1&appsecret=s3cret",
        "headers {'x-acs-dingtalk-access-token': 's3cret'}",
        'answer {"accessToken": "s3cret", "expireIn": 7200}',
        r'answer "{\"accessToken\":\"s3cret\"}"',
        "DINGTALK_APP_SECRET=s3cret",
        "clientSecret: s3cret",
    ],
)
def test_a_secret_in_a_handlers_exception_is_not_stored(
    script: Scripting, text: str, log: pytest.LogCaptureFixture
) -> None:
    script("plain", raising(ConnectionError(text)))

    delivery = carry(owe("shop_plain"))

    ((outcome, trace),) = attempts(delivery)
    assert outcome == "failed"
    for written in (delivery.last_error, trace, log.text):
        assert "ConnectionError" in written
        assert "s3cret" not in written


def test_two_handlers_for_one_event_have_fates_of_their_own(script: Scripting) -> None:
    script("first", raising(ValueError("not me")))
    first = owe("shop_twice")
    second = Delivery.objects.exclude(pk=first.pk).get()

    for delivery in outbox.claim(5):
        outbox.attempt(delivery, WORKER)

    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, first.last_error) == ("pending", "ValueError: not me")
    assert (second.state, second.last_error) == ("delivered", "")
    assert first.idempotency_key != second.idempotency_key


def test_the_idempotency_key_is_the_same_on_each_attempt_and_after_a_redelivery(script: Scripting) -> None:
    keys: list[str] = []

    def deed(event: Event, delivery: Delivery) -> None:
        keys.append(delivery.idempotency_key)
        if len(keys) < 2:
            raise ValueError("again")

    script("plain", deed)
    delivery = carry(owe("shop_plain"))
    make_due(delivery)
    carry(delivery)
    outbox.redeliver(Delivery.objects.all())
    carry(delivery)
    carry(owe("shop_plain"))

    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


# A lease that another worker has taken


def test_a_worker_whose_lease_was_taken_settles_nothing(script: Scripting) -> None:
    delivery = owe("shop_plain")
    others: list[Delivery] = []

    def lose_the_lease(event: Event, held: Delivery) -> dict[str, Any]:
        others.append(stolen(held))
        return {"from": "the slow one"}

    script("plain", lose_the_lease)
    carry(delivery)

    assert (delivery.state, delivery.result, delivery.lease_token) == ("pending", None, others[0].lease_token)
    script("plain", returning({"from": "the other"}))
    outbox.attempt(others[0], "other:1")
    delivery.refresh_from_db()
    assert (delivery.state, delivery.result, delivery.attempts) == ("delivered", {"from": "the other"}, 2)
    assert [outcome for outcome, _ in attempts(delivery)] == ["lost", "delivered"]


def test_a_worker_whose_lease_was_taken_does_not_even_fail(script: Scripting) -> None:
    delivery = owe("shop_plain")

    def lose_the_lease_and_fail(event: Event, held: Delivery) -> None:
        stolen(held)
        raise ValueError("too late to matter")

    script("plain", lose_the_lease_and_fail)
    carry(delivery)

    assert (delivery.state, delivery.last_error, delivery.attempts) == ("pending", "", 1)
    assert delivery.lease_token is not None


def test_a_worker_whose_lease_was_taken_attempts_nothing(script: Scripting) -> None:
    ran: list[int] = []
    script("plain", lambda event, delivery: ran.append(delivery.pk))
    slow = claimed(owe("shop_plain"))
    stolen(slow)

    outbox.attempt(slow, WORKER)

    assert ran == []
    assert Attempt.objects.count() == 0


@committed
def test_the_rows_of_an_atomic_handler_whose_lease_was_taken_are_rolled_back(script: Scripting) -> None:
    delivery = owe("shop_atomic")

    def write_and_lose_the_lease(event: Event, held: Delivery) -> None:
        Group.objects.create(name="tickets")
        if connection.vendor == "postgresql":
            in_threads(1, lambda _: stolen(held))
        else:  # nobody else can write meanwhile
            stolen(held)

    script("atomic", write_and_lose_the_lease)
    outbox.attempt(claimed(delivery), WORKER)

    delivery.refresh_from_db()
    assert not Group.objects.exists()
    assert (delivery.state, delivery.attempts) == ("pending", 1)


@committed
def test_the_rows_of_an_atomic_handler_and_its_settle_commit_together(script: Scripting) -> None:
    delivery = owe("shop_atomic")

    def write(event: Event, held: Delivery) -> None:
        Group.objects.create(name="tickets")
        assert in_threads(1, lambda _: Group.objects.count()) == [0]
        assert in_threads(1, lambda _: Delivery.objects.get(pk=held.pk).state) == ["pending"]

    script("atomic", write)
    carry(delivery)

    assert (delivery.state, delivery.last_error) == ("delivered", "")
    assert Group.objects.count() == 1


def test_an_atomic_handler_that_fails_leaves_no_rows(script: Scripting) -> None:
    def write_and_fail(event: Event, held: Delivery) -> None:
        Group.objects.create(name="tickets")
        Group.objects.create(name="tickets")

    script("atomic", write_and_fail)
    delivery = carry(owe("shop_atomic"))

    assert not Group.objects.exists()
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert delivery.last_error.startswith("IntegrityError: ")
    script("atomic", lambda event, held: {"id": Group.objects.create(name="tickets").pk})
    make_due(delivery)
    carry(delivery)
    assert delivery.state == "delivered"
    assert delivery.result == {"id": Group.objects.get().pk}


@committed
@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL has no one write lock")
@pytest.mark.parametrize("fails", [False, True])
def test_an_atomic_handler_that_held_sqlites_lock_too_long_is_logged_by_name(
    script: Scripting, log: pytest.LogCaptureFixture, fails: bool
) -> None:
    def hold(event: Event, held: Delivery) -> None:
        threading.Event().wait(0.6)
        if fails:
            raise ValueError("no")

    script("atomic", hold)
    carry(owe("shop_atomic"))

    assert "atomic handler tests.shop.handlers.atomic held SQLite's write lock for 0.6 s" in log.text


@committed
@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL has no one write lock")
def test_an_atomic_handler_that_waited_for_sqlites_lock_is_not_blamed(log: pytest.LogCaptureFixture) -> None:
    delivery = owe("shop_atomic")
    held, handler = claimed(delivery), router.find(delivery.destination)
    assert handler
    started = settling.start(held, WORKER)
    locked = threading.Event()

    def work(number: int) -> None:
        if number:
            locked.wait(10)
            outbox._run_atomic(handler, held, started)
            return
        with transaction.atomic():
            locked.set()
            threading.Event().wait(0.8)

    in_threads(2, work)

    delivery.refresh_from_db()
    assert delivery.state == "delivered"
    assert "held SQLite's write lock" not in log.text


# Results


@committed
def test_a_result_of_none_leaves_what_was_kept(script: Scripting) -> None:
    script("plain", lambda event, delivery: delivery.keep({"ticket": 7}))

    delivery = carry(owe("shop_plain"))

    assert (delivery.state, delivery.result) == ("delivered", {"ticket": 7})


@committed
def test_a_returned_dict_replaces_what_was_kept(script: Scripting) -> None:
    def keep_and_return(event: Event, delivery: Delivery) -> dict[str, Any]:
        delivery.keep({"ticket": 7})
        return {}

    script("plain", keep_and_return)

    assert carry(owe("shop_plain")).result == {}


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ("done", "TypeError: a handler returns a dict or None, not str"),
        (7, "TypeError: a handler returns a dict or None, not int"),
        ([1], "TypeError: a handler returns a dict or None, not list"),
        ({"a": {1}}, "TypeError: Object of type set is not JSON serializable"),
        ({"a": b"x"}, "TypeError: Object of type bytes is not JSON serializable"),
        ({(1, 2): 3}, "TypeError: keys must be str, int, float, bool or None, not tuple"),
    ],
)
@pytest.mark.parametrize("name", ["plain", "atomic"])
def test_a_result_that_is_no_json_is_a_failed_attempt_that_says_so(
    script: Scripting, name: str, result: Any, error: str
) -> None:
    script(name, returning(result))

    delivery = carry(owe(f"shop_{name}"))

    assert (delivery.state, delivery.result, delivery.last_error) == ("pending", None, error)


def test_a_result_that_holds_itself_is_a_failed_attempt(script: Scripting) -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    script("plain", returning(circle))

    assert carry(owe("shop_plain")).last_error == "ValueError: Circular reference detected"


@committed
@pytest.mark.parametrize("keeps", [False, True])
def test_a_result_with_what_a_database_refuses_is_stored_all_the_same(script: Scripting, keeps: bool) -> None:
    odd = {"nan": float("nan"), "infinite": float("inf"), "zero\x00": "a\x00b", "half": "\ud83d", "fine": [1.5, None]}
    script("plain", (lambda event, delivery: delivery.keep(odd)) if keeps else returning(odd))

    delivery = carry(owe("shop_plain"))

    assert (delivery.state, delivery.last_error) == ("delivered", "")
    assert delivery.result == {
        "nan": "nan",
        "infinite": "inf",
        "zero\ufffd": "a\ufffdb",
        "half": "\ufffd",
        "fine": [1.5, None],
    }


@committed
def test_what_is_kept_is_committed_at_once_and_survives_a_handler_that_fails(script: Scripting) -> None:
    results: list[Any] = []

    def keep_and_fail(event: Event, delivery: Delivery) -> None:
        results.append(delivery.result)
        delivery.keep({"fetched": len(results)})
        assert in_threads(1, lambda _: Delivery.objects.get(pk=delivery.pk).result) == [{"fetched": len(results)}]
        raise ValueError("after keeping")

    script("plain", keep_and_fail)
    delivery = carry(owe("shop_plain"))

    assert (delivery.state, delivery.result) == ("pending", {"fetched": 1})
    assert delivery.last_error == "ValueError: after keeping"
    make_due(delivery)
    carry(delivery)
    assert results == [None, {"fetched": 1}]
    assert delivery.result == {"fetched": 2}


def test_an_atomic_handler_can_not_keep(script: Scripting) -> None:
    script("atomic", lambda event, delivery: delivery.keep({"ticket": 7}))

    delivery = carry(owe("shop_atomic"))

    assert (delivery.state, delivery.result) == ("pending", None)
    assert delivery.last_error.startswith("RuntimeError: keep() commits at once, which an atomic handler can't; return")


@committed
def test_keeping_without_the_lease_is_refused(script: Scripting) -> None:
    slow = claimed(owe("shop_plain"))
    stolen(slow)

    with pytest.raises(LeaseLost):
        slow.keep({"ticket": 7})
    with pytest.raises(LeaseLost):
        owe("shop_plain").keep({"ticket": 7})

    assert not Delivery.objects.exclude(result=None).exists()


# Handlers that are gone, giving back, redelivering, and nobody at work


def test_a_handler_that_is_gone_uses_up_no_attempt_and_is_put_back_with_an_error_that_says_so() -> None:
    delivery = owe("shop_plain")
    Delivery.objects.update(destination="handler:shop_of_last_year.handlers.sell", attempts=1)

    carry(delivery)

    assert (delivery.state, delivery.attempts, delivery.lease_token) == ("pending", 1, None)
    assert "no handler shop_of_last_year.handlers.sell" in delivery.last_error
    assert "EXTRA_APPS" in delivery.last_error
    assert delivery.next_attempt_at
    assert delivery.next_attempt_at > now() + 60 * SECOND
    assert attempts(delivery) == []
    Delivery.objects.update(destination="handler:tests.shop.handlers.plain")
    make_due(delivery)
    carry(delivery)
    assert (delivery.state, delivery.last_error) == ("delivered", "")


def test_a_delivery_given_back_is_due_at_once_and_its_attempt_closed_as_stopped() -> None:
    delivery = owe("shop_plain")
    held = claimed(delivery)
    settling.start(held, WORKER)

    outbox.give_back(held)

    assert [each.pk for each in outbox.claim(5)] == [delivery.pk]
    assert [outcome for outcome, _ in attempts(delivery)] == ["stopped"]
    with pytest.raises(LeaseLost):
        outbox.give_back(held)


@pytest.mark.parametrize("state", ["pending", "delivered", "dead"])
def test_redelivering_makes_any_delivery_due_now_with_the_whole_schedule_before_it(
    script: Scripting, settings: Settings, state: str
) -> None:
    settings.RETRY_SCHEDULE = [100] if state == "pending" else []
    script("plain", raising(ValueError("no")) if state != "delivered" else returning({"ticket": 7}))
    delivery = carry(owe("shop_plain"))
    assert delivery.state == state
    script("plain", returning({"ticket": 8}))

    assert outbox.redeliver(Delivery.objects.filter(pk=delivery.pk)) == 1

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.last_error, delivery.settled_at) == ("pending", 0, "", None)
    carry(delivery)
    assert (delivery.state, delivery.attempts, delivery.result) == ("delivered", 1, {"ticket": 8})
    assert len(attempts(delivery)) == 2


def test_redelivering_leaves_what_a_worker_holds_to_it() -> None:
    held = claimed(owe("shop_plain"))

    assert outbox.redeliver(Delivery.objects.all()) == 0

    outbox.attempt(held, WORKER)
    assert Delivery.objects.get().state == "delivered"


def test_deliveries_due_for_a_minute_that_nobody_claims_are_unattended(log: pytest.LogCaptureFixture) -> None:
    delivery = owe("shop_plain")
    owe("shop_plain")
    watch.look()
    assert outbox.unattended() == 0
    assert log.text == ""

    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=Now() - 61 * SECOND)

    assert outbox.unattended() == 1
    watch.look()
    assert "1 deliveries are due and no worker has claimed them: start `manage.py deliver`" in log.text


def test_a_backlog_that_a_worker_carries_is_not_unattended(settings: Settings) -> None:
    settings.HANDLER_TIMEOUT = 5
    carried, waiting = owe("shop_plain"), owe("shop_plain")
    carry(carried)
    Delivery.objects.update(leased_until=None, next_attempt_at=Now() - 61 * SECOND)
    assert waiting.state == "pending"
    assert outbox.unattended() == 0

    Attempt.objects.update(started_at=Now() - 66 * SECOND)

    assert outbox.unattended() == 1


def test_what_a_worker_is_at_is_not_unattended_and_what_nobody_has_started_is(settings: Settings) -> None:
    held = claimed(owe("shop_plain"))
    Delivery.objects.update(next_attempt_at=Now() - 61 * SECOND)
    assert outbox.unattended() == 0
    settings.CELERY_BROKER_URL = "amqp://rabbit"
    assert outbox.unattended() == 1, "a feeder may hold it, and no worker be there to start it"

    attempt = settling.start(held, WORKER)
    Attempt.objects.update(started_at=Now() - timedelta(hours=1))
    assert outbox.unattended() == 0, "its handler may take long"

    Attempt.objects.filter(pk=attempt.pk).update(outcome="lost")
    Delivery.objects.filter(pk=held.pk).update(leased_until=Now())
    assert outbox.unattended() == 1


def test_each_outcome_is_one_line_in_the_log_without_what_the_payload_says(
    script: Scripting, log: pytest.LogCaptureFixture
) -> None:
    log.set_level(logging.INFO, "callbacks")
    delivery = carry(owe("shop_plain", CorpId="dingcorp1", name="张三", mobile="13800000000"))

    assert [record.getMessage() for record in log.records if record.name == "callbacks.settling"] == [
        f"event {delivery.event_id} shop_plain corp=dingcorp1 delivery {delivery.pk} "
        "to handler:tests.shop.handlers.plain: delivered"
    ]
