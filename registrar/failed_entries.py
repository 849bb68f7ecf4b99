"""Entries of the failed list, in all their shapes, turned into the shape of a push. Pure: no Django, no I/O.

The list: https://open.dingtalk.com/document/development/obtains-the-list-of-callback-events-that-failed . An entry
has a `call_back_tag`, an `event_time` and an object named like the tag, with the event's fields in it, or one level
deeper beside `corpid`; in the oldest shape the fields stand in the entry itself. Objects may come as JSON strings.
"""

import json
import re
from datetime import datetime, timezone
from typing import Any, NamedTuple

from registrar.protocol import lenient_int

_WRAPPERS = ("bpmscallbackdata", "rolelabelchange", "callbackdata")
_LIST_START = re.compile(r'"failed_list"\s*:\s*\[')
_BETWEEN_ENTRIES = re.compile(r"[\s,]*")


class Entry(NamedTuple):
    """One entry as it came, and the text that DingTalk would have pushed: None where it can't be read."""

    raw: Any
    body: str | None


class Page(NamedTuple):
    """One answer; `whole` is false where it broke off: then the entries are those that came, the cut one as text."""

    entries: list[Entry]
    has_more: bool
    whole: bool


def read_page(raw_answer: str) -> Page:
    """Read one raw answer of the failed list; never raises."""
    try:
        answer = json.loads(raw_answer, parse_int=lenient_int)
    except (ValueError, RecursionError):
        return Page(_salvage(raw_answer), has_more=False, whole=False)
    entries = answer.get("failed_list") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        return Page([], has_more=False, whole=isinstance(answer, dict) and entries is None)
    has_more = bool(entries) and bool(answer.get("has_more"))
    return Page([Entry(entry, _body(entry)) for entry in entries], has_more, whole=True)


def event_time(entry: Entry) -> datetime | None:
    """Return when the event happened, as far as the entry's `event_time` (ms; ten digits: s) says it."""
    value = entry.raw.get("event_time") if isinstance(entry.raw, dict) else None
    try:
        number = int(str(value))
        return datetime.fromtimestamp(number / 1000 if number >= 10**11 else number, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def _salvage(raw_answer: str) -> list[Entry]:
    """Return the entries of an answer that broke off: reading it emptied the list, so they exist nowhere else."""
    start = _LIST_START.search(raw_answer)
    if not start:
        return []
    entries: list[Entry] = []
    decoder = json.JSONDecoder(parse_int=lenient_int)
    position = _after_blanks(raw_answer, start.end())
    while raw_answer[position : position + 1] not in ("", "]"):
        try:
            entry, position = decoder.raw_decode(raw_answer, position)
        except (ValueError, RecursionError):
            return [*entries, Entry(raw_answer[position:], None)]
        entries.append(Entry(entry, _body(entry)))
        position = _after_blanks(raw_answer, position)
    return entries


def _after_blanks(text: str, position: int) -> int:
    match = _BETWEEN_ENTRIES.match(text, position)
    return match.end() if match else position


def _body(entry: Any) -> str | None:
    push = _push(entry)
    if push is None:
        return None
    try:
        text = json.dumps(push, ensure_ascii=False)
        # a lone surrogate is JSON, but no UTF-8
        return text if _is_utf8(text) else json.dumps(push)
    except RecursionError:
        return None


def _push(entry: Any) -> dict[str, Any] | None:
    tag = entry.get("call_back_tag") if isinstance(entry, dict) else None
    if not isinstance(tag, str):
        return None
    flat = {key: value for key, value in entry.items() if key not in ("call_back_tag", "event_time")}
    inner = _object(entry[tag]) if tag in entry else flat
    if inner is None:
        return None
    fields: dict[str, Any] = {"EventType": tag}
    for key, value in inner.items():
        if key.lower() not in _WRAPPERS:
            fields[key] = value
            continue
        wrapped = _object(value)
        if wrapped is None:
            return None
        fields |= wrapped
    fields["EventType"] = tag
    return _with_one_corp_id(fields)


def _with_one_corp_id(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop the list's own `corpid` where the event has one; else call it as a push does."""
    beside = fields.pop("corpid", None)
    if beside is not None and not any(value for key, value in fields.items() if key.lower() == "corpid"):
        fields["CorpId"] = beside
    return fields


def _object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_int=lenient_int)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
