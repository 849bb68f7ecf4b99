"""The admin of endpoints: filled in by hand, secrets go in and never come out but once, buttons do what they say."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils.timezone import now

from callbacks import circuit
from callbacks.inbox import receive
from callbacks.models import Delivery, Endpoint
from tests.owed import carry_due, payload
from tests.subscriber import Subscriber, saying, sent

pytestmark = pytest.mark.django_db
LIST = "/admin/callbacks/endpoint/"


def made(url: str = "http://127.0.0.1:1/", **fields: Any) -> Endpoint:
    return Endpoint.objects.create(**{"name": "ERP", "url": url, "format": "standard", **fields})


def page(client: Client, address: str, **headers: str) -> str:
    response = client.get(address, headers=headers)
    assert response.status_code == 200, (response.status_code, address)
    return response.content.decode()


def press(client: Client, endpoint: Endpoint, verb: str) -> str:
    """Press a button on an endpoint's page; return the page that follows."""
    response = client.post(f"{LIST}{endpoint.pk}/{verb}/", follow=True)
    assert response.status_code == 200
    return str(response.content.decode())


def filled_in(**changes: Any) -> dict[str, Any]:
    blank = {"event_types": "", "corp_ids": "", "where": "{}", "retry_schedule": "", "rate": "", "owner_key": "key"}
    secrets = {"new_secret": "", "new_token": "", "new_aes_key": ""}
    values = {"name": "ERP", "url": "https://erp.example.com/", "format": "standard", "enabled": "on"}
    return {**blank, **secrets, **values, "timeout": "15", "concurrency": "10", **changes}


def test_a_new_endpoint_shows_its_secret_once(admin_client: Client) -> None:
    assert "会发往此处" not in page(admin_client, f"{LIST}add/")
    given = filled_in(event_types="org_dept_*, user_add_org", retry_schedule="5, 60", where='{"type": "finish"}')
    response = admin_client.post(f"{LIST}add/", given)

    endpoint = Endpoint.objects.get()
    assert endpoint.secret in response.content.decode()
    assert "no-store" in response.headers["Cache-Control"]
    assert (endpoint.event_types, endpoint.retry_schedule) == (["org_dept_*", "user_add_org"], [5, 60])
    assert (endpoint.where, endpoint.enabled) == ({"type": "finish"}, True)
    for address in (LIST, f"{LIST}{endpoint.pk}/change/", f"{LIST}{endpoint.pk}/history/"):
        assert endpoint.secret not in page(admin_client, address)
    assert "org_dept_*, user_add_org" in page(admin_client, f"{LIST}{endpoint.pk}/change/")


@pytest.mark.parametrize(
    "mistake",
    [
        {"url": "javascript:alert(1)"},
        {"retry_schedule": "5,soon"},
        {"where": '["type"]'},
        {"timeout": "600"},
        {"new_aes_key": "short"},
        {"new_secret": "whsec_"},
        {"new_token": "两个字"},
        {"format": "dingtalk", "owner_key": ""},
    ],
)
def test_a_mistake_is_shown_beside_its_field(mistake: dict[str, str], admin_client: Client) -> None:
    response = admin_client.post(f"{LIST}add/", filled_in(**mistake))

    assert set(response.context["adminform"].form.errors) == set(mistake) - {"format"}
    assert not Endpoint.objects.exists()


def test_a_change_keeps_the_secrets_and_what_workers_have_written(admin_client: Client) -> None:
    endpoint = made(format="dingtalk")
    before = (endpoint.secret, endpoint.token, endpoint.aes_key)
    Endpoint.objects.update(refusals=3, last_error="answered 500", failing_since=now() - timedelta(hours=1))

    response = admin_client.post(
        f"{LIST}{endpoint.pk}/change/", filled_in(format="dingtalk", new_token="given-by-hand")
    )

    assert response.status_code == 302
    changed = Endpoint.objects.get()
    assert (changed.secret, changed.token, changed.aes_key) == (before[0], "given-by-hand", before[2])
    assert (changed.refusals, changed.last_error, changed.url) == (3, "answered 500", "https://erp.example.com/")


def test_the_page_says_how_it_goes_and_what_would_have_gone_there(admin_client: Client) -> None:
    for name in ("label_a", "label_a", "label_b"):
        receive(payload(name))
    with Subscriber(saying(500)) as erp:
        endpoint = made(erp.url, event_types=["label_a"])
        delivery = sent(endpoint, "label_a")
        carry_due()

    english = {"accept_language": "en"}
    shown = page(admin_client, f"{LIST}{endpoint.pk}/change/", **english)
    for words in ("failing", "answered 500 Internal Server Error", "3 of the last 4 events would have gone here."):
        assert words in shown
    assert "最近 4 个事件中有 3 个会发往此处" in page(admin_client, f"{LIST}{endpoint.pk}/change/")
    for address in ("/admin/callbacks/delivery/", f"/admin/callbacks/delivery/{delivery.pk}/change/"):
        assert "ERP" in page(admin_client, address)
    assert "HTTP 500" in page(admin_client, f"/admin/callbacks/event/{delivery.event_id}/change/")


def test_buttons_pause_resume_disable_and_enable(admin_client: Client) -> None:
    with Subscriber() as erp:
        endpoint = made(erp.url)
        press(admin_client, endpoint, "pause")
        delivery = sent(endpoint)
        assert carry_due() == []
        shown = f"/admin/callbacks/delivery/{delivery.pk}/change/"
        assert "订阅方已暂停" in page(admin_client, shown)
        Endpoint.objects.update(paused=False, rests_until=now())
        assert "订阅方失败中" in page(admin_client, shown)
        Endpoint.objects.update(paused=True, rests_until=None)
        press(admin_client, endpoint, "resume")
        press(admin_client, endpoint, "disable")
        assert carry_due() == []
        assert "disabled by hand, by admin" in page(admin_client, f"{LIST}{endpoint.pk}/change/")
        press(admin_client, endpoint, "enable")
        assert [each.state for each in carry_due()] == ["delivered"]


def test_the_test_button_explains_the_answer(admin_client: Client) -> None:
    with Subscriber() as erp:
        endpoint = made(erp.url)
        assert "应答 204" in press(admin_client, endpoint, "test")
        erp.answer = saying(500)
        assert "answered 500 Internal Server Error" in press(admin_client, endpoint, "test")


def test_a_new_secret_is_shown_once_and_the_previous_one_can_be_dropped(admin_client: Client) -> None:
    endpoint = made()
    shown = press(admin_client, endpoint, "rotate")
    rotated = Endpoint.objects.get()

    assert rotated.secret in shown
    assert rotated.previous_secret == endpoint.secret
    assert rotated.secret not in page(admin_client, f"{LIST}{endpoint.pk}/change/")
    assert "先弃用旧密钥" in press(admin_client, endpoint, "rotate")
    assert Endpoint.objects.get().secret == rotated.secret
    assert "../finish/" in page(admin_client, f"{LIST}{endpoint.pk}/change/")
    press(admin_client, endpoint, "finish")
    assert Endpoint.objects.get().previous_secret == ""
    assert "../finish/" not in page(admin_client, f"{LIST}{endpoint.pk}/change/")


def test_a_new_pair_pauses_the_endpoint_until_its_receiver_has_it(admin_client: Client) -> None:
    endpoint = made(format="dingtalk")
    assert "已暂停" in press(admin_client, endpoint, "rotate")
    assert Endpoint.objects.get().paused


def test_the_list_acts_on_several(admin_client: Client) -> None:
    endpoints = [made(), made()]
    admin_client.post(LIST, {"action": "pause", "_selected_action": [each.pk for each in endpoints]})

    assert {each.paused for each in Endpoint.objects.all()} == {True}


def test_removing_one_leaves_what_was_owed_to_it_dead(admin_client: Client) -> None:
    endpoint = made()
    delivery = sent(endpoint)
    assert "将被放弃的：1" in page(admin_client, f"{LIST}{endpoint.pk}/delete/")
    admin_client.post(f"{LIST}{endpoint.pk}/delete/", {"post": "yes"})

    assert not Endpoint.objects.exists()
    assert Delivery.objects.get(pk=delivery.pk).state == "dead"


def test_who_may_only_look_sees_no_button_and_presses_none(client: Client) -> None:
    endpoint = made()
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(user)

    assert not re.search('action="../(rotate|pause|test)/"', page(client, f"{LIST}{endpoint.pk}/change/"))
    for verb in ("rotate", "finish", "test", "pause", "resume", "enable", "disable"):
        assert client.post(f"{LIST}{endpoint.pk}/{verb}/").status_code == 403
    assert client.get(f"{LIST}{endpoint.pk}/rotate/").status_code == 405


def test_a_page_that_was_open_while_an_endpoint_was_disabled_does_not_enable_it(admin_client: Client) -> None:
    endpoint = Endpoint.objects.create(name="ERP", url="https://erp.example.com/", format="standard")
    circuit.disable(endpoint, "answered 410 Gone")

    admin_client.post(f"{LIST}{endpoint.pk}/change/", filled_in(name="renamed"))

    endpoint.refresh_from_db()
    assert (endpoint.name, endpoint.enabled, endpoint.disabled_because) == ("renamed", False, "answered 410 Gone")
