"""While the database cannot store, a push is answered with 503 in time, and is stored when it comes again."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from django.db import connection
from django.test import Client

from callbacks.models import Event
from tests.granian import Server, command, serving, test_database_url
from tests.pusher import Push, opened, seal_push, send

IN_TIME = 1.2
USER = {"EventType": "user_add_org", "eventId": "c7c7120f", "CorpId": "dingtestcorp0001", "UserId": ["u1"]}
Holder = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def held(transactional_db: None) -> Holder:
    """Return a context in which somebody else holds the database: SQLite's write lock, a table on PostgreSQL."""

    @contextmanager
    def holding() -> Iterator[None]:
        if connection.vendor == "sqlite":
            other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                other.close()
        else:
            with psycopg.connect(test_database_url()) as somebody:
                somebody.execute("LOCK TABLE callbacks_event, callbacks_delivery IN ACCESS EXCLUSIVE MODE")
                yield

    return holding


def timed(push: Callable[[], Any]) -> tuple[int, float]:
    began = time.monotonic()
    return push().status_code, time.monotonic() - began


def post(server: Server, push: Push) -> requests.Response:
    return requests.post(server.url + push.address, push.body, timeout=40)


@pytest.mark.rows
def test_a_locked_database_is_answered_in_time_and_the_next_push_is_stored(client: Client, held: Holder) -> None:
    push = seal_push(USER)
    with held():
        status, seconds = timed(lambda: send(client, push))
    assert status == 503
    assert seconds < IN_TIME
    assert not Event.objects.exists()
    assert opened(send(client, push).json()) == "success"
    assert Event.objects.get().event_type == "user_add_org"


@pytest.mark.rows
def test_every_push_of_a_crowd_is_answered_in_time_while_the_database_is_locked(held: Holder, tmp_path: Path) -> None:
    pushes = [seal_push({**USER, "eventId": str(number)}) for number in range(8)]
    with serving(tmp_path / "log", DATABASE_URL=test_database_url()) as server, ThreadPoolExecutor(8) as pool:

        def send_all() -> list[tuple[int, float]]:
            return list(pool.map(lambda push: timed(lambda: post(server, push)), pushes))

        with held():
            answers = send_all()
        assert [status for status, _ in answers] == [503] * 8
        assert max(seconds for _, seconds in answers) < IN_TIME
        assert not Event.objects.exists()
        assert [status for status, _ in send_all()] == [200] * 8
    assert Event.objects.count() == 8


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_died_since_the_last_push_is_replaced(client: Client) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connections that die")
    assert send(client, seal_push(USER)).status_code == 200
    with psycopg.connect(test_database_url(), autocommit=True) as somebody:
        somebody.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    assert opened(send(client, seal_push({**USER, "eventId": "another"})).json()) == "success"
    assert Event.objects.count() == 2


def test_a_refused_connection_is_answered_in_time_and_told_without_the_password(tmp_path: Path) -> None:
    url = "postgresql://somebody:hunter2-secret@127.0.0.1:1/name"
    with serving(tmp_path / "log", DATABASE_URL=url) as server:
        for _ in range(2):
            status, seconds = timed(lambda: post(server, seal_push(USER)))
            assert status == 503
            assert seconds < IN_TIME
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 503
        assert requests.get(f"{server.url}/healthz", timeout=10).status_code == 200
        assert post(server, seal_push('{"EventType":"check_url"}')).status_code == 200
    log = (tmp_path / "log").read_text()
    assert "user_add_org not stored" in log
    assert "refused" in log
    assert "hunter2" not in log
    assert "u1" not in log


def test_sqlites_file_may_be_missing_empty_or_held_exclusively(tmp_path: Path) -> None:
    """A connection opened before the file was deleted would go on taking rows that nobody ever sees."""
    file = tmp_path / "db.sqlite3"
    settings = {"DATABASE_URL": f"sqlite:///{file}", "GRANIAN_BLOCKING_THREADS": "1"}
    assert command("manage.py", "migrate", "--verbosity", "0", **settings).returncode == 0
    away = file.rename(tmp_path / "away.sqlite3")
    with serving(tmp_path / "log", **settings) as server:

        def push(number: int) -> tuple[int, float]:
            return timed(lambda: post(server, seal_push({**USER, "eventId": str(number)})))

        assert push(1)[0] == 503  # an empty file was made, which has no tables
        away.rename(file)
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        status, seconds = push(2)
        assert (status, seconds < IN_TIME) == (503, True), seconds
        other.close()
        assert push(3)[0] == 200
        away = Path(shutil.copy(file, tmp_path / "away.sqlite3"))
        for path in tmp_path.glob("db.sqlite3*"):
            path.unlink()
        away.rename(file)  # as when a backup is put back
        assert push(5)[0] == 200
        with closing(sqlite3.connect(file)) as other:
            (newest,) = other.execute("SELECT body FROM callbacks_event ORDER BY id DESC LIMIT 1").fetchone()
        assert json.loads(newest)["eventId"] == "5"
        for path in tmp_path.glob("db.sqlite3*"):
            path.unlink()
        assert push(4)[0] == 503
        log = (tmp_path / "log").read_text()
        assert "no such table" in log
        assert "database is locked" in log
