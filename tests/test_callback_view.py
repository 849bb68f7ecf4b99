"""The callback's answers, the addresses for load balancers, and that nothing made for browsers takes part."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings as current
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse
from django.test import Client
from pytest_django import Settings

from callbacks import views
from callbacks.models import Delivery, Event
from tests.owed import table_away
from tests.pusher import PATH, Push, opened, seal_push, send

PATHS = [PATH, PATH.rstrip("/")]
PREVIOUS = {"token": "token-before-2026", "aes_key": "o1w0aum42yaptlz8alnhwikjd3jenzt9cb9wmzptgus"}
USER = {"EventType": "user_add_org", "eventId": "c7c7120f", "CorpId": "dingtestcorp0001", "UserId": ["u1"]}
FINISHED = {
    "EventType": "bpms_instance_change",
    "processInstanceId": "ad253df6",
    "type": "finish",
    "result": "agree",
    "createTime": 1495592272000,
    "finishTime": 1495592305000,
    "corpId": "dingtestcorp0001",
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Everything that the service logs, which does not reach the root logger by itself."""
    for name in ("callbacks", "django"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    caplog.set_level(logging.DEBUG)
    return caplog


def stored() -> list[str]:
    return list(Event.objects.order_by("id").values_list("event_type", flat=True))


# Other methods


@pytest.mark.parametrize("path", PATHS)
def test_get_and_head_say_that_the_address_lives(client: Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"code": 200, "msg": "ok"})
    assert answer.headers["Content-Type"] == "application/json"
    assert (client.head(path).status_code, client.head(path).content) == (200, b"")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_any_other_method_is_not_allowed(client: Client, path: str, method: str) -> None:
    answer = client.generic(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, 405)
    assert answer.headers["Allow"] == "GET, HEAD, POST"


# Pushes


@pytest.mark.django_db
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("owner", ["DINGTALK_CORP_ID", "DINGTALK_APP_KEY"])
@pytest.mark.parametrize("pair", [{}, PREVIOUS], ids=["current", "previous"])
def test_a_push_is_stored_and_answered_with_what_sealed_it(
    client: Client, settings: Settings, path: str, owner: str, pair: dict[str, str]
) -> None:
    settings.DINGTALK_PREVIOUS_TOKEN, settings.DINGTALK_PREVIOUS_AES_KEY = PREVIOUS["token"], PREVIOUS["aes_key"]
    owner_key = getattr(current, owner)
    push = seal_push(USER, owner_key=owner_key, token=pair.get("token"), aes_key=pair.get("aes_key"))
    answer = client.post(push.address.replace(PATH, path), push.body, content_type="application/json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert opened(answer.json(), owner_key=owner_key, **pair) == "success"
    event = Event.objects.get()
    assert (event.event_type, event.corp_id, event.source) == ("user_add_org", "dingtestcorp0001", "callback")
    assert (event.subject, event.payload) == ("dingtestcorp0001:user:u1", USER)
    assert event.body == json.dumps(USER, ensure_ascii=False)
    assert event.deliveries.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    "names",
    [("signature", "timestamp"), ("msg_signature", "timestamp"), ("msg_signature", "timeStamp")],
    ids=" ".join,
)
def test_query_parameters_may_be_spelt_as_dingtalk_ever_spelt_them(client: Client, names: tuple[str, str]) -> None:
    push = seal_push(USER)
    query = {names[0]: push.query["signature"], names[1]: push.query["timestamp"], "nonce": push.query["nonce"]}
    assert opened(send(client, Push({"own": "parameter", **query}, push.body)).json()) == "success"


@pytest.mark.django_db
def test_parameters_of_dingtalk_count_more_than_those_of_the_registered_address(client: Client) -> None:
    push = seal_push(USER)
    answer = client.post(push.address.replace("?", "?nonce=of-the-address&"), push.body, content_type="text/plain")
    assert opened(answer.json()) == "success"


@pytest.mark.django_db
@pytest.mark.parametrize("owner", ["DINGTALK_CORP_ID", "DINGTALK_APP_KEY"])
@pytest.mark.parametrize("event_type", ["check_url", "check_create_suite_url", "check_update_suite_url"])
def test_a_validation_is_answered_and_stored_nowhere(client: Client, event_type: str, owner: str) -> None:
    owner_key = getattr(current, owner)
    answer = send(client, seal_push({"EventType": event_type, "Random": "LPIdSnlF"}, owner_key=owner_key))
    assert answer.status_code == 200
    assert opened(answer.json(), owner_key=owner_key) == "success"
    assert (stored(), Delivery.objects.count()) == ([], 0)


def test_a_validation_needs_no_database(client: Client) -> None:
    """Without the `django_db` mark, a query would fail this test."""
    assert opened(send(client, seal_push('{"EventType":"check_url"}')).json()) == "success"


@pytest.mark.django_db
def test_it_stores_a_repeated_push_once(client: Client) -> None:
    push = seal_push(USER)
    for _ in range(3):
        assert opened(send(client, push).json()) == "success"
    assert opened(send(client, seal_push(USER)).json()) == "success"
    assert (stored(), Delivery.objects.count()) == (["user_add_org"], 1)


@pytest.mark.django_db
def test_a_repeat_without_id_or_time_is_known_by_its_request(client: Client) -> None:
    push = seal_push({"EventType": "something_new"})
    assert [opened(send(client, push).json()) for _ in range(2)] == ["success"] * 2
    assert stored() == ["something_new"]
    assert opened(send(client, seal_push({"EventType": "something_new"})).json()) == "success"
    assert len(stored()) == 2


@pytest.mark.django_db
def test_two_pushes_of_one_approval_step_are_one_event(client: Client) -> None:
    for event_id in ("first", "second"):
        assert opened(send(client, seal_push({**FINISHED, "eventId": event_id})).json()) == "success"
    assert opened(send(client, seal_push(FINISHED)).json()) == "success"
    assert stored() == ["bpms_instance_change"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "value",
    [
        r'"\u0000"',
        r'"\ud83d"',
        "NaN",
        "1e400",
        "-Infinity",
        "9" * 4300,
        "[" * 450 + "]" * 450,
        '"' + "审" * 100_000 + '"',
    ],
    ids=["nul", "surrogate", "nan", "1e400", "infinity", "digits", "deep", "long"],
)
def test_what_json_allows_and_a_database_refuses_is_stored(client: Client, value: str) -> None:
    body = f'{{"EventType":"something_new","value":{value}}}'
    assert opened(send(client, seal_push(body)).json()) == "success"
    event = Event.objects.get()
    assert event.body == body
    assert event.payload["EventType"] == "something_new"


@pytest.mark.django_db
def test_unknown_types_and_values_are_ordinary(client: Client) -> None:
    payload: dict[str, Any] = {
        "EventType": "还没有的事件",
        "CorpId": "dingforeigncorp",
        "result": "未知",
        "x": [None, True, {}],
    }
    assert opened(send(client, seal_push(payload)).json()) == "success"
    assert Event.objects.get().payload == payload


# Nothing made for browsers


class _Signpost:
    """A middleware of somebody's own that wants a session, a cookie and a log-in for everything."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.set_cookie("seen", "1")
        response.status_code = 302
        response["Location"] = "/login/"
        return response


@pytest.mark.django_db
def test_no_middleware_has_a_say_in_a_machines_answer(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        "tests.test_callback_view._Signpost",
    ]
    settings.SECURE_SSL_REDIRECT = settings.PREPEND_WWW = settings.APPEND_SLASH = True
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    push = seal_push(USER)
    strange = Client(enforce_csrf_checks=True, headers={"host": "somebody.else", "accept-language": "fr"})
    answers = [send(strange, push), *(strange.get(path) for path in [*PATHS, "/healthz", "/readyz"])]
    for answer in answers:
        assert answer.status_code == 200
        assert set(answer.headers) == {"Content-Type", "Content-Length"}
        assert not answer.cookies
    assert stored() == ["user_add_org"]


@pytest.mark.parametrize("host", ["evil.example.com", "10.0.0.1:8080", "bad host", "", "[::"])
def test_any_host_is_answered(client: Client, host: str) -> None:
    assert client.get(PATH, headers={"host": host}).status_code == 200
    assert client.get("/healthz", headers={"host": host}).json() == {"code": 200, "msg": "alive"}
    assert client.get("/admin/", headers={"host": host}).status_code == 400


def test_an_address_that_is_none_stays_a_matter_for_people(client: Client) -> None:
    assert client.post("/dingtalk/callback/more").status_code == 404
    assert client.get("/").headers["Location"] == "admin/"


# What the log says


@pytest.mark.django_db
def test_one_line_for_each_push_says_what_became_of_it(client: Client, log: pytest.LogCaptureFixture) -> None:
    payload = {**USER, "name": "张三", "phone": "13800000000"}
    send(client, seal_push(payload))
    send(client, seal_push(payload))
    send(client, seal_push('{"EventType":"check_url"}'))
    send(client, seal_push(payload, token="another-token"))
    lines = [record.getMessage() for record in log.records if record.name == "callbacks.views"]
    number = Event.objects.get().pk
    assert lines == [
        f"event {number} user_add_org corp=dingtestcorp0001: stored, owed to 1",
        f"event {number} user_add_org corp=dingtestcorp0001: a repeat, stored before",
        "check_url from dingtestcorp0001 answered",
        "push from 127.0.0.1 refused with 403: "
        "signature mismatch: DINGTALK_TOKEN differs from the token that DingTalk signs with",
    ]
    above_debug = " ".join(record.getMessage() for record in log.records if record.levelno > logging.DEBUG)
    assert "张三" not in above_debug
    assert "13800000000" not in above_debug


# Load balancers


@pytest.mark.parametrize(
    ("trusted", "forwarded", "named"),
    [
        (True, "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        (True, "not an address\u2028", "127.0.0.1"),
        (False, "198.51.100.7", "127.0.0.1"),
    ],
)
def test_a_refusal_names_the_sender_and_believes_a_proxy_only_where_told_to(
    client: Client, log: pytest.LogCaptureFixture, settings: Settings, trusted: bool, forwarded: str, named: str
) -> None:
    settings.TRUST_PROXY_HEADERS = trusted
    send(client, seal_push(USER, token="another"), **{"X-Forwarded-For": forwarded})
    assert f"push from {named} refused with 403" in log.text


@pytest.mark.django_db
@pytest.mark.parametrize(("path", "msg"), [("/healthz", "alive"), ("/readyz", "ready")])
def test_health_is_told_to_get_and_head(client: Client, path: str, msg: str) -> None:
    assert client.get(path).json() == {"code": 200, "msg": msg}
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405


@pytest.mark.django_db
def test_a_database_that_is_not_migrated_is_not_ready(client: Client) -> None:
    views.migrated.clear()  # as in a process that starts now
    MigrationRecorder(connection).record_unapplied("callbacks", "0001_initial")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["msg"]) == (503, "the database is not migrated: run `manage.py migrate`")
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("table", ["callbacks_event", "callbacks_delivery"])
def test_a_push_to_a_database_that_is_not_migrated_is_not_acknowledged(
    client: Client, log: pytest.LogCaptureFixture, table: str
) -> None:
    push = seal_push(USER)
    with table_away(table):
        answer = send(client, push)
    assert (answer.status_code, answer.json()["code"]) == (503, 503)
    assert table in log.text
    assert "u1" not in log.text
    assert stored() == []
    assert opened(send(client, push).json()) == "success"
    assert stored() == ["user_add_org"]


def test_nothing_wrong_in_a_request_is_told_without_its_code(client: Client) -> None:
    answer: Any = client.post(PATH, b"{}", content_type="application/json")
    assert answer.status_code == 400
    assert answer.json() == {"code": 400, "msg": "the body has no `encrypt` string"}
