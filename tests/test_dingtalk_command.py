"""`manage.py dingtalk` as its users call it, against the simulator and this service over real sockets."""

import re
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from callbacks.models import Duty, Event
from callbacks.pruning import move_horizon
from registrar.client import DingTalkClient
from registrar.models import FailedPage
from registrar.registration import Registration, look
from simulator.server import Options, Simulator
from tests.command import dingtalk, document
from tests.receiver import Receiver

SECRET = "command-app-secret-k2Lm9QxZ"


@pytest.fixture
def simulator(settings: Any) -> Iterator[Simulator]:
    with Simulator(Options(app_secret=SECRET)) as running:
        settings.DINGTALK_OAPI_URL = settings.DINGTALK_API_URL = running.url
        settings.DINGTALK_APP_KEY, settings.DINGTALK_APP_SECRET = running.options.app_key, SECRET
        settings.DINGTALK_CORP_ID = running.options.corp_id
        yield running
    DingTalkClient._shared.clear()


@pytest.fixture
def service(simulator: Simulator, live_server: Any, settings: Any) -> str:
    """Return the address of this service's callback, as the settings have it."""
    settings.DINGTALK_CALLBACK_URL = f"{live_server.url}/dingtalk/callback/"
    return str(settings.DINGTALK_CALLBACK_URL)


def test_it_registers_with_a_real_handshake(simulator: Simulator, service: str, settings: Any) -> None:
    said = dingtalk("register")
    assert said.status == 0
    assert service in said.out
    assert "pushed to this address: 7." in said.out
    assert simulator.callback is not None
    assert simulator.callback.url == service
    assert simulator.callback.token == settings.DINGTALK_TOKEN
    assert list(simulator.callback.tags) == settings.DINGTALK_CALLBACK_TAGS


def test_registering_twice_is_refused_unless_it_may_update(simulator: Simulator, service: str) -> None:
    assert document(dingtalk("register", "--json"))["action"] == "registered"
    again = dingtalk("register", "--tags", "check_in")
    assert again.status == 1
    assert "71006 回调地址已经存在" in again.err
    assert "dingtalk update" in again.err
    changed = document(dingtalk("register", "--or-update", "--tags", "check_in,user_add_org", "--json"))
    assert (changed["action"], changed["added"]) == ("updated", ["check_in"])
    assert simulator.callback is not None
    assert simulator.callback.tags == ("check_in", "user_add_org")


def test_update_prints_what_it_added_and_removed(simulator: Simulator, service: str) -> None:
    dingtalk("register", "--tags", "user_add_org,user_leave_org")
    said = dingtalk("update", "--tags", "user_leave_org,check_in")
    assert re.search(r"added +check_in\s", said.out)
    assert re.search(r"removed +user_add_org\s", said.out)


@pytest.mark.parametrize("verb", ["update", "query", "delete"])
def test_with_nothing_registered_it_says_what_that_may_mean(simulator: Simulator, service: str, verb: str) -> None:
    said = dingtalk(verb)
    assert said.status == 1
    assert "71007" in said.err
    assert "if you subscribed in the console this is normal" in said.err
    assert "\n" not in said.err


def test_query_shows_the_callback_and_that_nothing_differs(simulator: Simulator, service: str) -> None:
    dingtalk("register")
    said = dingtalk("query")
    assert service in said.out
    assert "用户增加" in said.out
    assert "DingTalk has what the settings say." in said.out
    assert document(dingtalk("query", "--json"))["differences"] == {}


def test_query_says_what_differs_from_the_settings(simulator: Simulator, service: str, settings: Any) -> None:
    dingtalk("register", "--tags", "user_add_org,check_in")
    settings.DINGTALK_CALLBACK_URL = "http://127.0.0.1:9/dingtalk/callback/"
    settings.DINGTALK_CALLBACK_TAGS = ["user_add_org", "user_leave_org"]
    settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY = "another-token", "b" * 43
    assert document(dingtalk("query", "--json"))["differences"] == {
        "url": {"dingtalk": service, "settings": "http://127.0.0.1:9/dingtalk/callback/"},
        "token": "differs from DINGTALK_TOKEN",
        "aes_key": "differs from DINGTALK_AES_KEY",
        "tags_not_registered": ["user_leave_org"],
        "tags_not_in_settings": ["check_in"],
    }
    said = dingtalk("query")
    assert "tags not registered" in said.out
    assert "differs from DINGTALK_TOKEN" in said.out


def test_secrets_are_shown_only_when_asked_for(simulator: Simulator, service: str, settings: Any) -> None:
    token, aes_key = settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY
    for verb in ("register", "update", "query"):
        for option in ((), ("--json",)):
            if verb == "register":
                simulator.dingtalk.callbacks.registered = None
            said = "".join(map(str, dingtalk(verb, *option)))
            assert token not in said
            assert aes_key not in said
            assert SECRET not in said
    for option in ((), ("--json",)):
        said = dingtalk("query", "--reveal", *option).out
        assert token in said
        assert aes_key in said


def test_what_was_deleted_can_be_restored(simulator: Simulator, service: str, tmp_path: Path) -> None:
    dingtalk("register", "--tags", "user_add_org")
    registered = simulator.callback
    saved = tmp_path / "callback.json"
    said = dingtalk("delete", "--save", str(saved))
    assert said.status == 0
    assert simulator.callback is None
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert str(saved) in said.out
    assert document(dingtalk("register", "--from", str(saved), "--json"))["tags"] == ["user_add_org"]
    assert simulator.callback == registered


def test_nothing_is_deleted_that_could_not_be_saved(simulator: Simulator, service: str, tmp_path: Path) -> None:
    dingtalk("register")
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    for path in (taken, tmp_path / "missing" / "callback.json"):
        said = dingtalk("delete", "--save", str(path))
        assert said.status == 1
        assert "nothing was deleted" in said.err
    assert taken.read_text() == "mine"
    assert simulator.callback is not None


def test_another_services_callback_is_restored_with_a_warning(
    simulator: Simulator, service: str, tmp_path: Path
) -> None:
    with Receiver() as other:
        DingTalkClient.from_settings().register_callback(
            other.url, ["user_add_org"], other.keyring._credentials[0].token, other.keyring._credentials[0].aes_key
        )
        saved = tmp_path / "other.json"
        dingtalk("delete", "--save", str(saved))
        said = dingtalk("register", "--from", str(saved))
    assert said.status == 0
    assert "can't open what will be pushed" in said.err


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"url": "http://x.example/"}'])
def test_a_file_that_holds_no_registration_is_refused(simulator: Simulator, tmp_path: Path, content: str) -> None:
    path = tmp_path / "callback.json"
    path.write_text(content)
    said = dingtalk("register", "--from", str(path))
    assert said.status == 1
    assert "delete --save" in said.err
    assert not simulator.calls


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"DINGTALK_APP_KEY": ""}, "DINGTALK_APP_KEY"),
        ({"DINGTALK_APP_SECRET": ""}, "DINGTALK_APP_SECRET"),
        ({"DINGTALK_CORP_ID": ""}, "DINGTALK_CORP_ID"),
        ({"DINGTALK_CALLBACK_URL": ""}, "DINGTALK_CALLBACK_URL"),
        ({"DINGTALK_CALLBACK_URL": "shop.example/dingtalk/callback/"}, "DINGTALK_CALLBACK_URL"),
        ({"DINGTALK_CALLBACK_URL": "https://shop.example/elsewhere/"}, "/dingtalk/callback/"),
        ({"DINGTALK_CALLBACK_URL": "https://shop.example/healthz"}, "/dingtalk/callback/"),
        ({"DINGTALK_TOKEN": "short"}, "DINGTALK_TOKEN"),
        ({"DINGTALK_AES_KEY": "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvM+0"}, "DINGTALK_AES_KEY"),
        ({"DINGTALK_OAPI_URL": "https://oapi.dingtalk.com"}, "private address"),
        ({"DINGTALK_OAPI_URL": "oapi.dingtalk.com"}, "DINGTALK_OAPI_URL"),
        ({"DINGTALK_CALLBACK_TAGS": ["user add org"]}, "DINGTALK_CALLBACK_TAGS"),
    ],
)
def test_it_looks_before_it_asks(simulator: Simulator, settings: Any, changes: dict[str, Any], named: str) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    said = dingtalk("register")
    assert said.status == 1
    assert named in said.err
    assert "\n" not in said.err
    assert not simulator.calls


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/dingtalk/callback/",
        "http://10.1.2.3/dingtalk/callback",
        "http://[::1]/dingtalk/callback/",
        "http://localhost/dingtalk/callback/",
        "https://intranet/dingtalk/callback/",
        "https://shop.internal/dingtalk/callback/",
        "https://169.254.1.1/dingtalk/callback/",
    ],
)
def test_a_private_address_is_refused_only_before_dingtalk_itself(
    simulator: Simulator, settings: Any, url: str
) -> None:
    assert [warning for warning in look(Registration.from_settings(url)) if "71013" in warning]
    settings.DINGTALK_OAPI_URL = "https://oapi.dingtalk.com"
    refused = dingtalk("register", "--url", url)
    assert (refused.status, simulator.calls) == (1, [])
    assert "private address" in refused.err


def test_a_private_address_is_warned_of_where_it_is_taken(simulator: Simulator, service: str) -> None:
    said = dingtalk("register")
    assert said.status == 0
    assert "warning: " in said.err
    assert "71013" in said.err


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/dingtalk/callback/",
        "http://8.8.8.8:8066/dingtalk/callback",
        "https://shop.example/behind/a/proxy/dingtalk/callback/",
    ],
)
def test_a_public_address_is_not_warned_of(simulator: Simulator, settings: Any, url: str) -> None:
    settings.DINGTALK_OAPI_URL = "https://oapi.dingtalk.com"
    assert look(Registration.from_settings(url)) == []


def test_a_type_outside_the_apis_list_is_warned_of(simulator: Simulator, service: str) -> None:
    said = dingtalk("register", "--tags", "user_add_org,todo_task_create")
    assert "todo_task_create: console subscription only; DingTalk will probably answer 71008" in said.err
    assert said.err.startswith("71008 ")
    assert "DINGTALK_CALLBACK_TAGS" in said.err
    assert (said.status, len(said.err.splitlines())) == (1, 1)


def test_an_address_that_answers_wrongly_names_the_owner_key(simulator: Simulator, service: str, settings: Any) -> None:
    settings.DINGTALK_CORP_ID = "dingsomebodyelse"
    settings.DINGTALK_APP_KEY = simulator.options.app_key
    said = dingtalk("register")
    assert said.status == 1
    assert said.err.startswith("71012 ")
    assert "HttpCode:403" in said.err


def test_an_address_that_cannot_be_reached_names_it(simulator: Simulator) -> None:
    said = dingtalk("register", "--url", "http://127.0.0.1:1/dingtalk/callback/")
    assert said.status == 1
    assert said.err.startswith("71012 ")
    assert "DINGTALK_CALLBACK_URL" in said.err


FAULTS = {
    "busy": ("-1 系统繁忙", "try again"),
    "throttled": ("90018", "wait"),
    "quota": ("90020", "package"),
    "token_expired": ("42001 access_token超时", "renewed"),
    "token_invalid": ("40014 不合法的access_token", "renewed"),
    "permission": ("60011", "权限管理"),
    "ip": ("60020 访问ip不在白名单之中", "服务端出口 IP"),
    "half": ("HTTP 200", "ask again"),
    "drop": ("ConnectionError", "DINGTALK_OAPI_URL"),
    "500": ("HTTP 500", "try again"),
    "html": ("HTTP 200", "five minutes"),
    "punish": ("1111", "five minutes"),
}


@pytest.mark.parametrize("verb", ["update", "query", "delete"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_error_gives_one_line_with_its_code_and_next_step(
    simulator: Simulator, service: str, verb: str, fault: str
) -> None:
    path = {"update": "get", "query": "get", "delete": "delete"}[verb]
    simulator.fail(f"/call_back/{path}_call_back", fault, times=2)
    said = dingtalk(verb)
    code, step = FAULTS[fault]
    assert said.status == 1
    assert code in said.err
    assert step in said.err
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


def test_a_wrong_secret_is_named(simulator: Simulator, service: str, settings: Any) -> None:
    settings.DINGTALK_APP_SECRET = "a-wrong-secret"
    said = dingtalk("query")
    assert said.status == 1
    assert "40096 不合法的appKey或appSecret" in said.err
    assert "DINGTALK_APP_SECRET" in said.err
    assert "a-wrong-secret" not in said.err


@pytest.mark.django_db
def test_failed_stores_the_events_and_counts(simulator: Simulator) -> None:
    simulator.add_failed({"call_back_tag": "check_in", "event_time": 1, "check_in": {"callbackData": {"staffId": "u"}}})
    simulator.add_failed({"call_back_tag": "check_in", "event_time": 1, "check_in": "{broken"})
    said = document(dingtalk("failed", "--json"))
    page = FailedPage.objects.get()
    counts = {"new": 1, "known": 0, "unreadable": 1}
    assert said == {**counts, "pages": [{"page": page.pk, **counts}]}
    assert Event.objects.get().source == "failed_list"
    assert "New events: 0, known before: 0, unreadable entries: 0." in dingtalk("failed").out


@pytest.mark.django_db
def test_failed_says_that_somebody_else_is_reading(simulator: Simulator) -> None:
    Duty.objects.create(name="failed_list", leased_until=timezone.now() + timedelta(seconds=40))
    said = dingtalk("failed")
    assert said.status == 1
    assert "another reader" in said.err
    assert not simulator.calls


def check_in(number: int, **fields: Any) -> dict[str, Any]:
    inner = {"callbackData": {"staffId": f"u-{number}"}}
    return {"call_back_tag": "check_in", "event_time": 1, "check_in": inner, **fields}


@pytest.mark.django_db
def test_the_kept_pages_are_listed(simulator: Simulator) -> None:
    assert document(dingtalk("failed", "--pages", "--json")) == {"pages": []}
    simulator.add_failed(check_in(1))
    simulator.add_failed(check_in(2, check_in="{broken"))
    dingtalk("failed")
    left = FailedPage.objects.create(raw_answer="{}")
    read, waiting = document(dingtalk("failed", "--pages", "--json"))["pages"]
    assert (read["entries_read"], read["entries_unreadable"], read["error"]) == (1, 1, "")
    assert read["imported_at"] is not None
    assert (waiting["page"], waiting["imported_at"]) == (left.pk, None)
    assert "Pages kept: 2." in dingtalk("failed", "--pages").out
    assert len(simulator.calls) == 2  # listing asks DingTalk for nothing


@pytest.mark.django_db
def test_kept_pages_are_read_again_and_double_nothing(simulator: Simulator) -> None:
    simulator.add_failed(check_in(1))
    simulator.add_failed(check_in(2, check_in="{broken"))
    simulator.add_failed(check_in(3))
    dingtalk("failed")
    counts = {"new": 0, "known": 2, "unreadable": 1}
    page = FailedPage.objects.get()
    assert document(dingtalk("failed", "--reimport", "--json")) == {**counts, "pages": [{"page": page.pk, **counts}]}
    # as after a release that reads what the one before it could not
    FailedPage.objects.update(raw_answer=page.raw_answer.replace('"{broken"', '{"callbackData": {"staffId": "u-2"}}'))
    said = document(dingtalk("failed", "--reimport", "--json"))
    assert (said["new"], said["known"], said["unreadable"]) == (1, 2, 0)
    assert Event.objects.count() == 3
    assert len(simulator.calls) == 2


@pytest.mark.django_db
def test_pages_read_again_bring_no_pruned_event_back(simulator: Simulator) -> None:
    simulator.add_failed(check_in(1))
    simulator.add_failed({**check_in(2), "event_time": None})
    dingtalk("failed")
    Event.objects.all().delete()
    move_horizon(timezone.now())
    assert document(dingtalk("failed", "--reimport", "--json"))["new"] == 0


@pytest.mark.django_db
def test_failed_tells_how_many_calls_the_month_has_seen(simulator: Simulator) -> None:
    assert "API calls this month: 2 of 5000." in dingtalk("failed").out


def test_a_watch_that_would_eat_the_months_calls_is_wrong_usage() -> None:
    said = dingtalk("failed", "--watch", "599")
    assert said.status == 2
    assert "at least 600" in said.err
