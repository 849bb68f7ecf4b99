"""The APIs that list approval instances' ids, by template and time of start, a page at a time.

https://open.dingtalk.com/document/development/obtain-an-approval-list-of-instance-ids , and the older
`topapi/processinstance/listids`.
"""

import time
from typing import Any

from simulator.faults import NO_PERMISSION
from simulator.instances import Instances
from simulator.messages import Answer, ApiError, ErrorCode, Request, as_json, ok
from simulator.options import Options

DAY = 86_400_000
LONGEST_WINDOW = 120 * DAY
FARTHEST_BACK = 365 * DAY
LARGEST_PAGE = 20
MOST_IDS = 10_000

_NO_CODE = ErrorCode(400002, "审批模板processCode不能为空", code="invalidProcessCode")
_NO_START = ErrorCode(400002, "审批实例开始时间不能为空", code="invalidInstanceListIdsStartTime")
_BAD_CURSOR = ErrorCode(400002, "分页查询的游标不能为空", code="invalidNextToken")
_BAD_SIZE = ErrorCode(400002, "分页参数非法，每页大小，最多传20。", code="invalidMaxResults")
_BAD_WINDOW = ErrorCode(
    400002, "审批实例结束时间不能小于开始时间；且查询时间范围不能超过120天。", code="invalidEndTime"
)


class Listing:
    """Both lists of ids."""

    def __init__(self, options: Options, instances: Instances) -> None:
        self._options = options
        self._instances = instances

    def old(self, request: Request) -> Answer:
        """Answer `topapi/processinstance/listids`, where the app may call it."""
        if not self._options.old_workflow_permission:
            raise ApiError(NO_PERMISSION)
        fields = request.fields()
        names = ("process_code", "start_time", "end_time", "cursor", "size")
        page, following = self._page(*(fields.get(name) for name in names), statuses=())
        return ok(result={"list": page, **({"next_cursor": following} if following else {})})

    def new(self, request: Request) -> Answer:
        """Answer `v1.0/workflow/processes/instanceIds/query`."""
        fields = request.fields()
        if fields.get("nextToken") is None or fields.get("maxResults") is None:
            raise ApiError(_BAD_CURSOR if fields.get("nextToken") is None else _BAD_SIZE)
        names = ("processCode", "startTime", "endTime", "nextToken", "maxResults")
        statuses = tuple(str(status) for status in fields.get("statuses") or ())
        page, following = self._page(*(fields.get(name) for name in names), statuses=statuses)
        return as_json(
            {"result": {"list": page, **({"nextToken": str(following)} if following else {})}, "success": True}
        )

    def _page(
        self, code: Any, start: Any, end: Any, cursor: Any, size: Any, *, statuses: tuple[str, ...]
    ) -> tuple[list[str], int]:
        """Return a page of ids, and the cursor of the next or 0."""
        if not code:
            raise ApiError(_NO_CODE)
        since, now = _number(start, _NO_START), time.time() * 1000
        until = _number(end, _BAD_WINDOW) if end is not None else now
        first = _number(cursor, _BAD_CURSOR) if cursor is not None else 0
        count = _number(size, _BAD_SIZE) if size is not None else 10
        if not 1 <= count <= LARGEST_PAGE:
            raise ApiError(_BAD_SIZE)
        if not 0 <= until - since <= LONGEST_WINDOW or now - since > FARTHEST_BACK:
            raise ApiError(_BAD_WINDOW)
        found = self._instances.ids(str(code), since, until, statuses)[:MOST_IDS]
        following = int(first + count)
        return found[int(first) : following], following if following < len(found) else 0


def _number(value: Any, error: ErrorCode) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ApiError(error) from None
