"""What an endpoint's answer means: taken, or refused, and what was wrong. Pure: no Django, no I/O.

A receiver written for DingTalk answers 200 and a sealed `success`; sloppy ones answer something else, which DingTalk
bears: it tries twice more, and that is all.
"""

import json
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from hmac import compare_digest
from http import HTTPStatus
from typing import Any

from callbacks.dingcrypto import CallbackError, DingCrypto, RefusedPush

DAY = timedelta(days=1)
NOT_SUCCESS = "but not success"
AS_DINGTALK_RETRIES = (10, 30)
SHOWN = 512


class Refused(CallbackError):
    """The endpoint did not take the event; the text says what was wrong, in one line."""

    gone = False

    def __init__(self, line: str, later: timedelta | None = None) -> None:
        super().__init__(line)
        self.later = later  # as long as its Retry-After asks to wait


class Gone(Refused):
    """It answered 410: it wants nothing any more."""

    gone = True


class NotSuccess(Refused):
    """It answered 2xx, and what it said is no sealed answer: retried as DingTalk does."""


def judge_status(status: int, headers: Mapping[str, str], now: float) -> None:
    """Raise what a status that is no 2xx means; `now` in seconds."""
    if 200 <= status < 300:
        return
    if status == 410:
        raise Gone("answered 410 Gone: it wants no more events")
    if 300 <= status < 400:
        raise Refused(f"answered {_named(status)}, a redirect, which is not followed: mend its address")
    raise Refused(f"answered {_named(status)}", _retry_after(headers.get("Retry-After", ""), now))


def judge_sealed(status: int, body: bytes, crypto: DingCrypto, token: str) -> None:
    """Raise what is wrong with a 2xx answer that should be a sealed `success`."""
    fields = _sealed_fields(body)
    if isinstance(fields, str):
        raise NotSuccess(f"answered {status} {NOT_SUCCESS}: {fields}")
    encrypt = fields["encrypt"]
    signature = _text(fields, "msg_signature", "signature")
    timestamp, nonce = _text(fields, "timeStamp", "timestamp"), _text(fields, "nonce")
    expected = crypto.generate_signature(nonce, timestamp, token, encrypt)
    if not compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        raise Refused("its sealed answer has a wrong signature: its token differs from this endpoint's")
    try:
        text = crypto.decrypt(encrypt)
    except RefusedPush as error:
        raise Refused(f"its sealed answer can't be opened ({error}): {_remedy(error)}") from None
    if text.strip() != "success":
        raise Refused(f"its sealed answer says {text[:40]!r}, not success")
    if status != 200:
        raise Refused(f"answered {_named(status)} with a sealed success: DingTalk takes nothing but 200")


def start_of(body: bytes) -> str:
    """Return the start of an answer as text, '' where it is none."""
    start = body[:SHOWN]
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else only the last character was cut
            return ""
        text = start[: error.start].decode()
    return text if all(c.isprintable() or c in "\r\n\t" for c in text) else ""


def _sealed_fields(body: bytes) -> dict[str, Any] | str:
    """Return a sealed answer's fields, or what the body is instead."""
    if not body.strip():
        return "the answer is empty"
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return "the answer is not encrypted (it is no JSON)"
    if not isinstance(fields, dict) or not isinstance(fields.get("encrypt"), str) or not fields["encrypt"]:
        return "the answer is not encrypted (it has no `encrypt`)"
    return fields


def _text(fields: Mapping[str, Any], *names: str) -> str:
    """Return the first of the named values as text: some libraries send the time as a number."""
    return next((str(fields[name]) for name in names if fields.get(name) not in (None, "")), "")


def _remedy(error: RefusedPush) -> str:
    return {
        "OwnerKeyMismatch": "wrong owner key",
        "WrongAesKey": "its aes key differs from this endpoint's",
    }.get(type(error).__name__, "its seal is broken")


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _retry_after(value: str, now: float) -> timedelta | None:
    """Return how long a Retry-After (seconds or a date) asks to wait, a second at least and at most a day."""
    text = value.strip()
    try:
        if text.isascii() and text.isdecimal():
            seconds = float(text[:9])
        else:
            seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(timedelta(seconds=seconds), timedelta(seconds=1)), DAY)
