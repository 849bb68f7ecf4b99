"""The admin in a real browser: styles, forms and scripts as ops people get them."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils.timezone import now
from playwright.sync_api import Page, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from callbacks.models import Attempt, Delivery, Event
from tests.conftest import needs_service

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = [] if shutil.which(CHROMIUM) else [needs_service(f"there is no Chromium at {CHROMIUM} (CHROMIUM)")]


@contextmanager
def browser_page(locale: str = "zh-CN") -> Iterator[Page]:
    """Open a page, 1280 wide and light; use no rows inside, since playwright's event loop is Django's async context."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(locale=locale, viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.on("pageerror", lambda error: pytest.fail(f"a script of the page failed: {error}"))
        yield page
        browser.close()


def log_in(page: Page, live_server: LiveServer) -> None:
    page.goto(f"{live_server.url}/admin/")
    page.fill("#id_username", "ops")
    page.fill("#id_password", "correct horse")
    page.click("input[type=submit]")


@pytest.fixture
def dead_delivery(transactional_db: None) -> Delivery:
    User.objects.create_superuser("ops", password="correct horse")
    payload = {"EventType": "bpms_instance_change", "title": "<script>document.title='hacked'</script>张三提交的请假"}
    event = Event.objects.create(
        event_type="bpms_instance_change",
        identity="approval:1",
        subject="dingtestcorp0001:instance:ad253df6",
        payload=payload,
        body=json.dumps(payload, ensure_ascii=False),
    )
    return Delivery.objects.create(
        event=event, destination="handler:callbacks.handlers.bpms_instance_change", state="dead", last_error="refused"
    )


def test_ops_people_log_in_find_a_dead_delivery_and_redeliver_it(
    live_server: LiveServer, dead_delivery: Delivery
) -> None:
    with browser_page() as page:
        log_in(page, live_server)
        page.click("text=事件 >> visible=true")
        page.click("#changelist-filter >> text=已放弃")
        page.fill("#searchbar", "ad253df6")
        page.press("#searchbar", "Enter")
        page.click("#result_list .field-id a")

        expect(page.locator("pre.fact").first).to_contain_text("张三提交的请假")
        expect(page.locator(".state-dead")).to_be_visible()
        assert "hacked" not in page.title()

        page.click("text=重新投递全部")

        expect(page.locator(".messagelist .success")).to_contain_text("1 个投递已重新排入")
        expect(page.locator(".delivery .state-pending")).to_be_visible()

    dead_delivery.refresh_from_db()
    assert dead_delivery.state == "pending"


def test_an_english_browser_gets_english_pages(live_server: LiveServer, dead_delivery: Delivery) -> None:
    with browser_page("en-US") as page:
        log_in(page, live_server)
        page.goto(f"{live_server.url}/admin/callbacks/delivery/")

        expect(page.locator("#result_list .state-dead")).to_have_text("dead")


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_lists_fit_a_window_of_1280_pixels(live_server: LiveServer, dead_delivery: Delivery, locale: str) -> None:
    later = now() + timedelta(days=1)
    event = dead_delivery.event
    error = "TemporaryFailure: DingTalk answered 90018: " + "您的服务器调用钉钉开放平台接口的请求过快" * 3
    pending = Delivery.objects.create(
        event=event, destination="handler:shop.tickets.handlers.open_ticket_when_agreed", next_attempt_at=later
    )
    Delivery.objects.filter(pk=pending.pk).update(last_error=error)
    Attempt.objects.create(delivery=pending, worker="dingtalk-web-1:4711", outcome="failed", error=error)

    with browser_page(locale) as page:
        log_in(page, live_server)
        for address in ("event/", "delivery/", "attempt/"):
            page.goto(f"{live_server.url}/admin/callbacks/{address}")
            hidden = page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.results'))")
            assert hidden <= 0, f"{hidden} pixels of the list {address} are out of sight"


def test_a_day_is_picked_in_the_calendar(live_server: LiveServer, dead_delivery: Delivery) -> None:
    with browser_page() as page:
        log_in(page, live_server)
        page.goto(f"{live_server.url}/admin/callbacks/event/")
        page.fill("#changelist-filter input[type=date]", "2020-01-01")
        page.click("#changelist-filter form.day input[type=submit]")

        expect(page.locator(".paginator")).to_contain_text("0 事件")
        expect(page.locator("#changelist-filter input[type=date]")).to_have_value("2020-01-01")
