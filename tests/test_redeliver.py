"""`manage.py redeliver`: shows, asks, and makes deliveries due again, or owes old events to a handler added later."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import DjangoAssertNumQueries

from callbacks import latecomer, order, outbox, settling
from callbacks.batches import MOST_ROWS
from callbacks.models import Attempt, Delivery, DeliveryQuerySet, Event
from callbacks.routing import router
from tests.command import Said, call, document
from tests.owed import WORKER, attempts, carry, claimed, in_threads, owe
from tests.settings import DATABASE
from tests.shop.handlers import scripts

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
PLAIN, FIRST, SECOND = (f"handler:tests.shop.handlers.{name}" for name in ("plain", "first", "second"))
UNORDERED, CHOOSY = (f"handler:tests.shop.handlers.{name}" for name in ("unordered", "choosy"))


def redeliver(*args: object) -> Said:
    return call("redeliver", *args)


def states() -> list[tuple[int, str]]:
    return list(Delivery.objects.order_by("pk").values_list("pk", "state"))


def dead(event_type: str = "shop_plain", **fields: Any) -> Delivery:
    """Store an event whose delivery failed for good; return that delivery."""
    delivery = owe(event_type, **fields)
    error = "Traceback (most recent call last):\nKeyError: 'title'"
    Delivery.objects.filter(pk=delivery.pk).update(state="dead", next_attempt_at=None, attempts=10, last_error=error)
    Attempt.objects.create(delivery=delivery, worker=WORKER, outcome="failed", error=error)
    return delivery


def received(delivery: Delivery, when: datetime) -> None:
    Event.objects.filter(pk=delivery.event_id).update(received_at=when)


class Terminal(io.StringIO):
    """Somebody at a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _nobody_at_the_keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    yield
    scripts.clear()


# By number


def test_deliveries_named_by_number_are_due_again_and_keep_their_history() -> None:
    first, second, spared = dead(), dead(), dead()

    said = redeliver(first.pk, second.pk, "--yes")

    assert said.status == 0
    assert said.out.endswith("2 due again.\n")
    assert states() == [(first.pk, "pending"), (second.pk, "pending"), (spared.pk, "dead")]
    carry(first)
    assert [outcome for outcome, _ in attempts(first)] == ["failed", "delivered"]
    assert first.attempts == 1


def test_it_shows_what_each_is_and_how_it_stands() -> None:
    delivery = dead()

    said = redeliver(delivery.pk, "--yes")

    for text in (str(delivery.pk), "shop_plain", PLAIN, "dead", "10", "KeyError: 'title'"):
        assert text in said.out
    assert "Traceback" not in said.out


def test_one_that_waits_says_behind_which() -> None:
    first, second, third = (owe("shop_plain", CorpId="c", UserId=["u1"]) for _ in range(3))

    assert f"waits behind #{first.pk}" in redeliver(third.pk, "--yes").out
    rows = document(redeliver(first.pk, second.pk, third.pk, "--yes", "--json"))["deliveries"]
    assert [row["waits_behind"] for row in rows] == [None, first.pk, first.pk]


def test_one_that_waits_for_a_later_one_to_end_says_so() -> None:
    first, second = (owe("shop_plain", CorpId="c", UserId=["u1"]) for _ in range(2))
    Delivery.objects.filter(pk=first.pk).update(state="dead", next_attempt_at=None)
    running = claimed(second)

    redeliver(first.pk, "--yes")

    assert order.head(first) == running.pk
    assert outbox.claim(1) == []


def test_a_number_that_no_delivery_has_changes_nothing() -> None:
    delivery = dead()

    said = redeliver(delivery.pk, 10**9, "--yes")

    assert said.status == 1
    assert said.err.startswith("there is no delivery 1000000000;")
    assert states() == [(delivery.pk, "dead")]


# By what they have in common


def test_deliveries_are_chosen_by_type_state_destination_and_time() -> None:
    noon = datetime(2026, 11, 20, 2, 0, tzinfo=timezone.utc)  # ten o'clock in Shanghai
    old, new, other = dead(), dead(), dead("shop_atomic")
    delivered = carry(owe("shop_plain"))
    received(old, noon - timedelta(seconds=1))
    received(new, noon)
    received(other, noon + timedelta(days=1))
    received(delivered, noon)

    def chosen(*args: str) -> list[int]:
        said = redeliver(*args, "--json")
        assert said.status == 2
        return [row["id"] for row in json.loads(said.out)["deliveries"]]

    assert chosen("--state", "dead") == [old.pk, new.pk, other.pk]
    assert chosen("--state", "dead", "--since", "2026-11-20 10:00") == [new.pk, other.pk]
    assert chosen("--since", "2026-11-20") == [old.pk, new.pk, other.pk, delivered.pk]
    assert chosen("--since", "2026-11-21") == [other.pk]
    assert chosen("--event-type", "shop_atomic") == [other.pk]
    assert chosen("--destination", PLAIN, "--state", "delivered") == [delivered.pk]


def test_nothing_that_matches_is_an_error_that_says_so() -> None:
    carry(owe("shop_plain"))

    said = redeliver("--state", "dead", "--yes")

    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("no delivery matches;")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "say which"),
        (("--to", UNORDERED), "say which"),
        ((1, "--state", "dead"), "not both"),
        (("--since", "yesterday"), "such as 2026-11-20"),
        (("--since", "0001-01-01"), "such as 2026-11-20"),
        ((2**63,), "number"),
        ((0,), "number"),
    ],
)
def test_wrong_usage_is_told_from_failure(args: tuple[object, ...], words: str) -> None:
    said = redeliver(*args, "--yes")

    assert said.status == 2
    assert words in said.err
    assert "\n" not in said.err


# Asking


def test_without_a_terminal_and_without_yes_it_shows_and_touches_nothing() -> None:
    delivery = dead()

    said = redeliver(delivery.pk)

    assert said.status == 2
    assert "KeyError: 'title'" in said.out
    assert said.err == "nothing was changed: there is no terminal to ask at; add --yes"
    assert states() == [(delivery.pk, "dead")]


@pytest.mark.parametrize(("answer", "status", "state"), [("y\n", 0, "pending"), ("n\n", 1, "dead"), ("\n", 1, "dead")])
def test_at_a_terminal_it_asks(monkeypatch: pytest.MonkeyPatch, answer: str, status: int, state: str) -> None:
    delivery = dead()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))

    said = redeliver(delivery.pk)

    assert said.status == status
    assert "Redeliver what is shown, 1 in all?" in said.out
    assert states() == [(delivery.pk, state)]


def test_who_leaves_without_an_answer_has_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = dead()
    monkeypatch.setattr(sys, "stdin", Terminal(""))

    assert redeliver(delivery.pk).status == 1
    assert states() == [(delivery.pk, "dead")]


def test_a_program_gets_one_document_and_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = dead()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))

    refused = redeliver(delivery.pk, "--json")
    assert refused.status == 2
    assert json.loads(refused.out)["done"] is False
    told = document(redeliver(delivery.pk, "--json", "--yes"))

    assert (told["done"], told["redelivered"], told["left"], told["rest"]) == (True, 1, 0, 0)
    assert told["deliveries"][0]["last_error"].endswith("KeyError: 'title'")


# What it keeps


def test_what_a_worker_holds_is_left_to_it() -> None:
    held, free = owe("shop_plain"), dead()
    claimed(held)

    said = redeliver(held.pk, free.pk, "--yes")

    assert "pending, a worker is at it" in said.out
    assert said.out.endswith("1 due again; 1 left, as a worker holds them or they changed in the meantime.\n")
    assert Delivery.objects.held().get().pk == held.pk


def test_one_whose_state_has_changed_since_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, delivery = dead(), dead()

    class Slow(Terminal):
        """While the question stands there, somebody else redelivers one, and it is delivered."""

        def readline(self, *args: Any) -> str:  # type: ignore[override]
            Delivery.objects.filter(pk=gone.pk).update(state="delivered")
            return super().readline(*args)

    monkeypatch.setattr(sys, "stdin", Slow("y\n"))

    said = redeliver("--state", "dead")

    assert "1 due again; 1 left" in said.out
    assert states() == [(gone.pk, "delivered"), (delivery.pk, "pending")]


def test_a_subjects_dead_ones_are_tried_again_in_the_order_of_the_inbox() -> None:
    chosen = [dead(CorpId="c", UserId=["u1"]) for _ in range(4)]
    behind = owe("shop_plain", CorpId="c", UserId=["u1"])
    assert [each.pk for each in outbox.claim(9)] == [behind.pk]
    outbox.give_back(Delivery.objects.get(pk=behind.pk))

    redeliver("--state", "dead", "--yes")

    done = []
    for _ in range(5):
        (delivery,) = outbox.claim(9)
        outbox.attempt(delivery, WORKER)
        done.append(delivery.pk)
    assert done == [*(each.pk for each in chosen), behind.pk]


def test_a_redelivered_event_is_no_repetition() -> None:
    delivered = carry(owe("shop_plain"))

    redeliver(delivered.pk, "--yes")

    assert carry(delivered).attempts == 1
    assert len(attempts(delivered)) == 2


def many(count: int) -> list[int]:
    """Make dead deliveries of as many subjects."""
    events = Event.objects.bulk_create(
        Event(event_type="shop_plain", identity=f"many:{number}", subject=f"c:user:{number}", payload={}, body="{}")
        for number in range(count)
    )
    rows = Delivery.objects.bulk_create(
        Delivery(event=event, destination=PLAIN, subject=event.subject, state="dead", next_attempt_at=None)
        for event in events
    )
    return [row.pk for row in rows]


@contextmanager
def refusing(pk: int) -> Iterator[None]:
    """Let the database itself refuse to change one delivery."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
                "AS $$ BEGIN RAISE EXCEPTION 'disk full'; END $$"
            )
            act, gone = "EXECUTE FUNCTION refuse()", "DROP FUNCTION refuse() CASCADE"
        else:
            act, gone = "BEGIN SELECT RAISE(ABORT, 'disk full'); END", "DROP TRIGGER refuse_one"
        cursor.execute(
            f"CREATE TRIGGER refuse_one BEFORE UPDATE ON callbacks_delivery FOR EACH ROW WHEN (OLD.id = {pk}) {act}"
        )
        try:
            yield
        finally:
            cursor.execute(gone)


@committed
def test_no_transaction_holds_more_than_two_hundred_rows() -> None:
    ids = many(2 * MOST_ROWS + 50)

    with refusing(ids[-1]):
        said = redeliver("--state", "dead", "--yes")

    assert said.status == 1
    assert "the database failed" in said.err
    assert "disk full" in said.err
    assert "\n" not in said.err
    assert Delivery.objects.filter(state="pending").count() == 2 * MOST_ROWS
    assert "50 due again." in redeliver("--state", "dead", "--yes").out


def test_people_see_the_first_few_and_how_many_more(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    many(130)

    with django_assert_max_num_queries(5):
        said = redeliver("--state", "dead")

    assert "… and 110 more deliveries" in said.out
    assert len(said.out.splitlines()) == 20 + 3


@committed
def test_redelivering_beside_workers_and_another_redelivery_hinders_nobody() -> None:
    for number in range(40):
        dead(CorpId="c", UserId=[f"u{number % 8}"])

    def work(number: int) -> None:
        if number == 0:
            redeliver("--destination", PLAIN, "--yes")
        elif number == 1:
            outbox.redeliver(Delivery.objects.filter(state="dead"))
        while Delivery.objects.exclude(state="delivered").exists():
            for delivery in outbox.claim(4):
                outbox.attempt(delivery, WORKER)

    in_threads(4, work)

    assert set(Delivery.objects.values_list("state", flat=True)) == {"delivered"}


# To a handler that was added later


def before_second_was_there(**fields: Any) -> Delivery:
    """Store an event that `second` would want, as before there was one; return the delivery to `first`."""
    delivery = owe("shop_twice", **fields)
    Delivery.objects.filter(event=delivery.event_id, destination=SECOND).delete()
    return delivery


def test_old_events_are_owed_to_a_handler_that_was_added_later() -> None:
    old = [before_second_was_there(), before_second_was_there()]
    new = owe("shop_twice")

    said = redeliver("--event-type", "shop_twice", "--to", SECOND, "--yes")

    assert said.status == 0
    assert said.out.endswith(f"2 owed to {SECOND}.\n")
    assert "shop_twice" in said.out
    owed = Delivery.objects.filter(destination=SECOND).order_by("event_id")
    assert [each.event_id for each in owed] == [*(each.event_id for each in old), new.event_id]
    assert carry(owed[0]).state == "delivered"


def test_an_event_that_was_owed_to_nobody_can_be_owed_now() -> None:
    delivery = before_second_was_there()
    Delivery.objects.all().delete()

    assert document(redeliver("--since", "2026-01-01", "--to", SECOND, "--yes", "--json"))["owed"] == 1
    assert Delivery.objects.get().event_id == delivery.event_id


def test_an_event_is_owed_to_a_latecomer_only_once() -> None:
    before_second_was_there()
    redeliver("--event-type", "shop_twice", "--to", SECOND, "--yes")

    said = redeliver("--event-type", "shop_twice", "--to", SECOND, "--yes")

    assert said.status == 1
    assert "was owed the 1 events already" in said.err
    assert Delivery.objects.filter(destination=SECOND).count() == 1


@committed
def test_two_who_owe_the_same_events_at_once_owe_each_once() -> None:
    events = [before_second_was_there().event_id for _ in range(MOST_ROWS)]
    handler = router.find(SECOND)
    assert handler is not None

    assert sum(in_threads(4, lambda _: latecomer.owe(events, handler))) == MOST_ROWS

    assert Delivery.objects.filter(destination=SECOND).count() == MOST_ROWS
    assert latecomer.owe(events, handler) == 0


def test_a_latecomer_gets_old_events_before_newer_ones_of_their_subject() -> None:
    old = [before_second_was_there(CorpId="c", UserId=["u1"]) for _ in range(2)]
    new = owe("shop_twice", CorpId="c", UserId=["u1"])

    redeliver("--event-type", "shop_twice", "--to", SECOND, "--yes")

    done = []
    while held := [each for each in outbox.claim(9) if each.destination == SECOND]:
        outbox.attempt(held[0], WORKER)
        done.append(held[0].event_id)
    assert done == [*(each.event_id for each in old), new.event_id]


def test_only_the_chosen_deliveries_events_are_owed_to_a_latecomer() -> None:
    chosen, other = before_second_was_there(), before_second_was_there()
    Delivery.objects.filter(pk=chosen.pk).update(state="dead", next_attempt_at=None)

    redeliver("--state", "dead", "--to", SECOND, "--yes")
    assert Delivery.objects.get(destination=SECOND).event_id == chosen.event_id
    redeliver(other.pk, "--to", SECOND, "--yes")

    assert Delivery.objects.filter(destination=SECOND).count() == 2
    assert Delivery.objects.get(pk=chosen.pk).state == "dead"


def test_a_handler_without_order_gets_deliveries_without_a_subject() -> None:
    owe("shop_unordered", CorpId="c", UserId=["u1"])
    Delivery.objects.all().delete()

    redeliver("--event-type", "shop_unordered", "--to", UNORDERED, "--yes")

    assert Delivery.objects.get().subject == ""


def test_a_latecomer_gets_only_what_it_wants() -> None:
    for code in ("PROC-1", "PROC-9"):
        owe_choosy(code)

    redeliver("--event-type", "shop_choosy", "--to", CHOOSY, "--yes")

    assert Delivery.objects.get().event.payload["processCode"] == "PROC-1"
    said = redeliver("--event-type", "shop_choosy", "--to", PLAIN, "--yes")
    assert said.status == 1
    assert "it wants shop_plain" in said.err


def owe_choosy(code: str) -> None:
    delivery = before_second_was_there(processCode=code, type="finish")
    Event.objects.filter(pk=delivery.event_id).update(event_type="shop_choosy")
    Delivery.objects.filter(event=delivery.event_id).delete()


@pytest.mark.parametrize("name", ["handler:shop.none", "shop.none"])
def test_a_handler_that_is_not_there_is_named_with_the_remedy(name: str) -> None:
    delivery = dead()

    said = redeliver(delivery.pk, "--to", name, "--yes")

    assert said.status == 1
    assert said.err.startswith("no handler shop.none: ")
    assert "INSTALLED_APPS" in said.err


def test_events_that_do_not_match_are_an_error() -> None:
    assert redeliver("--event-type", "never_seen", "--to", PLAIN, "--yes").err.startswith("no event matches;")


# Giving up


def test_giving_up_by_hand_lets_those_behind_go_and_says_who_did_it() -> None:
    first, second = (owe("shop_plain", CorpId="c", UserId=["u1"]) for _ in range(2))
    assert [each.pk for each in outbox.claim(9)] == [first.pk]
    outbox.give_back(Delivery.objects.get(pk=first.pk))

    assert outbox.give_up(Delivery.objects.filter(pk=first.pk), by="ops") == 1

    first.refresh_from_db()
    assert (first.state, first.last_error) == ("dead", "given up by hand, by ops")
    assert first.settled_at is not None
    assert [each.pk for each in outbox.claim(9)] == [second.pk]


@committed
@pytest.mark.skipif(DATABASE == "sqlite", reason="SQLite has one write lock for all")
@pytest.mark.parametrize("verb", [outbox.redeliver, outbox.give_up])
def test_a_verb_waits_for_whoever_decides_about_its_subject(verb: Callable[[DeliveryQuerySet], int]) -> None:
    delivery = owe("shop_plain", CorpId="c", UserId=["u1"])
    Delivery.objects.update(attempts=1)

    def by_hand() -> int:
        try:
            return verb(Delivery.objects.all())
        finally:
            connection.close()

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            order.lock(delivery)
            done = pool.submit(by_hand)
            assert not wait([done], 0.5).done
        assert done.result(20) == 1


def test_giving_up_leaves_what_is_settled_and_what_a_worker_holds() -> None:
    done, held = carry(owe("shop_unordered")), owe("shop_plain")
    claimed(held)

    assert outbox.give_up(Delivery.objects.all()) == 0

    assert states() == [(done.pk, "delivered"), (held.pk, "pending")]


def test_giving_up_closes_the_attempt_of_a_worker_that_died() -> None:
    delivery = owe("shop_plain")
    settling.start(claimed(delivery), WORKER)
    Delivery.objects.update(leased_until=datetime(2026, 1, 1, tzinfo=timezone.utc))

    assert outbox.give_up(Delivery.objects.all()) == 1

    assert attempts(delivery) == [("lost", "given up by hand")]


@committed
def test_giving_up_many_is_done_in_small_batches() -> None:
    ids = many(MOST_ROWS)
    Delivery.objects.update(state="pending")

    with refusing(ids[-1]), pytest.raises(Exception, match="disk full"):
        outbox.give_up(Delivery.objects.all())

    assert Delivery.objects.filter(state="dead").count() == MOST_ROWS // 2
