"""Handlers that hang, or take their process down: they end as dead by the schedule, and everything else goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from django.db import connection

from callbacks.models import Attempt, Delivery
from dingcallback.environment import isolated
from tests.owed import attempts, expire_leases, owe
from tests.settings import POSTGRESQL_URL
from tests.test_project import ROOT, SOUND

pytestmark = pytest.mark.django_db(transaction=True)


def database_url() -> str:
    """Return the address of the database that this test runs on."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(POSTGRESQL_URL)._replace(path=f"/{name}").geturl()


@contextmanager
def deliver(*arguments: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `manage.py deliver` on this test's database."""
    environment = isolated(os.environ, **SOUND, DATABASE_URL=database_url(), **settings)
    environment["DJANGO_SETTINGS_MODULE"] = "tests.shop.settings"
    command = [sys.executable, "manage.py", "deliver", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_handler_that_hangs_is_timed_out_and_the_others_go_on() -> None:
    hanging = owe("shop_plain", act="hang")
    with deliver("--threads", "2", HANDLER_TIMEOUT="2", RETRY_SCHEDULE="0"):
        wait_for(lambda: Attempt.objects.filter(delivery=hanging).exists())
        good = [owe("shop_plain").pk for _ in range(20)]
        wait_for(lambda: Delivery.objects.filter(pk__in=good, state="delivered").count() == 20)
        wait_for(lambda: Delivery.objects.filter(pk=hanging.pk, state="dead").exists())
    hanging.refresh_from_db()
    assert hanging.attempts == 2
    assert "HANDLER_TIMEOUT (2 s)" in hanging.last_error
    assert [outcome for outcome, _ in attempts(hanging)] == ["failed"] * 2


@pytest.mark.parametrize("act", ["exit", "crash"])
def test_a_handler_that_takes_its_process_down_ends_as_dead_and_the_others_go_on(act: str) -> None:
    fatal = owe("shop_plain", act=act)
    with deliver(RETRY_SCHEDULE="0"):
        for count in (1, 2):
            wait_for(lambda count=count: Attempt.objects.filter(delivery=fatal).count() == count)  # type: ignore[misc]
            wait_for(lambda: bool(expire_leases()))
        wait_for(lambda: Delivery.objects.filter(pk=fatal.pk, state="dead").exists())
        good = owe("shop_plain")
        wait_for(lambda: Delivery.objects.filter(pk=good.pk, state="delivered").exists())
    fatal.refresh_from_db()
    assert "worker lost" in fatal.last_error
    assert [outcome for outcome, _ in attempts(fatal)] == ["lost"] * 2


def test_a_worker_whose_parent_is_killed_gives_its_work_back() -> None:
    running = owe("shop_plain", act="hang")
    with deliver() as process:
        wait_for(lambda: Attempt.objects.filter(delivery=running).exists())
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: Delivery.objects.due().filter(pk=running.pk).exists())
    assert [outcome for outcome, _ in attempts(running)] == ["stopped"]
