"""The doctor looks at everything, names what is wrong with its remedy, and spends two calls."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from pytest_django.live_server_helper import LiveServer

from callbacks.models import Delivery, Endpoint
from registrar import calls
from registrar.client import DingTalkClient
from registrar.models import ApiCalls, FailedListWatch, FailedPage
from simulator.server import Options, Simulator
from tests.command import SOUND, dingtalk, document, manage
from tests.owed import owe


@pytest.fixture
def simulator(settings: Any, live_server: LiveServer) -> Iterator[Simulator]:
    with Simulator(Options(corp_id=settings.DINGTALK_CORP_ID)) as running:
        settings.DINGTALK_OAPI_URL = settings.DINGTALK_API_URL = running.url
        settings.DINGTALK_APP_KEY = running.options.app_key
        settings.DINGTALK_APP_SECRET = running.options.app_secret
        settings.DINGTALK_CALLBACK_URL = f"{live_server.url}/dingtalk/callback/"
        yield running
    DingTalkClient._shared.clear()


def found(*args: str) -> dict[str, dict[str, Any]]:
    said = dingtalk("doctor", "--json", *args)
    data = json.loads(said.out)
    assert data["fine"] is (said.status == 0)
    return {each["name"]: each for each in data["findings"]}


@pytest.mark.django_db(transaction=True)
def test_a_service_that_is_well_gets_a_clean_bill_for_two_calls(simulator: Simulator) -> None:
    assert dingtalk("register").status == 0
    before = len(simulator.calls)
    said = document(dingtalk("doctor", "--json"))
    assert [each["name"] for each in said["findings"]] == [
        *("settings", "database", "callback", "token", "registration", "worker", "deliveries"),
        *("endpoints", "failed list", "pages", "API calls"),
    ]
    assert [path for _, path in simulator.calls[before:]] == ["/call_back/get_call_back"]  # the token was kept
    assert "All is well." in dingtalk("doctor").out


@pytest.mark.django_db(transaction=True)
def test_a_console_subscription_needs_no_registration(simulator: Simulator) -> None:
    assert "console" in found()["registration"]["seen"]


@pytest.mark.django_db(transaction=True)
def test_each_thing_that_is_wrong_is_named_with_its_remedy(simulator: Simulator, settings: Any) -> None:
    assert dingtalk("register").status == 0
    settings.DINGTALK_CALLBACK_TAGS = ["user_add_org"]
    settings.DINGTALK_CALLBACK_URL = f"{simulator.url}/elsewhere"
    owe("user_add_org")
    Delivery.objects.update(next_attempt_at=timezone.now() - timedelta(minutes=5))
    Endpoint.objects.create(name="ERP", url="https://erp.example.com/", failing_since=timezone.now())
    Endpoint.objects.create(
        name="OA", url="https://oa.example.com/", enabled=False, disabled_because="disabled by hand, by admin"
    )
    FailedPage.objects.create(raw_answer="{}")
    FailedListWatch.objects.create(pk=1, read_at=timezone.now(), failures=1)
    ApiCalls.objects.create(month=calls.this_month(), api="/topapi/processinstance/get", calls=4500)
    findings = found()
    for name, remedy in (
        ("callback", "curl -i"),
        ("registration", "dingtalk update"),
        ("worker", "manage.py deliver"),
        ("endpoints", "endpoint list"),
        ("failed list", "dingtalk failed"),
        ("pages", "dingtalk failed"),
        ("API calls", "DINGTALK_MONTHLY_CALLS"),
    ):
        assert not findings[name]["fine"], name
        assert remedy in findings[name]["remedy"]
    assert findings["endpoints"]["seen"] == "ERP is failing"
    said = dingtalk("doctor")
    assert said.status == 1
    assert "wrong: 7" in said.err


@pytest.mark.django_db(transaction=True)
def test_what_hangs_on_a_wrong_secret_is_not_judged(simulator: Simulator, settings: Any) -> None:
    settings.DINGTALK_APP_SECRET = "wrong"
    findings = found()
    assert "DINGTALK_APP_SECRET" in findings["token"]["remedy"]
    assert findings["registration"]["remedy"] == "mend the token first"


def test_without_settings_and_database_it_still_looks(tmp_path: Path) -> None:
    made = manage("doctor", "--json", DATABASE_URL=f"sqlite:///{tmp_path / 'empty'}")
    assert made.returncode == 1
    findings = json.loads(made.stdout)["findings"]
    wrong = [each for each in findings if not each["fine"]]
    assert any("SECRET_KEY" in each["seen"] for each in wrong)
    assert any("manage.py migrate" in each["remedy"] for each in wrong)
    assert "Traceback" not in made.stderr
    assert manage("doctor", SECRET_KEY="k" * 60, DINGTALK_OAPI_URL="http://127.0.0.1:1", **SOUND).returncode == 1
