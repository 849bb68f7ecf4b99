"""Faults of the APIs, by name: what to answer instead of the truth, and how often."""

import json
import threading
import uuid
from collections import defaultdict, deque

from simulator.messages import Answer, ErrorCode

ANY_PATH = "*"
TOKEN_INVALID = ErrorCode(40014, "不合法的access_token", 400, "InvalidAuthentication")
TOKEN_EXPIRED = ErrorCode(42001, "access_token超时", 400, "InvalidAuthentication", "不合法的access_token")
NO_PERMISSION = ErrorCode(
    60011,
    "应用尚未开通所需的权限：[qyapi_base]，请在开发者后台的权限管理中申请",
    403,
    "Forbidden.AccessDenied.AccessTokenPermissionDenied",
    "应用尚未开通所需的权限：[Workflow.Instance.Read]",
)
ERRORS = {
    "busy": ErrorCode(-1, "系统繁忙", 503, "ServiceUnavailable"),
    "throttled": ErrorCode(
        90018,
        "您的服务器调用钉钉开放平台的接口过于频繁，已超过单个应用对单个接口的频率上限",
        403,
        "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
    ),
    "quota": ErrorCode(90020, "本月的接口调用次数已用完", 403, "Forbidden.AccessDenied.ApiCountLimitForOrg"),
    "token_expired": TOKEN_EXPIRED,
    "token_invalid": TOKEN_INVALID,
    "permission": NO_PERMISSION,
    "ip": ErrorCode(60020, "访问ip不在白名单之中", 403, "Forbidden.AccessDenied.IpNotInWhiteList"),
}
NAMES = (*ERRORS, "penalty", "slow", "timeout", "half", "drop", "500", "html", "punish")


class ApiFaults:
    """Which of the next calls go wrong, by path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[str]] = defaultdict(deque)

    def add(self, path: str, fault: str, times: int = 1) -> None:
        """Let the next `times` calls of `path` (`*`: of any) go wrong."""
        if fault not in NAMES:
            raise ValueError(f"unknown fault {fault}: it is one of {', '.join(NAMES)}")
        with self._lock:
            self._waiting[path].extend([fault] * times)

    def take(self, path: str) -> str:
        """Return the fault of this call, or ''."""
        with self._lock:
            for key in (path, ANY_PATH):
                if self._waiting[key]:
                    return self._waiting[key].popleft()
        return ""

    def waiting(self) -> dict[str, list[str]]:
        """Return the faults to come, by path."""
        with self._lock:
            return {path: list(names) for path, names in self._waiting.items() if names}


def broken_answer(fault: str, hold: float) -> Answer | None:
    """Return the answer of a fault that is no error of the API's own; None where `fault` is none of those."""
    if fault == "timeout":
        return Answer(b"", delay=hold, cut="all")
    if fault == "drop":
        return Answer(b"", cut="all")
    if fault == "500":
        return Answer(b"Internal Server Error", 500, "text/plain")
    if fault == "html":
        return Answer(b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>", 200, "text/html")
    if fault == "punish":
        # What callers get whose address has sent too many requests.
        body = {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": uuid.uuid4().hex}
        return Answer(json.dumps(body).encode())
    return None
