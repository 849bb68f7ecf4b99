"""Deliveries carried by Celery's workers, with real brokers and processes: nothing lost, nothing done twice."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Group
from django.db.models.functions import Now

from callbacks.models import Attempt, Delivery, Duty
from simulator.ports import free_port
from tests.brokers import Broker, broker, kinds
from tests.owed import attempts, expire_leases, owe
from tests.processes import ROOT, Gate, celery, deliver, environment, kill, manage, wait_until
from tests.proxy import Proxy
from tests.settings import DATABASE
from tests.subscriber import closed_port

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(
    DATABASE != "postgresql", reason="tried on PostgreSQL, which machines that share work need"
)
each_broker = pytest.mark.parametrize("at", kinds(), indirect=True)


@pytest.fixture
def at(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Return a broker of the kind asked for."""
    with broker(request.param) as found:
        yield found


def delivered(*deliveries: Delivery) -> bool:
    ids = [each.pk for each in deliveries]
    return Delivery.objects.filter(pk__in=ids, state="delivered").count() == len(ids)


def published(at: Broker, count: int = 1) -> Callable[[], bool]:
    """Return what tells whether so many messages wait."""
    return lambda: at.waiting() == count if Duty.objects.exclude(lease_token=None).exists() else False


@each_broker
def test_what_is_owed_is_carried_in_order_once_and_logged_as_the_settings_say(log: Path, at: Broker) -> None:
    with (
        deliver(log, "--feed", **at.settings),
        celery(log, "-c", "3", LOG_FORMAT="json", **at.settings) as worker,
    ):
        about_one = [owe("shop_plain", processInstanceId="P1") for _ in range(12)]
        rows = [owe("shop_atomic", act="row") for _ in range(12)]
        wait_until(lambda: delivered(*about_one, *rows))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0

    ended = Attempt.objects.filter(delivery__in=about_one).order_by("finished_at").values_list("delivery", flat=True)
    assert list(ended) == [each.pk for each in about_one]
    assert Group.objects.count() == 12
    assert Attempt.objects.count() == 24
    assert len(set(Attempt.objects.values_list("worker", flat=True))) > 1, "several processes shared the work"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert sum(line["message"].endswith("delivered") for line in lines) == 24


@on_postgresql
@each_broker
def test_a_task_that_comes_twice_is_carried_once(log: Path, at: Broker) -> None:
    delivery = owe("shop_plain")
    with deliver(log, "--feed", **at.settings):
        wait_until(published(at))
        at.double()
        wait_until(published(at, 2))
        with celery(log, "-c", "2", **at.settings):
            wait_until(lambda: "is late or a copy, and is dropped" in log.read_text())
            wait_until(lambda: delivered(delivery))
    assert [outcome for outcome, _ in attempts(delivery)] == ["delivered"]


@on_postgresql
@each_broker
def test_what_a_killed_worker_was_at_is_carried_by_another_when_its_lease_ends(
    log: Path, at: Broker, gate: Gate
) -> None:
    delivery = owe("shop_plain", act="fetch", url=gate.url("slow"))
    with deliver(log, "--feed", **at.settings):
        with celery(log, "-c", "1", **at.settings) as worker:
            wait_until(lambda: gate.waiting)
            kill(worker)
        gate.let_through("slow")
        with celery(log, "-c", "1", **at.settings):
            other = owe("shop_atomic")
            wait_until(lambda: delivered(other))
            assert not delivered(delivery), "the message that came again started nothing"
            expire_leases()
            wait_until(lambda: delivered(delivery))
    assert [outcome for outcome, _ in attempts(delivery)] == ["lost", "delivered"]


@on_postgresql
@each_broker
def test_a_handler_that_hangs_or_ends_its_process_has_failed_and_the_others_go_on(log: Path, at: Broker) -> None:
    hanging = owe("shop_impatient", act="hang")
    ending = owe("shop_unordered", act="exit")
    with deliver(log, "--feed", **at.settings), celery(log, "-c", "2", **at.settings):
        wait_until(lambda: Attempt.objects.count() == 2)
        others = [owe("shop_plain") for _ in range(5)]
        wait_until(lambda: delivered(*others))
        wait_until(lambda: Delivery.objects.get(pk=hanging.pk).state == "dead")
        ((outcome, error),) = attempts(hanging)
        assert (outcome, error.strip()) == (
            "failed",
            "TimeoutError: the handler took longer than its timeout (2 s)",
        )
        assert [outcome for outcome, _ in attempts(ending)] == ["running"], "its lease says how long"


@on_postgresql
def test_a_lease_is_kept_for_as_long_as_a_task_takes(log: Path, gate: Gate) -> None:
    with broker("redis") as at, deliver(log, "--feed", **at.settings), celery(log, "-c", "1", **at.settings):
        delivery = owe("shop_plain", act="fetch", url=gate.url("slow"))
        wait_until(lambda: gate.waiting)
        first_end = Delivery.objects.get(pk=delivery.pk).leased_until
        wait_until(lambda: Delivery.objects.get(pk=delivery.pk).leased_until != first_end)
        gate.let_through("slow")
        wait_until(lambda: delivered(delivery))
    assert len(attempts(delivery)) == 1


@on_postgresql
@each_broker
def test_of_two_feeders_the_second_takes_over_when_the_first_is_killed(log: Path, at: Broker) -> None:
    with deliver(log, "--feed", **at.settings) as first:
        wait_until(lambda: Duty.objects.exclude(lease_token=None).exists())
        with deliver(log, "--feed", **at.settings), celery(log, "-c", "2", **at.settings):
            before = [owe("shop_atomic", act="row") for _ in range(20)]
            wait_until(lambda: delivered(before[0]))
            kill(first)
            after = [owe("shop_atomic", act="row") for _ in range(20)]
            Duty.objects.update(leased_until=Now())
            expire_leases()
            wait_until(lambda: delivered(*before, *after))
    assert Group.objects.count() == 40


@on_postgresql
@pytest.mark.parametrize("kind", kinds())
def test_while_the_broker_is_down_rows_stay_due_and_are_carried_when_it_is_back(log: Path, kind: str) -> None:
    with ExitStack() as stack:
        at = stack.enter_context(broker(kind))
        server = urlsplit(at.url)
        proxy = stack.enter_context(Proxy(server.hostname or "", server.port or 5672))
        userinfo = "guest:guest@" if kind == "rabbitmq" else ""
        settings = at.settings | {
            "CELERY_BROKER_URL": f"{server.scheme}://{userinfo}127.0.0.1:{proxy.port}{server.path}"
        }
        stack.enter_context(deliver(log, "--feed", **settings))
        stack.enter_context(celery(log, "-c", "1", **settings))
        before = owe("shop_plain")
        wait_until(lambda: delivered(before))

        proxy.refuse()
        owed = [owe("shop_plain") for _ in range(3)]
        wait_until(lambda: "the broker refuses, 3 given back, trying again in" in log.read_text())
        wait_until(lambda: Delivery.objects.due().count() == 3)
        proxy.recover()

        wait_until(lambda: delivered(*owed), 60)
    assert Attempt.objects.count() == 4


@on_postgresql
@each_broker
def test_what_was_purged_is_published_anew(log: Path, at: Broker) -> None:
    delivery = owe("shop_plain")
    with deliver(log, "--feed", **at.settings) as feeder:
        wait_until(published(at))
        assert at.purge() == 1
        feeder.send_signal(signal.SIGTERM)  # the minute until its message would count as lost is not waited for
        assert feeder.wait(15) == 0
    with deliver(log, "--feed", **at.settings), celery(log, "-c", "1", **at.settings):
        wait_until(lambda: delivered(delivery))
    assert len(attempts(delivery)) == 1


def test_a_worker_with_unsound_settings_does_not_start() -> None:
    def start(**changes: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "celery", "--quiet", "-A", "dingcallback", "worker"],
            cwd=ROOT,
            env=environment(**changes),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    unsound = start(CELERY_BROKER_URL="redis://127.0.0.1:1", DINGTALK_TOKEN="")
    assert unsound.returncode == 1
    assert "callbacks.E002: DINGTALK_TOKEN is missing" in unsound.stderr
    nowhere = start()
    assert nowhere.returncode == 1
    assert "CELERY_BROKER_URL is empty: set it" in nowhere.stderr


@pytest.mark.parametrize("url", ["rabbit://secret-word@host", "amqp://", "redis://secret-word@host:port", "host:5672"])
def test_a_malformed_broker_address_stops_start_up_and_shows_no_password(url: str) -> None:
    done = manage("check", CELERY_BROKER_URL=url)

    assert done.returncode == 1
    assert "CELERY_BROKER_URL is no address of RabbitMQ or Redis: use amqp://" in done.stderr
    assert "secret-word" not in done.stderr


def test_feeding_needs_a_broker_and_has_no_end() -> None:
    nowhere = manage("deliver", "--feed")
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert "CELERY_BROKER_URL is empty: set it to your broker's address, or leave out --feed" in nowhere.stderr
    endless = manage("deliver", "--feed", "--once", CELERY_BROKER_URL="redis://127.0.0.1:1")
    assert endless.returncode == 2
    assert "leave out --once" in endless.stderr


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1/0"])
def test_a_web_server_never_imports_celery(url: str) -> None:
    program = "import sys, dingcallback.wsgi; sys.exit('celery' in sys.modules or 'kombu' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(CELERY_BROKER_URL=url), check=False, timeout=60
    )
    assert done.returncode == 0


@on_postgresql
def test_the_service_of_one_machine_feeds_where_there_is_a_broker(tmp_path: Path) -> None:
    with broker("redis") as at:
        serve = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--port", str(free_port())],
            cwd=ROOT,
            env=environment(**at.settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            delivery = owe("shop_plain")
            wait_until(published(at))
            assert not delivered(delivery)
        finally:
            serve.send_signal(signal.SIGTERM)
            serve.wait(20)


@each_broker
def test_the_doctor_looks_at_the_broker(at: Broker) -> None:
    elsewhere = {"DINGTALK_OAPI_URL": "http://127.0.0.1:1", "DINGTALK_API_URL": "http://127.0.0.1:1"}
    with closed_port() as nowhere:
        found = {}
        for url in (at.url, nowhere.replace("http", {"rabbitmq": "amqp", "redis": "redis"}[at.kind])):
            done = manage("dingtalk", "doctor", "--json", CELERY_BROKER_URL=url, **elsewhere)
            found[url] = next(each for each in json.loads(done.stdout)["findings"] if each["name"] == "broker")
    fine, wrong = found.values()
    assert fine["fine"]
    assert not wrong["fine"]
    assert "CELERY_BROKER_URL" in wrong["remedy"]
