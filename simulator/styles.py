"""The shapes in which DingTalk has written one and the same event over the years."""

import re
from typing import Any

# Today's documentation; as captured in 2023; as documented and captured in 2018.
STYLES = ("camel-2026", "pascal-2023", "pascal-2018")

_ENVELOPE = ("EventType", "EventTime", "CorpId", "BizId", "eventId")
_CONTACTS = ("user_", "org_", "label_")
# These had their own lower-case corp id and no envelope.
_FLAT = ("attend_group_", "attend_shift_", "edu_card_", "meetingroom_")
_LATER_APPROVAL_FIELDS = ("taskId", "businessId", "businessType")


def restyle(payload: dict[str, Any], style: str, corp_id: str, moment: int) -> dict[str, Any]:
    """Return a payload of today's shape in the shape of `style`; `moment` (ms) for times that today's lacks."""
    if style == "camel-2026":
        return payload
    kind = str(payload["EventType"])
    fields = {key: value for key, value in payload.items() if key not in _ENVELOPE}
    if kind.startswith("bpms_"):
        return _approval(kind, fields, style, corp_id)
    if kind.startswith(("edu_user_", "edu_dept_")):
        old = {"EventType": kind, "corpId": corp_id, **_education(fields)}
    elif kind.startswith(_FLAT):
        old = {"EventType": kind, **fields}
    elif "dataList" in fields or "DataList" in fields:
        # These carry the corp id in each row only.
        old = {"DataList": fields.get("dataList", fields.get("DataList")), "EventType": kind}
    else:
        old = _pascal(kind, fields, style, corp_id, moment)
    return {"eventId": payload["eventId"], **old} if style == "pascal-2023" and "eventId" in payload else old


def _approval(kind: str, fields: dict[str, Any], style: str, corp_id: str) -> dict[str, Any]:
    """Return an approval: lower-case `corpId` and, in all captures, no `eventId`."""
    if style == "pascal-2018":
        fields = {key: value for key, value in fields.items() if key not in _LATER_APPROVAL_FIELDS}
    return {**fields, "EventType": kind, "corpId": corp_id}


def _education(fields: dict[str, Any]) -> dict[str, Any]:
    """Return snake_case fields in camelCase, without the error fields that today's pages show."""
    kept = {key: value for key, value in fields.items() if key.lower() not in ("errcode", "errmsg", "corpid")}
    return {re.sub(r"_(\w)", lambda match: match[1].upper(), key): value for key, value in kept.items()}


def _pascal(kind: str, fields: dict[str, Any], style: str, corp_id: str, moment: int) -> dict[str, Any]:
    """Return PascalCase fields; contacts had their time as text in 2018 and none in 2023."""
    contacts = kind.startswith(_CONTACTS)
    old: dict[str, Any] = {"EventType": kind, "CorpId": corp_id}
    if contacts and style == "pascal-2018":
        old["TimeStamp"] = str(moment)
    elif not contacts:
        old["TimeStamp"] = moment
    for key, value in fields.items():
        name = key[0].upper() + key[1:]
        if name.lower() not in ("eventtype", "corpid") and not (contacts and name == "TimeStamp"):
            old[name] = value
    return old
