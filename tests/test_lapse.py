"""When pushes may have gone unheard is noted without a push having to wait for it."""

import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db.models import F
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from callbacks import lapse
from callbacks.models import Lapse
from tests.owed import table_away
from tests.pusher import PATH, seal_push, send

USER = {"EventType": "user_add_org", "eventId": "c7c7120f", "CorpId": "dingtestcorp0001", "UserId": ["u1"]}
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    lapse._noted.clear()
    yield
    lapse._noted.clear()


@pytest.mark.django_db
def test_a_quick_success_is_no_lapse_and_neither_is_a_look_at_the_address(client: Client) -> None:
    assert send(client, seal_push(USER)).status_code == 200
    assert client.get(PATH).status_code == 200
    assert client.put(PATH).status_code == 405
    assert not lapse._noted.is_set()


@pytest.mark.django_db
def test_a_refused_push_is_a_lapse(client: Client) -> None:
    assert send(client, seal_push(USER, token="another-token")).status_code != 200
    assert lapse._noted.is_set()


@pytest.mark.django_db(transaction=True)
def test_a_push_that_could_not_be_stored_is_a_lapse(client: Client) -> None:
    with table_away("callbacks_event"):
        assert send(client, seal_push(USER)).status_code == 503
    assert lapse._noted.is_set()


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_took_over_a_second_is_a_lapse(live_server: LiveServer) -> None:
    push = seal_push(USER)
    head = f"POST {push.address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(push.body)}\r\n\r\n"
    host, _, port = live_server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + push.body[:-1])
        time.sleep(lapse.LATE + 0.1)  # what is late is this late
        connection.sendall(push.body[-1:])
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert "encrypt" in json.loads(answer.partition(b"\r\n\r\n")[2] or b'{"encrypt": "in the next packet"}')
    assert lapse._noted.is_set()


@pytest.mark.django_db
def test_the_first_and_the_last_lapse_are_kept_until_they_are_made_up_for() -> None:
    assert not lapse.begun(timedelta(0))
    lapse.record()
    Lapse.objects.update(first_at=F("first_at") - 10 * MINUTE, last_at=F("last_at") - 10 * MINUTE)
    lapse.record()
    assert lapse.begun(6 * MINUTE)
    assert not lapse.begun(11 * MINUTE)
    lapse.made_up_for(6 * MINUTE)  # of the second nobody can tell yet
    assert not lapse.begun(7 * MINUTE)
    assert lapse.begun(5 * MINUTE)
    Lapse.objects.update(first_at=F("first_at") - 6 * MINUTE, last_at=F("last_at") - 6 * MINUTE)
    lapse.made_up_for(6 * MINUTE)
    assert not lapse.begun(timedelta(0))
