"""`manage.py dingtalk trigger` against this service over a real socket."""

import threading
import time
from typing import Any

import pytest
from django.db import connection

from callbacks import credentials
from callbacks.models import Delivery, Event
from simulator.samples import STYLES
from tests.command import dingtalk, document
from tests.receiver import Receiver


@pytest.fixture
def service(live_server: Any, settings: Any) -> str:
    """Return the address of this service's callback, as the settings have it."""
    settings.DINGTALK_CALLBACK_URL = f"{live_server.url}/dingtalk/callback/"
    return str(settings.DINGTALK_CALLBACK_URL)


def test_trigger_pushes_a_sample_and_tells_what_became_of_it(service: str) -> None:
    said = document(
        dingtalk(
            "trigger", "bpms_task_change", "--set", "type=finish", "--set", "result=agree", "--wait", "0", "--json"
        )
    )
    event = Event.objects.get()
    assert (said["event"], said["answer"], said["status"]) == (event.pk, "success", 200)
    assert event.payload["type"] == "finish"
    assert event.payload["result"] == "agree"
    assert [row["state"] for row in said["deliveries"]] == ["pending"] * event.deliveries.count()
    shown = dingtalk("trigger", "user_add_org", "--wait", "0")
    assert "start `manage.py deliver`" in shown.out
    assert "`success` after" in shown.out


def test_trigger_shows_the_result_once_a_worker_delivered(service: str) -> None:
    worker = threading.Thread(target=settle_what_comes)
    worker.start()
    said = document(dingtalk("trigger", "user_leave_org", "--json", "--wait", "20"))
    worker.join()
    assert {row["state"] for row in said["deliveries"]} == {"delivered"}
    assert said["deliveries"][0]["result"] == {"seen": True}


def settle_what_comes() -> None:
    """Stand in for a worker: settle the first deliveries that show up."""
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            owed = Delivery.objects.pending()
            if owed.update(state="delivered", attempts=1, result={"seen": True}, next_attempt_at=None):
                return
            time.sleep(0.05)
    finally:
        connection.close()


def test_each_trigger_is_an_event_of_its_own(service: str) -> None:
    for style in STYLES:
        for event_type in ("bpms_instance_change", "user_add_org", "something_of_ours"):
            for _ in range(2):
                assert dingtalk("trigger", event_type, "--style", style, "--wait", "0").status == 0
    assert Event.objects.count() == len(STYLES) * 3 * 2


def test_triggering_check_url_is_answered_and_stored_nowhere(service: str) -> None:
    assert "is no event" in dingtalk("trigger", "check_url").out
    assert not Event.objects.exists()


def test_trigger_tells_why_a_push_was_not_acknowledged(service: str, settings: Any) -> None:
    refused = dingtalk("trigger", "user_add_org", "--url", service.replace("/dingtalk/callback/", "/healthz"))
    assert (refused.status, "HTTP 405" in refused.err) == (1, True)
    redirected = dingtalk("trigger", "user_add_org", "--url", service.replace("/dingtalk/callback/", "/admin"))
    assert "redirects" in redirected.err
    page = dingtalk("trigger", "user_add_org", "--url", service.replace("/dingtalk/callback/", "/admin/login/"))
    assert "a web page answered" in page.err
    nobody = dingtalk("trigger", "user_add_org", "--url", "http://127.0.0.1:1/dingtalk/callback/")
    assert "make run" in nobody.err
    with Receiver(lambda opened: (200, {}, "success")) as plain:
        plain.keyring = credentials.keyring()
        said = dingtalk("trigger", "user_add_org", "--url", plain.url)
    assert "no encrypted `success`" in said.err
    for one in (refused, redirected, page, nobody, said):
        assert one.status == 1
        assert len(one.err.splitlines()) == 1
        assert settings.DINGTALK_TOKEN not in one.err


def test_an_event_that_another_database_got_is_said_to_be_elsewhere(service: str) -> None:
    with Receiver() as other:
        other.keyring = credentials.keyring()
        assert "in this database" in dingtalk("trigger", "user_add_org", "--url", other.url).out
