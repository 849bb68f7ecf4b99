"""The built-in handlers: approval instances go to the work-order hook, the others record who did what and when.

The one module of this app that may ask DingTalk for something.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext, gettext_noop, override

from callbacks.models import Delivery, Event
from callbacks.payload import Fields
from callbacks.routing import RetryLater, router
from registrar.client import DingTalkClient
from registrar.errors import InstanceUnknown, Throttled

logger = logging.getLogger(__name__)

DELETED = gettext_noop("instance deleted")
NO_ID = gettext_noop("no instance id")
UNKNOWN = gettext_noop("DingTalk no longer knows this instance")


def log_work_order(process_instance_id: str, process_instance: dict[str, Any]) -> None:
    """Log an approval instance; the default of WORK_ORDER_HANDLER, to be replaced by a function of your own."""
    logger.info(
        "work order: instance %s is %s %s",
        process_instance_id,
        process_instance.get("status"),
        process_instance.get("result"),
    )


@router.on("bpms_instance_change")
def bpms_instance_change(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Fetch the process instance, keep it, and hand it to WORK_ORDER_HANDLER.

    The instance is kept before the hook is called, so that a hook that fails is retried without a second fetch.
    """
    fields = Fields(event.payload)
    instance_id, change = fields.text("processInstanceId"), fields.text("type")
    if not instance_id or change == "delete":
        return {**_record(event, "staffId"), "recorded": _words(DELETED if instance_id else NO_ID)}
    if not delivery.result or "recorded" in delivery.result:
        try:
            delivery.keep(DingTalkClient.from_settings().process_instance(instance_id))
        except InstanceUnknown:
            return {**_record(event, "staffId"), "recorded": _words(UNKNOWN)}
        except Throttled as error:
            if error.until:  # DingTalk has named the moment
                raise RetryLater(max(error.until - time.time(), 1), str(error)) from error
            raise
    hook: Callable[[str, dict[str, Any]], object] = import_string(settings.WORK_ORDER_HANDLER)
    hook(instance_id, delivery.result or {})
    return None


@router.on("bpms_task_change")
def bpms_task_change(event: Event) -> dict[str, Any]:
    """Record a task's start, finish, cancel, redirect or comment."""
    fields = Fields(event.payload)
    names = ("processInstanceId", "taskId", "remark", "content")
    return {**_record(event, "staffId"), **{name: fields.get(name) for name in names if fields.get(name)}}


@router.on("user_add_org", "user_leave_org")
def user_change(event: Event) -> dict[str, Any]:
    """Record users joining and leaving."""
    return _record(event, "userId")


@router.on("org_dept_create", "org_dept_modify", "org_dept_remove")
def department_change(event: Event) -> dict[str, Any]:
    """Record departments created, changed and removed."""
    return _record(event, "deptId")


def _record(event: Event, who: str) -> dict[str, Any]:
    """Return who, what, when and, where there is one, the result, as the delivery's result."""
    fields = Fields(event.payload)
    moment = fields.text("finishTime", "createTime", "timeStamp", "EventTime")
    record = {
        "who": fields.get(who),
        "what": " ".join(filter(None, [event.event_type, fields.text("type")])),
        "when": _local_time(moment) or timezone.localtime(event.received_at).isoformat(timespec="seconds"),
    }
    return {**record, "result": fields.text("result")} if fields.text("result") else record


def _words(text: str) -> str:
    """Return a text in the site's language: a row is for everybody, whichever language is active when it is made."""
    with override(settings.LANGUAGE_CODE):
        return gettext(text)


def _local_time(milliseconds: str) -> str:
    try:
        moment = datetime.fromtimestamp(int(milliseconds) / 1000, timezone.get_current_timezone())
    except (ValueError, OverflowError, OSError):
        return ""
    return moment.isoformat(timespec="seconds")
