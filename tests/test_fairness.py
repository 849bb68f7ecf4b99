"""A destination that hangs or refuses everything leaves the worker to the others."""

import time
from pathlib import Path

import pytest

from callbacks.fairness import DOWN_AFTER, Fairness
from callbacks.models import Attempt, Delivery
from tests.owed import owe
from tests.processes import Gate, deliver, manage, wait_until

rows = pytest.mark.django_db(transaction=True)
BAD, GOOD = "handler:tests.shop.handlers.plain", "handler:tests.shop.handlers.atomic"


def refused(count: int) -> None:
    """Owe what the handler refuses, as it says nothing of an address."""
    for _ in range(count):
        owe("shop_plain", act="fetch")


def delivered(destination: str) -> int:
    return Delivery.objects.filter(destination=destination, state="delivered").count()


@rows
def test_one_that_hangs_on_every_thread_does_not_keep_the_others_waiting(tmp_path: Path, gate: Gate) -> None:
    for number in range(12):
        owe("shop_plain", act="fetch", url=gate.url(str(number)))
    with deliver(tmp_path / "log", "--threads", "4"):
        wait_until(lambda: len(gate.waiting) == 4)
        for _ in range(20):
            owe("shop_atomic", act="row")
        wait_until(lambda: delivered(GOOD) == 20)

        assert delivered(BAD) == 0
        assert len(gate.waiting) == 4, "none of the others' threads was given to it"


@rows
def test_one_that_refuses_all_of_a_long_backlog_gets_less_than_its_share(tmp_path: Path) -> None:
    refused(200)
    for _ in range(100):
        owe("shop_atomic", act="row")
    with deliver(tmp_path / "log", RETRY_SCHEDULE="0,0,0"):
        wait_until(lambda: delivered(GOOD) == 100)
    # what the bad one gets when nobody else waits any more does not count
    last = Attempt.objects.filter(delivery__destination=GOOD).order_by("-finished_at")[0].finished_at
    assert DOWN_AFTER <= Attempt.objects.filter(delivery__destination=BAD, started_at__lt=last).count() < 80


@rows
def test_one_that_refuses_is_carried_to_its_end_where_nobody_else_waits() -> None:
    refused(8)

    done = manage("deliver", "--once", RETRY_SCHEDULE="0")

    assert done.returncode == 0
    assert Delivery.objects.filter(state="dead", attempts=2).count() == 8


@rows
def test_one_that_hung_has_one_thread_of_the_next_process(tmp_path: Path) -> None:
    for _ in range(6):
        owe("shop_plain", act="hang")
    with deliver(tmp_path / "log", "--threads", "2", HANDLER_TIMEOUT="2", RETRY_SCHEDULE="3600"):
        wait_until(lambda: Attempt.objects.count() == 3)
        owe("shop_atomic", act="row")
        wait_until(lambda: delivered(GOOD) == 1)

        assert list(Attempt.objects.filter(delivery__destination=BAD).values_list("outcome", flat=True)) == [
            "running",
            "failed",
            "failed",
        ]
    assert "as handlers hang" in (tmp_path / "log").read_text()


def ends(fairness: Fairness, destination: str, works: bool | None, seconds: float = 0) -> None:
    began = time.monotonic() - seconds
    fairness.started(destination, began)
    fairness.ended(destination, began, works)


def runs(fairness: Fairness, destination: str, seconds: float = 0) -> None:
    fairness.started(destination, time.monotonic() - seconds)


def down(fairness: Fairness, destination: str, seconds: float) -> None:
    for _ in range(DOWN_AFTER):
        ends(fairness, destination, False, seconds)


def test_the_free_threads_are_dealt_in_equal_shares_to_those_with_the_fewest_attempts_first() -> None:
    fairness = Fairness(4)
    runs(fairness, "a")
    assert list(fairness.deal(["a", "b"], 3)) == [("b", 2), ("a", 2)]
    assert list(fairness.deal(["a"], 3)) == [("a", 3)]
    assert list(fairness.deal([], 4)) == []


def test_one_destination_never_has_more_than_the_threads() -> None:
    fairness = Fairness(2)
    for _ in range(2):
        runs(fairness, "slow")
    assert list(fairness.deal(["slow", "other"], 2)) == [("other", 1)]


def test_one_that_is_down_rests_while_others_wait_and_has_one_thread_else() -> None:
    fairness = Fairness(4)
    down(fairness, "bad", seconds=10)
    assert list(fairness.deal(["bad", "good"], 4)) == [("good", 4)]
    assert list(fairness.deal(["bad"], 4)) == [("bad", 1)]
    runs(fairness, "bad")
    assert list(fairness.deal(["bad"], 3)) == []


def test_one_that_works_again_is_as_good_as_any() -> None:
    fairness = Fairness(4, down=["bad"])
    assert list(fairness.deal(["bad", "good"], 4)) == [("good", 4)]
    ends(fairness, "bad", True)
    assert list(fairness.deal(["bad", "good"], 4)) == [("bad", 2), ("good", 2)]


def test_one_that_may_hang_gets_no_more_threads_while_others_wait() -> None:
    fairness = Fairness(4)
    runs(fairness, "hangs", seconds=2)
    assert list(fairness.deal(["hangs", "good"], 3)) == [("good", 3)]
    assert list(fairness.deal(["hangs"], 3)) == [("hangs", 3)]


def test_one_that_is_slow_but_works_has_its_share() -> None:
    fairness = Fairness(4)
    runs(fairness, "slow", seconds=2)
    ends(fairness, "slow", True, seconds=3)
    assert list(fairness.deal(["slow", "good"], 3)) == [("good", 2), ("slow", 2)]


def test_a_database_that_fails_says_nothing_of_the_destination() -> None:
    fairness = Fairness(4)
    for _ in range(DOWN_AFTER):
        ends(fairness, "good", None)
    assert list(fairness.deal(["good"], 4)) == [("good", 4)]
