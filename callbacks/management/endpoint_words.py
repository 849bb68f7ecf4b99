"""What `manage.py endpoint` says of an endpoint: facts for programs, a table for people, secrets masked."""

import json
from collections.abc import Sequence
from typing import Any

from django.utils.timezone import localtime
from rich.table import Table

from callbacks.display import last_line
from callbacks.endpoint import SECRETS
from callbacks.fields import Unreadable
from callbacks.management.screen import table
from callbacks.models import Delivery, Endpoint
from callbacks.preview import wanted

MASK = "***"
ANSWER_SHOWN = 200
_OF_STANDARD, _OF_DINGTALK = SECRETS[:2], SECRETS[2:]


def facts(endpoint: Endpoint, *, reveal: bool) -> dict[str, Any]:
    """Return what is known of an endpoint, its secrets masked unless they are to be revealed."""
    owed = Delivery.objects.filter(destination=endpoint.destination)
    names = ("id", "name", "url", "format", "enabled", "paused", "event_types", "corp_ids", "where", "retry_schedule")
    settings = ("timeout", "concurrency", "rate", "owner_key", "failing_since", "rests_until", "disabled_because")
    used, _ = secrets_of(endpoint)
    return {
        "destination": endpoint.destination,
        **{name: getattr(endpoint, name) for name in (*names, *settings, "last_error")},
        "state": endpoint.condition.value,
        "pending": owed.pending().count(),
        "dead": owed.filter(state=Delivery.State.DEAD).count(),
        **{name: secret(endpoint, name, reveal=reveal) for name in used},
    }


def secret(endpoint: Endpoint, name: str, *, reveal: bool) -> str:
    """Return one of its secrets, or the mask; '' where there is none."""
    try:
        value = str(getattr(Endpoint.objects.only("pk").get(pk=endpoint.pk), name))
    except Unreadable:
        return "unreadable"
    return value if reveal or not value else MASK


def secrets_of(endpoint: Endpoint) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of the secrets that its format uses, and of those that it has no use for."""
    both = (_OF_STANDARD, _OF_DINGTALK)
    return both if endpoint.format == Endpoint.Format.STANDARD else both[::-1]


def said(error: Exception, answered: dict[str, Any]) -> str:
    """Return what was wrong with an answer, and how it begins, in one line."""
    start = " ".join(str(answered.get("answer") or "").split())[:ANSWER_SHOWN]
    return f"{error}, and said: {start}" if start else str(error)


def waiting(endpoint: Endpoint) -> list[str]:
    """Return what is to be known of an endpoint that would take what waits for it."""
    count = Delivery.objects.pending().filter(destination=endpoint.destination).count()
    if not endpoint.enabled:
        return [f"it is disabled: `manage.py endpoint enable {endpoint.pk}` owes it events again"]
    if endpoint.paused or count:
        what = "it is paused" if endpoint.paused else f"deliveries that wait for their next try: {count}"
        return [f"{what}; `manage.py endpoint resume {endpoint.pk}` sends them now"]
    return []


def rows_of(endpoints: list[dict[str, Any]]) -> Table:
    """Return the table of a list."""
    shown = table("id", "name", "format", "url", "events", "state", "pending", "dead", "why")
    for each in endpoints:
        counts = (each["pending"], each["dead"])
        cells = (each["id"], each["name"], each["format"], each["url"], events(each), state(each), *counts)
        shown.add_row(*(str(cell) for cell in cells), why(each))
    return shown


def one(each: dict[str, Any]) -> Table:
    """Return the table of one endpoint."""
    shown = Table(show_header=False, show_edge=False, box=None)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    secrets = {name: str(each[name]) for name in SECRETS if each.get(name)}
    owner = {"owner_key": str(each["owner_key"])} if each["format"] == Endpoint.Format.DINGTALK else {}
    rows = {"name": each["name"], "url": each["url"], "format": each["format"], "events": events(each), **secrets}
    limits = {name: str(each[name] or "") for name in ("timeout", "concurrency", "rate")}
    schedule = {"retry_schedule": ", ".join(str(seconds) for seconds in each["retry_schedule"] or [])}
    owed = {"pending": str(each["pending"]), "dead": str(each["dead"])}
    for name, value in {**rows, **owner, **limits, **schedule, "state": state(each), **owed, "why": why(each)}.items():
        if value:
            shown.add_row(name.replace("_", " "), value)
    return shown


def events(each: dict[str, Any]) -> str:
    """Return in words which events it wants."""
    parts = [
        ", ".join(str(name) for name in each["event_types"] or []) or "all",
        *([f"of {', '.join(str(corp) for corp in each['corp_ids'])}"] if each["corp_ids"] else []),
        *([f"where {json.dumps(each['where'], ensure_ascii=False)}"] if each["where"] else []),
    ]
    return " ".join(parts)


def state(each: dict[str, Any]) -> str:
    """Return how it goes with it, and since when."""
    since, rests = each["failing_since"], each["rests_until"]
    told = f"{each['state']} since {localtime(since):%Y-%m-%d %H:%M}" if since else str(each["state"])
    return f"{told}, one at a time, the next at {localtime(rests):%H:%M:%S}" if since and rests else told


def why(each: dict[str, Any]) -> str:
    """Return what keeps it from being sent anything."""
    return last_line(each["disabled_because"] if not each["enabled"] else each["last_error"])


def preview(endpoint: Endpoint) -> tuple[dict[str, int], str]:
    """Return how many of the newest events would have gone there, as data and as a sentence."""
    count, of = wanted(endpoint)
    sentence = f"{count:,} of the last {of:,} events would have gone here" if of else "no event has come yet"
    return {"wanted": count, "of": of}, sentence
