"""What a payload says: event type, corp id, identity (dedupe) and subject (order). Pure: no Django, no I/O.

DingTalk has written the same fields in several ways over the years (`UserId`, `userId`, `userid`), so keys are looked
up without regard to case, and nothing but `EventType` is required.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callbacks.dingcrypto import RefusedPush

MAX_EVENT_TYPE = 128
MAX_DEPTH = 500
MAX_SUBJECT = 200

APPROVAL_TYPES = ("bpms_instance_change", "bpms_task_change")
# Answered with `success` and never stored: DingTalk asks whether the address works.
VALIDATION_TYPES = ("check_url", "check_create_suite_url", "check_update_suite_url")

_TIMES = ("timestamp", "eventtime", "event_time")
_SUBJECTS = (
    ("instance", ("processinstanceid",)),
    ("chat", ("openconversationid", "chatid")),
    ("user", ("userid", "useridlist", "staffid")),
    ("dept", ("deptid",)),
)
SUBJECT_KINDS = tuple(kind for kind, _ in _SUBJECTS)


class MalformedPayload(RefusedPush):
    """The decrypted text is no JSON object with a usable `EventType`."""


@dataclass(frozen=True)
class Payload:
    """A decrypted push, read: `data` is what a database can hold of it, `body` the text exactly as it came."""

    event_type: str
    corp_id: str
    identity: str
    subject: str
    data: dict[str, Any]
    body: str

    @property
    def is_validation(self) -> bool:
        """Tell whether DingTalk only asks if the address works."""
        return self.event_type in VALIDATION_TYPES


def read(body: str, salt: str) -> Payload:
    """Read a decrypted text.

    `salt` sets apart two payloads that carry neither an id nor a time: a push gives its timestamp and nonce, an entry
    of the failed list its place there. Raises MalformedPayload.
    """
    data = parse(body)
    corp = corp_id(data)
    return Payload(event_type(data), corp, identity(data, corp, salt), subject(data, corp), data, body)


def parse(body: str) -> dict[str, Any]:
    """Return the JSON object in `body`, with what a database refuses replaced.

    U+0000 and lone surrogates become U+FFFD; NaN, infinities and floats out of range become their text. Raises
    MalformedPayload.
    """
    try:
        data = json.loads(body, parse_constant=str, parse_float=_float_or_text)
    except RecursionError:
        raise MalformedPayload(f"the payload is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # no JSON, or an integer with more digits than Python converts
        raise MalformedPayload("the payload is not JSON that can be read") from None
    if not isinstance(data, dict):
        raise MalformedPayload("the payload is not a JSON object")
    stored: dict[str, Any] = storable(data)
    return stored


class Fields:
    """A payload's top-level values, by key in any case."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._by_lower_key: dict[str, Any] = {}
        for key, value in data.items():
            self._by_lower_key.setdefault(key.lower(), value)

    def get(self, name: str) -> Any:
        """Return the value of `name`, else of its first other spelling, or None."""
        return self._data[name] if name in self._data else self._by_lower_key.get(name.lower())

    def text(self, *names: str) -> str:
        """Return the first of the named values that is a non-empty string or a number, as text; else ''."""
        for name in names:
            value = self.get(name)
            if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value not in ("", 0):
                return str(value)
        return ""


def event_type(data: Mapping[str, Any]) -> str:
    """Return the `EventType`: that exact spelling first, since some events carry an `eventType` of another meaning."""
    value = Fields(data).get("EventType")
    if not isinstance(value, str) or not value or len(value) > MAX_EVENT_TYPE:
        raise MalformedPayload(f"`EventType` must be a string of 1 to {MAX_EVENT_TYPE} characters")
    return value


def corp_id(data: Mapping[str, Any]) -> str:
    """Return the corp id from the top, or from the first of `DataList`; '' where there is none."""
    fields = Fields(data)
    found = fields.text("CorpId")
    rows = fields.get("DataList")
    if not found and isinstance(rows, list) and rows and isinstance(rows[0], dict):
        found = Fields(rows[0]).text("CorpId")
    return found[:MAX_EVENT_TYPE]


def identity(data: Mapping[str, Any], corp: str, salt: str) -> str:
    """Return what makes two pushes the same event.

    An approval's business key, so that a push, its copy in the failed list and a twin under another `eventId` are one;
    else corp, `eventId` and type, as nobody says that an id is of one type only; else a fingerprint, salted where the
    payload carries no time.
    """
    fields = Fields(data)
    key = _approval_key(fields)
    if key:
        return f"approval:{_digest(key)}"
    event_id, kind = fields.text("eventId"), fields.text("EventType")
    if event_id:
        return f"event-id:{_digest([corp, event_id, kind])}"
    times = (*_TIMES, "createtime", "finishtime") if kind in APPROVAL_TYPES else _TIMES
    return f"fingerprint:{_digest([data, '' if fields.text(*times) else salt])}"


def subject(data: Mapping[str, Any], corp: str) -> str:
    """Return `<corp>:<kind>:<id>`, what the event is about, or '' where it is about nothing that has an order.

    Several users (departments) in one event are a subject of their own.
    """
    fields = Fields(data)
    for kind, names in _SUBJECTS:
        for name in names:
            ids = _ids(fields.get(name))
            if ids:
                text = f"{corp}:{kind}:{','.join(ids)}"
                return text if len(text) <= MAX_SUBJECT else f"{corp[:80]}:{kind}:{_digest(ids)}"
    return ""


def _approval_key(fields: Fields) -> list[str]:
    kind, change = fields.text("EventType"), fields.text("type")
    instance = fields.text("processInstanceId")
    created, finished = fields.text("createTime"), fields.text("finishTime")
    if kind not in APPROVAL_TYPES or not instance or not change or change == "comment" or not (created or finished):
        return []
    key = [kind, instance, change, fields.text("result")]
    if kind == "bpms_instance_change":
        return [*key, finished or created]
    return [*key, fields.text("taskId"), fields.text("staffId"), created, finished]


def _ids(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return sorted({str(v) for v in values if isinstance(v, (str, int)) and not isinstance(v, bool) and v != ""})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def _float_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def storable(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a JSON value with what a database refuses replaced (see `parse`); MalformedPayload if nested too deep.

    Plain loops, so that a level costs one frame of the stack.
    """
    if isinstance(value, str):
        return _storable_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if not isinstance(value, (dict, list)):
        return value
    if depth == 0:
        raise MalformedPayload(f"the payload is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        items = []
        for item in value:
            items.append(storable(item, depth - 1))
        return items
    pairs = {}
    for key, item in value.items():
        pairs[_storable_text(key)] = storable(item, depth - 1)
    return pairs


def _storable_text(text: str) -> str:
    if text.isprintable():
        return text
    replaced = text.replace("\x00", "\ufffd")
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in replaced)
