"""`manage.py deliver` as a process: drains, stops, dies and bears a database that is away."""

import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from django.utils.timezone import now

from callbacks.models import Attempt, Delivery
from callbacks.worker import POLL
from tests.owed import attempts, expire_leases, owe, table_away
from tests.processes import Gate, children, database_url, deliver, kill, manage, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def delivered(*deliveries: Delivery) -> bool:
    ids = [each.pk for each in deliveries]
    return Delivery.objects.filter(pk__in=ids, state="delivered").count() == len(ids)


def carried(delivery: Delivery, seconds: float = 30.0) -> Delivery:
    """Wait until a worker has delivered it."""
    wait_until(lambda: delivered(delivery), seconds)
    delivery.refresh_from_db()
    return delivery


def test_once_carries_all_that_is_due_and_exits_with_0() -> None:
    due = [owe("shop_plain") for _ in range(9)]
    later = owe("shop_plain")
    Delivery.objects.filter(pk=later.pk).update(next_attempt_at=now() + timedelta(hours=1))

    done = manage("deliver", "--once", "--threads", "2")

    assert (done.returncode, done.stdout) == (0, "deliver: stopped\n"), done.stderr
    assert delivered(*due)
    assert not delivered(later)
    assert Attempt.objects.count() == 9


def test_once_with_nothing_due_exits_with_0() -> None:
    done = manage("deliver", "--once", LOG_LEVEL="WARNING")

    assert (done.returncode, done.stdout, done.stderr) == (0, "deliver: stopped\n", "")


def test_once_waits_for_what_runs_and_carries_what_falls_due_meanwhile(log: Path, gate: Gate) -> None:
    slow = owe("shop_plain", act="fetch", url=gate.url("slow"))
    with deliver(log, "--once") as process:
        wait_until(lambda: gate.waiting)
        time.sleep(2 * POLL)  # the worker finds nothing due
        carried(owe("shop_plain"), seconds=10)
        assert process.poll() is None

        gate.let_through("slow")

        assert process.wait(10) == 0
    assert delivered(slow)


@contextmanager
def empty_database(tmp_path: Path) -> Iterator[str]:
    """Make a database without tables, and return its address."""
    if connection.vendor == "sqlite":
        yield database_url(str(tmp_path / "empty.sqlite3"))
        return
    name = f"{connection.settings_dict['NAME']}_empty"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
        try:
            yield database_url(name)
        finally:
            cursor.execute(f'DROP DATABASE "{name}"')


def test_once_on_a_database_that_is_not_migrated_exits_with_1_and_one_line(tmp_path: Path) -> None:
    with empty_database(tmp_path) as url:
        done = manage("deliver", "--once", DATABASE_URL=url, LOG_LEVEL="WARNING")

    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "callbacks_delivery" in line
    assert "`manage.py migrate` makes the tables" in line


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_a_number_of_threads_that_is_none_exits_with_2(threads: str) -> None:
    done = manage("deliver", "--once", f"--threads={threads}")

    assert done.returncode == 2
    assert "--threads" in done.stderr


def test_an_idle_worker_carries_a_push_within_a_second(log: Path) -> None:
    took = []
    with deliver(log):
        carried(owe("shop_plain"))
        for _ in range(5):
            pushed = time.time()
            delivery = carried(owe("shop_plain"))
            assert delivery.result
            took.append(delivery.result["at"] - pushed)

    assert statistics.median(took) < 1


def test_a_stopped_worker_finishes_short_work_and_gives_long_work_back_within_10_seconds(log: Path, gate: Gate) -> None:
    short, long = (owe("shop_plain", act="fetch", url=gate.url(name)) for name in ("short", "long"))
    with deliver(log) as process:
        wait_until(lambda: {"short", "long"} <= set(gate.waiting))
        first_end = Delivery.objects.get(pk=long.pk).leased_until
        wait_until(lambda: Delivery.objects.get(pk=long.pk).leased_until != first_end)  # the keeper is at work

        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        time.sleep(1)  # what is left of the short work
        waiting = owe("shop_plain")
        gate.let_through("short")
        carried(short)
        assert process.poll() is None, "it did not wait for the long one"
        assert process.wait(20) == 0
        assert time.monotonic() - began < 10

    for delivery in (long, waiting):
        delivery.refresh_from_db()
    assert [outcome for outcome, _ in attempts(long)] == ["stopped"]
    assert (long.state, long.attempts, long.lease_token) == ("pending", 1, None)
    assert "stopped" in long.last_error
    assert Delivery.objects.due().count() == 2, "the long one is due at once, and nothing new was claimed"
    assert waiting.attempts == 0
    assert "deliver: stopped, unfinished attempts were given back" in log.read_text()


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL has no one write lock")
def test_a_handler_that_holds_sqlites_write_lock_does_not_keep_a_worker_from_stopping(log: Path, gate: Gate) -> None:
    locking = owe("shop_atomic", act="fetch", url=gate.url("slow"))
    with deliver(log) as process:
        wait_until(lambda: gate.waiting)
        began = time.monotonic()

        process.send_signal(signal.SIGTERM)
        process.wait(30)

        assert time.monotonic() - began < 10
    assert Delivery.objects.get(pk=locking.pk).attempts == 1
    gate.let_through("slow")
    expire_leases()
    manage("deliver", "--once")
    assert [outcome for outcome, _ in attempts(locking)] == ["lost", "delivered"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_at_once(log: Path, number: signal.Signals) -> None:
    with deliver(log) as process:
        carried(owe("shop_plain"))

        process.send_signal(number)

        assert process.wait(5) == 0
    assert log.read_text().endswith("deliver: stopped\n")


def leads_a_session(process_id: int) -> bool:
    """Tell the worker's process from others that libraries start for a moment."""
    with suppress(ProcessLookupError):
        return os.getsid(process_id) == process_id
    return False


def test_a_worker_that_is_stopped_while_it_starts_ends_in_order(log: Path) -> None:
    with deliver(log) as process:
        wait_until(lambda: any(leads_a_session(child) for child in children(process)))

        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == 0


def test_the_work_of_a_killed_worker_falls_due_within_a_minute_and_is_carried_by_the_next(
    log: Path, gate: Gate
) -> None:
    delivery = owe("shop_plain", act="fetch", url=gate.url("slow"))
    with deliver(log) as process:
        wait_until(lambda: gate.waiting)
        kill(process)
    held = Delivery.objects.get(pk=delivery.pk)
    assert held.leased_until
    assert held.leased_until < now() + timedelta(seconds=60)
    gate.let_through("slow")

    with deliver(log):
        carried(owe("shop_plain"))
        assert not delivered(delivery)
        expire_leases()
        carried(delivery)

    assert delivery.attempts == 2
    assert [outcome for outcome, _ in attempts(delivery)] == ["lost", "delivered"]


def test_two_workers_share_the_work_and_attempt_each_delivery_once(log: Path) -> None:
    owed = [owe("shop_atomic", act="row") for _ in range(60)]
    with deliver(log), deliver(log):
        wait_until(lambda: delivered(*owed))

    assert Attempt.objects.count() == 60
    assert len(set(Attempt.objects.values_list("delivery", flat=True))) == 60


def test_a_worker_bears_a_database_that_refuses_for_a_while(log: Path) -> None:
    with deliver(log) as process:
        carried(owe("shop_plain"))
        with table_away("callbacks_delivery"):
            wait_until(lambda: "the database refuses claims, trying again" in log.read_text())
        carried(owe("shop_plain"), seconds=5)

        assert process.poll() is None


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no connections to end")
def test_a_worker_bears_that_the_server_ends_its_connections(log: Path) -> None:
    before = [owe("shop_plain") for _ in range(8)]
    with deliver(log, "--threads", "2") as process:
        wait_until(lambda: delivered(*before))
        end_other_connections()
        after = [owe("shop_plain") for _ in range(8)]
        wait_until(lambda: delivered(*after), seconds=10)  # and not only when a lease has run out

        assert process.poll() is None
    assert set(Attempt.objects.values_list("outcome", flat=True)) == {"delivered"}
    assert Attempt.objects.count() == 16


def end_other_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] >= 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite's lock ends with nothing but its process")
def test_a_worker_that_is_stopped_in_a_transaction_holds_up_the_others_for_seconds_only(log: Path, gate: Gate) -> None:
    delivery = owe("shop_plain", act="fetch", url=gate.url("slow"))
    with deliver(log) as process, psycopg.connect(database_url()) as other:
        wait_until(lambda: gate.waiting)
        row = f"SELECT pg_backend_pid() FROM callbacks_delivery WHERE id = {delivery.pk} FOR UPDATE"
        ((own,),) = other.execute(row).fetchall()
        gate.let_through("slow")
        wait_until(lambda: blocked_by(own))
        (child,) = children(process)
        os.kill(child, signal.SIGSTOP)
        try:
            other.rollback()  # the worker's transaction gets the row, and the worker does not go on
            wait_until(lambda: not blocked_by(own))
            other.execute("SET lock_timeout = '30s'")
            assert other.execute(row).fetchall()
        finally:
            other.rollback()
            os.kill(child, signal.SIGCONT)
        wait_until(lambda: expire_leases() == 0)  # which the worker prolongs once more when it goes on
    assert delivered(delivery)


def blocked_by(backend: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))", [backend])
        return bool(cursor.fetchall()[0][0])
