"""The relay's HTTP request, over real sockets: what it sends, what it takes, and how it ends whatever its peer does."""

import gzip
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
import trustme

from callbacks import connections
from callbacks.outward import LONGEST_ANSWER, Answer, NoAnswer, post
from tests.listener import Listener, Talk, drips, ok, says

T = TypeVar("T")

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def no_answer(url: str, *, seconds: float = 5, body: bytes = b"{}", within: float = 3) -> str:
    """Return the one line that says why there is no answer; nothing else may tell the URL's secrets either."""
    started = time.monotonic()
    with pytest.raises(NoAnswer) as caught:
        post(url, body, {}, seconds=seconds, blocked=[])
    assert time.monotonic() - started < within
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    text = str(caught.value)
    assert "hunter2" not in text
    assert "\n" not in text
    return text


def in_a_new_thread(work: Callable[[], T]) -> T:
    """Call something in a thread that has no connection yet."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


# What is sent, and what comes back


def test_body_and_headers_arrive_as_they_are_and_the_answer_comes_back() -> None:
    answer = b"HTTP/1.1 201 Made\r\nContent-Length: 5\r\nRetry-After: 7\r\n\r\nhello"
    with Listener(says(answer)) as endpoint:
        made = post(
            endpoint.url, "正文".encode(), {"webhook-id": "msg_1", "Content-Type": "application/json"}, blocked=[]
        )
    assert made == Answer(201, made.headers, b"hello", truncated=False)
    assert made.headers["retry-after"] == "7"
    (request,) = endpoint.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == "正文".encode()
    assert head.splitlines()[0] == b"POST /events?key=hunter2 HTTP/1.1"
    names = {line.partition(b":")[0].lower() for line in head.splitlines()[1:]}
    assert names == {b"host", b"accept-encoding", b"user-agent", b"content-length", b"content-type", b"webhook-id"}


@pytest.mark.parametrize("status", [204, 301, 400, 410, 429, 500, 503])
def test_any_status_is_an_answer(status: int) -> None:
    with Listener(says(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)) as endpoint:
        assert post(endpoint.url, b"", {}, blocked=[]).status == status


def test_a_cookie_is_not_carried_to_the_next_request() -> None:
    with Listener(says(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")) as endpoint:
        for _ in range(2):
            post(endpoint.url, b"", {}, blocked=[])
    assert len(endpoint.requests) == 2
    assert b"cookie" not in endpoint.requests[1].lower()


def test_a_netrc_file_adds_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("default login me password hunter3\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Listener() as endpoint:
        post(endpoint.url, b"", {}, blocked=[])
    assert b"authorization" not in endpoint.requests[0].lower()


# How much of an answer is read


@pytest.mark.parametrize(("length", "truncated"), [(LONGEST_ANSWER, False), (LONGEST_ANSWER + 1, True)])
def test_64_kb_of_an_answer_are_read(length: int, truncated: bool) -> None:
    with Listener(says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length)) as endpoint:
        answer = post(endpoint.url, b"", {}, blocked=[])
    assert (answer.status, len(answer.body), answer.truncated) == (200, LONGEST_ANSWER, truncated)


def floods(start: bytes, piece: bytes) -> Talk:
    """Return a talk that sends `piece` as fast as it can until its peer has enough."""

    def talk(connection: socket.socket, number: int) -> bool:
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return talk


@pytest.mark.parametrize(
    "talk",
    [
        floods(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        floods(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b"x" * 0x8000 + b"\r\n"),
        floods(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", b"x" * 65536),
        floods(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(b"\0" * 100_000_000)),
    ],
    ids=["endless", "endless chunks", "endless redirect", "gzip bomb"],
)
def test_of_an_endless_answer_the_start_is_taken_and_the_connection_closed(talk: Talk) -> None:
    with Listener(talk) as endpoint:
        answer = post(endpoint.url, b"", {}, seconds=10, blocked=[])
        assert endpoint.ended.wait(5)
    assert (len(answer.body), answer.truncated) == (LONGEST_ANSWER, True)


# A peer that is slow


@pytest.mark.parametrize(
    "talk",
    [
        drips(b"", b"H"),
        drips(b"HTTP/1.1 200 OK\r\n", b"a"),
        drips(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        drips(EMPTY[:-2], b""),
    ],
    ids=["status", "header", "headers", "100", "body", "chunks", "until closed", "silence"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_server_that_drips_is_left_when_the_time_is_over(
    talk: Talk, tls: bool, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trust(authority, monkeypatch, tmp_path)
    with Listener(talk, serving(authority, "127.0.0.1") if tls else None) as endpoint:
        text = in_a_new_thread(lambda: no_answer(endpoint.url, seconds=0.5))
        assert endpoint.ended.wait(5)
    assert text == "no whole answer within 0.5 seconds"


def test_a_server_that_drips_its_handshake_is_left_when_the_time_is_over() -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x20\x00")  # the head of a long TLS record
        drips(b"\x02", b"\x00")(connection, 0)

    with serving_once(talk) as port:
        assert no_answer(f"https://127.0.0.1:{port}/", seconds=0.5) == "no connection within 0.5 seconds"


@contextmanager
def serving_once(talk: Callable[[socket.socket], object]) -> Iterator[int]:
    """Accept one connection, hear the first that comes, let `talk` answer; the port it is at."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(1024)
            talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(serve)
        yield listener.getsockname()[1]


def test_a_server_that_does_not_take_the_body_is_left_when_the_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        assert no_answer(url, seconds=0.5, body=b"x" * 20_000_000) == "no whole answer within 0.5 seconds"


def test_a_server_that_does_not_accept_is_left_when_the_time_is_over() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # those that wait leave no room
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        assert no_answer(url, seconds=0.5).endswith("within 0.5 seconds")


def test_a_name_that_is_not_resolved_in_time_holds_nothing_up() -> None:
    over = threading.Event()

    def resolver(host: str) -> list[str]:
        over.wait(20)
        return ["127.0.0.1"]

    started = time.monotonic()
    with pytest.raises(NoAnswer, match=r"^no connection within 0\.5 seconds$"):
        post("http://shop.example/", b"", {}, seconds=0.5, blocked=[], resolver=resolver)
    over.set()
    assert time.monotonic() - started < 3


def test_the_next_request_on_a_kept_connection_has_its_own_time() -> None:
    def talk(connection: socket.socket, number: int) -> bool:
        time.sleep(0.4)
        return ok(connection, number)

    with Listener(talk) as endpoint:
        for _ in range(3):
            assert post(endpoint.url, b"", {}, seconds=1, blocked=[]).status == 200
    assert len(endpoint.connections) == 1


# Connections that are kept


def test_requests_follow_each_other_on_one_connection() -> None:
    with Listener() as endpoint:
        for _ in range(3):
            assert post(endpoint.url, b"", {}, blocked=[]).body == b"ok"
    assert len(endpoint.requests) == 3
    assert len(endpoint.connections) == 1


def test_a_connection_that_its_server_closed_meanwhile_is_made_anew() -> None:
    with Listener(says(EMPTY, keep=False)) as endpoint:
        for _ in range(3):
            assert post(endpoint.url, b"", {}, blocked=[]).status == 200
            assert endpoint.ended.wait(5)
    assert len(endpoint.requests) == 3
    assert len(endpoint.connections) == 3


def test_an_old_connection_is_made_anew_so_that_a_name_that_has_moved_is_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def resolver(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with Listener() as endpoint:
        url = f"http://moving.example:{endpoint.port}/"
        for lasts, times in [(60.0, 1), (60.0, 1), (0.0, 2)]:
            monkeypatch.setattr(connections, "CONNECTION_LASTS", lasts)
            assert post(url, b"", {}, blocked=[], resolver=resolver).status == 200
            assert len(asked) == len(endpoint.connections) == times


def test_a_request_that_a_kept_connection_leaves_without_an_answer_is_sent_once_more() -> None:
    def talk(connection: socket.socket, number: int) -> bool:
        return number != 1 and ok(connection, number)

    with Listener(talk) as endpoint:
        for _ in range(2):
            assert post(endpoint.url, b"{}", {"webhook-id": "msg_1"}, blocked=[]).status == 200
    assert len(endpoint.connections) == 2
    assert endpoint.requests[1] == endpoint.requests[2]


def test_a_request_that_a_kept_connection_answers_in_part_is_not_sent_again() -> None:
    def talk(connection: socket.socket, number: int) -> bool:
        return ok(connection, number) if number == 0 else says(EMPTY[:8], keep=False)(connection, number)

    with Listener(talk) as endpoint:
        post(endpoint.url, b"", {}, blocked=[])
        assert no_answer(endpoint.url) == "what came is no HTTP answer"
    assert len(endpoint.requests) == 2


# A peer that is not there, or speaks something else


def test_a_port_where_nobody_listens_refuses() -> None:
    assert no_answer("http://127.0.0.1:1/?key=hunter2") == "connection refused"


def test_a_name_that_does_not_exist_is_said_so() -> None:
    assert no_answer("http://nobody.invalid/?key=hunter2").startswith("the host name does not resolve")


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_name_that_can_not_be_is_said_so(host: str) -> None:
    assert no_answer(f"http://{host}/?key=hunter2") == "the host name is malformed"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "the connection was closed before a whole answer came"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what came is no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, "what came is no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 70000, "what came is no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the answer broke off"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhalf",
            "the answer's body is not what its Content-Encoding says",
        ),
    ],
    ids=["nothing", "no HTTP", "headers", "header", "half", "chunks", "gzip"],
)
def test_what_is_no_whole_answer_is_named(answer: bytes, words: str) -> None:
    with Listener(says(answer, keep=False)) as endpoint:
        assert no_answer(endpoint.url) == words
    assert len(endpoint.requests) == 1


def test_a_name_with_two_addresses_is_reached_at_the_one_that_answers() -> None:
    with Listener() as endpoint:
        url = f"http://two.example:{endpoint.port}/"
        assert post(url, b"", {}, blocked=[], resolver=lambda _: ["255.255.255.255", "127.0.0.1"]).status == 200


def test_a_name_without_an_address_is_said_so() -> None:
    with pytest.raises(NoAnswer, match="the host name does not resolve: no address"):
        post("http://none.example/", b"", {}, blocked=[], resolver=lambda _: [])


def test_a_malformed_header_is_logged_without_the_secrets_of_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Listener(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno header\r\n\r\n", keep=False)) as endpoint:
        post(endpoint.url, b"", {}, blocked=[])
    assert "Failed to parse headers" in caplog.text
    assert "hunter2" not in caplog.text


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trust(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let this machine trust an authority, as an administrator would; sessions made from now on know it."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def serving(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_certificate_is_verified_for_the_host_name_that_the_server_is_told(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trust(authority, monkeypatch, tmp_path)
    context = serving(authority, "shop.example")
    told: list[str] = []
    context.sni_callback = lambda _, name, __: told.append(name)
    with Listener(context=context) as endpoint:

        def twice() -> list[int]:
            url = f"https://shop.example:{endpoint.port}/"
            sent = [post(url, b"", {}, blocked=[], resolver=lambda _: ["127.0.0.1"]) for _ in range(2)]
            return [answer.status for answer in sent]

        assert in_a_new_thread(twice) == [200, 200]
        assert len(endpoint.connections) == 1
        assert told == ["shop.example"]
        text = in_a_new_thread(lambda: no_answer(endpoint.url))
    assert text.startswith("TLS: ")
    assert "certificate is not valid for '127.0.0.1'" in text
    assert len(endpoint.requests) == 2


def test_an_authority_that_is_not_trusted_gets_no_request(authority: trustme.CA) -> None:
    with Listener(context=serving(authority, "127.0.0.1")) as endpoint:
        assert no_answer(endpoint.url).startswith("TLS: unable to get local issuer certificate")
    assert endpoint.requests == []


def test_a_server_without_tls_is_named() -> None:
    with serving_once(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert no_answer(f"https://127.0.0.1:{port}/?key=hunter2").startswith("TLS: ")
