"""A fresh payload of any documented event type, in today's shape or in one that DingTalk used to send.

`payloads/` holds one file per type with the fields of https://open.dingtalk.com/document/development/ and invented
values; ids and times in them are replaced in every copy that `make` hands out.
"""

import json
import re
import secrets
import string
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from simulator.styles import STYLES, restyle

__all__ = ["STYLES", "event_types", "make", "override", "parse_overrides"]

PAYLOADS = Path(__file__).parent / "payloads"
# The corp id and the moment (ms) that the payload files are written for.
WRITTEN_CORP_ID = "dingsamplecorp0001"
WRITTEN_AT = 1_790_000_000_000
_A_YEAR = 366 * 86_400_000

_ID_KEY = re.compile(r"(id|ids|idlist|uuid|approvers|operator|owner|orderno|tradeno)$")
# Ids of things that outlive an event: an app, a template.
_STANDING_KEY = re.compile(r"(corp_?id|categoryid|agentid|appids?|templateid|accountid|activityid)$")
_HEX = re.compile(r"[0-9a-f-]+")
_FIXED_PART = re.compile(r"(^cid|^chat|^INST-|^c_|_end$|_update$|_delete$|iEiE$)")
_DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ")

# What an approval event of each `type` does not carry.
_NOT_CARRIED = {
    "start": ("finishTime", "result", "remark"),
    "terminate": ("result",),
    "delete": ("result",),
    "cancel": ("result", "remark"),
    "comment": ("finishTime", "result", "remark"),
}

_clock_lock = threading.Lock()
_latest_ms = 0


def event_types() -> list[str]:
    """Return the documented event types, sorted."""
    return sorted(path.stem for path in PAYLOADS.glob("*.json"))


def make(
    event_type: str,
    *,
    corp_id: str,
    style: str = STYLES[0],
    overrides: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """Return a payload whose ids and times are its own: two calls are never the same event.

    `overrides` replace a top-level key whatever its case, or add it; an approval's `type` also takes away the fields
    that events of this type do not carry. An unknown type gives a bare envelope. `now` in seconds.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style}: it is one of {', '.join(STYLES)}")
    moment = _unique_ms() if now is None else int(now * 1000)
    payload = _Mint(moment, corp_id).payload(_written(event_type))
    payload = restyle(payload, style, corp_id, moment)
    return override(payload, overrides or {})


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Return the overrides in `key=value` texts; a value is read as JSON where it parses, else as text."""
    overrides: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"{text!r} is not key=value")
        try:
            overrides[key.strip()] = json.loads(value)
        except ValueError:
            overrides[key.strip()] = value
    return overrides


@cache
def _text(event_type: str) -> str | None:
    path = PAYLOADS / f"{event_type}.json"
    return path.read_text(encoding="utf-8") if path.parent == PAYLOADS and path.is_file() else None


def _written(event_type: str) -> dict[str, Any]:
    """Return a type's payload as its file has it, or a bare envelope."""
    text = _text(event_type)
    if text is not None:
        written: dict[str, Any] = json.loads(text)
        return written
    envelope = {"EventType": event_type, "EventTime": WRITTEN_AT, "CorpId": WRITTEN_CORP_ID}
    return {**envelope, "BizId": "1790000000000000", "eventId": "0" * 32}


def _unique_ms() -> int:
    """Return the time in ms, later than any before it: some old payloads have nothing else to set them apart."""
    global _latest_ms  # noqa: PLW0603 - one clock for all threads
    with _clock_lock:
        _latest_ms = max(int(time.time() * 1000), _latest_ms + 1)
        return _latest_ms


class _Mint:
    """Replace the ids, times and corp id of one payload; an id that occurs twice stays one id."""

    def __init__(self, moment: int, corp_id: str) -> None:
        self._shift = moment - WRITTEN_AT
        self._corp_id = corp_id
        self._minted: dict[str, str] = {}

    def payload(self, written: dict[str, Any]) -> dict[str, Any]:
        fresh: dict[str, Any] = {key: self._value(key, value) for key, value in written.items()}
        if "eventId" in fresh:
            fresh["eventId"] = secrets.token_hex(16)
        return fresh

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: self._value(inner, item) for inner, item in value.items()}
        if isinstance(value, list):
            return [self._value(key, item) for item in value]
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            return value
        name = key.lower()
        if _ID_KEY.search(name) and not _STANDING_KEY.search(name) and value != WRITTEN_CORP_ID:
            fresh = self._id(str(value))
        else:
            fresh = self._time(name, str(value)).replace(WRITTEN_CORP_ID, self._corp_id)
        return int(fresh) if isinstance(value, int) else fresh

    def _id(self, written: str) -> str:
        if written not in self._minted:
            parts = _FIXED_PART.split(written)
            fresh = [part if _FIXED_PART.fullmatch(part) else _fresh(part, written) for part in parts]
            self._minted[written] = "".join(fresh)
        return self._minted[written]

    def _time(self, name: str, written: str) -> str:
        """Return a time moved by as much as `now` lies from when the files were written; other text as it is."""
        if written.isascii() and written.isdigit():
            unit = {13: 1, 10: 1000}.get(len(written), 0)
            if not unit or abs(int(written) * unit - WRITTEN_AT) > _A_YEAR:
                return written
            moved = int(written) * unit + self._shift
            # DingTalk gives an approval's times in whole seconds.
            return str(moved // 1000 * (1000 // unit) if unit > 1 or name in ("createtime", "finishtime") else moved)
        for form in _DATE_FORMATS:
            try:
                moment = datetime.strptime(written, form)  # noqa: DTZ007 - moved, never compared
            except ValueError:
                continue
            return (moment + timedelta(milliseconds=self._shift)).strftime(form)
        return written


def _fresh(part: str, whole: str) -> str:
    """Return other characters of the same kinds; the letters of a short id say what it is and stay."""
    hexadecimal = bool(_HEX.fullmatch(whole)) and not whole.isdigit()
    fresh = []
    for character in part:
        if hexadecimal and character != "-":
            fresh.append(secrets.choice(string.digits + "abcdef"))
        elif character.isdigit():
            fresh.append(secrets.choice("123456789"))
        elif character.isascii() and character.isalpha() and len(whole) >= 16:
            fresh.append(secrets.choice(string.ascii_uppercase if character.isupper() else string.ascii_lowercase))
        else:
            fresh.append(character)
    return "".join(fresh)


def override(payload: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload with `overrides` in it, under the payload's own spelling of their keys."""
    result = dict(payload)
    spelt = {}
    for name, value in overrides.items():
        key = name if name in result else next((k for k in result if k.lower() == name.lower()), name)
        spelt[key] = value
    result.update(spelt)
    if str(result.get("EventType", "")).startswith("bpms_"):
        for key in _NOT_CARRIED.get(str(result.get("type")), ()):
            if key not in spelt:
                result.pop(key, None)
    return result
