"""Calls of DingTalk's API: each is counted, none comes too early, and a penalty holds for everybody."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import connection, transaction

from registrar import calls, errors
from registrar.client import DingTalkClient
from registrar.models import ApiCalls
from simulator.server import Options, Simulator
from tests.owed import in_threads

FAILED = "/call_back/get_call_back_failed_result"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Options(calls_per_second=20, penalty_seconds=1)) as running:
        yield running
    DingTalkClient._shared.clear()


def client_of(simulator: Simulator) -> DingTalkClient:
    options = simulator.options
    return DingTalkClient(options.app_key, options.app_secret, simulator.url, simulator.url)


def counts() -> dict[str, int]:
    return dict(ApiCalls.objects.filter(month=calls.this_month()).values_list("api", "calls"))


@pytest.mark.django_db(transaction=True)
def test_each_call_is_counted_in_its_months_row(simulator: Simulator) -> None:
    client = client_of(simulator)
    for _ in range(3):
        client.failed_callbacks()
    assert counts() == {"/gettoken": 1, FAILED: 3}
    assert calls.used() == 4
    assert calls.used("2020-01") == 0


@pytest.mark.django_db(transaction=True)
def test_calls_of_many_threads_are_all_counted_and_none_is_punished(simulator: Simulator) -> None:
    client = client_of(simulator)
    began = time.monotonic()
    in_threads(5, lambda _: [client.failed_callbacks() for _ in range(6)])
    assert counts()[FAILED] == 30
    assert time.monotonic() - began > 1.4  # 20 a second, from all threads together
    assert simulator.dingtalk.limits.used == 30


@pytest.mark.django_db(transaction=True)
def test_a_penalty_is_waited_for_until_the_moment_that_dingtalk_names(simulator: Simulator) -> None:
    client = client_of(simulator)
    simulator.fail(FAILED, "penalty")
    with pytest.raises(errors.Throttled) as caught:
        client.failed_callbacks()
    assert time.time() - 1 < caught.value.until < time.time() + 3
    calls.forget()  # what another process knows is in the row
    client.failed_callbacks()
    assert time.time() >= caught.value.until
    assert [path for _, path in simulator.calls].count(FAILED) == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("in_a_transaction", [False, True])
def test_nothing_is_asked_while_a_long_penalty_lasts(in_a_transaction: bool) -> None:
    with Simulator(Options(penalty_seconds=60)) as simulator:
        client = client_of(simulator)
        simulator.fail(FAILED, "penalty")
        with pytest.raises(errors.Throttled):
            client.failed_callbacks()
        with pytest.raises(errors.Throttled) as caught, transaction.atomic() if in_a_transaction else nullcontext():
            client.failed_callbacks()
        assert caught.value.until > time.time() + 50
        assert [path for _, path in simulator.calls].count(FAILED) == 1
        assert counts()[FAILED] == 1
    DingTalkClient._shared.clear()


@pytest.mark.django_db(transaction=True)
def test_a_call_inside_a_transaction_is_counted_though_that_rolls_back(simulator: Simulator) -> None:
    client = client_of(simulator)
    with transaction.atomic():
        client.failed_callbacks()
        transaction.set_rollback(True)
    assert calls.used() == 2
    with transaction.atomic():
        client.failed_callbacks()
    assert calls.used() == sum(counts().values()) == 3


@pytest.mark.django_db(transaction=True)
def test_a_call_is_made_and_remembered_while_the_database_can_not_count(simulator: Simulator) -> None:
    client = client_of(simulator)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE registrar_apicalls RENAME TO away")
    try:
        client.failed_callbacks()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE away RENAME TO registrar_apicalls")
    client.failed_callbacks()
    assert counts()[FAILED] == 2


@pytest.mark.django_db(transaction=True)
def test_a_slot_in_a_far_future_comes_of_a_wrong_clock_and_is_not_waited_for(simulator: Simulator) -> None:
    client = client_of(simulator)
    client.failed_callbacks()
    ApiCalls.objects.update(next_slot=int((time.time() + 86_400) * 1000))
    client.failed_callbacks()
    assert counts()[FAILED] == 2


@pytest.mark.django_db
def test_the_last_fifth_of_the_month_is_spared_for_instances(simulator: Simulator, settings: Any) -> None:
    settings.DINGTALK_MONTHLY_CALLS = 10
    ApiCalls.objects.create(month=calls.this_month(), api=FAILED, calls=7)
    calls.require_spare()
    ApiCalls.objects.create(month=calls.this_month(), api="/gettoken", calls=1)
    with pytest.raises(errors.QuotaSpared, match=r"8 of this month's 10 API calls .* DINGTALK_MONTHLY_CALLS"):
        calls.require_spare()
    simulator.happen({"EventType": "bpms_instance_change", "processInstanceId": "i-1", "type": "start"})
    assert client_of(simulator).process_instance("i-1")["status"] == "RUNNING"


@pytest.mark.django_db
@pytest.mark.parametrize("workflow_api", ["topapi", "v1.0", "auto"])
def test_both_apis_list_the_same_instances(workflow_api: str) -> None:
    with Simulator(Options(old_workflow_permission=workflow_api == "topapi")) as simulator:
        options = simulator.options
        client = DingTalkClient(options.app_key, options.app_secret, simulator.url, simulator.url, workflow_api)
        now = int(time.time()) * 1000
        for number in range(25):
            step = {"EventType": "bpms_instance_change", "processInstanceId": f"i-{number:02}", "type": "start"}
            simulator.happen({**step, "processCode": "PROC-1", "createTime": now - 60_000 + number})
        first, cursor = client.instance_ids("PROC-1", now - 120_000, now)
        rest, end = client.instance_ids("PROC-1", now - 120_000, now, cursor)
        assert first + rest == [f"i-{number:02}" for number in range(25)]
        assert (len(first), cursor, end) == (20, 20, 0)
        assert client.lists_statuses == (workflow_api != "topapi")
    DingTalkClient._shared.clear()
