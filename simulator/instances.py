"""Process instances (approvals) as DingTalk's two APIs tell of them."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

CHINA = timezone(timedelta(hours=8))
_STATUS = {"start": "RUNNING", "finish": "COMPLETED", "terminate": "TERMINATED"}
# Old name -> new name, where the new one is not simply the old one in camelCase.
_RENAMED = {
    "originator_userid": "originatorUserId",
    "approver_userids": "approverUserIds",
    "cc_userids": "ccUserIds",
    "userid": "userId",
    "operation_type": "type",
    "operation_result": "result",
    "taskid": "taskId",
    "task_status": "status",
    "task_result": "result",
    "url": "pcUrl",
}


class Instances:
    """Instances by id: those put in by hand, and those that were told of in a push."""

    def __init__(self) -> None:
        self.preset: dict[str, dict[str, Any]] = {}
        self.missing: set[str] = set()
        self.fetches: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._told: dict[str, dict[str, Any]] = {}

    def tell(self, payload: Mapping[str, Any]) -> None:
        """Remember the latest event of an instance."""
        fields = {key.lower(): value for key, value in payload.items()}
        if fields.get("eventtype") == "bpms_instance_change":
            with self._lock:
                self._told[str(fields.get("processinstanceid", ""))] = fields

    def fetch(self, instance_id: str) -> dict[str, Any] | None:
        """Return an instance in the old API's shape, or None where it is not known or was deleted."""
        with self._lock:
            self.fetches[instance_id] += 1
            if instance_id in self.missing:
                return None
            if instance_id in self.preset:
                return self.preset[instance_id]
            told = self._told.get(instance_id)
        return None if told is None or told.get("type") == "delete" else plausible(told)

    def ids(self, process_code: str, since: float, until: float, statuses: Sequence[str] = ()) -> list[str]:
        """Return the ids of a template's instances that began from `since` to `until` (ms), the oldest first.

        `statuses`: those that are wanted; none: all. What was deleted is not found.
        """
        with self._lock:
            told = {
                key: (_code(fields), fields.get("createtime"), plausible(fields)) for key, fields in self._told.items()
            }
        for key, preset in self.preset.items():
            told[key] = (str(preset.get("process_code", "")), _moment(preset.get("create_time")), preset)
        gone = self.missing | {key for key, fields in self._told.items() if fields.get("type") == "delete"}
        found = [
            (began, key)
            for key, (code, began, instance) in told.items()
            if code == process_code and key not in gone and isinstance(began, (int, float)) and since <= began <= until
            if not statuses or instance.get("status") in statuses
        ]
        return [key for _, key in sorted(found)]


def plausible(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an instance that fits an event's fields (lower-case keys), in the old API's shape."""
    status = _STATUS.get(str(fields.get("type")), "RUNNING")
    result = str(fields.get("result", ""))
    starter = str(fields.get("staffid", ""))
    begun = _time(fields.get("createtime"))
    ended = "" if status == "RUNNING" else _time(fields.get("finishtime"))
    verdict = result.upper() or "NONE"
    records = [_record(begun, "START_PROCESS_INSTANCE", "NONE", starter)]
    instance = {
        "title": str(fields.get("title", "")),
        "create_time": begun,
        "originator_userid": starter,
        "originator_dept_id": "31025577",
        "originator_dept_name": "华东销售部",
        "status": status,
        "result": result,
        "business_id": str(fields.get("businessid", "")),
        "biz_action": "NONE",
        "approver_userids": ["2210345567880013"],
        "cc_userids": [],
        "attached_process_instance_ids": [],
        "form_component_values": [
            {"component_type": "TextField", "name": "事由", "id": "TextField_K2201", "value": "上海客户拜访"},
            {"component_type": "NumberField", "name": "天数", "id": "NumberField_K2202", "value": "2"},
        ],
        "operation_records": records,
        "tasks": [_task(fields, begun, ended, verdict)],
    }
    if ended:
        instance["finish_time"] = ended
        kind = "EXECUTE_TASK_NORMAL" if result else "TERMINATE_PROCESS_INSTANCE"
        records.append(_record(ended, kind, verdict, "2210345567880013" if result else starter))
    return instance


def in_new_shape(value: Any) -> Any:
    """Return an instance of the old API's shape in the new one's: other names, the times with a `Z`."""
    if isinstance(value, list):
        return [in_new_shape(item) for item in value]
    if isinstance(value, dict):
        return {_new_name(key): _new_time(key, item) for key, item in value.items()}
    return value


def _record(date: str, kind: str, result: str, user: str) -> dict[str, Any]:
    return {"date": date, "operation_type": kind, "operation_result": result, "userid": user, "remark": ""}


def _task(fields: Mapping[str, Any], begun: str, ended: str, verdict: str) -> dict[str, Any]:
    task = {
        "taskid": str(fields.get("taskid", "70012204411")),
        "activity_id": "0d22_a1b2",
        "userid": "2210345567880013",
        "task_status": "COMPLETED" if ended else "RUNNING",
        "task_result": verdict if ended else "NONE",
        "create_time": begun,
        "url": "https://aflow.dingtalk.com/dingtalk/pc/query/pchomepage.htm",
    }
    return {**task, "finish_time": ended} if ended else task


def _code(fields: Mapping[str, Any]) -> str:
    return str(fields.get("processcode", ""))


def _moment(text: Any) -> float | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp() * 1000
    except ValueError:
        return None


def _time(ms: Any) -> str:
    seconds = ms / 1000 if isinstance(ms, (int, float)) else time.time()
    return datetime.fromtimestamp(seconds, CHINA).strftime("%Y-%m-%d %H:%M:%S")


def _new_name(key: str) -> str:
    first, *rest = key.split("_")
    return _RENAMED.get(key, first + "".join(word.capitalize() for word in rest))


def _new_time(key: str, value: Any) -> Any:
    # Documented to the minute and with a Z, though the values look like local time.
    if key in ("create_time", "finish_time", "date") and isinstance(value, str) and value:
        return value[:16].replace(" ", "T") + "Z"
    return in_new_shape(value)
