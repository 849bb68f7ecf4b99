"""Watching the failed list: when it is read, by whom of many, and what holds it off."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.db.models import F
from django.utils import timezone

from callbacks import duty, lapse
from callbacks.models import Event, Lapse
from registrar import calls, schedule, watching
from registrar.client import DingTalkClient
from registrar.failed_list import read_failed_list
from registrar.models import ApiCalls, FailedListWatch
from registrar.protocol import CHINA
from simulator.ports import free_port
from simulator.server import Options, Simulator
from tests import processes
from tests.owed import in_threads

FAILED = "/call_back/get_call_back_failed_result"
SIX_HOURS = 21_600


@pytest.fixture
def simulator(settings: Any) -> Iterator[Simulator]:
    with Simulator(Options(penalty_seconds=900)) as running:
        settings.DINGTALK_OAPI_URL = settings.DINGTALK_API_URL = running.url
        settings.DINGTALK_APP_KEY = running.options.app_key
        settings.DINGTALK_APP_SECRET = running.options.app_secret
        yield running
    DingTalkClient._shared.clear()


def readings(simulator: Simulator) -> int:
    return [path for _, path in simulator.calls].count(FAILED)


def add(simulator: Simulator, count: int = 1) -> None:
    for number in range(count):
        entry = {"call_back_tag": "check_in", "event_time": 1, "check_in": {"callbackData": {"staffId": f"u{number}"}}}
        simulator.add_failed(entry)


def look(interval: int = SIX_HOURS) -> list[str]:
    """Look once, as every watcher does every few seconds; return what it said."""
    said: list[str] = []
    watching.look(interval, threading.Event(), lambda _level, text: said.append(text))
    return said


def later(by: timedelta) -> None:
    """Let so much time pass, as the rows see it."""
    FailedListWatch.objects.update(read_at=F("read_at") - by, not_before=F("not_before") - by)
    Lapse.objects.update(first_at=F("first_at") - by, last_at=F("last_at") - by)
    ApiCalls.objects.update(next_slot=F("next_slot") - int(by.total_seconds() * 1000))


MINUTE = timedelta(minutes=1)


@pytest.mark.django_db
def test_the_list_is_read_at_once_and_then_every_interval(simulator: Simulator) -> None:
    add(simulator, 201)
    assert look() == ["failed list read: new events 201, known before 0, unreadable entries 0"]
    assert Event.objects.filter(source="failed_list").count() == 201
    assert readings(simulator) == 2
    later(timedelta(seconds=SIX_HOURS) - MINUTE)
    assert look() == []
    later(MINUTE)
    assert len(look()) == 1


@pytest.mark.django_db
def test_after_a_lapse_the_list_is_read_once_six_minutes_later(simulator: Simulator) -> None:
    look()
    later(30 * MINUTE)
    lapse.record()
    assert look() == []
    later(5 * MINUTE)
    assert look() == []
    later(MINUTE)
    add(simulator)
    assert look() == ["failed list read: new events 1, known before 0, unreadable entries 0"]
    later(60 * MINUTE)
    assert look() == []


@pytest.mark.django_db
def test_lapses_in_a_row_cost_a_reading_in_ten_minutes_at_most_and_none_is_forgotten(simulator: Simulator) -> None:
    look()
    before = readings(simulator)
    minutes = []
    for minute in range(60):
        if minute < 35:
            lapse.record()
        if minute % 10 == 5:
            add(simulator)
        if look():
            minutes.append(minute)
        later(MINUTE)
    assert minutes == [10, 20, 30, 40]
    assert readings(simulator) - before == 4


@pytest.mark.django_db
def test_lapses_that_turn_out_to_be_none_eat_ever_less_of_the_month(simulator: Simulator) -> None:
    look()
    before = readings(simulator)
    for _ in range(24 * 12):  # somebody posts rubbish to the address all day long
        lapse.record()
        look()
        later(5 * MINUTE)
    assert readings(simulator) - before < 15


@pytest.mark.django_db
def test_a_reading_by_hand_counts_for_those_who_watch(simulator: Simulator) -> None:
    list(read_failed_list(DingTalkClient.from_settings()))
    assert look() == []
    assert readings(simulator) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("fault", ["busy", "500", "throttled", "ip"])
def test_what_goes_wrong_is_said_and_tried_again_later_and_later(simulator: Simulator, fault: str) -> None:
    simulator.fail(FAILED, fault, 3)
    waited = []
    for _ in range(3):
        (said,) = look()
        assert said.startswith("the failed list is not read: ")
        assert "next try" in said
        state = FailedListWatch.objects.get()
        assert state.not_before is not None
        waited.append(round((state.not_before - timezone.now()).total_seconds() / 60))
        assert look() == []
        later(timedelta(minutes=waited[-1]))
    assert waited == [5, 10, 20]
    add(simulator)
    assert look() == ["failed list read: new events 1, known before 0, unreadable entries 0"]
    assert FailedListWatch.objects.get().failures == 0


@pytest.mark.django_db
def test_a_penalty_longer_than_the_usual_wait_is_kept_to(simulator: Simulator) -> None:
    simulator.fail(FAILED, "penalty")
    look()
    state = FailedListWatch.objects.get()
    assert state.not_before is not None
    assert 890 < (state.not_before - timezone.now()).total_seconds() < 905


@pytest.mark.django_db
def test_a_month_that_is_used_up_stops_it_until_the_next(simulator: Simulator) -> None:
    simulator.fail(FAILED, "quota")
    (said,) = look()
    assert "90020" in said
    state = FailedListWatch.objects.get()
    assert state.not_before is not None
    assert state.not_before > timezone.now()
    assert state.not_before.astimezone(CHINA).strftime("%d %H:%M") == "01 00:05"


@pytest.mark.django_db
def test_four_fifths_of_the_month_stop_it_and_it_says_so(simulator: Simulator, settings: Any) -> None:
    settings.DINGTALK_MONTHLY_CALLS = 100
    ApiCalls.objects.create(month=calls.this_month(), api="/topapi/processinstance/get", calls=80)
    (said,) = look()
    assert "80 of this month's 100 API calls are used" in said
    assert not simulator.calls


@pytest.mark.django_db(transaction=True)
def test_of_many_watchers_one_reads(simulator: Simulator) -> None:
    add(simulator)
    said = in_threads(5, lambda _: look())
    assert sum(map(len, said)) == 1
    assert readings(simulator) == 1


@pytest.mark.django_db
def test_a_reader_that_died_is_made_up_for_within_a_minute(simulator: Simulator) -> None:
    look()
    later(timedelta(hours=6))
    with duty.hold("failed_list"):
        schedule.begin()  # and then it dies
        assert look() == []
    later(MINUTE)
    assert len(look()) == 1


@pytest.mark.django_db
def test_a_stop_comes_between_two_pages_and_the_rest_is_read_within_a_minute(simulator: Simulator) -> None:
    add(simulator, 450)
    stopped = threading.Event()
    stopped.set()
    watching.look(SIX_HOURS, stopped)
    assert Event.objects.count() == 200
    later(MINUTE)
    look()
    assert Event.objects.count() == 450


def service(simulator: Simulator, **changes: str) -> dict[str, str]:
    return {
        "DINGTALK_OAPI_URL": simulator.url,
        "DINGTALK_API_URL": simulator.url,
        "DINGTALK_APP_KEY": simulator.options.app_key,
        "DINGTALK_APP_SECRET": simulator.options.app_secret,
        **changes,
    }


@pytest.mark.django_db(transaction=True)
def test_workers_watch_where_the_setting_says_so_and_only_one_reads(simulator: Simulator, tmp_path: Path) -> None:
    add(simulator)
    log, how = tmp_path / "log", service(simulator, FAILED_LIST_WATCH="600")
    with processes.deliver(log, **how) as first, processes.deliver(log, **how):
        processes.wait_until(lambda: Event.objects.filter(source="failed_list").exists())
        processes.wait_until(lambda: log.read_text().count("watching the failed list: it is read every 600 s") == 2)
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
    assert readings(simulator) == 1


@pytest.mark.django_db(transaction=True)
def test_a_feeder_watches_where_workers_on_celery_carry_the_deliveries(simulator: Simulator, tmp_path: Path) -> None:
    add(simulator)
    how = service(simulator, FAILED_LIST_WATCH="600", CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    with processes.deliver(tmp_path / "log", "--feed", **how):  # no broker is needed for that
        processes.wait_until(lambda: Event.objects.filter(source="failed_list").exists())


@pytest.mark.django_db(transaction=True)
def test_the_verb_watches_until_it_is_told_to_stop(simulator: Simulator, tmp_path: Path) -> None:
    add(simulator)
    log = tmp_path / "log"
    command = [sys.executable, "manage.py", "dingtalk", "failed", "--watch"]
    with processes._running(log, command, **service(simulator)) as process:
        processes.wait_until(lambda: "failed list read: new events 1" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "it is read every 21600 s" in log.read_text()
    assert "Stopped." in log.read_text()


@pytest.mark.django_db(transaction=True)
def test_a_start_and_an_answer_that_is_no_200_are_noted_by_the_web_server(tmp_path: Path) -> None:
    port = free_port()
    with processes.web(tmp_path / "log", port):
        processes.wait_until(lambda: Lapse.objects.exclude(first_at=None).exists())
        Lapse.objects.update(first_at=None, last_at=None)
        processes.wait_until_up(port)
        answer = requests.post(f"http://127.0.0.1:{port}/dingtalk/callback/", data=b"rubbish", timeout=5)
        assert answer.status_code == 400
        began = time.monotonic()
        processes.wait_until(lambda: Lapse.objects.exclude(first_at=None).exists())
        assert time.monotonic() - began < 15
