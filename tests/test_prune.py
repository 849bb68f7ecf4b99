"""`manage.py prune`: old rows that nobody is owed go, in small batches, and never come back as new."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from callbacks import duty, outbox, pruning
from callbacks.batches import MOST_ROWS, ids_of
from callbacks.deadline import ANSWER_WITHIN, in_time
from callbacks.inbox import receive
from callbacks.models import Attempt, Delivery, Duty, Event, Horizon
from registrar.client import DingTalkClient
from registrar.failed_entries import Entry, event_time
from registrar.failed_list import read_failed_list
from registrar.models import FailedPage
from simulator.server import Options, Simulator
from tests.command import Said, call
from tests.owed import WORKER, in_threads, payload
from tests.settings import DATABASE

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


def prune(*args: object) -> Said:
    return call("prune", *args)


def pruned(*args: object) -> Any:
    said = prune(*args, "--json")
    assert said.status == 0, said
    return json.loads(said.out)


def days_ago(days: float) -> datetime:
    return timezone.now() - timedelta(days=days)


def event(days: float, *states: str, attempts: int = 1) -> Event:
    """Store an event that came some days ago and is owed to as many as there are states."""
    number = Event.objects.count()
    made = Event.objects.create(event_type="t", identity=f"p:{number}", payload={}, received_at=days_ago(days))
    for place, state in enumerate(states):
        delivery = Delivery.objects.create(event=made, destination=f"handler:{place}", state=state)
        Attempt.objects.bulk_create(Attempt(delivery=delivery, worker=WORKER) for _ in range(attempts))
    return made


def many(count: int) -> None:
    """Store old events with a delivered delivery and an attempt each."""
    events = Event.objects.bulk_create(
        Event(event_type="t", identity=f"many:{number}", payload={}, body="{}", received_at=days_ago(40))
        for number in range(count)
    )
    deliveries = Delivery.objects.bulk_create(
        Delivery(event=each, destination="handler:x", state="delivered", next_attempt_at=None) for each in events
    )
    Attempt.objects.bulk_create(Attempt(delivery=each, worker=WORKER, outcome="delivered") for each in deliveries)


def left() -> set[int]:
    return set(Event.objects.values_list("pk", flat=True))


# What goes and what stays


def test_old_events_that_nobody_is_owed_go_with_all_that_hangs_on_them() -> None:
    event(31, "delivered", "dead", attempts=3)
    event(31)
    young = event(29, "delivered")

    assert pruned("--days", 30)["finished"] is True

    assert left() == {young.pk}
    assert Delivery.objects.count() == 1
    assert Attempt.objects.count() == 1


def test_what_is_still_owed_stays_however_old() -> None:
    owed = event(400, "delivered", "pending")

    told = pruned("--days", 8)

    assert left() == {owed.pk}
    assert (told["events"], told["still_owed"]) == (0, 1)
    assert Delivery.objects.count() == 2


def test_it_tells_what_it_deleted() -> None:
    event(31, "delivered", "dead", attempts=2)
    FailedPage.objects.create(raw_answer="{}", read_at=days_ago(31), imported_at=days_ago(31))

    told = pruned("--days", 30)
    said = prune("--days", 30)

    assert [told[name] for name in ("events", "deliveries", "attempts", "failed_pages")] == [1, 2, 4, 1]
    assert said.status == 0
    assert said.out.endswith("Pruned. Older events that are still owed, and stay: 0.\n")


def test_a_dry_run_counts_and_deletes_nothing() -> None:
    old, owed = event(31, "delivered", attempts=2), event(31, "pending")
    FailedPage.objects.create(raw_answer="{}", read_at=days_ago(31), imported_at=days_ago(31))

    told = pruned("--days", 30, "--dry-run")

    counts = [told[name] for name in ("events", "deliveries", "attempts", "failed_pages", "still_owed")]
    assert counts == [1, 1, 2, 1, 1]
    assert left() == {old.pk, owed.pk}
    assert FailedPage.objects.count() == 1
    assert pruning.horizon() is None
    assert "Nothing was deleted." in prune("--days", 30, "--dry-run").out


def test_pages_go_when_they_are_old_and_imported() -> None:
    FailedPage.objects.create(raw_answer="{}", read_at=days_ago(31), imported_at=days_ago(31))
    young = FailedPage.objects.create(raw_answer="{}", read_at=days_ago(29), imported_at=days_ago(29))
    unread = FailedPage.objects.create(raw_answer="{}", read_at=days_ago(50))

    prune("--days", 30)
    assert FailedPage.objects.count() == 3  # one is not imported, and nothing after it may go
    FailedPage.objects.filter(pk=unread.pk).update(imported_at=days_ago(0))
    prune("--days", 30)

    assert FailedPage.objects.get().pk == young.pk


@pytest.mark.parametrize("days", [7, 0, -9, 10**9])
def test_fewer_days_than_dingtalk_remembers_are_refused_in_one_line(days: int) -> None:
    event(3000, "delivered")

    said = prune("--days", days)

    assert said.status == 2
    assert said.err.startswith("--days must be from 8 ")
    assert "\n" not in said.err
    assert Event.objects.count() == 1


# In small steps


def test_no_transaction_deletes_more_than_two_hundred_rows() -> None:
    many(150)
    event(40, *["dead"] * 5, attempts=90)  # one event of 456 rows

    steps = list(pruning.prune(ids_of(pruning.settled(days_ago(30)))))

    assert left() == set()
    assert Attempt.objects.count() == 0
    assert max(sum(rows.values()) for _, rows in steps) <= MOST_ROWS
    assert sum(count for count, _ in steps) == 151
    assert sum((rows for _, rows in steps), Counter()) == {
        "callbacks.Event": 151,
        "callbacks.Delivery": 155,
        "callbacks.Attempt": 600,
    }


@committed
def test_a_database_that_fails_midway_is_one_line_and_the_next_call_goes_on() -> None:
    many(200)
    last = max(left())

    with refusing(last):
        said = prune("--days", 30)

    assert said.status == 1
    assert "disk full" in said.err
    assert "\n" not in said.err
    assert 0 < len(left()) < 200
    prune("--days", 30)
    assert left() == set()


class refusing:  # noqa: N801 - reads as a verb
    """Let the database itself refuse to delete one event."""

    def __init__(self, pk: int) -> None:
        self.pk = pk

    def __enter__(self) -> None:
        with connection.cursor() as cursor:
            act = "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            if connection.vendor == "postgresql":
                raising = "BEGIN RAISE EXCEPTION 'disk full'; END"
                cursor.execute(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$")
                act = "EXECUTE FUNCTION refuse()"
            condition = f"FOR EACH ROW WHEN (OLD.id = {self.pk})"
            cursor.execute(f"CREATE TRIGGER refuse_one BEFORE DELETE ON callbacks_event {condition} {act}")

    def __exit__(self, *_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "DROP FUNCTION refuse() CASCADE" if connection.vendor == "postgresql" else "DROP TRIGGER refuse_one"
            )


@committed
def test_sigterm_stops_it_between_two_batches() -> None:
    many(1200)

    def terminate() -> None:
        try:
            while Event.objects.count() == 1200:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            connection.close()

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate).start()
    told = pruned("--days", 30)

    assert told["finished"] is False
    assert 0 < told["events"] < 1200
    assert len(left()) == 1200 - told["events"]
    assert Delivery.objects.count() == Attempt.objects.count() == len(left())
    assert signal.getsignal(signal.SIGTERM) == before
    prune("--days", 30)
    assert left() == set()


def test_where_another_process_prunes_it_leaves_the_work_to_it() -> None:
    many(300)
    with duty.hold("prune"):
        said = prune("--days", 30)
        told = pruned("--days", 30)

    assert (said.status, said.err) == (0, "")
    assert "Another process prunes; what is left is left to it." in said.out
    assert (told["elsewhere"], told["finished"], told["events"]) == (True, False, 0)
    assert len(left()) == 300
    assert pruned("--days", 30)["events"] == 300


@committed
def test_one_that_another_takes_over_from_stops() -> None:
    many(1200)

    def take_over() -> None:
        try:
            while Event.objects.count() == 1200:
                time.sleep(0.001)
            Duty.objects.update(lease_token=uuid4())
        finally:
            connection.close()

    threading.Thread(target=take_over).start()
    told = pruned("--days", 30)

    assert (told["elsewhere"], told["finished"]) == (True, False)
    assert 0 < told["events"] < 1200
    assert len(left()) == 1200 - told["events"]


@committed
@pytest.mark.skipif(DATABASE == "postgresql", reason="PostgreSQL has no one write lock")
def test_pushes_are_stored_in_time_while_it_prunes() -> None:
    many(900)
    waits: list[float] = []

    def work(number: int) -> None:
        if number == 0:
            prune("--days", 30)
            return
        while Event.objects.filter(identity__startswith="many:").exists():
            began = time.monotonic()
            in_time(lambda: receive(payload("shop_plain")))
            waits.append(time.monotonic() - began)
            time.sleep(0.02)

    in_threads(4, work)

    assert len(waits) > 20
    assert max(waits) < ANSWER_WITHIN
    assert Event.objects.count() == len(waits)


@committed
def test_an_event_that_is_being_redelivered_is_waited_for_and_spared() -> None:
    spared = event(31, "dead")

    def by_hand() -> None:
        try:
            prune("--days", 30)
        finally:
            connection.close()

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            outbox.redeliver(Delivery.objects.all())
            done = pool.submit(by_hand)
            assert not wait([done], 0.5).done
        done.result(20)

    assert left() == {spared.pk}
    assert Delivery.objects.get().state == "pending"


def test_an_event_that_is_redelivered_before_its_turn_is_spared() -> None:
    spared, gone = event(31, "dead", "delivered"), event(31, "dead")
    chosen = ids_of(pruning.settled(days_ago(30)))
    outbox.redeliver(Delivery.objects.filter(event=spared, state="dead"))

    list(pruning.prune(chosen))

    assert left() == {spared.pk}
    assert gone.pk not in left()
    assert Attempt.objects.count() == 2


@committed
def test_redelivering_while_it_prunes_leaves_no_half_an_event() -> None:
    many(400)

    def work(number: int) -> int:
        if number == 0:
            prune("--days", 30)
            return 0
        return outbox.redeliver(Delivery.objects.order_by("-pk"))

    redelivered = sum(in_threads(2, work))

    assert Delivery.objects.filter(state="pending").count() == Event.objects.count() == redelivered
    assert Attempt.objects.count() == Event.objects.count()


# The horizon


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Options(hold_seconds=30)) as running:
        yield running
    DingTalkClient._shared.clear()


def read(simulator: Simulator) -> tuple[int, int]:
    """Read the failed list; return how many of its events were new and how many known."""
    options = simulator.options
    client = DingTalkClient(options.app_key, options.app_secret, simulator.url, simulator.url)
    pages = list(read_failed_list(client))
    return sum(page.new for page in pages), sum(page.known for page in pages)


def failed(user: str, when: Any) -> dict[str, Any]:
    return {"call_back_tag": "user_add_org", "event_time": when, "user_add_org": {"userid": [user], "corpid": "c"}}


def milliseconds(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def test_the_horizon_moves_forward_only() -> None:
    prune("--days", 30)
    first = pruning.horizon()
    prune("--days", 60)
    assert pruning.horizon() == first
    prune("--days", 20)

    assert first is not None
    assert pruning.horizon() == Horizon.objects.get().complete_since > first
    assert abs(days_ago(20) - Horizon.objects.get().complete_since) < timedelta(minutes=1)


@committed
def test_the_horizon_is_recorded_before_anything_is_deleted() -> None:
    many(1)

    with refusing(left().pop()):
        assert prune("--days", 30).status == 1

    assert pruning.horizon() is not None


def test_nothing_older_is_ever_imported_again_as_new(simulator: Simulator) -> None:
    simulator.add_failed(failed("u1", milliseconds(days_ago(40))))
    assert read(simulator) == (1, 0)
    outbox.give_up(Delivery.objects.all())
    Event.objects.update(received_at=days_ago(40))
    FailedPage.objects.update(read_at=days_ago(40))
    prune("--days", 30)
    assert left() == set()

    simulator.add_failed(failed("u1", milliseconds(days_ago(40))))
    simulator.add_failed(failed("u2", milliseconds(days_ago(29))))

    assert read(simulator) == (1, 1)
    assert Event.objects.get().payload["userid"] == ["u2"]


def test_an_entry_of_unknown_age_is_imported(simulator: Simulator) -> None:
    prune("--days", 8)
    times: list[Any] = ["soon", None, 10**30, {}, True]
    for number, when in enumerate(times):
        simulator.add_failed(failed(f"u{number}", when))

    assert read(simulator) == (5, 0)


def test_without_a_horizon_everything_is_imported(simulator: Simulator) -> None:
    simulator.add_failed(failed("u1", milliseconds(days_ago(4000))))

    assert read(simulator) == (1, 0)


def test_the_time_of_an_entry_is_in_milliseconds_or_seconds_and_a_number_or_a_text() -> None:
    moments = {event_time(Entry({"event_time": when}, "")) for when in (1606126433000, "1606126433000", 1606126433)}

    assert {moment.isoformat() for moment in moments if moment} == {"2020-11-23T10:13:53+00:00"}
    assert event_time(Entry("no object", None)) is None


def test_what_a_page_that_is_not_imported_may_hold_is_neither_lost_nor_doubled(simulator: Simulator) -> None:
    entries = [failed("u1", milliseconds(days_ago(44))), failed("u2", milliseconds(days_ago(44)))]
    answer = {"errcode": 0, "failed_list": entries, "has_more": False}
    page = FailedPage.objects.create(raw_answer=json.dumps(answer), read_at=days_ago(40))
    older, later = event(50, "delivered"), event(41, "delivered")

    said = prune("--days", 30)

    assert "warning: a failed list page is not imported yet" in said.err
    assert left() == {later.pk}
    assert older.pk not in left()
    assert read(simulator) == (2, 0)
    page.refresh_from_db()
    assert page.imported_at is not None
