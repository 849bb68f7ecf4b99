"""What happened to an approval instance, told as pushes would have told it. Pure: no Django, no I/O."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

START, FINISH, TERMINATE, DELETE = "start", "finish", "terminate", "delete"
ENDS = frozenset((FINISH, TERMINATE, DELETE))
_TYPE_OF_STATUS = {"COMPLETED": FINISH, "TERMINATED": TERMINATE, "CANCELED": TERMINATE}


class Step(NamedTuple):
    """One change of an instance: its type, when it was (ms), and the text that a push of it would have carried.

    `is_exact`: to the second, as a push says it; else the minute's beginning is all that DingTalk tells.
    """

    type: str
    at: int
    is_exact: bool
    body: str


def steps(instance: Mapping[str, Any], instance_id: str, process_code: str, corp_id: str) -> list[Step]:
    """Return the steps that can be seen from an instance in the old API's shape: its start, and its end if it has one.

    A step of which the instance tells no time is left out.
    """
    common: dict[str, Any] = {
        "EventType": "bpms_instance_change",
        "processInstanceId": instance_id,
        "corpId": corp_id,
        "processCode": process_code,
        "title": str(instance.get("title") or ""),
        "staffId": str(instance.get("originator_userid") or ""),
        "businessId": str(instance.get("business_id") or ""),
    }
    created = _moment(instance.get("create_time"))
    ended = _moment(instance.get("finish_time"))
    if created:
        common["createTime"] = created[0]
    found = [Step(START, *created, _text(common, START))] if created else []
    change = _TYPE_OF_STATUS.get(str(instance.get("status") or "").upper())
    if change and ended:
        result = {"result": str(instance.get("result") or "")} if change == FINISH else {}
        found.append(Step(change, *ended, _text({**common, "finishTime": ended[0], **result}, change)))
    return found


def _text(fields: dict[str, Any], change: str) -> str:
    return json.dumps({**fields, "type": change}, ensure_ascii=False)


def _moment(text: Any) -> tuple[int, bool] | None:
    """Return a time in ms, and whether it is to the second; None where there is none that can be read.

    The old API writes China's time. The new one writes a `Z` behind the minute, though the time is China's, too.
    """
    written = str(text or "").rstrip("Z").replace("T", " ")
    try:
        moment = datetime.fromisoformat(f"{written}+08:00")
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000, written.count(":") > 1
