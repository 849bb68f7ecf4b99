"""The built-in handlers, from the inbox to their result, with a DingTalk on a socket."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.apps import apps
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.timezone import now
from django.utils.translation import override
from pytest_django import Settings

from callbacks import outbox
from callbacks.inbox import receive
from callbacks.models import Delivery
from callbacks.payload import read
from callbacks.routing import router
from simulator.samples import STYLES, make
from simulator.sealing import plaintext
from simulator.server import Options, Simulator
from tests.owed import WORKER, attempts, carry
from tests.shop import orders

pytestmark = pytest.mark.django_db
# `keep` commits at once, so what keeps is tested outside any transaction.
committed = pytest.mark.django_db(transaction=True)

CORP = "dingtestcorp0001"
SECRET = "simulator-app-secret-01"
INSTANCE = {"title": "张三提交的请假", "status": "COMPLETED", "result": "agree", "biz_action": "NONE"}


@pytest.fixture
def simulator(settings: Settings) -> Iterator[Simulator]:
    """A DingTalk that the settings point to."""
    # An app key of its own: clients share what they know of an app, and a port may come again.
    with Simulator(Options(app_key=f"ding{uuid4().hex[:16]}", app_secret=SECRET)) as simulator:
        settings.DINGTALK_OAPI_URL = settings.DINGTALK_API_URL = simulator.url
        settings.DINGTALK_APP_KEY, settings.DINGTALK_APP_SECRET = simulator.options.app_key, SECRET
        yield simulator


@pytest.fixture
def hook(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls of a work-order hook."""
    settings.WORK_ORDER_HANDLER = "tests.shop.orders.create"
    monkeypatch.setattr(orders, "calls", [])
    monkeypatch.setattr(orders, "failures", [])
    return orders.calls


def push(event_type: str, style: str = STYLES[0], **overrides: Any) -> Delivery:
    """Store a documented event as it would come; return the one delivery it is owed."""
    sample = make(event_type, corp_id=CORP, style=style, overrides=overrides)
    receipt = receive(read(plaintext(sample), salt="1"))
    return Delivery.objects.get(event_id=receipt.event_id)


def retry(delivery: Delivery) -> Delivery:
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=Now())
    return carry(delivery)


# Approval instances


@committed
@pytest.mark.parametrize("change", ["start", "finish", "terminate"])
@pytest.mark.parametrize("style", STYLES)
def test_an_instance_is_fetched_kept_and_handed_to_the_hook(
    simulator: Simulator, hook: list[Any], change: str, style: str
) -> None:
    simulator.instances["inst-1"] = INSTANCE

    delivery = carry(push("bpms_instance_change", style, type=change, processInstanceId="inst-1"))

    assert (delivery.state, delivery.result) == ("delivered", INSTANCE)
    assert hook == [("inst-1", INSTANCE)]
    assert simulator.fetches["inst-1"] == 1


@committed
def test_an_app_without_the_old_permission_gets_the_same_instance(simulator: Simulator, hook: list[Any]) -> None:
    simulator.instances["inst-1"] = {**INSTANCE, "originator_userid": "manager7"}
    for _ in range(2):  # an app asks again with a new token before it believes the refusal
        simulator.fail("/topapi/processinstance/get", "permission")

    delivery = carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))

    assert delivery.result == {**INSTANCE, "originator_userid": "manager7"}
    assert hook == [("inst-1", delivery.result)]
    assert ("GET", "/v1.0/workflow/processInstances") in simulator.calls


@committed
def test_a_hook_that_fails_is_called_again_without_a_second_fetch(simulator: Simulator, hook: list[Any]) -> None:
    simulator.instances["inst-1"] = INSTANCE
    orders.failures += [ValueError("the ERP is down"), ValueError("the ERP is down")]
    delivery = carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))
    assert (delivery.state, delivery.attempts, delivery.result) == ("pending", 1, INSTANCE)
    assert delivery.last_error == "ValueError: the ERP is down"
    simulator.instances["inst-1"] = {"title": "changed since"}

    retry(delivery)
    retry(delivery)

    assert (delivery.state, delivery.attempts, delivery.result) == ("delivered", 3, INSTANCE)
    assert hook == [("inst-1", INSTANCE)] * 3
    assert simulator.fetches["inst-1"] == 1


@committed
def test_a_deleted_instance_is_recorded_and_neither_fetched_nor_handed_on(
    simulator: Simulator, hook: list[Any]
) -> None:
    delivery = carry(push("bpms_instance_change", type="delete", processInstanceId="inst-1", staffId="u7"))

    assert delivery.state == "delivered"
    assert delivery.result
    assert delivery.result["recorded"] == "审批实例已删除"
    assert (delivery.result["who"], delivery.result["what"]) == ("u7", "bpms_instance_change delete")
    assert hook == []
    assert simulator.calls == []


@committed
def test_an_instance_that_dingtalk_no_longer_knows_is_recorded_and_not_handed_on(
    simulator: Simulator, hook: list[Any]
) -> None:
    simulator.missing_instances.add("inst-1")

    delivery = carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))

    assert delivery.state == "delivered"
    assert delivery.result
    assert delivery.result["recorded"] == "钉钉已查不到该审批实例"
    assert hook == []
    assert simulator.fetches["inst-1"] == 1


@committed
def test_a_redelivered_record_asks_dingtalk_anew(simulator: Simulator, hook: list[Any]) -> None:
    simulator.missing_instances.add("inst-1")
    delivery = carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))
    simulator.missing_instances.clear()
    simulator.instances["inst-1"] = INSTANCE

    outbox.redeliver(Delivery.objects.all())
    carry(delivery)

    assert delivery.result == INSTANCE
    assert hook == [("inst-1", INSTANCE)]


@committed
@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ("busy", "TemporaryFailure: -1 系统繁忙"),
        ("throttled", "Throttled: 90018"),
        ("quota", "QuotaUsedUp: 90020"),
        ("ip", "Refused: 60020"),
        ("500", "TemporaryFailure: HTTP 500"),
        ("html", "Throttled: HTTP 200"),
        ("half", "BrokenAnswer: HTTP 200"),
        ("drop", "NotReached: ConnectionError"),
    ],
)
def test_a_fault_of_dingtalks_makes_the_delivery_due_again_with_an_error_that_names_it_and_no_secret(
    simulator: Simulator, hook: list[Any], fault: str, names: str
) -> None:
    simulator.instances["inst-1"] = INSTANCE
    simulator.fail("/topapi/processinstance/get", fault)
    delivery = carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))

    assert (delivery.state, delivery.attempts, delivery.result) == ("pending", 1, None)
    assert delivery.last_error.startswith(names)
    ((outcome, trace),) = attempts(delivery)
    assert outcome == "failed"
    token = simulator.dingtalk.tokens.issue()
    for text in (delivery.last_error, trace):
        assert SECRET not in text
        assert token not in text
    assert hook == []

    retry(delivery)
    assert (delivery.state, delivery.result, len(hook)) == ("delivered", INSTANCE, 1)


@committed
def test_a_penalty_is_waited_for_as_long_as_dingtalk_says(simulator: Simulator, hook: list[Any]) -> None:
    simulator.instances["inst-1"] = INSTANCE
    simulator.fail("/topapi/processinstance/get", "penalty")
    delivery = carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))
    assert delivery.state == "pending"
    assert "处罚将在" in delivery.last_error
    assert delivery.next_attempt_at is not None
    assert 1 < (delivery.next_attempt_at - timezone.now()).total_seconds() < 4  # the schedule would say 1


@committed
def test_missing_settings_are_named_in_the_deliverys_error(settings: Settings, hook: list[Any]) -> None:
    settings.DINGTALK_APP_SECRET = ""

    delivery = carry(push("bpms_instance_change", type="finish"))

    assert delivery.last_error.startswith("SettingsUnfit: DINGTALK_APP_SECRET is missing")


@committed
def test_the_default_hook_logs_what_became_of_the_instance(
    simulator: Simulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.handlers.logger.parent.propagate", True)
    caplog.set_level("INFO", "callbacks")
    simulator.instances["inst-1"] = INSTANCE

    carry(push("bpms_instance_change", type="finish", processInstanceId="inst-1"))

    assert "work order: instance inst-1 is COMPLETED agree" in caplog.text
    assert "张三" not in caplog.text


# Tasks, users and departments


@pytest.mark.parametrize("change", ["start", "finish", "cancel", "redirect", "comment"])
def test_a_task_is_recorded_with_who_did_what_when_and_to_what_end(change: str) -> None:
    fields: dict[str, Any] = {"finish": {"result": "agree", "remark": "好", "finishTime": 1790000060000}}
    fields = {"type": change, "staffId": "u7", "processInstanceId": "inst-1", "taskId": 42, **fields.get(change, {})}

    delivery = carry(push("bpms_task_change", createTime=1790000000000, **fields))

    assert delivery.state == "delivered"
    assert delivery.result
    found = {key: delivery.result[key] for key in ("who", "what", "processInstanceId", "taskId")}
    assert found == {"who": "u7", "what": f"bpms_task_change {change}", "processInstanceId": "inst-1", "taskId": 42}
    if change == "finish":
        assert (delivery.result["result"], delivery.result["remark"]) == ("agree", "好")
        assert delivery.result["when"] == shanghai(1790000060)
    if change == "start":
        assert "result" not in delivery.result
        assert delivery.result["when"] == shanghai(1790000000)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("event_type", ["user_add_org", "user_leave_org"])
def test_users_who_join_or_leave_are_recorded(event_type: str, style: str) -> None:
    delivery = carry(push(event_type, style, userId=["u1", "u2"]))

    assert delivery.state == "delivered"
    assert delivery.result
    assert (delivery.result["who"], delivery.result["what"]) == (["u1", "u2"], event_type)
    assert abs(datetime.fromisoformat(delivery.result["when"]) - now()) < timedelta(minutes=1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("event_type", ["org_dept_create", "org_dept_modify", "org_dept_remove"])
def test_departments_that_change_are_recorded(event_type: str, style: str) -> None:
    delivery = carry(push(event_type, style, deptId=[17]))

    assert delivery.state == "delivered"
    assert delivery.result
    assert (delivery.result["who"], delivery.result["what"]) == ([17], event_type)
    assert abs(datetime.fromisoformat(delivery.result["when"]) - now()) < timedelta(minutes=1)


@pytest.mark.parametrize("moment", ["soon", 10**30, -(10**20), None, [], 0, "", 1.5, True])
def test_a_time_that_is_none_is_replaced_by_when_the_event_came(moment: Any) -> None:
    body = plaintext({"EventType": "user_add_org", "eventId": "e1", "userId": ["u1"], "timeStamp": moment})
    receipt = receive(read(body, salt="1"))

    delivery = carry(Delivery.objects.get(event_id=receipt.event_id))

    assert delivery.state == "delivered"
    assert delivery.result
    assert datetime.fromisoformat(delivery.result["when"])


@pytest.mark.parametrize(
    "event_type", ["bpms_instance_change", "bpms_task_change", "user_leave_org", "org_dept_remove"]
)
def test_an_event_with_nothing_in_it_is_delivered_too(event_type: str) -> None:
    receipt = receive(read(f'{{"EventType": "{event_type}"}}', salt="1"))

    delivery = carry(Delivery.objects.get(event_id=receipt.event_id))

    assert (delivery.state, delivery.last_error) == ("delivered", "")
    assert delivery.result
    assert delivery.result["who"] is None


def shanghai(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, ZoneInfo("Asia/Shanghai")).isoformat(timespec="seconds")


# Finding handlers


def test_handlers_of_any_installed_app_are_found() -> None:
    assert apps.is_installed("tests.shop")
    wanting = router.wanting("shop_twice", {})
    assert [handler.name for handler in wanting] == ["tests.shop.handlers.first", "tests.shop.handlers.second"]


def test_each_of_the_seven_types_is_owed_to_exactly_one_built_in_handler() -> None:
    owed = {
        event_type: [handler.destination for handler in router.wanting(event_type, {})]
        for event_type in (
            "bpms_instance_change",
            "bpms_task_change",
            "user_add_org",
            "user_leave_org",
            "org_dept_create",
            "org_dept_modify",
            "org_dept_remove",
        )
    }

    built_in = "handler:callbacks.handlers."
    assert owed == {
        "bpms_instance_change": [f"{built_in}bpms_instance_change"],
        "bpms_task_change": [f"{built_in}bpms_task_change"],
        "user_add_org": [f"{built_in}user_change"],
        "user_leave_org": [f"{built_in}user_change"],
        "org_dept_create": [f"{built_in}department_change"],
        "org_dept_modify": [f"{built_in}department_change"],
        "org_dept_remove": [f"{built_in}department_change"],
    }


def test_a_handler_may_leave_the_delivery_out_of_its_arguments() -> None:
    sample = {"EventType": "shop_choosy", "eventId": "e1", "processCode": "PROC-1", "type": "finish"}
    receipt = receive(read(plaintext(sample), salt="1"))

    outbox.attempt(outbox.claim(1)[0], WORKER)

    assert Delivery.objects.get(event_id=receipt.event_id).state == "delivered"


@committed
def test_what_is_recorded_is_in_the_sites_language_whatever_language_is_active(
    simulator: Simulator, hook: list[Any]
) -> None:
    with override("en"):
        delivery = carry(push("bpms_instance_change", type="delete", processInstanceId="inst-2", staffId="u7"))
    assert delivery.result
    assert delivery.result["recorded"] == "审批实例已删除"
