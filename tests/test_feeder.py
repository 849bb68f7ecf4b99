"""The feeder: keeps a short queue, gives back what nobody starts, and bears a broker and a database that refuse."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty, SimpleQueue
from uuid import UUID

import pytest
from django.db import connection
from django.db.models.functions import Now

from callbacks import feeder, handover, outbox
from callbacks.feeder import Feeder, Unpublished
from callbacks.models import Attempt, Delivery, Duty, Event
from callbacks.worker import POLL
from tests.owed import WORKER, owe, table_away
from tests.processes import wait_until
from tests.shop.handlers import scripts

pytestmark = pytest.mark.django_db(transaction=True)
PLAIN, ATOMIC = "handler:tests.shop.handlers.plain", "handler:tests.shop.handlers.atomic"


class Queue:
    """A queue in memory, which refuses where a test says so."""

    def __init__(self) -> None:
        self.messages: SimpleQueue[tuple[int, UUID, str]] = SimpleQueue()
        self.refuses = False
        self.published = 0

    def publish(self, delivery: Delivery) -> None:
        """Take a message, or refuse it."""
        if self.refuses:
            raise Unpublished("ConnectionRefusedError: nobody there")
        assert delivery.lease_token
        self.messages.put((delivery.pk, delivery.lease_token, delivery.destination))
        self.published += 1

    def work(self, count: int = 1) -> int:
        """Take messages as workers do, until there is none for a while; return how many of them started something."""
        started = 0
        for _ in range(count):
            try:
                pk, token, _destination = self.messages.get(timeout=10)
            except Empty:
                break
            delivery = handover.start(pk, token)
            if delivery:
                outbox.attempt(delivery, WORKER)
                started += 1
        return started


@pytest.fixture
def queue() -> Queue:
    """Return an empty queue."""
    return Queue()


@contextmanager
def feeding(queue: Queue, ahead: int = 4) -> Iterator[Feeder]:
    """Run a feeder in a thread until the block ends."""
    ours = Feeder(queue.publish, ahead)

    def run() -> None:
        try:
            ours.run()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.stop()
        thread.join(20)
        assert not thread.is_alive()


def held(destination: str = PLAIN) -> int:
    return Delivery.objects.held().filter(destination=destination).count()


def test_it_keeps_so_many_ahead_of_each_destination_and_no_more(queue: Queue) -> None:
    for _ in range(9):
        owe("shop_plain")
        owe("shop_atomic")
    with feeding(queue):
        wait_until(lambda: queue.published == 8)
        time.sleep(5 * feeder.LOOK_EVERY)  # it might go on

        assert (queue.published, held(PLAIN), held(ATOMIC)) == (8, 4, 4)
        wait_until(lambda: queue.work() and not Delivery.objects.pending().exists())
    assert Attempt.objects.filter(outcome="delivered").count() == 18
    assert queue.published == 18


def test_a_new_event_is_published_at_once(queue: Queue) -> None:
    with feeding(queue):
        wait_until(lambda: Duty.objects.exclude(lease_token=None).exists())
        delivery = owe("shop_plain")
        assert queue.work() == 1
    delivery.refresh_from_db()
    assert delivery.state == "delivered"


def test_what_waits_is_given_back_when_it_stops(queue: Queue) -> None:
    owe("shop_plain")
    with feeding(queue):
        wait_until(lambda: queue.published == 1)
    assert Delivery.objects.due().count() == 1
    assert queue.work() == 0, "the message is void"
    assert Duty.objects.filter(lease_token=None).exists()


def test_of_two_feeders_one_acts_and_the_other_takes_over_when_it_ends(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "STAND_BY", 0.05)
    other = Queue()
    with feeding(other):
        with feeding(queue):
            wait_until(lambda: Duty.objects.exclude(lease_token=None).exists())
            for _ in range(6):
                owe("shop_plain")
            wait_until(lambda: queue.published + other.published == 4)
            first, second = (queue, other) if queue.published else (other, queue)
            assert second.published == 0
        if first is queue:
            wait_until(lambda: other.published)
        assert other.work(6) == 6
    assert Attempt.objects.count() == 6


def test_one_whose_duty_was_taken_over_stands_by(queue: Queue) -> None:
    owe("shop_plain")
    with feeding(queue) as ours:
        wait_until(lambda: queue.published == 1)
        Duty.objects.update(lease_token=UUID(int=1), leased_until=Now() + timedelta(seconds=40))
        ours._renew_at = 0.0  # its next look is the one that renews
        owe("shop_plain")
        time.sleep(1)
        published = queue.published
        owe("shop_plain")
        time.sleep(2 * POLL)
        assert queue.published == published


def test_a_message_that_nobody_starts_is_published_anew_and_said_so(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeder, "EXPIRES_AFTER", 0.3)
    for _ in range(3):
        owe("shop_plain")
    with feeding(queue):
        wait_until(lambda: queue.published >= 5)
        assert "does a worker run" in caplog.text
        monkeypatch.setattr(feeder, "EXPIRES_AFTER", 60.0)
        wait_until(lambda: queue.work() and not Delivery.objects.pending().exists())
    assert Attempt.objects.count() == 3, "the old messages started nothing"


def test_a_broker_that_refuses_gets_everything_back_with_one_line_and_is_tried_again(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    owe("shop_plain")
    with feeding(queue):
        wait_until(lambda: queue.published == 1)
        queue.refuses = True
        owe("shop_plain")
        wait_until(lambda: "the broker refuses" in caplog.text)
        wait_until(lambda: Delivery.objects.due().count() == 2)
        time.sleep(0.3)
        assert caplog.text.count("the broker refuses") == 1, "it waits before it tries again"
        assert "2 given back, trying again in 1 s: ConnectionRefusedError" in caplog.text

        queue.refuses = False
        wait_until(lambda: queue.published == 3)
        assert queue.work(3) == 2, "the first message is void, as it may be lost"
    assert [record.levelno for record in caplog.records if "refuses" in record.message] == [logging.ERROR]


def test_a_database_that_refuses_for_a_while_is_waited_for(queue: Queue) -> None:
    with feeding(queue):
        wait_until(lambda: Duty.objects.exclude(lease_token=None).exists())
        with table_away("callbacks_delivery"):
            time.sleep(2 * POLL)
        owe("shop_plain")
        assert queue.work() == 1


def test_a_slow_destination_has_no_more_attempts_than_may_wait(queue: Queue) -> None:
    """So that with more processes than that the others always find some free."""
    gate = threading.Event()

    def wait(event: Event, delivery: Delivery) -> None:
        gate.wait(30)

    scripts["plain"] = wait
    try:
        for _ in range(12):
            owe("shop_plain")
        with feeding(queue, ahead=3):
            workers = [threading.Thread(target=_work, args=(queue,)) for _ in range(6)]
            for worker in workers:
                worker.start()
            wait_until(lambda: Attempt.objects.count() == 3)
            owe("shop_atomic")
            wait_until(lambda: Delivery.objects.filter(destination=ATOMIC, state="delivered").exists())
            assert Attempt.objects.filter(delivery__destination=PLAIN).count() == 3
            gate.set()
            for worker in workers:
                worker.join()
            wait_until(lambda: queue.work() and not Delivery.objects.pending().exists())
    finally:
        del scripts["plain"]


def _work(queue: Queue) -> None:
    try:
        queue.work()
    finally:
        connection.close()
