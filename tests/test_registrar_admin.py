"""The failed list's pages in the admin, as the browser gets them."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from callbacks.models import Duty
from registrar.models import FailedPage

LIST = "admin:registrar_failedpage_changelist"
PAGE = "admin:registrar_failedpage_change"


def page(**fields: Any) -> FailedPage:
    entries = [
        {"call_back_tag": "user_add_org", "event_time": 1, "user_add_org": {"userid": ["张三"]}},
        {"call_back_tag": "user_add_org", "event_time": 2, "user_add_org": "{broken<script>"},
    ]
    raw = json.dumps({"errcode": 0, "failed_list": entries}, ensure_ascii=True)
    shown = {"raw_answer": raw, "entries_read": 1, "entries_unreadable": 1, "imported_at": timezone.now()}
    return FailedPage.objects.create(**{**shown, **fields})


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("zh-hans", ["失败列表", "读取时间", "无法识别的条目", "导入时间"]),
        ("en", ["Failed list pages", "Read at", "Entries unreadable", "Imported at"]),
    ],
)
def test_the_list_speaks_the_readers_language(admin_client: Client, language: str, words: list[str]) -> None:
    page()
    shown = admin_client.get(reverse(LIST), headers={"Accept-Language": language}).content.decode()
    for word in words:
        assert word.lower() in shown.lower()


def test_a_page_shows_its_answer_readably_and_the_entries_that_are_no_events(admin_client: Client) -> None:
    shown = admin_client.get(reverse(PAGE, args=[page().pk])).content.decode()
    assert "张三" in shown
    assert "无法识别的条目" in shown
    assert shown.count("{broken&lt;script&gt;") == 2  # among the unreadable, and in the answer
    assert "{broken<script>" not in shown


def test_an_answer_that_broke_off_is_shown_as_it_came(admin_client: Client) -> None:
    broken = page(raw_answer='{"errcode": 0, "failed_list": [{"call_back_tag": "user_a', error="it broke off")
    shown = admin_client.get(reverse(PAGE, args=[broken.pk])).content.decode()
    assert "it broke off" in shown
    assert "{&quot;errcode&quot;: 0," in shown


def test_more_pages_cost_no_more_queries_and_no_raw_answers(admin_client: Client) -> None:
    counts = []
    for _ in range(2):
        page()
        with CaptureQueriesContext(
            connection,
        ) as queries:
            admin_client.get(reverse(LIST))
        counts.append(len(queries))
        assert not any("raw_answer" in query["sql"] for query in queries)
    assert counts[0] == counts[1]


def test_pages_are_filtered_and_searched(admin_client: Client) -> None:
    unreadable = page()
    left = page(entries_unreadable=0, imported_at=None, raw_answer='{"failed_list": [], "mark": "k7Qm2"}')
    for query, expected in (("entries=unreadable", [unreadable]), ("entries=left", [left]), ("q=k7Qm2", [left])):
        response = admin_client.get(f"{reverse(LIST)}?{query}")
        assert list(response.context["cl"].result_list) == expected


def test_nobody_may_add_change_or_delete_a_page(admin_client: Client) -> None:
    one = page()
    assert admin_client.get(reverse("admin:registrar_failedpage_add")).status_code == 403
    assert (
        admin_client.post(reverse("admin:registrar_failedpage_delete", args=[one.pk]), {"post": "yes"}).status_code
        == 403
    )
    assert admin_client.post(reverse(PAGE, args=[one.pk]), {"error": "changed"}).status_code == 403
    one.refresh_from_db()
    assert one.error == ""


def test_rows_have_names_of_their_own() -> None:
    assert str(FailedPage(pk=3)) == "#3"
    assert str(Duty(name="feeder")) == "feeder by nobody"
