"""`manage.py dingtalk` as its users call it, against the simulator and this service over real sockets."""

import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from callbacks import credentials
from callbacks.dingcrypto import DingCrypto
from callbacks.models import Delivery, Event
from registrar.client import DingTalkClient
from registrar.keys import new_aes_key
from registrar.models import FailedListReader, FailedPage
from registrar.registration import Registration, look
from simulator.samples import STYLES
from simulator.server import Options, Simulator
from tests.receiver import Receiver

ROOT = Path(__file__).resolve().parent.parent
SECRET = "command-app-secret-k2Lm9QxZ"
VERBS = ("register", "update", "query", "delete", "failed", "trigger", "keygen")
API = "/call_back/"


class Said(NamedTuple):
    status: int
    out: str
    err: str


def dingtalk(*args: str) -> Said:
    """Run the command and return its exit status and everything it said."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("dingtalk", *args, stdout=out, stderr=err)
    except CommandError as error:
        return Said(error.returncode, out.getvalue(), err.getvalue() + str(error))
    return Said(0, out.getvalue(), err.getvalue())


def document(said: Said) -> Any:
    assert said.status == 0, said
    return json.loads(said.out)


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


@pytest.mark.parametrize("url", ["https://shop.example/dingtalk/callback/", "http://8.8.8.8:8066/dingtalk/callback"])
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
    FailedListReader.objects.create(pk=1, leased_until=timezone.now() + timedelta(seconds=40))
    said = dingtalk("failed")
    assert said.status == 1
    assert "another reader" in said.err
    assert not simulator.calls


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
    nobody = dingtalk("trigger", "user_add_org", "--url", "http://127.0.0.1:1/dingtalk/callback/")
    assert "make run" in nobody.err
    with Receiver(lambda opened: (200, {}, "success")) as plain:
        plain.keyring = credentials.keyring()
        said = dingtalk("trigger", "user_add_org", "--url", plain.url)
    assert "no encrypted `success`" in said.err
    for one in (refused, redirected, nobody, said):
        assert one.status == 1
        assert len(one.err.splitlines()) == 1
        assert settings.DINGTALK_TOKEN not in one.err


def test_an_event_that_another_database_got_is_said_to_be_elsewhere(service: str) -> None:
    with Receiver() as other:
        other.keyring = credentials.keyring()
        assert "in this database" in dingtalk("trigger", "user_add_org", "--url", other.url).out


@pytest.mark.parametrize(
    "args",
    [
        ("trigger", "user_add_org", "--set", "no-equals-sign"),
        ("trigger", "user_add_org", "--style", "baroque"),
        ("trigger",),
        ("register", "--no-such-option"),
        ("dance",),
        (),
    ],
)
def test_wrong_usage_exits_with_2(args: tuple[str, ...]) -> None:
    made = manage(*args, SECRET_KEY="k" * 60, **SOUND)
    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr


def test_keygen_needs_no_settings_and_is_valid_by_both_rules() -> None:
    made = manage("keygen")
    assert made.returncode == 0
    assert made.stderr == ""
    lines = dict(line.split("=", 1) for line in made.stdout.splitlines())
    assert list(lines) == ["DINGTALK_TOKEN", "DINGTALK_AES_KEY", "SECRET_KEY"]
    assert re.fullmatch("[A-Za-z0-9]{6,32}", lines["DINGTALK_TOKEN"])
    assert re.fullmatch("[A-Za-z0-9]{43}", lines["DINGTALK_AES_KEY"])
    assert len(lines["SECRET_KEY"]) >= 50
    DingCrypto(lines["DINGTALK_AES_KEY"], "ding")
    assert manage("keygen").stdout != made.stdout
    assert set(json.loads(manage("keygen", "--json").stdout)) == set(lines)


@pytest.mark.parametrize("_", range(20))
def test_an_aes_key_of_keygen_is_canonical_base64(_: int) -> None:
    key = new_aes_key()
    assert base64.b64encode(base64.b64decode(key + "=")).decode() == key + "="


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_help_needs_no_settings_and_shows_an_example(verb: str) -> None:
    made = manage(*([verb] if verb else []), "-h")
    assert made.returncode == 0
    assert made.stderr == ""
    assert (f"example: manage.py dingtalk {verb}" if verb else "VERB") in made.stdout


def test_unsound_settings_are_named_one_a_line_without_a_traceback() -> None:
    made = manage("query")
    assert made.returncode == 1
    assert made.stdout == ""
    lines = made.stderr.splitlines()
    for name in ("SECRET_KEY", "DINGTALK_TOKEN", "DINGTALK_AES_KEY", "DINGTALK_APP_KEY"):
        assert sum(f"{name} " in line for line in lines) == 1
    assert "Traceback" not in made.stderr


def test_a_process_exits_with_1_and_one_line_where_dingtalk_refuses(simulator: Simulator) -> None:
    found = {"DINGTALK_OAPI_URL": simulator.url, "DINGTALK_API_URL": simulator.url, "DINGTALK_APP_SECRET": SECRET}
    made = manage("query", SECRET_KEY="k" * 60, **{**SOUND, **found, "DINGTALK_APP_KEY": simulator.options.app_key})
    assert made.returncode == 1
    assert made.stdout == ""
    assert len(made.stderr.splitlines()) == 1
    assert "71007 回调地址已不存在" in made.stderr


def test_a_database_that_is_not_there_gets_one_line(simulator: Simulator, tmp_path: Path) -> None:
    found = {"DINGTALK_OAPI_URL": simulator.url, "DINGTALK_APP_SECRET": SECRET}
    made = manage("failed", SECRET_KEY="k" * 60, **{**SOUND, **found}, DATABASE_URL=f"sqlite:///{tmp_path / 'empty'}")
    assert made.returncode == 1
    assert len(made.stderr.splitlines()) == 1
    assert "manage.py migrate" in made.stderr
    assert not simulator.calls


SOUND = {
    "DINGTALK_TOKEN": "test-token-2026",
    "DINGTALK_AES_KEY": "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0",
    "DINGTALK_APP_KEY": "dingtestappkey0001",
    "DINGTALK_APP_SECRET": "test-app-secret-0001",
}


def manage(*args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `manage.py dingtalk` in a process of its own with no settings but these."""
    return subprocess.run(
        [sys.executable, "manage.py", "dingtalk", *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
