"""What DingTalk's answers mean: `decipher(status, body)` gives the data or raises what the caller can act on. Pure.

Codes and their meanings: https://open.dingtalk.com/document/development/server-api-error-codes-1 ; the new API's
`code` / `message` and the `88` envelope of `topapi/…` are read alike.
"""

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from registrar.errors import (
    AlreadyRegistered,
    BrokenAnswer,
    DingTalkError,
    InstanceUnknown,
    NotRegistered,
    PermissionMissing,
    QuotaUsedUp,
    Refused,
    TemporaryFailure,
    Throttled,
    TokenExpired,
)

CODES_PAGE = "https://open.dingtalk.com/document/development/server-api-error-codes-1"
MAX_WORDS = 400

# DingTalk's times are China's, wherever the organisation is.
CHINA = timezone(timedelta(hours=8))
_PENALTY_END = re.compile(r"处罚将在\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
_SECRET_IN_QUERY = re.compile(r"(?i)\b(access_token|app_?secret|corp_?secret|client_?secret)=[^&\s'\"]+")
# 71009 and 71012 repeat the whole request that failed, as a curl command; only what came of it is of use.
_ECHOED_REQUEST = re.compile(r"HttpRequest:\s*curl\b.*?(?=HttpCode:|$)")


class Known(NamedTuple):
    """What a code means to us."""

    error: type[DingTalkError]
    cause: str
    step: str


_RENEW = Known(TokenExpired, "the access token is wrong, revoked or expired", "it is renewed by itself; call again")
_SCOPE = Known(
    PermissionMissing,
    "the app lacks the permission for this call",
    "apply for the scope at open-dev.dingtalk.com › the app › 权限管理 (instances need Workflow.Instance.Read)",
)
_EGRESS = Known(
    Refused,
    "this machine's address is not on the app's list",
    "add its egress IP at open-dev.dingtalk.com › the app › 开发配置 › 安全设置 › 服务端出口 IP",
)
_KEYS = Known(
    Refused,
    "the app key and secret don't belong together",
    "copy DINGTALK_APP_KEY (Client ID) and DINGTALK_APP_SECRET anew, open-dev.dingtalk.com › the app › 凭证与基础信息",
)
_SLOWER = Known(Throttled, "too many calls at once", "wait a minute and call again")
_QUOTA = Known(
    QuotaUsedUp,
    "the organisation's API calls of this month are used up",
    "buy a package in DingTalk's admin console or wait for the next month",
)
_BUSY = Known(TemporaryFailure, "DingTalk is busy", "try again in a minute, at most three times")
_GONE = Known(InstanceUnknown, "DingTalk doesn't know this approval instance", "check its id; it may have been deleted")
_PARAMETER = Known(Refused, "a parameter is missing or malformed", "check the values that were given")

KNOWN: dict[str, Known] = {
    "-1": _BUSY,
    "systemError": _BUSY,
    "internalError": _BUSY,
    "ServiceUnavailable": _BUSY,
    "22": Known(Refused, "there is no such API at this address", "check DINGTALK_OAPI_URL and DINGTALK_API_URL"),
    "33001": Known(Refused, "the corp id is wrong", "check DINGTALK_CORP_ID"),
    "40000": _PARAMETER,
    "40001": _KEYS,
    "40014": _RENEW,
    "InvalidAuthentication": _RENEW,
    "42001": _RENEW,
    "40035": _PARAMETER,
    "400002": _PARAMETER,
    "40089": _KEYS,
    "40096": _KEYS,
    "invalidClientIdOrSecret": _KEYS,
    "41001": Known(TokenExpired, "the call carried no access token", "call again"),
    "43001": Known(Refused, "this API takes GET only", "check whether a proxy changes the method"),
    "43002": Known(Refused, "this API takes POST only", "check whether a proxy changes the method"),
    "43004": Known(Refused, "the Content-Type is not the one asked for", "check whether a proxy changes the headers"),
    "48002": Known(PermissionMissing, "this API is disabled for the app", _SCOPE.step),
    "50002": Known(
        PermissionMissing,
        "the user or department is outside the app's scope",
        "widen the contact scope at open-dev.dingtalk.com › the app › 权限管理",
    ),
    "60011": _SCOPE,
    "AccessTokenPermissionDenied": _SCOPE,
    "needAuth": _SCOPE,
    "60020": _EGRESS,
    "IpNotInWhiteList": _EGRESS,
    "71006": Known(
        AlreadyRegistered,
        "a callback is registered already",
        "change it with `manage.py dingtalk update`, or use `register --or-update`",
    ),
    "71007": Known(
        NotRegistered,
        "none registered through the API",
        "if you subscribed in the console this is normal, don't register a second one; otherwise "
        "`manage.py dingtalk register`",
    ),
    "71008": Known(
        Refused,
        "one of the event types can't be registered through the API",
        "remove it from DINGTALK_CALLBACK_TAGS (--tags), or subscribe to it in the console",
    ),
    "71009": Known(
        Refused,
        "the callback address did not answer with a `success` that DingTalk can open",
        "registered through the API the owner key is the corp id: check DINGTALK_CORP_ID, that the running web server "
        "has the same DINGTALK_TOKEN and DINGTALK_AES_KEY, and its log",
    ),
    "71010": Known(
        Refused,
        "a field of the registration is missing or malformed",
        "check DINGTALK_TOKEN (6 to 63 characters), DINGTALK_AES_KEY (43 letters and digits), address and types",
    ),
    "71011": Known(
        Refused,
        "the callback address is not a legal URL",
        "set DINGTALK_CALLBACK_URL (--url) with protocol, domain and path",
    ),
    "71012": Known(
        Refused,
        "DingTalk could not reach the callback address, or it answered late, redirected, or not with 200",
        "mend what HttpReponse says, or check that DINGTALK_CALLBACK_URL is public and answers `curl -i` with 200 "
        "within a second and no redirect",
    ),
    "71013": Known(
        Refused,
        "this domain or IP may not receive callbacks",
        "use a public address in DINGTALK_CALLBACK_URL, neither private nor on DingTalk's black list",
    ),
    "71014": Known(Refused, "the suite's service window app was not found", "third-party apps are not supported here"),
    "820005": _GONE,
    "processInstanceNotExist": _GONE,
    "processInstanceIdError": _GONE,
    "830001": Known(Refused, "the approval template is missing", "check the processCode"),
    "1111": Known(Throttled, "this machine's IP is banned for five minutes for too many calls", "wait five minutes"),
    "90002": _SLOWER,
    "90018": _SLOWER,
    "QpsLimitForApi": _SLOWER,
    "QpsLimitForAppkeyAndApi": _SLOWER,
    "90020": _QUOTA,
    "ApiCountLimitForOrg": _QUOTA,
    **{str(code): _SLOWER for code in (*range(90001, 90015), 90017)},
}


def decipher(status: int, body: bytes | str) -> dict[str, Any]:
    """Return an answer's JSON object, or raise the DingTalkError that says what to do about it."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    data = _parse(status, text)
    code, words = _code_and_words(data)
    if not code and status < 300:
        return data
    if not code:
        raise _by_status(status, words)
    raise _by_code(status, code, words)


def masked(text: str) -> str:
    """Return `text` with the secrets that DingTalk's URLs carry replaced."""
    return _SECRET_IN_QUERY.sub(r"\1=***", text)


def one_line(text: str) -> str:
    """Return DingTalk's words fit for one line of a log, a row or a screen."""
    line = " ".join(masked(_ECHOED_REQUEST.sub("", " ".join(text.split()))).split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def _parse(status: int, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_int=lenient_int)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        return data
    if status >= 300 or text.lstrip()[:1] == "<":
        raise _by_status(status, "")
    raise BrokenAnswer(
        f"HTTP {status}",
        "",
        "the answer is no whole JSON object",
        "ask again; check what stands between here and DingTalk",
    )


def lenient_int(digits: str) -> int | str:
    """Return a JSON integer; one of a thousand digits as text: Python refuses some of those, and with them the rest."""
    return int(digits) if len(digits) < 1000 else digits


def _code_and_words(data: dict[str, Any]) -> tuple[str, str]:
    """Return the code of a refusal, '' for a success, and DingTalk's words."""
    if data.get("punish"):
        return "1111", f"punish={data['punish']} wait={data.get('wait', '?')}"
    if "errcode" in data:
        code, words = str(data["errcode"]), str(data.get("errmsg") or "")
        if code == "88" and data.get("sub_code"):
            return str(data["sub_code"]), str(data.get("sub_msg") or words)
        return ("" if code == "0" else code), words
    if isinstance(data.get("code"), str) and "message" in data:
        detail = data.get("accessdenieddetail")
        scopes = detail.get("requiredScopes") if isinstance(detail, dict) else None
        return data["code"], f"{data['message']} {json.dumps(scopes, ensure_ascii=False) if scopes else ''}"
    return "", ""


def _by_code(status: int, code: str, words: str) -> DingTalkError:
    # the new API writes "Forbidden.AccessDenied.QpsLimitForApi", and other prefixes for the same thing
    known = KNOWN.get(code) or KNOWN.get(code.rsplit(".", 1)[-1])
    if known or status == 429:
        known = known or _SLOWER
        error = known.error(one_line(code), one_line(words), known.cause, known.step)
        if isinstance(error, Throttled):
            error.until = _penalty_end(words)
        return error
    if status >= 500:
        return TemporaryFailure(one_line(code), one_line(words), _BUSY.cause, _BUSY.step)
    return Refused(one_line(code), one_line(words), "DingTalk refused the call", f"look the code up at {CODES_PAGE}")


def _penalty_end(words: str) -> float:
    """Return when DingTalk says that a penalty ends, in seconds since the epoch; 0 where it doesn't say."""
    named = _PENALTY_END.search(words)
    try:
        return datetime.fromisoformat(f"{named[1]}+08:00").timestamp() if named else 0.0
    except ValueError:
        return 0.0


def _by_status(status: int, words: str) -> DingTalkError:
    """Return the error for an answer without a code of DingTalk's: a gateway's, a proxy's, a login page's."""
    code = f"HTTP {status}"
    if status == 429:
        return Throttled(code, words, _SLOWER.cause, _SLOWER.step)
    if status >= 500:
        return TemporaryFailure(code, words, _BUSY.cause, _BUSY.step)
    if status >= 300:
        step = "check DINGTALK_OAPI_URL and DINGTALK_API_URL, and what stands between here and DingTalk"
        return Refused(code, words, "the answer is not DingTalk's", step)
    step = "wait five minutes; then check whether a proxy or a log-in page stands between here and DingTalk"
    return Throttled(code, words, "a web page came instead of an answer", step)
