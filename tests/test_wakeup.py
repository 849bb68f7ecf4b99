"""Workers hear of a push at once: by NOTIFY from the web process, on SQLite from the file."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from callbacks import wakeup
from simulator.load import run
from simulator.ports import free_port
from simulator.samples import make
from tests.owed import owe
from tests.processes import database_url, deliver, manage, wait_until, wait_until_up, web

pytestmark = pytest.mark.django_db(transaction=True)

on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no NOTIFY")
LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'"


@contextmanager
def listening() -> Iterator[Callable[[], Any]]:
    """Listen as a worker does; give a function that waits until it is woken."""
    woken, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=wakeup.listen, args=(woken.set, done))
    thread.start()

    def wait_for_it() -> None:
        assert woken.wait(30)
        woken.clear()

    try:
        yield wait_for_it
    finally:
        done.set()
        thread.join()


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def push(port: int) -> None:
    url = f"http://127.0.0.1:{port}/dingtalk/callback/"
    secrets = (settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY, settings.DINGTALK_CORP_ID)
    report = run(url, *secrets, payloads=[make("user_add_org", corp_id=settings.DINGTALK_CORP_ID)])
    assert len(report.acknowledged) == 1


@on_postgresql
def test_a_push_notifies_whoever_listens(tmp_path: Path) -> None:
    port = free_port()
    with web(tmp_path / "log", port), psycopg.connect(database_url(), autocommit=True) as listener:
        wait_until_up(port)
        listener.execute(f"LISTEN {wakeup.CHANNEL}")
        for _ in range(3):  # and not only once
            push(port)
            assert list(listener.notifies(timeout=30, stop_after=1))


@on_postgresql
def test_a_notification_wakes_and_a_dead_connection_is_replaced() -> None:
    with listening() as wait_for_it:
        for _ in range(2):
            wait_until(lambda: rows(f"SELECT pid {LISTENERS}"))
            rows(f"SELECT pg_notify('{wakeup.CHANNEL}', '')")
            wait_for_it()
            rows(f"SELECT pg_terminate_backend(pid) {LISTENERS}")
            wait_until(lambda: not rows(f"SELECT pid {LISTENERS}"))


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL notifies")
def test_what_another_connection_commits_to_the_file_wakes() -> None:
    with listening() as wait_for_it:
        wait_for_it()  # the first look finds a version it has not seen
        for _ in range(2):
            owe("shop_plain")
            wait_for_it()


@on_postgresql
def test_the_worker_listens_at_the_servers_own_address_where_one_is_given(tmp_path: Path) -> None:
    direct = f"{database_url()}?application_name=direct"
    with deliver(tmp_path / "log", DATABASE_DIRECT_URL=direct):
        wait_until(lambda: rows(f"SELECT application_name {LISTENERS}") == [("direct",)])


def test_a_direct_address_that_is_none_of_postgresqls_stops_start_up() -> None:
    done = manage("check", DATABASE_DIRECT_URL="mysql://admin:hunter2-secret@db/name")

    assert done.returncode == 1
    assert "callbacks.E001" in done.stderr
    assert "DATABASE_DIRECT_URL is no address of a PostgreSQL server" in done.stderr
    assert "hunter2" not in done.stderr


@on_postgresql
def test_a_connection_finds_out_within_a_minute_that_its_peer_is_gone() -> None:
    connection.ensure_connection()
    with socket.socket(fileno=os.dup(connection.connection.fileno())) as wire:
        assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        asked = [wire.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}")) for name in ("IDLE", "INTVL")]
        count = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        unacknowledged = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert asked[0] + asked[1] * count <= 60
    assert 0 < unacknowledged <= 60_000
