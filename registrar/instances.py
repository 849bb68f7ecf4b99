"""One shape of an approval instance, whichever API it came from: the old API's, which hooks are written for. Pure.

Old: https://open.dingtalk.com/document/development/obtains-the-details-of-a-single-approval-instance ; new: GET
https://api.dingtalk.com/v1.0/workflow/processInstances. Values, times among them, stay as they were sent.
"""

import re
from collections.abc import Mapping
from typing import Any

# What the old API calls otherwise than the new name in snake case.
_INSTANCE = {
    "originatorUserId": "originator_userid",
    "approverUserIds": "approver_userids",
    "ccUserIds": "cc_userids",
}
_RECORD = {
    "userId": "userid",
    "type": "operation_type",
    "result": "operation_result",
    "ccUserIds": "cc_userids",
}
_TASK = {
    "taskId": "taskid",
    "userId": "userid",
    "status": "task_status",
    "result": "task_result",
    "pcUrl": "url",
}


def old_shape(instance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `result` of the new API in the shape of the old API's `process_instance`."""
    renamed = _rename(instance, _INSTANCE)
    for name, names in (("operation_records", _RECORD), ("tasks", _TASK), ("form_component_values", {})):
        if name in renamed:
            renamed[name] = _rename_each(renamed[name], names)
    for record in renamed.get("operation_records") or []:
        if isinstance(record, dict) and "attachments" in record:
            record["attachments"] = _rename_each(record["attachments"], {})
    return renamed


def _rename(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key) or _snake(key): value for key, value in fields.items()}


def _rename_each(rows: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(rows, list):
        return rows
    return [_rename(row, names) if isinstance(row, dict) else row for row in rows]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
