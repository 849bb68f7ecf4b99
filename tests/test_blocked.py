"""Attacks on the relay's address check, item by item; a listener on the target must see nothing."""

from collections.abc import Iterator, Sequence

import pytest

from callbacks.addresses import DEFAULT_BLOCKED, networks
from callbacks.connections import Resolver
from callbacks.outward import Blocked, NoAnswer, post
from tests.listener import Listener, says

DEFAULT = networks(DEFAULT_BLOCKED)

# Hosts that are this machine in one form or another; PORT is where the listener is.
THIS_MACHINE = """
http://127.0.0.1:PORT/             http://localhost:PORT/              http://LOCALHOST:PORT/
http://localhost.:PORT/            http://127.0.0.1.:PORT/             http://127.1:PORT/
http://127.1.:PORT/                http://127.0.1:PORT/                http://2130706433:PORT/
http://2130706433.:PORT/           http://0x7f000001:PORT/             http://0x7F000001.:PORT/
http://0x7f.1:PORT/                http://0x7f.0x0.0x0.0x1:PORT/       http://0177.0.0.1:PORT/
http://017700000001:PORT/          http://0000000177.0.0.01:PORT/      http://0177.0x0.1:PORT/
http://127.255.255.254:PORT/       http://0.0.0.0:PORT/                http://0:PORT/
http://%31%32%37.0.0.1:PORT/       http://127.0.0.1:PORT\\@invalid/     http://127.0.0.1:PORT#@invalid/
http://[::1]:PORT/                 http://[0:0:0:0:0:0:0:1]:PORT/      http://[::]:PORT/
http://[::ffff:127.0.0.1]:PORT/    http://[::ffff:7f00:1]:PORT/        http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/
http://[::127.0.0.1]:PORT/         http://[::ffff:0:127.0.0.1]:PORT/   http://[64:ff9b::127.0.0.1]:PORT/
http://[64:ff9b::7f00:1]:PORT/     http://[2002:7f00:1::]:PORT/        HTTP://127.0.0.1:PORT/
https://127.0.0.1:PORT/            https://[::ffff:127.0.0.1]:PORT/    http://@127.0.0.1:PORT/
"""
# Networks that lead to a cloud's metadata, or to no host of a business.
ELSEWHERE = """
http://169.254.169.254/latest/meta-data/   http://2852039166/latest/        http://0xa9fea9fe/
http://[::ffff:169.254.169.254]/           http://[64:ff9b::a9fe:a9fe]/     http://[2002:a9fe:a9fe::]/
http://100.100.100.200/latest/meta-data/   http://1684301000/               http://[::ffff:6464:64c8]/
http://[fe80::1]/                          http://224.0.0.1/                http://[ff02::1]/
"""
# URLs that may not be sent to whatever their host is.
NOT_A_URL_TO_SEND_TO = """
ftp://127.0.0.1:PORT/              gopher://127.0.0.1:PORT/_x          file:///etc/passwd
unix:///var/run/docker.sock        http+unix://%2Fvar%2Frun%2Fx.sock/  //127.0.0.1:PORT/
127.0.0.1:PORT/                    http:127.0.0.1:PORT/                http:///127.0.0.1:PORT/
http://                            http://[::1                         http://127.0.0.1:PORT:80/
http://user@127.0.0.1:PORT/        http://user:hunter2@127.0.0.1:PORT/ http://example.com@127.0.0.1:PORT/
http://127.0.0.1:PORT@invalid/     http://①②⑦.⓪.⓪.①:PORT/             http://127。0。0。1:PORT/
http://ⓛocalhost:PORT/             http://127.0.0.1%00.invalid:PORT/
"""
# URLs that parsers disagree on: what they mean to us is a host that is nowhere.
NOWHERE = """
http://invalid\\@127.0.0.1:PORT/    http://invalid#@127.0.0.1:PORT/     http://invalid?@127.0.0.1:PORT/
http://127.0.0.1%2523:PORT/        http://.127.0.0.1:PORT/             http://127.0.0.1..invalid:PORT/
"""


class Names:
    """A resolver that gives the next of its answers each time it is asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers[len(self.asked) - 1]


@pytest.fixture
def target() -> Iterator[Listener]:
    with Listener() as listener:
        yield listener


def refused(url: str, resolver: Resolver | None = None) -> Blocked:
    keywords = {"resolver": resolver} if resolver else {}
    with pytest.raises(Blocked) as caught:
        post(url, b"{}", {}, seconds=2, blocked=DEFAULT, **keywords)
    return caught.value


@pytest.mark.parametrize("url", THIS_MACHINE.split())
def test_this_machine_is_not_connected_to_in_any_form(url: str, target: Listener) -> None:
    error = refused(url.replace("PORT", str(target.port)))
    assert error.rule in map(str, DEFAULT)
    assert str(error).startswith("blocked: ")
    assert error.rule in str(error)
    assert "RELAY_BLOCKED_NETWORKS" in str(error)
    assert target.connections == []


@pytest.mark.parametrize("url", ELSEWHERE.split())
def test_metadata_links_and_groups_are_not_connected_to(url: str) -> None:
    assert refused(url).rule in {"169.254.0.0/16", "100.100.100.200/32", "fe80::/10", "224.0.0.0/4", "ff00::/8"}


@pytest.mark.parametrize("url", NOT_A_URL_TO_SEND_TO.split())
def test_what_is_no_plain_web_address_is_refused_without_being_repeated(url: str, target: Listener) -> None:
    error = refused(url.replace("PORT", str(target.port)))
    assert "http" in str(error) or "user name" in str(error)
    assert "hunter2" not in str(error) + error.rule
    assert target.connections == []


@pytest.mark.parametrize("url", NOWHERE.split())
def test_what_parsers_disagree_on_connects_to_nothing(url: str, target: Listener) -> None:
    with pytest.raises(NoAnswer):
        post(url.replace("PORT", str(target.port)), b"{}", {}, seconds=2, blocked=[], resolver=nowhere)
    assert target.connections == []


def nowhere(host: str) -> Sequence[str]:
    assert host != "127.0.0.1"
    raise UnicodeError


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["203.0.113.1", "127.0.0.1"],
        ["127.0.0.1", "203.0.113.1"],
        ["203.0.113.1", "::1"],
        ["2001:db8::1", "::ffff:127.0.0.1"],
        ["203.0.113.1", "64:ff9b::7f00:1"],
        ["203.0.113.1", "fe80::1%1"],
    ],
)
def test_one_forbidden_address_of_a_name_forbids_the_name(addresses: list[str], target: Listener) -> None:
    names = Names(addresses)
    refused(f"http://shop.example:{target.port}/", names)
    assert names.asked == ["shop.example"]
    assert target.connections == []


def send(url: str, names: Names, blocked: str) -> int:
    return post(url, b"{}", {}, seconds=2, blocked=networks(blocked), resolver=names).status


def test_a_name_that_changes_between_check_and_connection_is_asked_once(target: Listener) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    assert send(f"http://rebound.example:{target.port}/", names, "127.0.0.2/32") == 200
    assert names.asked == ["rebound.example"]
    assert target.connections == ["127.0.0.1"]


def test_a_name_that_changes_between_two_requests_is_judged_again() -> None:
    with Listener(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", keep=False)) as target:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        url = f"http://moved.example:{target.port}/"
        assert send(url, names, "127.0.0.2/32") == 200
        assert target.ended.wait(5)
        with pytest.raises(Blocked, match=r"127\.0\.0\.2 is in 127\.0\.0\.2/32"):
            send(url, names, "127.0.0.2/32")
        assert target.connections == ["127.0.0.1"]


def test_a_connection_that_was_kept_is_not_used_when_its_address_is_blocked_since(target: Listener) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.1"])
    url = f"http://kept.example:{target.port}/"
    assert send(url, names, "203.0.113.0/24") == 200
    with pytest.raises(Blocked):
        send(url, names, "127.0.0.0/8")
    assert len(target.requests) == 1
    assert len(target.connections) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_forbidden_address_is_an_answer_and_nothing_more(status: int, target: Listener) -> None:
    location = f"http://127.0.0.2:{target.port}/".encode()
    answer = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
    with Listener(says(answer)) as endpoint:
        assert post(endpoint.url, b"{}", {}, blocked=networks("127.0.0.2/32")).status == status
    assert target.connections == []


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_not_asked(name: str, monkeypatch: pytest.MonkeyPatch, target: Listener) -> None:
    with Listener() as endpoint:
        monkeypatch.setenv(name, f"http://127.0.0.2:{target.port}")
        assert post(endpoint.url, b"{}", {}, blocked=[]).status == 200
    assert target.connections == []
