"""Reading the failed list empties it at DingTalk; whatever happens on the way, no entry is lost and none doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import Error, connection
from django.db.models.functions import Now
from django.utils import timezone

from callbacks import payload
from callbacks.inbox import receive
from callbacks.models import Duty, Event
from registrar import errors
from registrar.client import DingTalkClient
from registrar.failed_list import read_failed_list
from registrar.models import FailedPage
from simulator.server import Options, Simulator

ROOT = Path(__file__).resolve().parent.parent
GET_FAILED = "/call_back/get_call_back_failed_result"
CORP = "dingshop0001"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Options(hold_seconds=30)) as running:
        yield running
    DingTalkClient._shared.clear()


def client_of(simulator: Simulator) -> DingTalkClient:
    options = simulator.options
    return DingTalkClient(options.app_key, options.app_secret, simulator.url, simulator.url)


def approval(number: int) -> dict[str, Any]:
    return {
        "EventType": "bpms_instance_change",
        "processInstanceId": f"i-{number}",
        "corpId": CORP,
        "createTime": 1790000000000,
        "finishTime": 1790000600000,
        "type": "finish",
        "result": "agree",
        "staffId": f"u-{number}",
    }


def entry(number: int) -> dict[str, Any]:
    """Return an entry of one of six shapes; `number` is found in its event."""
    tag, inner = [
        ("bpms_instance_change", {"bpmsCallBackData": approval(number), "corpid": CORP}),
        ("bpms_instance_change", {"bpmsCallBackData": json.dumps(approval(number)), "corpid": CORP}),
        ("label_user_change", {"roleLabelChange": {"userIdList": [f"u-{number}"], "action": "add"}, "corpid": CORP}),
        ("user_leave_org", {"callbackData": {"userId": [f"u-{number}"]}, "corpid": CORP}),
        ("user_add_org", {"userid": [f"u-{number}"], "corpid": CORP}),
        ("user_modify_org", None),
    ][number % 6]
    head = {"call_back_tag": tag, "event_time": 1790000623000}
    return {**head, tag: inner} if inner else {**head, "userid": [f"u-{number}"], "corpid": CORP}


def numbers() -> Counter[int]:
    """Return how often each entry's number is found in an event."""
    found: Counter[int] = Counter()
    for event in Event.objects.all():
        fields = payload.Fields(event.payload)
        value = fields.get("staffId") or (fields.get("userId") or fields.get("userIdList"))[0]
        found[int(value.removeprefix("u-"))] += 1
    return found


def fill(simulator: Simulator, count: int = 450) -> None:
    for number in range(count):
        simulator.add_failed(entry(number))


def calls(simulator: Simulator) -> int:
    return sum(path == GET_FAILED for _, path in simulator.calls)


@contextmanager
def database_full_after(count: int) -> Iterator[None]:
    """Let the database itself refuse any further event."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION refuse_event() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF (SELECT count(*) FROM callbacks_event) >= {count} THEN RAISE EXCEPTION 'disk full'; END IF; "
                "RETURN NEW; END $$"
            )
            made = (
                "CREATE TRIGGER full_disk BEFORE INSERT ON callbacks_event FOR EACH ROW EXECUTE FUNCTION refuse_event()"
            )
            gone = "DROP FUNCTION refuse_event() CASCADE"
        else:
            made = (
                "CREATE TRIGGER full_disk BEFORE INSERT ON callbacks_event "
                f"WHEN (SELECT count(*) FROM callbacks_event) >= {count} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
            gone = "DROP TRIGGER full_disk"
        cursor.execute(made)
        try:
            yield
        finally:
            cursor.execute(gone)


@pytest.mark.django_db
def test_all_pages_become_events(simulator: Simulator) -> None:
    fill(simulator)
    pages = list(read_failed_list(client_of(simulator)))
    assert [imported.new for imported in pages] == [200, 200, 50]
    assert numbers() == Counter(range(450))
    assert set(Event.objects.values_list("source", "corp_id")) == {("failed_list", CORP)}
    assert calls(simulator) == 3
    assert list(FailedPage.objects.order_by("pk").values_list("entries_read", "entries_unreadable")) == [
        (200, 0),
        (200, 0),
        (50, 0),
    ]
    assert json.loads(FailedPage.objects.latest("pk").raw_answer)["errcode"] == 0


@pytest.mark.django_db
def test_approvals_that_were_pushed_are_not_doubled(simulator: Simulator) -> None:
    for number in range(0, 450, 6):
        pushed = {**approval(number), "eventId": f"e-{number}", "CorpId": CORP}
        receive(payload.read(json.dumps(pushed), salt="push"))
    fill(simulator)
    pages = list(read_failed_list(client_of(simulator)))
    assert sum(imported.known for imported in pages) == 75
    assert numbers() == Counter(range(450))


@pytest.mark.django_db(transaction=True)
def test_a_database_that_fails_midway_loses_and_doubles_nothing(simulator: Simulator) -> None:
    fill(simulator)
    for limit in (0, 120, 330):
        with database_full_after(limit), pytest.raises(Error):
            list(read_failed_list(client_of(simulator)))
        assert Event.objects.count() == limit
        assert FailedPage.objects.not_imported().count() == 1
    list(read_failed_list(client_of(simulator)))
    assert numbers() == Counter(range(450))
    assert not FailedPage.objects.not_imported().exists()
    assert calls(simulator) == 3  # no page was asked for before the one before it was whole


@pytest.mark.django_db
@pytest.mark.parametrize("fault", ["500", "busy", "drop", "throttled", "html"])
def test_an_api_that_fails_between_pages_is_asked_again_later(simulator: Simulator, fault: str) -> None:
    fill(simulator)
    reader = read_failed_list(client_of(simulator))
    assert next(reader).new == 200
    simulator.fail(GET_FAILED, fault)
    with pytest.raises(errors.TemporaryFailure):
        next(reader)
    list(read_failed_list(client_of(simulator)))
    assert numbers() == Counter(range(450))


@pytest.mark.django_db
def test_a_page_that_was_committed_and_not_imported_comes_first(simulator: Simulator) -> None:
    raw = json.dumps({"errcode": 0, "has_more": True, "failed_list": [entry(0), entry(4)]})
    left = FailedPage.objects.create(raw_answer=raw)
    simulator.fail(GET_FAILED, "500")
    reader = read_failed_list(client_of(simulator))
    assert next(reader).page == left
    assert calls(simulator) == 0
    with pytest.raises(errors.TemporaryFailure):
        next(reader)
    assert numbers() == Counter([0, 4])
    left.refresh_from_db()
    assert left.imported_at is not None


@pytest.mark.django_db
def test_a_page_imported_twice_adds_nothing(simulator: Simulator) -> None:
    fill(simulator, 12)
    list(read_failed_list(client_of(simulator)))
    FailedPage.objects.update(imported_at=None)
    pages = list(read_failed_list(client_of(simulator)))
    assert [(imported.new, imported.known) for imported in pages] == [(0, 12), (0, 0)]
    assert numbers() == Counter(range(12))


@pytest.mark.django_db
def test_entries_that_are_alike_are_events_of_their_own(simulator: Simulator) -> None:
    for _ in range(201):
        simulator.add_failed(entry(4))
    list(read_failed_list(client_of(simulator)))
    assert numbers() == Counter({4: 201})


@pytest.mark.django_db
def test_unreadable_entries_stay_in_their_page_and_are_counted(simulator: Simulator) -> None:
    simulator.add_failed(entry(1))
    simulator.add_failed({"call_back_tag": "user_add_org", "user_add_org": "{broken", "event_time": 1})
    simulator.add_failed({"event_time": 1})
    simulator.add_failed({"call_back_tag": "t" * 129, "event_time": 1})
    simulator.add_failed(entry(2))
    list(read_failed_list(client_of(simulator)))
    page = FailedPage.objects.get()
    assert (page.entries_read, page.entries_unreadable, page.error) == (2, 3, "")
    assert "{broken" in page.raw_answer
    assert numbers() == Counter([1, 2])


@pytest.mark.django_db
def test_a_question_whether_the_address_works_is_no_event(simulator: Simulator) -> None:
    simulator.add_failed({"call_back_tag": "check_url", "check_url": {}, "event_time": 1})
    list(read_failed_list(client_of(simulator)))
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_half_a_page_is_kept_and_its_whole_entries_imported(simulator: Simulator) -> None:
    fill(simulator, 300)
    simulator.fail(GET_FAILED, "half")
    with pytest.raises(errors.BrokenAnswer, match=r"run `manage[.]py dingtalk failed` again"):
        list(read_failed_list(client_of(simulator)))
    page = FailedPage.objects.get()
    assert page.error
    assert page.entries_read > 80
    assert page.entries_unreadable == 1
    list(read_failed_list(client_of(simulator)))
    assert numbers() == Counter([*range(page.entries_read), *range(200, 300)])


@pytest.mark.django_db
def test_one_reads_at_a_time(simulator: Simulator) -> None:
    fill(simulator)
    first = read_failed_list(client_of(simulator))
    next(first)
    with pytest.raises(errors.ListHeld):
        next(read_failed_list(client_of(simulator)))
    assert calls(simulator) == 1
    first.close()
    assert sum(imported.new for imported in read_failed_list(client_of(simulator))) == 250


@pytest.mark.django_db
def test_a_reader_that_was_overtaken_stops_and_leaves_its_page(simulator: Simulator) -> None:
    fill(simulator)
    slow = read_failed_list(client_of(simulator))
    next(slow)
    Duty.objects.update(leased_until=Now())
    fast = read_failed_list(client_of(simulator))
    next(fast)
    with pytest.raises(errors.ListHeld, match="nothing is lost"):
        next(slow)
    list(fast)
    list(read_failed_list(client_of(simulator)))
    assert numbers() == Counter(range(450))


@pytest.mark.django_db(transaction=True)
def test_a_reader_that_is_killed_loses_nothing_and_its_lease_runs_out(simulator: Simulator) -> None:
    fill(simulator)
    simulator.fail(GET_FAILED, "slow")
    killed = subprocess.Popen(
        [sys.executable, "manage.py", "dingtalk", "failed"],
        cwd=ROOT,
        env=environment(simulator),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: Duty.objects.exclude(lease_token=None).exists() and calls(simulator) == 1)
        wait_for(Event.objects.exists)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    with pytest.raises(errors.ListHeld):
        next(read_failed_list(client_of(simulator)))
    lease = Duty.objects.get()
    assert lease.leased_until is not None
    assert (lease.leased_until - timezone.now()).total_seconds() < 60

    Duty.objects.update(leased_until=Now())
    list(read_failed_list(client_of(simulator)))
    assert numbers() == Counter(range(450))


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def environment(simulator: Simulator) -> dict[str, str]:
    """Return what a process of its own needs to work on the test's database and simulator."""
    database = connection.settings_dict
    url = f"sqlite:///{database['NAME']}"
    if connection.vendor == "postgresql":
        user = database["USER"] + (f":{database['PASSWORD']}" if database["PASSWORD"] else "")
        url = f"postgresql://{user}@{database['HOST']}:{database['PORT'] or 5432}/{database['NAME']}"
    return {
        "PATH": os.environ["PATH"],
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "k" * 60,
        "DATABASE_URL": url,
        "DINGTALK_TOKEN": "test-token-2026",
        "DINGTALK_AES_KEY": "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0",
        "DINGTALK_APP_KEY": simulator.options.app_key,
        "DINGTALK_APP_SECRET": simulator.options.app_secret,
        "DINGTALK_OAPI_URL": simulator.url,
        "DINGTALK_API_URL": simulator.url,
    }
