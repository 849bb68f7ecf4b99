"""How often the APIs may be called: so many times a second each, and so many times a month in all."""

import math
import threading
import time
from collections import defaultdict, deque
from datetime import datetime

from simulator.instances import CHINA
from simulator.messages import ApiError, ErrorCode
from simulator.options import Options

QUOTA = ErrorCode(90020, "本月的接口调用次数已用完", 403, "Forbidden.AccessDenied.ApiCountLimitForOrg")
_TOO_OFTEN = (
    "您的服务器调用钉钉开放平台当前接口的所有请求都被暂时禁用了, apiPath({api}), 从 {since} 到 {until} "
    "请求总次数超过了 {count} 次, 处罚将在 {end} 结束."
)


class Limits:
    """What was called, and who is punished for it; a call that is refused for it is not counted."""

    def __init__(self, options: Options) -> None:
        self.used = 0
        self._options = options
        self._lock = threading.Lock()
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)
        self._punished_until: dict[str, float] = {}

    def take(self, path: str) -> None:
        """Count a call, or raise the ApiError that refuses it."""
        with self._lock:
            now, most = time.time(), self._options.calls_per_second
            recent = self._recent[path]
            while recent and recent[0] <= now - 1:
                recent.popleft()
            if now < self._punished_until.get(path, 0.0) or (most and len(recent) >= most):
                raise self._punish(path, now)
            if self._options.monthly_calls and self.used >= self._options.monthly_calls:
                raise ApiError(QUOTA)
            recent.append(now)
            self.used += 1

    def punish(self, path: str) -> ApiError:
        """Refuse an API for a while, as if it had been called too often; return what this call gets."""
        with self._lock:
            return self._punish(path, time.time())

    def _punish(self, path: str, now: float) -> ApiError:
        end = self._punished_until.get(path, 0.0)
        if end <= now:
            end = self._punished_until[path] = float(math.ceil(now + self._options.penalty_seconds))
        api = "dingtalk.oapi." + path.strip("/").replace("/", ".")
        words = {"since": _clock(now - 1), "until": _clock(now), "count": self._options.calls_per_second or 20}
        text = _TOO_OFTEN.format(api=api, end=_clock(end), **words)
        return ApiError(ErrorCode(90018, text, 403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"))


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, CHINA).strftime("%Y-%m-%d %H:%M:%S")
