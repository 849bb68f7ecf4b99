"""`query` and `delete`: what DingTalk has registered."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from registrar.catalogue import catalogue
from registrar.client import DingTalkClient
from registrar.management.verbs.report import MASK, Options, Report, Verb, add_reveal, facts, table
from registrar.registration import Registration, differences


def _query(options: Options) -> Report:
    registered = Registration.from_answer(DingTalkClient.from_settings().query_callback())
    found = differences(registered)
    secrets = {
        "token": registered.token if options["reveal"] else MASK,
        "aes_key": registered.aes_key if options["reveal"] else MASK,
    }
    data = {"url": registered.url, "tags": registered.tags, **secrets, "differences": found}
    shown: list[RenderableType] = [facts({"url": registered.url, **secrets}), _tags(registered.tags)]
    shown += [_differences(found), "DingTalk and the settings differ: `manage.py dingtalk update` sends the settings."]
    if not found:
        shown[2:] = ["DingTalk has what the settings say."]
    return Report(data, shown)


def _tags(tags: list[str]) -> Table:
    made = table("event type", "meaning", "counts towards the monthly pushes")
    for tag in tags:
        meaning = catalogue().get(tag)
        made.add_row(tag, *([meaning.zh, "yes" if meaning.metered else "no"] if meaning else ["", "?"]))
    return made


def _differences(found: dict[str, Any]) -> Table:
    rows = {}
    for name, value in found.items():
        if name == "url":
            rows[name] = f"DingTalk has {value['dingtalk']}, the settings say {value['settings'] or 'nothing'}"
        else:
            rows[name.replace("_", " ")] = ", ".join(value) if isinstance(value, list) else value
    return facts(rows)


def _add_delete(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="first write what is registered, secrets in clear, to a new file"
    )


def _delete(options: Options) -> Report:
    client = DingTalkClient.from_settings()
    saved = options["save"]
    if saved:
        Registration.from_answer(client.query_callback()).save(saved)
    client.delete_callback()
    sentence = "Deleted: DingTalk pushes no more of what was registered through the API."
    if saved:
        sentence += f" `manage.py dingtalk register --from {saved}` restores it."
    return Report({"action": "deleted", "saved": str(saved) if saved else None}, [sentence])


QUERY = Verb(
    "query",
    "show what is registered, and what differs from the settings",
    "manage.py dingtalk query --json",
    add_reveal,
    _query,
)
DELETE = Verb(
    "delete",
    "delete the registered callback",
    "manage.py dingtalk delete --save callback.json",
    _add_delete,
    _delete,
)
