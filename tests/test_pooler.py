"""Behind a pooler in transaction mode, where no session is one's own, everything works and nothing is left behind."""

import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.contrib.auth.models import Group
from django.db import connection

from callbacks.batches import ids_of
from callbacks.models import Attempt, Delivery, Event
from simulator.load import LoadReport, run
from simulator.ports import free_port
from simulator.samples import make
from tests.conftest import needs_service
from tests.owed import owe
from tests.pooler import MISSING, Pooler, pooler
from tests.processes import database_url, deliver, manage, wait_until, wait_until_up, web
from tests.settings import DATABASE

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(DATABASE != "postgresql", reason="SQLite has no pooler"),
    *([needs_service(MISSING)] if MISSING else []),
]
# What the pooler itself gives back to each client.
TRACKED = {"TimeZone", "client_encoding", "DateStyle", "standard_conforming_strings", "application_name"}
LEFT_BEHIND = """
    SELECT name FROM pg_settings WHERE source = 'session'
    UNION ALL SELECT 'prepared statement ' || statement FROM pg_prepared_statements
    UNION ALL SELECT 'cursor ' || statement FROM pg_cursors WHERE is_holdable
    UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory'
    UNION ALL SELECT 'channel ' || c FROM pg_listening_channels() c
"""
LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'"


def pooled(at: Pooler) -> dict[str, str]:
    return {"DATABASE_URL": at.url, "DATABASE_DIRECT_URL": database_url()}


def left_behind(at: Pooler) -> set[str]:
    """Return what is set in each of the pooler's two sessions."""
    found: set[str] = set()
    with psycopg.connect(at.url) as one, psycopg.connect(at.url) as other:
        for client in (one, other):  # both in a transaction, so that each has a session
            found |= {name for (name,) in client.execute(LEFT_BEHIND).fetchall()}
    return found - TRACKED


def push(port: int, *payloads: dict[str, Any]) -> LoadReport:
    url = f"http://127.0.0.1:{port}/dingtalk/callback/"
    secrets = (settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY, settings.DINGTALK_CORP_ID)
    return run(url, *secrets, payloads=payloads)


def sample(event_type: str, **fields: Any) -> dict[str, Any]:
    return {**make(event_type, corp_id=settings.DINGTALK_CORP_ID), **fields}


def test_events_are_stored_and_carried_in_order_once_and_no_session_is_changed(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with pooler() as at:
        own = pooled(at)
        with web(log, port, **own), deliver(log, **own), deliver(log, **own):
            wait_until_up(port)
            rows = [sample("shop_atomic", act="row") for _ in range(40)]
            about_one = [sample("shop_plain", processInstanceId="P1") for _ in range(40)]
            report = push(port, *rows, *about_one)
            assert len(report.acknowledged) == 80, report.refusals
            wait_until(lambda: Delivery.objects.filter(state="delivered").count() == 80)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) {LISTENERS}")
                assert cursor.fetchone()[0] == 2, "each worker listens at the server itself"
            assert left_behind(at) == set()

    assert Group.objects.count() == 40
    in_turn = Attempt.objects.filter(delivery__destination__endswith="plain").order_by("finished_at")
    events = list(in_turn.values_list("delivery__event", flat=True))
    assert events == sorted(events)
    assert len(events) == 40


def test_commands_work_behind_it_and_leave_nothing(tmp_path: Path) -> None:
    for _ in range(300):
        owe("shop_plain")
    Delivery.objects.update(state="dead", next_attempt_at=None)
    with pooler() as at:
        migrated = manage("migrate", **pooled(at))
        redelivered = manage("redeliver", "--state", "dead", "--yes", **pooled(at))
        carried = manage("deliver", "--once", **pooled(at))
        pruned = manage("prune", "--days", "8", **pooled(at))
        assert left_behind(at) == set()
    for done in (migrated, redelivered, carried, pruned):
        assert done.returncode == 0, done.stderr
    assert Delivery.objects.filter(state="delivered").count() == 300


def test_a_pooler_that_stalls_is_not_waited_for(tmp_path: Path) -> None:
    port = free_port()
    with pooler() as at, web(tmp_path / "log", port, **pooled(at)):
        wait_until_up(port)
        assert push(port, sample("user_add_org")).acknowledged
        at.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        refused = push(port, sample("user_add_org"))
        took = time.monotonic() - began
        at.process.send_signal(signal.SIGCONT)

        assert not refused.acknowledged
        assert [reason[:3] for reason in refused.refusals] == ["503"]
        assert took < 1.5, "DingTalk must hear in time"
        wait_until_up(port)
        assert push(port, sample("user_add_org")).acknowledged
    assert Event.objects.count() == 2


def test_a_long_list_is_read_without_a_cursor_on_the_server() -> None:
    owe("shop_plain")
    rows = Delivery.objects.all().iterator(chunk_size=1)
    next(rows)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_cursors WHERE is_holdable")
        assert cursor.fetchone() == (0,)
    assert len(ids_of(Delivery.objects.all())) == 1


def test_no_statement_is_prepared_on_the_server() -> None:
    with connection.cursor() as cursor:
        for _ in range(10):
            cursor.execute("SELECT count(*) FROM callbacks_event WHERE id = %s", [1])
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        assert cursor.fetchone() == (0,)
