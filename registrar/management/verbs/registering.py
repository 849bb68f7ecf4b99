"""`register` and `update`: tell DingTalk where to push."""

from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from django.core.management import CommandError

from registrar.client import DingTalkClient
from registrar.errors import DingTalkError
from registrar.management.verbs.report import MASK, Options, Report, Verb, add_reveal, facts
from registrar.registration import Change, Registration, look, register, update


def _add_what(parser: ArgumentParser) -> None:
    parser.add_argument("--url", default="", help="callback address; default: DINGTALK_CALLBACK_URL")
    parser.add_argument("--tags", help="event types, comma-separated; default: DINGTALK_CALLBACK_TAGS")
    add_reveal(parser)


def _add_register(parser: ArgumentParser) -> None:
    _add_what(parser)
    parser.add_argument("--or-update", action="store_true", help="update what is registered, if anything is")
    parser.add_argument(
        "--from", dest="file", type=Path, help="restore what `delete --save FILE` wrote", metavar="FILE"
    )


def _register(options: Options) -> Report:
    wanted = _wanted(options)
    warnings = look(wanted, is_restored=bool(options["file"]))
    client = DingTalkClient.from_settings()
    change = _told(warnings, lambda: register(client, wanted, options["or_update"]))
    return _report(change, wanted, warnings, options)


def _update(options: Options) -> Report:
    wanted = _wanted(options)
    warnings = look(wanted)
    client = DingTalkClient.from_settings()
    return _report(_told(warnings, lambda: update(client, wanted)), wanted, warnings, options)


def _told(warnings: list[str], change: Callable[[], Change]) -> Change:
    """Make the change; where DingTalk refuses, what was warned of may be why, so it joins the one line."""
    try:
        return change()
    except DingTalkError as error:
        error.step = "; ".join([error.step, *warnings])
        raise


def _wanted(options: Options) -> Registration:
    tags = [tag.strip() for tag in (options["tags"] or "").split(",") if tag.strip()]
    if options["tags"] is not None and not tags:
        raise CommandError("--tags names no event type: give some, such as user_add_org,user_leave_org", returncode=2)
    if not options.get("file"):
        return Registration.from_settings(options["url"], tags)
    saved = Registration.load(options["file"])
    return Registration(options["url"] or saved.url, tags or saved.tags, saved.token, saved.aes_key)


def _report(change: Change, wanted: Registration, warnings: list[str], options: Options) -> Report:
    secrets = {
        "token": wanted.token if options["reveal"] else MASK,
        "aes_key": wanted.aes_key if options["reveal"] else MASK,
    }
    data = {
        "action": change.action,
        "url": wanted.url,
        "tags": wanted.tags,
        "added": change.added,
        "removed": change.removed,
        **secrets,
    }
    rows = {"url": wanted.url, **secrets, "added": ", ".join(change.added) or "none"}
    rows["removed"] = ", ".join(change.removed) or "none"
    sentence = f"{change.action.capitalize()}. Event types pushed to this address: {len(wanted.tags)}."
    return Report(data, [facts(rows), sentence], warnings)


REGISTER = Verb(
    "register",
    "register the callback (DingTalk checks the address first)",
    "manage.py dingtalk register --url https://your.domain/dingtalk/callback/ --tags user_add_org,user_leave_org",
    _add_register,
    _register,
)
UPDATE = Verb(
    "update",
    "replace the registered callback's address, event types and credentials",
    "manage.py dingtalk update --tags bpms_instance_change,bpms_task_change",
    _add_what,
    _update,
)
