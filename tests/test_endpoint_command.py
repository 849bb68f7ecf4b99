"""`manage.py endpoint`: endpoints made, shown, tested, held and removed from the shell."""

import io
import json
from ipaddress import ip_network
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from callbacks.inbox import receive
from callbacks.keys import new_webhook_secret
from callbacks.models import Delivery, Endpoint
from tests.command import Said, call, document
from tests.owed import carry_due, payload
from tests.processes import manage
from tests.subscriber import Subscriber, closed_port, saying, sealing, sent

pytestmark = pytest.mark.django_db


def endpoint(*args: str) -> Said:
    return call("endpoint", *args)


def made(url: str = "http://127.0.0.1:1/", **fields: Any) -> Endpoint:
    return Endpoint.objects.create(**{"name": "ERP", "url": url, "format": "standard", **fields})


def test_add_makes_an_endpoint_that_wants_what_was_said_and_tells_what_would_have_gone_there() -> None:
    for number in range(3):
        receive(payload("org_dept_create", CorpId="c1", deptId=[number]))
    receive(payload("user_add_org", CorpId="c1"))

    where = ("--event-types", "org_dept_*", "--corp-ids", "c1", "--where", "deptId=0,1", "--rate", "60")
    said = endpoint("add", "ERP", "https://erp.example.com/hook", *where)

    made = Endpoint.objects.get()
    assert (made.name, made.url, made.format, made.enabled) == ("ERP", "https://erp.example.com/hook", "standard", True)
    assert (made.event_types, made.corp_ids, made.where, made.rate) == (
        ["org_dept_*"],
        ["c1"],
        {"deptId": ["0", "1"]},
        60,
    )
    assert f"endpoint {made.pk} added; 2 of the last 4 events would have gone here" in said.out
    assert made.secret not in said.out
    assert "***" in said.out


def test_a_secret_may_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a-token-of-theirs\n" + "k" * 42 + "A\n"))
    given = ("--format", "dingtalk", "--token", "-", "--aes-key", "-")
    assert endpoint("add", "OA", "http://oa.example.com/", *given).status == 0
    made = Endpoint.objects.get()
    assert (made.token, made.aes_key) == ("a-token-of-theirs", "k" * 42 + "A")


def test_add_prints_its_secrets_where_it_is_asked_to() -> None:
    told = document(endpoint("add", "OA", "http://oa.example.com/", "--format", "dingtalk", "--reveal", "--json"))

    made = Endpoint.objects.get()
    assert (told["token"], told["aes_key"], told["owner_key"]) == (made.token, made.aes_key, "dingtestappkey0001")
    assert "secret" not in told


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("ftp://example.com/",), "url"),
        (("https://user:password@example.com/",), "url"),
        (("https://example.com/", "--timeout", "61"), "timeout"),
        (("https://example.com/", "--rate", "0"), "rate"),
        (("https://example.com/", "--secret", "whsec_"), "secret"),
        (("https://example.com/", "--secret", "garbage"), "secret"),
        (("https://example.com/", "--secret", "whsec_dG9vIHNob3J0"), "secret"),
        (("https://example.com/", "--secret", f"{new_webhook_secret()}x"), "secret"),
        (("https://example.com/", "--token", "a b"), "token"),
        (("https://example.com/", "--format", "dingtalk", "--owner-key", ""), "owner_key"),
        (("https://example.com/", "--aes-key", "short"), "aes_key"),
        (("https://example.com/", "--retry-schedule=-1"), "retry_schedule"),
    ],
)
def test_what_makes_no_sense_is_named_and_nothing_made(args: tuple[str, ...], name: str) -> None:
    said = endpoint("add", "ERP", *args)

    assert said.status == 2
    assert said.err.startswith(f"{name}: ")
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("option", ["--secret", "--token", "--aes-key"])
def test_an_empty_secret_is_refused(option: str) -> None:
    said = endpoint("add", "ERP", "https://example.com/", option, "")
    assert (said.status, Endpoint.objects.count()) == (2, 0)
    assert f"{option} is empty" in said.err


def test_a_mistake_is_told_in_english_and_a_list_takes_chinese_commas() -> None:
    assert "greater than or equal to 1" in endpoint("add", "ERP", "https://example.com/", "--rate", "0").err
    endpoint("add", "ERP", "https://example.com/", "--event-types", "user_*，org_*、bpms_*,label_*")
    assert Endpoint.objects.get().event_types == ["user_*", "org_*", "bpms_*", "label_*"]


def test_list_shows_state_and_reason_and_no_secret(settings: Settings) -> None:
    settings.ENDPOINT_DISABLE_AFTER = 1
    with Subscriber(saying(500)) as erp, Subscriber(saying(410)) as oa:
        failing, gone, paused = made(erp.url), made(oa.url, name="OA"), made(name="HR", paused=True)
        sent(failing)
        carry_due()

    said = endpoint("list")
    rows = {each["name"]: each for each in document(endpoint("list", "--json"))["endpoints"]}

    assert [rows[name]["state"] for name in ("ERP", "OA", "HR")] == ["failing", "disabled", "paused"]
    assert [rows[name]["pending"] for name in ("ERP", "OA", "HR")] == [1, 1, 1]
    assert "answered 500" in said.out
    assert "answered 410 Gone" in said.out
    for each in (failing, gone, paused):
        assert each.secret not in said.out + json.dumps(rows)
    assert failing.secret in endpoint("list", "ERP", "--reveal").out


def test_a_change_keeps_what_it_does_not_name() -> None:
    row = made()
    assert endpoint("change", "ERP", "--url", "https://new.example.com/", "--event-types", "user_*").status == 0
    assert endpoint("change", "ERP").status == 2

    changed = Endpoint.objects.get()
    assert (changed.url, changed.event_types, changed.secret) == ("https://new.example.com/", ["user_*"], row.secret)


def test_test_sends_a_signed_event_and_a_sealed_check_url() -> None:
    native = made(format="dingtalk", name="OA")
    with Subscriber() as erp, Subscriber(sealing(native)) as oa:
        standard = made(erp.url)
        Endpoint.objects.filter(pk=native.pk).update(url=oa.url)
        assert "answered 204 and takes events" in endpoint("test", "ERP").out
        assert document(endpoint("test", "OA", "--json"))["status"] == 200

    assert erp.requests[0].verified(standard.secret)["type"] == "endpoint_test"
    assert oa.requests[0].opened(native).text == '{"EventType": "check_url"}'
    assert not Delivery.objects.exists()


def test_test_explains_what_is_wrong_and_changes_nothing(settings: Settings) -> None:
    with Subscriber(saying(200, "ok")) as oa, closed_port() as nowhere:
        made(oa.url, format="dingtalk", name="OA"), made(nowhere)
        sloppy, refused = endpoint("test", "OA"), endpoint("test", "ERP")
        settings.RELAY_BLOCKED_NETWORKS = [ip_network("127.0.0.0/8")]
        blocked = endpoint("test", "OA")

    assert [said.status for said in (sloppy, refused, blocked)] == [1, 1, 1]
    assert "answered 200 but not success: the answer is not encrypted" in sloppy.err
    assert "and said: ok" in sloppy.err
    assert "refused" in refused.err
    assert "blocked" in blocked.err
    assert {each.condition for each in Endpoint.objects.all()} == {"ok"}


def test_test_says_what_may_be_wrong_with_its_secret_and_what_waits() -> None:
    with Subscriber(saying(401, "who are you?")) as erp:
        row = made(erp.url)
        refused = endpoint("test", "ERP")
        erp.answer = saying(204)
        sent(row)
        waiting = endpoint("test", "ERP")
        endpoint("pause", "ERP")
        paused = endpoint("test", "ERP")

    assert "answered 401 Unauthorized, and said: who are you?; its secret may differ" in refused.err
    assert f"wait for their next try: 1; `manage.py endpoint resume {row.pk}`" in waiting.out
    assert "it is paused" in paused.out


def test_pause_resume_disable_enable() -> None:
    with Subscriber() as erp:
        row = made(erp.url)
        endpoint("pause", f"endpoint:{row.pk}")
        sent(row)
        assert carry_due() == []
        assert endpoint("resume", "ERP").status == 0
        endpoint("disable", "ERP")
        assert carry_due() == []
        assert document(endpoint("list", "ERP", "--json"))["disabled_because"] == "disabled by hand"
        assert "enabled" in endpoint("enable", "ERP").out
        assert [each.state for each in carry_due()] == ["delivered"]


def test_rotate_masks_the_new_secret_unless_it_is_to_be_revealed() -> None:
    row = made()
    said = endpoint("rotate", "ERP")
    during = Endpoint.objects.get()
    assert (during.previous_secret, during.secret == row.secret) == (row.secret, False)
    assert during.secret not in said.out
    assert "--finish" in said.out

    assert "only" in endpoint("rotate", "ERP", "--finish").out
    assert Endpoint.objects.get().previous_secret == ""
    revealed = endpoint("rotate", "ERP", "--reveal").out
    assert Endpoint.objects.get().secret in revealed


def test_remove_wants_a_yes_where_something_is_pending() -> None:
    row = made()
    delivery = sent(row)
    refused = endpoint("remove", "ERP")
    assert (refused.status, Endpoint.objects.count()) == (2, 1)
    assert "pending deliveries to it, which would be dead: 1;" in refused.err

    assert "deliveries given up: 1" in endpoint("remove", "ERP", "--yes").out
    delivery.refresh_from_db()
    assert (delivery.state, Endpoint.objects.count()) == ("dead", 0)


def test_reencrypt_names_what_it_cannot_read(settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = ["k" * 32]
    row = made()
    settings.FIELD_ENCRYPTION_KEYS = ["n" * 32, "k" * 32]
    assert document(endpoint("reencrypt", "--json")) == {"reencrypted": 1}
    settings.FIELD_ENCRYPTION_KEYS = ["x" * 32]

    said = endpoint("reencrypt")

    assert said.status == 1
    assert f"endpoint {row.pk}: " in said.err
    assert "FIELD_ENCRYPTION_KEYS" in said.err


@pytest.mark.parametrize("verb", ["list", "test", "pause", "resume", "enable", "disable", "rotate", "remove", "change"])
def test_an_endpoint_that_is_not_there_or_not_the_only_one_is_said_so(verb: str) -> None:
    made(), made()
    assert endpoint(verb, "999").status == 1
    assert endpoint(verb, "ERP").err.startswith("more than one endpoint is called ERP")


@pytest.mark.django_db(transaction=True)
def test_wrong_usage_is_a_2_in_the_shell() -> None:
    assert manage("endpoint", "add", "ERP").returncode == 2
    assert manage("endpoint", "dance").returncode == 2
    assert manage("endpoint", "list").returncode == 0


def test_older_events_are_owed_by_redeliver() -> None:
    receipt = receive(payload("label_a"))
    receive(payload("label_b"))
    row = made(event_types=["label_a"])

    call_command("redeliver", "--since", "2026-01-01", "--to", row.destination, "--yes", stdout=io.StringIO())

    assert [each.event_id for each in Delivery.objects.filter(destination=row.destination)] == [receipt.event_id]
    with pytest.raises(CommandError, match="no endpoint:999"):
        call_command("redeliver", "--since", "2026-01-01", "--to", "endpoint:999", "--yes", stdout=io.StringIO())
