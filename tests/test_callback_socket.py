"""The callback over a socket, behind the web server that runs it and behind Django's own for developers."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import requests
from pytest_django.live_server_helper import LiveServer

from callbacks.models import Event
from tests.granian import Server, serving, test_database_url
from tests.pusher import PATH, Push, opened, seal_push

USER = {"EventType": "user_add_org", "eventId": "c7c7120f", "CorpId": "dingtestcorp0001", "UserId": ["u1"]}
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="session")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service on this test run's database."""
    with serving(tmp_path_factory.mktemp("web") / "log", DATABASE_URL=test_database_url()) as server:
        yield server


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def head(address: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {address} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of an answer."""
    response = HTTPResponse(connection, method="POST")
    response.begin()
    return response.status, json.loads(response.read())


@pytest.mark.rows
@pytest.mark.parametrize("path", [PATH, PATH.rstrip("/")])
def test_a_push_over_a_socket_is_stored_and_acknowledged(web: Server, transactional_db: None, path: str) -> None:
    push = seal_push(USER)
    for _ in range(2):
        got = requests.post(web.url + path, push.body, params=push.query, timeout=10, allow_redirects=False)
        assert got.status_code == 200
        assert got.headers["Content-Type"] == "application/json"
        assert got.headers["Content-Length"] == str(len(got.content))
        assert "Set-Cookie" not in got.headers
        assert opened(got.json()) == "success"
    assert Event.objects.get().payload == USER


@pytest.mark.parametrize("path", [PATH, PATH.rstrip("/")])
def test_get_head_and_other_methods_are_answered_over_a_socket(web: Server, path: str) -> None:
    address = web.url + path
    assert requests.get(address, timeout=10).json() == {"code": 200, "msg": "ok"}
    for method, status in {"HEAD": 200, "PUT": 405, "DELETE": 405, "OPTIONS": 405, "PATCH": 405}.items():
        got = requests.request(method, address, timeout=10, allow_redirects=False, headers={"Host": "somebody.else"})
        assert got.status_code == status


@pytest.mark.rows
def test_a_chunked_push_is_acknowledged(web: Server, transactional_db: None) -> None:
    push = seal_push(USER)
    pieces = [push.body[:7], push.body[7:100], push.body[100:]]
    got = requests.post(web.url + push.address, iter(pieces), timeout=10)
    assert opened(got.json()) == "success"
    assert Event.objects.count() == 1


@pytest.mark.rows
def test_djangos_own_server_answers_a_push_and_hangs_on_no_chunked_one(live_server: LiveServer) -> None:
    push = seal_push(USER)
    address = f"{live_server.url}{push.address}"
    assert opened(requests.post(address, push.body, timeout=10).json()) == "success"
    assert Event.objects.count() == 1
    # Its stream does not end where the body ends, so that the length counts, which is none.
    assert requests.post(address, iter([push.body]), timeout=10).status_code == 400


def test_a_body_announced_as_too_large_is_refused_before_it_ends(web: Server) -> None:
    push = seal_push(USER)
    with connect(web) as connection:
        connection.sendall(head(push.address, f"Content-Length: {50 * MEGABYTE}") + push.body)
        status, told = answer(connection)
    assert (status, told) == (413, {"code": 413, "msg": "the body is over 1 MB"})


def test_an_endless_chunked_body_is_refused_before_it_ends(web: Server) -> None:
    sent = 0

    def send() -> None:
        nonlocal sent
        with suppress(OSError):
            while sent < 50 * MEGABYTE:
                connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                sent += 0x4000

    with connect(web) as connection:
        connection.sendall(head(seal_push(USER).address, "Transfer-Encoding: chunked"))
        sender = threading.Thread(target=send)
        sender.start()
        status, told = answer(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        sender.join()
    assert (status, told) == (413, {"code": 413, "msg": "the body is over 1 MB"})
    assert sent < 20 * MEGABYTE


@pytest.mark.rows
def test_the_largest_body_is_taken_and_one_byte_more_is_not(web: Server, transactional_db: None) -> None:
    push = seal_push({**USER, "text": "x" * 700_000})
    full = push.body + b" " * (MEGABYTE - len(push.body))
    assert opened(requests.post(web.url + push.address, full, timeout=10).json()) == "success"
    assert requests.post(web.url + push.address, full + b" ", timeout=10).status_code == 413
    assert requests.post(web.url + push.address, iter([full, b" "]), timeout=10).status_code == 413
    assert Event.objects.count() == 1


@pytest.mark.parametrize("announced", ["", "Content-Length: 0"])
def test_a_push_without_a_body_is_refused(web: Server, announced: str) -> None:
    with connect(web) as connection:
        connection.sendall(head(seal_push(USER).address, *filter(None, [announced])))
        assert answer(connection) == (400, {"code": 400, "msg": "the body is not JSON"})


@pytest.mark.rows
def test_a_sender_that_goes_away_leaves_nothing_behind(web: Server, transactional_db: None) -> None:
    push = seal_push(USER)
    for start in (b"", push.body[:50]):
        with connect(web) as connection:
            connection.sendall(head(push.address, f"Content-Length: {len(push.body)}") + start)
    assert requests.get(f"{web.url}/healthz", timeout=10).status_code == 200
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    "line",
    [b"Content-Length: \xb2", b"Content-Length: -5", b"Content-Length: 5x", b"Content-Length: " + b"9" * 5000],
    ids=["superscript", "negative", "letters", "digits"],
)
def test_a_length_that_is_none_is_refused(web: Server, line: bytes) -> None:
    with connect(web) as connection:
        connection.sendall(head(PATH, "X: x").replace(b"X: x", line))
        assert connection.recv(65536).split()[1][:1] == b"4"


@pytest.mark.parametrize("charset", ["hex", "rot13", "undefined", "utf-16", "utf-8", "none"])
def test_no_charset_keeps_a_request_from_its_answer(web: Server, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    check_url = seal_push('{"EventType":"check_url"}')
    got = requests.post(web.url + check_url.address, check_url.body, headers=headers, timeout=10)
    assert opened(got.json()) == "success"
    crowded = f"{web.url}{PATH}?{'a=1&' * 1500}"
    assert requests.post(crowded, check_url.body, headers=headers, timeout=10).status_code == 400


def test_bytes_of_any_kind_in_the_address_are_a_matter_of_4xx(web: Server) -> None:
    for query in (
        b"?\xff\xfe=%ff",
        b"?signature=\xe5\xbc\xa0&timestamp=%00&nonce=%",
        b"?" + b"&" * 2000,
        b"?a=1" * 2000,
    ):
        with connect(web) as connection:
            connection.sendall(head(PATH, "Content-Length: 2").replace(PATH.encode(), PATH.encode() + query) + b"{}")
            assert connection.recv(65536).split()[1][:1] == b"4"


@pytest.mark.rows
def test_the_server_is_ready_on_a_migrated_database(web: Server, transactional_db: None) -> None:
    assert requests.get(f"{web.url}/readyz", timeout=10).json() == {"code": 200, "msg": "ready"}
    assert requests.head(f"{web.url}/readyz", timeout=10).status_code == 200


def test_a_server_on_an_empty_database_lives_and_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "log", DATABASE_URL=f"sqlite:///{tmp_path}/empty.sqlite3") as server:
        assert requests.get(f"{server.url}/healthz", timeout=10).status_code == 200
        ready = requests.get(f"{server.url}/readyz", timeout=10)
        assert (ready.status_code, "manage.py migrate" in ready.json()["msg"]) == (503, True)
        push = seal_push(USER)
        assert requests.post(server.url + push.address, push.body, timeout=10).status_code == 503


def test_refused_pushes_over_a_socket_leave_no_secret_in_the_log(web: Server) -> None:
    push = seal_push({**USER, "name": "张三"}, owner_key="dingsomebodyelse", token=None)
    assert requests.post(web.url + push.address, push.body, timeout=10).status_code == 403
    forged = Push({**push.query, "signature": "0" * 40}, push.body)
    assert requests.post(web.url + forged.address, push.body, timeout=10).status_code == 403
    log = web.log.read_text()
    assert "sealed for dingsomebodyelse" in log
    assert "DINGTALK_TOKEN differs" in log
    for secret in ("test-token-2026", "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0", "张三", "Traceback"):
        assert secret not in log
