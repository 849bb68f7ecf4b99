"""The admin: what ops people see of events, deliveries and attempts, and redelivering."""

import ast
import gettext
import json
import os
import re
import subprocess
import sys
import textwrap
import tracemalloc
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils.html import strip_tags
from django.utils.timezone import localdate, now
from django.utils.translation import gettext as translate
from django.utils.translation import override
from pytest_django import DjangoAssertNumQueries

from callbacks import admin_lists, display, outbox
from callbacks.models import Attempt, Delivery, Event
from callbacks.payload import MAX_DEPTH

ROOT = Path(__file__).resolve().parent.parent
EVENTS, DELIVERIES, ATTEMPTS = ("/admin/callbacks/event/", "/admin/callbacks/delivery/", "/admin/callbacks/attempt/")
HANDLER = "handler:callbacks.handlers.bpms_instance_change"
CORP = "dingtestcorp0001"


def make_event(event_type: str = "bpms_instance_change", subject: str = "instance:inst-1", **columns: Any) -> Event:
    payload = columns.pop("payload", {"EventType": event_type, "title": "张三提交的请假"})
    columns.setdefault("identity", f"test:{uuid4()}")
    columns.setdefault("body", json.dumps(payload, ensure_ascii=False))
    return Event.objects.create(
        event_type=event_type, corp_id=CORP, subject=f"{CORP}:{subject}", payload=payload, **columns
    )


def make_delivery(event: Event | None = None, destination: str = HANDLER, **columns: Any) -> Delivery:
    event = event or make_event()
    due = now() - timedelta(seconds=30)  # a test's transaction, and with it the database's clock, began a while ago
    columns.setdefault("next_attempt_at", due if columns.get("state", "pending") == "pending" else None)
    return Delivery.objects.create(event=event, destination=destination, subject=event.subject, **columns)


def make_attempt(delivery: Delivery, **columns: Any) -> Attempt:
    return Attempt.objects.create(delivery=delivery, worker="web-1:4711", **columns)


def page(client: Client, address: str, **headers: str) -> str:
    response = client.get(address, headers=headers)
    assert response.status_code == 200, (response.status_code, address)
    return response.content.decode()


def listed(client: Client, address: str, **parameters: Any) -> list[int]:
    """Return the ids of the rows that a list shows, in its order."""
    response = client.get(address, parameters)
    assert response.status_code == 200, (response.status_code, response.headers)
    return [row.pk for row in response.context["cl"].result_list]


@pytest.fixture
def viewer(client: Client, db: None) -> Client:
    """Somebody who may look at everything and redeliver nothing."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(user)
    return client


# Words


def test_pages_are_chinese_by_default_and_english_for_an_english_browser(admin_client: Client) -> None:
    make_delivery(make_event("user_add_org", "user:manager123"), state="delivered")

    chinese, english = page(admin_client, EVENTS), page(admin_client, EVENTS, accept_language="en-US,en;q=0.9")

    for word in ("事件", "投递情况", "用户增加", "1 已送达", "对象", "来源", "重新投递"):
        assert word in chinese
    for word in ("Events", "what became of it".capitalize(), "User added", "1 delivered", "Redeliver"):
        assert word in english
    assert not re.search("[一-鿿]", english.replace("简体中文", ""))


@pytest.mark.parametrize(
    ("event_type", "words"),
    [
        ("user_add_org", "用户增加"),
        ("user_leave_org", "用户离职"),
        ("org_dept_create", "组织架构添加"),
        ("org_dept_modify", "组织架构变更"),
        ("org_dept_remove", "组织架构删除"),
        ("bpms_task_change", "审批任务"),
        ("bpms_instance_change", "审批实例"),
    ],
)
def test_the_seven_types_of_the_blog_post_have_its_words(event_type: str, words: str) -> None:
    with override("zh-hans"):
        shown = display.event_type(event_type)

    assert words in shown
    assert event_type in shown


def test_a_type_without_words_is_shown_by_its_name(admin_client: Client) -> None:
    make_event("brand_new_type")

    assert "brand_new_type" in page(admin_client, EVENTS)


def test_every_text_is_translated_and_the_compiled_catalogue_is_up_to_date() -> None:
    folder = ROOT / "callbacks/locale/zh_Hans/LC_MESSAGES"
    with (folder / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    text = (folder / "django.po").read_text(encoding="utf-8")
    entries = re.findall(r'^msgid ((?:".*"\n)+)(?:msgid_plural (?:".*"\n)+)?msgstr(\[0\])? ((?:".*"\n?)+)', text, re.M)

    assert len(entries) > 50
    for source, plural, translation in entries[1:]:
        english, chinese = (
            "".join(ast.literal_eval(line) for line in part.split("\n") if line) for part in (source, translation)
        )
        assert chinese, f"{english!r} has no Chinese"
        shown = compiled.ngettext(english, english, 1) if plural else compiled.gettext(english)
        assert shown == chinese, f"run msgfmt: {english!r} differs between django.po and django.mo"


def test_the_words_of_the_house_win_over_those_of_other_apps() -> None:
    with override("zh-hans"):
        words = {word: translate(word) for word in ("event", "delivery", "attempt", "destination", "pending", "dead")}

    assert words == {
        "event": "事件",
        "delivery": "投递",
        "attempt": "尝试",
        "destination": "投递目标",
        "pending": "待投递",
        "dead": "已放弃",
    }


# The event's page


def test_an_event_shows_its_payload_indented_and_in_readable_chinese(admin_client: Client) -> None:
    event = make_event(
        payload={"EventType": "x", "title": "张三提交的请假"}, body='{"EventType":"x","title":"张三提交的请假"}'
    )

    shown = page(admin_client, f"{EVENTS}{event.pk}/change/")

    assert "\n  &quot;title&quot;: &quot;张三提交的请假&quot;" in shown
    assert "{&quot;EventType&quot;:&quot;x&quot;" in shown  # the text as it came


def test_what_dingtalk_sent_is_never_markup(admin_client: Client) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    event = make_event(hostile, f"user:{hostile}", payload={"EventType": "x", "title": hostile, hostile: [hostile]})
    delivery = make_delivery(event, f"handler:{hostile}", state="dead", last_error=hostile, result={"title": hostile})
    attempt = make_attempt(delivery, outcome="failed", error=hostile)
    pages = (
        EVENTS,
        DELIVERIES,
        ATTEMPTS,
        f"{EVENTS}{event.pk}/change/",
        f"{DELIVERIES}{delivery.pk}/change/",
        f"{ATTEMPTS}{attempt.pk}/change/",
    )

    for address in pages:
        shown = page(admin_client, address)
        assert "&lt;script&gt;alert(1)" in shown
        assert "<script>alert" not in shown
        assert "<img src=x" not in shown


def test_an_event_shows_its_deliveries_attempts_errors_and_results(admin_client: Client) -> None:
    event = make_event()
    done = make_delivery(event, state="delivered", result={"title": "请假", "status": "COMPLETED"})
    make_attempt(done, outcome="failed", error="Traceback …\nTimeoutError: read timed out")
    make_attempt(done, outcome="delivered", finished_at=now() + timedelta(seconds=2))
    later = datetime(2026, 11, 25, 4, 30, 5, tzinfo=timezone.utc)
    make_delivery(event, "handler:shop.handlers.ticket", last_error="KeyError: 'x'", next_attempt_at=later)

    shown = page(admin_client, f"{EVENTS}{event.pk}/change/")

    for text in (
        HANDLER,
        "已送达",
        "&quot;status&quot;: &quot;COMPLETED&quot;",
        "TimeoutError: read timed out",
        "web-1:4711",
        "handler:shop.handlers.ticket",
        "KeyError: &#x27;x&#x27;",
        "12:30:05",  # in Asia/Shanghai
        "尚未尝试",
    ):
        assert text in shown


def test_a_delivery_behind_another_of_its_subject_says_so_with_a_link(admin_client: Client) -> None:
    first, _second, third = make_delivery(), make_delivery(), make_delivery(next_attempt_at=None)
    link = f'<a href="{DELIVERIES}{first.pk}/change/">等待 #{first.pk}</a>'

    for address in (f"{DELIVERIES}{third.pk}/change/", f"{EVENTS}{third.event_id}/change/"):
        assert link in page(admin_client, address)
    assert page(admin_client, DELIVERIES).count(link) == 2
    assert "等待" not in page(admin_client, f"{DELIVERIES}{first.pk}/change/")


def test_a_delivery_that_was_set_aside_says_that_it_waits(admin_client: Client) -> None:
    delivery = make_delivery(next_attempt_at=None)

    assert "等待更早的投递" in page(admin_client, f"{DELIVERIES}{delivery.pk}/change/")


def test_a_payload_that_grows_when_it_is_indented_is_cut(admin_client: Client) -> None:
    nested: Any = ["x"] * 20_000
    for _level in range(MAX_DEPTH - 2):
        nested = [nested]
    event = make_event(payload={"EventType": "x", "deep": nested}, body="y" * 1_000_000)

    shown = page(admin_client, f"{EVENTS}{event.pk}/change/")

    assert len(shown) < 4 * display.MAX_SHOWN
    assert shown.count("此处截断") == 2


def test_a_payload_is_not_indented_beyond_what_is_shown() -> None:
    nested: Any = ["x"] * 50_000
    for _level in range(450):
        nested = [nested]

    tracemalloc.start()
    display.pretty(nested)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 5_000_000  # in full it would be 45 MB


def test_times_are_those_of_the_configured_time_zone() -> None:
    shown = display.moment(datetime(2026, 11, 24, 16, 0, 1, tzinfo=timezone.utc))

    assert strip_tags(shown) == "2026-11-25 00:00:01"


# Nobody changes a fact


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES, ATTEMPTS])
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, address: str) -> None:
    attempt = make_attempt(make_delivery())
    row = {EVENTS: attempt.delivery.event, DELIVERIES: attempt.delivery, ATTEMPTS: attempt}[address]

    assert admin_client.get(f"{address}add/").status_code == 403
    assert admin_client.post(f"{address}{row.pk}/change/", {"state": "dead"}).status_code == 403
    assert admin_client.post(f"{address}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert 'name="_save"' not in page(admin_client, f"{address}{row.pk}/change/")
    assert "delete_selected" not in page(admin_client, address)


def test_pages_are_for_people_who_have_logged_in(client: Client, db: None) -> None:
    event = make_event()

    for address in ("/admin/", EVENTS, f"{EVENTS}{event.pk}/change/"):
        response = client.get(address)
        assert response.status_code == 302
        assert response["Location"].startswith("/admin/login/")


def test_no_page_shows_a_secret_of_the_settings(admin_client: Client) -> None:
    delivery = make_delivery()

    for address in ("/admin/", EVENTS, DELIVERIES, ATTEMPTS, f"{EVENTS}{delivery.event_id}/change/"):
        shown = page(admin_client, address)
        for secret in ("test-token-2026", "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0", "test-app-secret-0001"):
            assert secret not in shown


# Lists


def test_the_event_list_tells_what_became_of_each(admin_client: Client) -> None:
    event = make_event()
    make_delivery(event, "handler:a", state="delivered")
    make_delivery(event, "handler:b", state="delivered")
    make_delivery(event, "handler:c")
    make_event("unwanted_type")

    shown = strip_tags(page(admin_client, EVENTS))

    assert "1 待投递 2 已送达" in shown
    assert "无投递目标" in shown


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES, ATTEMPTS])
def test_a_list_costs_the_same_queries_for_one_row_and_for_forty(
    admin_client: Client, address: str, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    most = {EVENTS: 8, DELIVERIES: 9, ATTEMPTS: 6}[address]
    make_attempt(make_delivery())
    page(admin_client, address)  # content types are read once in a process
    with django_assert_max_num_queries(most) as few:
        page(admin_client, address)
    for number in range(40):
        make_attempt(make_delivery(make_event(subject=f"instance:{number}")))

    with django_assert_max_num_queries(most) as many:
        page(admin_client, address)

    assert len(many.captured_queries) == len(few.captured_queries)


def test_an_events_page_costs_the_same_queries_for_one_delivery_and_for_ten(
    admin_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    event = make_event()
    make_attempt(make_delivery(event, "handler:first"))
    page(admin_client, f"{EVENTS}{event.pk}/change/")  # content types are read once in a process
    with django_assert_max_num_queries(8) as few:
        page(admin_client, f"{EVENTS}{event.pk}/change/")
    for number in range(10):
        delivery = make_delivery(event, f"handler:{number}")
        for _again in range(3):
            make_attempt(delivery)

    with django_assert_max_num_queries(8) as many:
        page(admin_client, f"{EVENTS}{event.pk}/change/")

    assert len(many.captured_queries) == len(few.captured_queries)


def test_lists_leave_payloads_texts_and_results_in_the_database(
    admin_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    make_delivery()

    for address in (EVENTS, DELIVERIES):
        with django_assert_max_num_queries(9) as queries:
            page(admin_client, address)
        read = " ".join(query["sql"] for query in queries.captured_queries)
        for column in ('"payload"', '"body"', '"result"'):
            assert column not in read


def test_events_are_filtered_by_type_state_source_and_day(admin_client: Client) -> None:
    yesterday = now() - timedelta(days=1)
    joined = make_event("user_add_org", "user:u1", received_at=yesterday)
    approved = make_event("bpms_instance_change", "instance:i1", source="failed_list")
    nobodys = make_event("unwanted_type", "user:u2")
    make_delivery(joined, state="dead")
    make_delivery(approved, "handler:a", state="delivered")
    make_delivery(approved, "handler:b")

    assert listed(admin_client, EVENTS, type="user_add_org") == [joined.pk]
    assert listed(admin_client, EVENTS, state="dead") == [joined.pk]
    assert listed(admin_client, EVENTS, state="pending") == [approved.pk]
    assert listed(admin_client, EVENTS, state="none") == [nobodys.pk]
    assert listed(admin_client, EVENTS, source__exact="failed_list") == [approved.pk]
    assert listed(admin_client, EVENTS, day=localdate(yesterday).isoformat()) == [joined.pk]
    assert listed(admin_client, EVENTS, day=localdate().isoformat()) == [nobodys.pk, approved.pk]


def test_deliveries_are_filtered_by_state_destination_type_and_day(admin_client: Client) -> None:
    long_ago = datetime(2026, 3, 1, 15, 59, tzinfo=timezone.utc)  # still the first of March in Shanghai
    old = make_delivery(make_event("user_add_org", "user:u1", received_at=long_ago), "handler:a", state="dead")
    new = make_delivery(make_event(), "handler:b")

    assert listed(admin_client, DELIVERIES) == [new.pk, old.pk]
    assert listed(admin_client, DELIVERIES, state__exact="dead") == [old.pk]
    assert listed(admin_client, DELIVERIES, destination="handler:b") == [new.pk]
    assert listed(admin_client, DELIVERIES, type="user_add_org") == [old.pk]
    assert listed(admin_client, DELIVERIES, day="2026-03-01") == [old.pk]
    assert listed(admin_client, DELIVERIES, day="2026-03-02") == []


@pytest.mark.parametrize("day", ["yesterday", "2026-02-30", "20261125x", "0001-01-01"])
def test_a_day_that_is_none_is_no_crash(admin_client: Client, day: str) -> None:
    response = admin_client.get(EVENTS, {"day": day})

    assert response.status_code == 302
    assert response["Location"] == f"{EVENTS}?e=1"


def test_the_day_field_keeps_the_other_filters_and_the_search(admin_client: Client) -> None:
    make_event()

    shown = page(admin_client, f"{EVENTS}?type=bpms_instance_change&q=inst-1")

    form = shown[shown.index('<form method="get" class="day">') :].partition("</form>")[0]
    assert '<input type="hidden" name="type" value="bpms_instance_change">' in form
    assert '<input type="hidden" name="q" value="inst-1">' in form


def test_filters_offer_the_types_and_destinations_that_there_are(admin_client: Client) -> None:
    for name in ("b_type", "a_type", "b_type"):
        make_delivery(make_event(name), f"handler:{name}")

    assert admin_lists.distinct(Event, "event_type") == ["a_type", "b_type"]
    assert admin_lists.distinct(Delivery, "destination") == ["handler:a_type", "handler:b_type"]
    assert "?type=a_type" in page(admin_client, DELIVERIES)


@pytest.mark.django_db
def test_there_are_no_values_in_an_empty_table() -> None:
    assert admin_lists.distinct(Event, "event_type") == []


def test_events_are_found_by_number_subject_user_instance_and_text(admin_client: Client) -> None:
    approval = make_event(payload={"EventType": "x", "title": "张三提交的请假", "staffId": "manager77"})
    joined = make_event("user_add_org", "user:manager123")

    for term in ("inst-1", "instance:inst-1", approval.subject, "三提交的", "manager77", str(approval.pk)):
        assert approval.pk in listed(admin_client, EVENTS, q=term), term
    assert listed(admin_client, EVENTS, q=f" #{joined.pk} ") == [joined.pk]
    assert listed(admin_client, EVENTS, q="manager123") == [joined.pk]
    assert listed(admin_client, EVENTS, q="nobody-of-that-name") == []
    assert listed(admin_client, EVENTS, q="9" * 5000) == []


def test_old_events_are_found_by_what_the_index_knows_and_not_by_text(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_lists, "MOST_SEARCHED", 1)
    old = make_event(payload={"EventType": "x", "title": "陈年旧事"})
    make_event("user_add_org", "user:u1")

    assert listed(admin_client, EVENTS, q="陈年旧事") == []
    assert listed(admin_client, EVENTS, q="inst-1") == [old.pk]


def test_deliveries_are_found_by_their_number_and_by_their_event(admin_client: Client) -> None:
    other = make_delivery(make_event("user_add_org", "user:manager123"), pk=123_456)
    delivery = make_delivery(make_event(pk=987_654))

    assert listed(admin_client, DELIVERIES, q="987654") == [delivery.pk]
    assert listed(admin_client, DELIVERIES, q="inst-1") == [delivery.pk]
    assert listed(admin_client, DELIVERIES, q="manager123") == [other.pk]
    assert listed(admin_client, DELIVERIES, q="123456") == [other.pk]


def test_attempts_are_found_by_their_number_and_by_their_delivery(admin_client: Client) -> None:
    attempt = make_attempt(make_delivery(pk=876_543), outcome="failed", error="Traceback …\nKeyError: 'x'")
    make_attempt(make_delivery())

    assert listed(admin_client, ATTEMPTS, q="876543") == [attempt.pk]
    assert attempt.pk in listed(admin_client, ATTEMPTS, q=str(attempt.pk))
    assert listed(admin_client, ATTEMPTS, q="no number") == []
    assert listed(admin_client, ATTEMPTS, outcome__exact="failed") == [attempt.pk]


def test_a_long_list_is_counted_to_a_bound_and_says_so(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        make_event(subject=f"instance:{number}")
    assert "列表到此为止" not in page(admin_client, EVENTS)

    monkeypatch.setattr(admin_lists, "MOST_COUNTED", 3)

    assert "多于 3 条，列表到此为止" in page(admin_client, EVENTS)


# Redeliver


def press(client: Client, address: str, *rows: Event | Delivery, action: str = "redeliver") -> Any:
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(address, data, follow=True)


def test_deliveries_are_redelivered_from_their_list(admin_client: Client) -> None:
    dead, other = make_delivery(state="dead"), make_delivery(make_event(subject="instance:2"), state="dead")

    response = press(admin_client, DELIVERIES, dead)

    dead.refresh_from_db()
    other.refresh_from_db()
    assert (dead.state, dead.next_attempt_at is not None) == ("pending", True)
    assert other.state == "dead"
    assert "1 个投递已重新排入" in response.content.decode()


def test_all_deliveries_of_an_event_are_redelivered_from_the_events_list(admin_client: Client) -> None:
    event, other = make_event(), make_event(subject="instance:2")
    for destination in ("handler:a", "handler:b"):
        make_delivery(event, destination, state="delivered")
        make_delivery(other, destination, state="delivered")

    response = press(admin_client, EVENTS, event)

    assert set(Delivery.objects.filter(state="pending").values_list("event", flat=True)) == {event.pk}
    assert "2 个投递已重新排入" in response.content.decode()


def test_all_that_a_filtered_list_holds_is_redelivered_at_once(admin_client: Client) -> None:
    for number in range(60):  # more than a page
        make_delivery(make_event(subject=f"instance:{number}"), state="dead")
    spared = make_delivery(make_event("user_add_org", "user:u1"), state="delivered")
    data = {"action": "redeliver", "select_across": "1", "_selected_action": [Delivery.objects.latest("id").pk]}

    admin_client.post(f"{DELIVERIES}?state__exact=dead", data)

    assert Delivery.objects.filter(state="pending").count() == 60
    spared.refresh_from_db()
    assert spared.state == "delivered"


@pytest.mark.parametrize("action", ["redeliver", "give_up"])
def test_all_that_is_meant_is_no_more_than_what_was_shown(
    admin_client: Client, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_lists, "MOST_COUNTED", 3)
    rows = [make_delivery(make_event(subject=f"instance:{number}"), attempts=2) for number in range(4)]
    data = {"action": action, "select_across": "1", "_selected_action": [rows[0].pk]}

    response = admin_client.post(DELIVERIES, data, follow=True)

    assert "超过 3 条" in response.content.decode()
    assert Delivery.objects.filter(state="pending", attempts=2).count() == 4


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES])
def test_the_button_on_a_page_redelivers_and_leads_back(admin_client: Client, address: str) -> None:
    delivery, other = make_delivery(state="dead"), make_delivery(state="dead")
    here = f"{address}{delivery.event_id if address == EVENTS else delivery.pk}"
    assert f'action="{here}/redeliver/"' in page(admin_client, f"{here}/change/")

    response = admin_client.post(f"{here}/redeliver/")

    assert response.status_code == 302
    assert response["Location"] == f"{here}/change/"
    delivery.refresh_from_db()
    assert delivery.state == "pending"
    other.refresh_from_db()
    assert other.state == "dead"
    assert outbox.claim(2) == [delivery]


def test_what_a_worker_holds_is_left_to_it(admin_client: Client) -> None:
    delivery = make_delivery()
    assert outbox.claim(1) == [delivery]

    response = press(admin_client, DELIVERIES, delivery)

    assert "正由工作进程处理" in response.content.decode()


def test_what_deliveries_hold_is_shown_to_those_who_may_view_deliveries(viewer: Client) -> None:
    delivery = make_delivery(state="delivered", result={"form": "secret-of-an-approval"})
    address = f"{EVENTS}{delivery.event_id}/change/"
    assert "secret-of-an-approval" in page(viewer, address)

    user = User.objects.get(username="viewer")
    user.user_permissions.remove(Permission.objects.get(codename="view_delivery"))

    assert "secret-of-an-approval" not in page(viewer, address)


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES])
def test_redelivering_has_a_permission_of_its_own(viewer: Client, address: str) -> None:
    delivery = make_delivery(state="dead")
    row = delivery.event if address == EVENTS else delivery
    assert "redeliver" not in page(viewer, address)
    assert "redeliver/" not in page(viewer, f"{address}{row.pk}/change/")

    press(viewer, address, row)
    assert viewer.post(f"{address}{row.pk}/redeliver/").status_code == 403
    delivery.refresh_from_db()
    assert delivery.state == "dead"

    User.objects.get(username="viewer").user_permissions.add(Permission.objects.get(codename="redeliver_delivery"))
    press(viewer, address, row)
    delivery.refresh_from_db()
    assert delivery.state == "pending"


def test_the_button_is_a_post_with_a_token(admin_user: User) -> None:
    delivery = make_delivery(state="dead")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin_user)

    assert strict.get(f"{DELIVERIES}{delivery.pk}/redeliver/").status_code == 405
    assert strict.post(f"{DELIVERIES}{delivery.pk}/redeliver/").status_code == 403
    delivery.refresh_from_db()
    assert delivery.state == "dead"


def test_an_event_that_nobody_wanted_has_no_button(admin_client: Client) -> None:
    assert "redeliver/" not in page(admin_client, f"{EVENTS}{make_event().pk}/change/")


@pytest.mark.parametrize("number", ["424242", "x", "%00"])
def test_redelivering_what_is_not_there_is_a_404(admin_client: Client, number: str) -> None:
    assert admin_client.post(f"{DELIVERIES}{number}/redeliver/").status_code == 404


# Give up


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES])
def test_giving_up_the_first_from_a_list_releases_those_behind(
    admin_client: Client, admin_user: User, address: str
) -> None:
    first, behind = make_delivery(), make_delivery(next_attempt_at=None)

    response = press(admin_client, address, first.event if address == EVENTS else first, action="give_up")

    assert "已放弃 1 个投递" in response.content.decode()
    first.refresh_from_db()
    assert (first.state, first.last_error) == ("dead", f"given up by hand, by {admin_user.username}")
    assert outbox.claim(5) == [behind]


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES])
def test_the_button_on_a_page_gives_up_and_leads_back(admin_client: Client, address: str) -> None:
    delivery, other = make_delivery(), make_delivery(make_event(subject="instance:2"))
    here = f"{address}{delivery.event_id if address == EVENTS else delivery.pk}"
    assert f'action="{here}/give_up/"' in page(admin_client, f"{here}/change/")

    response = admin_client.post(f"{here}/give_up/")

    assert (response.status_code, response["Location"]) == (302, f"{here}/change/")
    assert list(Delivery.objects.filter(state="dead")) == [delivery]
    assert f'action="{here}/give_up/"' not in page(admin_client, f"{here}/change/")
    other.refresh_from_db()
    assert other.state == "pending"


def test_what_a_worker_holds_is_not_given_up(admin_client: Client) -> None:
    delivery = make_delivery()
    assert outbox.claim(1) == [delivery]

    response = press(admin_client, DELIVERIES, delivery, action="give_up")

    assert "没有可放弃的投递" in response.content.decode()
    delivery.refresh_from_db()
    assert delivery.state == "pending"


@pytest.mark.parametrize("address", [EVENTS, DELIVERIES])
def test_giving_up_has_a_permission_of_its_own(viewer: Client, address: str) -> None:
    delivery = make_delivery()
    row = delivery.event if address == EVENTS else delivery
    user = User.objects.get(username="viewer")
    user.user_permissions.add(Permission.objects.get(codename="redeliver_delivery"))
    assert "give_up" not in page(viewer, address)
    assert "give_up/" not in page(viewer, f"{address}{row.pk}/change/")

    press(viewer, address, row, action="give_up")
    assert viewer.post(f"{address}{row.pk}/give_up/").status_code == 403
    delivery.refresh_from_db()
    assert delivery.state == "pending"

    user.user_permissions.add(Permission.objects.get(codename="give_up_delivery"))
    press(viewer, address, row, action="give_up")
    delivery.refresh_from_db()
    assert delivery.state == "dead"


# The warning


@pytest.mark.parametrize("address", ["/admin/", EVENTS, DELIVERIES])
def test_deliveries_that_no_worker_claims_are_warned_of(admin_client: Client, address: str) -> None:
    fresh = make_delivery()
    assert "manage.py deliver" not in page(admin_client, address)

    Delivery.objects.filter(pk=fresh.pk).update(next_attempt_at=now() - timedelta(seconds=61))

    assert "有 1 个投递到期已超过一分钟" in page(admin_client, address)
    assert "start <code>manage.py deliver</code>" in page(admin_client, address, accept_language="en")


# Behind nginx

LOG_IN_BEHIND_NGINX = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
User.objects.create_superuser("ops", password="correct horse")
headers = {"X-Forwarded-Proto": "https", "Host": "hooks.example.com"}
client = Client(enforce_csrf_checks=True, headers=headers)
form = client.get("/admin/login/")
token = form.cookies["csrftoken"]
assert token["secure"], "the token would travel over http"
response = client.post(
    "/admin/login/?next=/admin/",
    {"username": "ops", "password": "correct horse", "csrfmiddlewaretoken": token.value},
    headers={"Origin": "https://hooks.example.com", "Referer": "https://hooks.example.com/admin/login/"},
)
assert response.status_code == 302, (response.status_code, response.content.decode()[:2000])
assert response.cookies["sessionid"]["secure"]
assert client.get("/admin/").status_code == 200
assert client.get("/admin/").wsgi_request.build_absolute_uri().startswith("https://hooks.example.com/"), "links"
foreign = client.post("/admin/login/", {"csrfmiddlewaretoken": token.value}, headers={"Origin": "https://evil.example"})
assert foreign.status_code == 403
print("logged in")
"""


def test_one_can_log_in_behind_nginx_with_tls(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "dingcallback.settings",
        "SECRET_KEY": "not-a-secret-but-long-enough-for-the-checks-of-django-0123456789",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'nginx.sqlite3'}",
        "DINGTALK_CALLBACK_URL": "https://hooks.example.com/dingtalk/callback/",
        "TRUST_PROXY_HEADERS": "1",
    }
    script = textwrap.dedent(LOG_IN_BEHIND_NGINX)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout.strip() == "logged in", done.stderr
