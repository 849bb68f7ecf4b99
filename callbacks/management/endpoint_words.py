"""What `manage.py endpoint` says of an endpoint: facts for programs, a table for people, secrets masked."""

import json
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
_OF_STANDARD, _OF_DINGTALK = SECRETS[:2], SECRETS[2:]


def facts(endpoint: Endpoint, *, reveal: bool) -> dict[str, Any]:
    """Return what is known of an endpoint, its secrets masked unless they are to be revealed."""
    pending = Delivery.objects.pending().filter(destination=endpoint.destination)
    names = ("id", "name", "url", "format", "enabled", "paused", "event_types", "corp_ids", "where", "retry_schedule")
    settings = ("timeout", "concurrency", "rate", "owner_key", "failing_since", "rests_until", "disabled_because")
    used = _OF_DINGTALK if endpoint.format == Endpoint.Format.DINGTALK else _OF_STANDARD
    return {
        "destination": endpoint.destination,
        **{name: getattr(endpoint, name) for name in (*names, *settings, "last_error")},
        "state": endpoint.condition.value,
        "pending": pending.count(),
        **{name: secret(endpoint, name, reveal=reveal) for name in used},
    }


def secret(endpoint: Endpoint, name: str, *, reveal: bool) -> str:
    """Return one of its secrets, or the mask; '' where there is none."""
    try:
        value = str(getattr(Endpoint.objects.only("pk").get(pk=endpoint.pk), name))
    except Unreadable:
        return "unreadable"
    return value if reveal or not value else MASK


def rows_of(endpoints: list[dict[str, Any]]) -> Table:
    """Return the table of a list."""
    shown = table("id", "name", "format", "url", "events", "state", "pending", "why")
    for each in endpoints:
        cells = (each["id"], each["name"], each["format"], each["url"], events(each), state(each), each["pending"])
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
    for name, value in {**rows, **owner, "state": state(each), "why": why(each)}.items():
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
    since = each["failing_since"]
    return f"{each['state']} since {localtime(since):%Y-%m-%d %H:%M}" if since else str(each["state"])


def why(each: dict[str, Any]) -> str:
    """Return what keeps it from being sent anything."""
    return last_line(each["disabled_because"] if not each["enabled"] else each["last_error"])


def preview(endpoint: Endpoint) -> tuple[dict[str, int], str]:
    """Return how many of the newest events would have gone there, as data and as a sentence."""
    count, of = wanted(endpoint)
    sentence = f"{count:,} of the last {of:,} events would have gone here" if of else "no event has come yet"
    return {"wanted": count, "of": of}, sentence
