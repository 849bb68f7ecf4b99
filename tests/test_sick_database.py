"""While the database is sick, pushes are refused in time and threads come free; the first push after that is stored."""

import os
import resource
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from django.db import OperationalError, connection
from django.test import Client

from callbacks import deadline, views
from callbacks.models import Delivery, Event
from simulator.ports import free_port
from tests.granian import Server, serving
from tests.granian import test_database_url as database_url
from tests.owed import waiting_for_locks
from tests.processes import children, manage, wait_until, web
from tests.proxy import Proxy
from tests.pusher import opened, seal_push, send
from tests.settings import DATABASE, POSTGRESQL_URL

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(DATABASE != "postgresql", reason="a fault of PostgreSQL")
on_sqlite = pytest.mark.skipif(DATABASE != "sqlite", reason="a fault of SQLite")

Result = TypeVar("Result")

IN_TIME = 1.2
# DingTalk's own patience: a crowd within this process has to share its interpreter with those who push.
CROWD_IN_TIME = 1.5
CONNECTING_IN_TIME = 2.5
AT_ONCE = 1.5  # far below the 2 s of an attempt to connect, far above what a busy machine takes
THREADS = 20
INSERT = b"INSERT INTO callbacks_event"


class Answer(NamedTuple):
    """What became of a push."""

    status: int
    seconds: float


def push(number: int = 0, *, text: str = "") -> Answer:
    """Push through the view, in this thread; an answer of 200 is opened as DingTalk opens it."""
    sealed = seal_push({"EventType": "user_add_org", "eventId": f"e{number}", "UserId": ["u"], "text": text})
    client = Client()
    client.get("/healthz")  # as in a server, the middleware is loaded before
    began = time.monotonic()
    answer = send(client, sealed)
    taken = time.monotonic() - began
    assert answer.status_code == 503 or opened(answer.json()) == "success"
    return Answer(answer.status_code, taken)


def post(server: Server, number: int = 0) -> Answer:
    """Push over a socket."""
    sealed = seal_push({"EventType": "user_add_org", "eventId": f"e{number}", "UserId": ["u"]})
    began = time.monotonic()
    answer = requests.post(server.url + sealed.address, sealed.body, timeout=30)
    return Answer(answer.status_code, time.monotonic() - began)


def stored() -> list[str]:
    """Return the ids of the events that are stored, each of which must be owed to one destination."""
    assert Delivery.objects.count() == Event.objects.count()
    return sorted(Event.objects.values_list("payload__eventId", flat=True))


class Crowd:
    """Threads that push at the same time and keep their connections from one wave to the next, as a server's do."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
        self._ready = threading.Barrier(THREADS)

    def pushes(self, first: int) -> list[Answer]:
        """Push as many events as there are threads, numbered from `first`."""
        return self._each(lambda number: push(first + number))

    def stores(self, first: int) -> None:
        """Push until all are stored, as DingTalk does: on a busy machine, some of a crowd may have to come again."""
        wait_until(lambda: all_stored(self.pushes(first)), seconds=10)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda _: connection.close())
        self._pool.shutdown()

    def _each(self, work: Callable[[int], Result]) -> list[Result]:
        def once(number: int) -> Result:
            self._ready.wait(20)
            return work(number)

        return list(self._pool.map(once, range(THREADS)))


def all_refused(answers: list[Answer], within: float) -> bool:
    return {answer.status for answer in answers} == {503} and max(answer.seconds for answer in answers) < within


def all_stored(answers: list[Answer]) -> bool:
    return {answer.status for answer in answers} == {200}


@pytest.fixture(autouse=True)
def well(transactional_db: None) -> None:
    """Let no test begin with what the process remembers of the faults before."""
    connection.close()
    deadline.in_time(connection.ensure_connection)


# PostgreSQL behind a network


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, well: None) -> Iterator[Proxy]:
    """A way to the server for every connection made from now on; the test's own connection goes past it."""
    server = urlsplit(POSTGRESQL_URL)
    with Proxy(server.hostname or "127.0.0.1", server.port or 5432) as proxy:
        for name, value in {"HOST": "127.0.0.1", "PORT": str(proxy.port)}.items():
            monkeypatch.setitem(connection.settings_dict, name, value)
        # What is encrypted can't be read on the way, to cut it at a certain statement.
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "sslmode", "disable")
        yield proxy
        proxy.recover()
        monkeypatch.undo()
        connection.close()


def through(proxy: Proxy) -> str:
    """Return this database's address by way of a proxy."""
    parts = urlsplit(database_url())
    account = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{account}127.0.0.1:{proxy.port}", query="sslmode=disable").geturl()


@on_postgresql
def test_a_crowd_is_refused_in_time_while_the_server_stalls(proxy: Proxy) -> None:
    with Crowd() as crowd:
        crowd.stores(0)
        proxy.stall()
        assert all_refused(crowd.pushes(100), within=CROWD_IN_TIME)
        again = crowd.pushes(200)
        assert all_refused(again, within=CONNECTING_IN_TIME)
        assert sum(answer.seconds > AT_ONCE for answer in again) == 1, "one tries to connect, the others don't"
        proxy.recover()
        connection.close()
        assert push(300).status == 200
        crowd.stores(400)
    acknowledged = [f"e{first + number}" for first in (0, 400) for number in range(THREADS)]
    assert set(stored()) >= {*acknowledged, "e300"}


@on_postgresql
@pytest.mark.parametrize("fault", ["refuse", "stall", "cut"])
def test_the_web_server_answers_in_time_and_recovers(proxy: Proxy, tmp_path: Path, fault: str) -> None:
    settings = {"DATABASE_URL": through(proxy), "GRANIAN_BLOCKING_THREADS": str(THREADS)}
    with serving(tmp_path / "log", **settings) as server, ThreadPoolExecutor(THREADS) as pool:

        def wave(first: int) -> list[Answer]:
            return list(pool.map(lambda number: post(server, first + number), range(THREADS)))

        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 200
        wait_until(lambda: all_stored(wave(0)), seconds=10)
        if fault == "cut":
            proxy.cut_at(INSERT, times=1000, answer_is_lost=False)
        else:
            proxy.refuse() if fault == "refuse" else proxy.stall()
        for first in (100, 200, 300):
            assert all_refused(wave(first), within=CONNECTING_IN_TIME if fault == "stall" else IN_TIME)
            assert requests.get(f"{server.url}/healthz", timeout=1).status_code == 200
        if fault != "cut":
            assert requests.get(f"{server.url}/readyz", timeout=CONNECTING_IN_TIME).status_code == 503
        proxy.recover()
        assert post(server, 400).status == 200
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 200
        wait_until(lambda: all_stored(wave(500)), seconds=10)
    acknowledged = {f"e{first + number}" for first in (0, 500) for number in range(THREADS)}
    assert set(stored()) >= {*acknowledged, "e400"}


@on_postgresql
@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_a_connection_cut_in_the_middle_of_a_push_is_replaced_and_the_event_stored_once(
    proxy: Proxy, answer_is_lost: bool
) -> None:
    connection.close()
    assert push(1).status == 200
    proxy.cut_at(INSERT, times=1, answer_is_lost=answer_is_lost)
    answer = push(2)
    assert (answer.status, answer.seconds < IN_TIME) == (200, True)
    assert stored() == ["e1", "e2"]


@on_postgresql
@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_a_push_that_is_cut_every_time_is_not_acknowledged(proxy: Proxy, answer_is_lost: bool) -> None:
    connection.close()
    proxy.cut_at(INSERT, times=10, answer_is_lost=answer_is_lost)
    assert all_refused([push(1), push(1)], within=IN_TIME)
    proxy.recover()
    assert push(1).status == 200
    assert stored() == ["e1"]


@on_postgresql
def test_a_server_that_stalls_after_the_handshake_is_not_waited_for(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another time zone than the service's, Django's first statement follows the handshake."""
    monkeypatch.setenv("PGTZ", "Asia/Shanghai")
    connection.close()
    proxy.stall_at(b"set_config")
    assert all_refused([push(1)], within=IN_TIME)
    proxy.recover()
    assert push(1).status == 200
    assert stored() == ["e1"]


@on_postgresql
@pytest.mark.parametrize("path", ["/readyz", "/readyz, once ready"])
def test_readiness_is_denied_in_time_while_the_server_stalls(proxy: Proxy, path: str) -> None:
    def readyz() -> Answer:
        began = time.monotonic()
        return Answer(Client().get("/readyz").status_code, time.monotonic() - began)

    connection.close()
    connection.ensure_connection()
    views.migrated.clear()
    if path != "/readyz":
        assert readyz().status == 200
    proxy.stall()
    assert all_refused([readyz()], within=IN_TIME)
    assert all_refused([readyz()], within=CONNECTING_IN_TIME)
    proxy.recover()
    assert readyz().status == 200


@on_postgresql
def test_an_event_is_stored_even_where_connecting_took_longer_than_a_push_may(proxy: Proxy) -> None:
    connection.close()
    proxy.stall()
    timer = threading.Timer(1.3, proxy.recover)
    timer.start()
    answer = push(1)
    timer.join()
    assert answer.status == 200
    assert deadline.ANSWER_WITHIN < answer.seconds < CONNECTING_IN_TIME


# PostgreSQL itself


@on_postgresql
def test_a_connection_is_closed_by_the_deadline_that_it_missed() -> None:
    late = pytest.raises(OperationalError, match="did not answer in time")
    with connection.cursor() as cursor, deadline.within(0.1), late:
        cursor.execute("SELECT pg_sleep(1)")
    assert connection.connection.closed
    connection.close()


@on_postgresql
@pytest.mark.parametrize("text", ["", "x" * 700_000], ids=["small", "large"])
def test_a_stopped_backend_is_left_alone(text: str) -> None:
    assert push(1).status == 200
    with stopped(connection.connection.info.backend_pid):
        assert all_refused([push(2, text=text)], within=IN_TIME)
        assert push(2, text=text).status == 200
    assert stored() == ["e1", "e2"]


@contextmanager
def stopped(backend: int) -> Iterator[None]:
    """Stop a backend of the server, where that is a process of this machine that this user may stop."""
    try:
        command = Path(f"/proc/{backend}/cmdline").read_text()
        if str(connection.settings_dict["NAME"]) not in command:
            pytest.skip("the server runs elsewhere")
        os.kill(backend, signal.SIGSTOP)
    except OSError as error:
        pytest.skip(f"the server's processes are not ours to stop: {error}")
    goes_on = threading.Timer(20, os.kill, [backend, signal.SIGCONT])  # so that nobody waits for ever
    goes_on.start()
    try:
        yield
    finally:
        goes_on.cancel()
        os.kill(backend, signal.SIGCONT)


@on_postgresql
def test_a_locked_table_leaves_nobody_waiting_on_the_server() -> None:
    with Crowd() as crowd, psycopg.connect(database_url()) as somebody:
        crowd.stores(0)
        somebody.execute("LOCK TABLE callbacks_delivery IN ACCESS EXCLUSIVE MODE")
        assert all_refused(crowd.pushes(100), within=CROWD_IN_TIME)
        wait_until(lambda: not waiting_for_locks(), seconds=2)
        somebody.rollback()
        assert push(200).status == 200
        crowd.stores(300)
    assert len(stored()) == 2 * THREADS + 1


@on_postgresql
def test_a_server_out_of_connections_refuses_in_time(tmp_path: Path) -> None:
    with role_without_connections() as (url, allow), serving(tmp_path / "log", DATABASE_URL=url) as server:
        assert all_refused([post(server, number) for number in range(3)], within=IN_TIME)
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 503
        allow()
        assert post(server, 3).status == 200
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 200
        assert "too many connections" in server.log.read_text()
    assert stored() == ["e3"]


@contextmanager
def role_without_connections() -> Iterator[tuple[str, Callable[[], None]]]:
    """Give the address of this database for a role that may not connect, and the means to let it."""

    def allow() -> None:
        admin.execute(f"ALTER ROLE {name} CONNECTION LIMIT -1")

    name, password = f"dingcallback_{os.getpid()}", secrets.token_hex(8)
    with psycopg.connect(database_url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' CONNECTION LIMIT 0")
        try:
            admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
            admin.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
            parts = urlsplit(database_url())
            url = parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()
            yield url, allow
        finally:
            admin.execute(f"DROP OWNED BY {name}")
            admin.execute(f"DROP ROLE {name}")


# SQLite

WRITE_WITHOUT_END = """
import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
print("writing", flush=True)
while True:
    file.execute("BEGIN IMMEDIATE")
    time.sleep(0.08)
    file.execute("COMMIT")
    time.sleep(0.02)
"""

HOLD = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute(sys.argv[2])
file.execute(sys.argv[3])
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(*, exclusively: bool = False) -> Iterator[None]:
    """Let another process hold the write lock, or the whole file so that nobody can even read it."""
    exclusive = ("PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE")
    with opened_by_another_process(*(exclusive if exclusively else ("SELECT 1", "BEGIN IMMEDIATE"))):
        yield


@contextmanager
def opened_by_another_process(*statements: str) -> Iterator[None]:
    """Let another process run two statements and keep the file open."""
    command = [sys.executable, "-c", HOLD, connection.settings_dict["NAME"], *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.communicate()


@on_sqlite
def test_a_crowd_is_refused_in_time_while_another_process_writes() -> None:
    with Crowd() as crowd:
        crowd.stores(0)
        with held_by_another_process():
            assert all_refused(crowd.pushes(100), within=CROWD_IN_TIME)
            assert all_refused(crowd.pushes(200), within=CROWD_IN_TIME)
        assert push(300).status == 200
        crowd.stores(400)
    assert len(stored()) == 2 * THREADS + 1


@on_sqlite
def test_a_crowd_is_refused_in_time_while_another_process_holds_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file of its own, as nobody can hold one that a thread of another test has left open
    copy = tmp_path / "copy.sqlite3"
    with closing(sqlite3.connect(connection.settings_dict["NAME"])) as file, closing(sqlite3.connect(copy)) as other:
        file.backup(other)
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "NAME", str(copy))
    with Crowd() as crowd:
        with held_by_another_process(exclusively=True):
            assert all_refused(crowd.pushes(100), within=CROWD_IN_TIME)
            began = time.monotonic()
            assert Client().get("/readyz").status_code == 503
            assert time.monotonic() - began < IN_TIME
        assert push(300).status == 200
        assert Client().get("/readyz").status_code == 200
        crowd.stores(400)
    assert len(stored()) == THREADS + 1
    connection.close()  # the next opens the tests' file again


def update_and_close() -> None:
    Delivery.objects.update(last_error="seen")
    connection.close()


@on_sqlite
def test_everything_else_waits_longer_than_a_push() -> None:
    assert push(1).status == 200
    delivery = Delivery.objects.get()
    connection.close()
    with ThreadPoolExecutor(1) as other:
        with held_by_another_process():
            began = time.monotonic()
            assert push(2).status == 503
            others = other.submit(update_and_close)
            assert push(2).status == 503
            assert not others.done()
        others.result()
        assert time.monotonic() - began > deadline.ANSWER_WITHIN
    delivery.refresh_from_db()
    assert delivery.last_error == "seen"
    assert push(2).status == 200


@on_sqlite
def test_what_writes_outside_a_transaction_is_not_starved_by_another_process() -> None:
    command = [sys.executable, "-c", WRITE_WITHOUT_END, connection.settings_dict["NAME"]]
    assert push(1).status == 200
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            began = time.monotonic()
            for _ in range(10):
                Delivery.objects.update(last_error="seen")
            assert time.monotonic() - began < 10
        finally:
            process.kill()


@on_sqlite
def test_a_full_database_refuses_in_time_and_goes_on_once_there_is_room() -> None:
    assert push(1).status == 200
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # what other tests deleted left room in the file
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0]}")
    before = connection.connection
    assert push(2, text="x" * 700_000).status == 200
    assert connection.connection is not before, "the limit belongs to the connection, and went with it"
    assert stored() == ["e1", "e2"]


@on_sqlite
def test_a_full_disk_refuses_in_time_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("a limit for another process is Linux's")
    file = tmp_path / "db.sqlite3"
    url = {"DATABASE_URL": f"sqlite:///{file}"}
    assert manage("migrate", "--verbosity", "0", **url).returncode == 0
    server = Server(free_port(), tmp_path / "log")
    with web(server.log, server.port, **url) as process:
        wait_until(lambda: answers(server))
        assert post(server, 1).status == 200
        (worker,) = children(process)
        # Its files grow no more: what a full disk does, without one.
        room = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (Path(f"{file}-wal").stat().st_size, room[1]))
        assert all_refused([post(server, number) for number in range(2, 5)], within=IN_TIME)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, room)
        assert post(server, 5).status == 200
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM callbacks_event").fetchone() == (2,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def answers(server: Server) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{server.url}/healthz", timeout=5).ok
    return False


@on_sqlite
def test_a_read_only_file_refuses_in_time_and_is_written_again_once_it_may_be() -> None:
    assert push(1).status == 200
    connection.close()
    with read_only():
        assert all_refused([push(2), push(2)], within=IN_TIME)
    assert push(2).status == 200
    assert stored() == ["e1", "e2"]


@on_sqlite
def test_who_only_reads_a_read_only_file_does_not_keep_this_process_from_writing_it_later() -> None:
    assert push(1).status == 200
    connection.close()
    reader = connection.copy()  # as the thread that looks for unattended deliveries keeps one
    with opened_by_another_process("SELECT 1", "SELECT count(*) FROM callbacks_event"):
        with read_only(), suppress(OperationalError):
            reader.cursor().execute("SELECT count(*) FROM callbacks_event").fetchone()
        assert push(2).status == 200
    reader.close()


@on_sqlite
def test_no_push_is_refused_beside_another_process_that_writes_four_fifths_of_the_time() -> None:
    command = [sys.executable, "-c", WRITE_WITHOUT_END, connection.settings_dict["NAME"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            assert all_stored([push(number) for number in range(30)])
        finally:
            process.kill()


@contextmanager
def read_only() -> Iterator[None]:
    """Take the right to write away; modes do not bind root, which becomes somebody else for a while."""
    file = Path(connection.settings_dict["NAME"])
    mode, user = file.stat().st_mode, os.geteuid()
    file.chmod(0o444)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        file.chmod(mode)
