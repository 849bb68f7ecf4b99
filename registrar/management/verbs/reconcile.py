"""`reconcile`: make the approval events that never came, from what DingTalk knows of the instances."""

from argparse import ArgumentParser
from datetime import datetime, timedelta, timezone
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.utils.timezone import is_naive, localtime, make_aware
from django.utils.timezone import now as current
from rich.console import RenderableType

from callbacks.management.screen import Screen, progress, stoppable
from registrar import calls
from registrar.client import DingTalkClient
from registrar.errors import DingTalkError
from registrar.management.verbs.report import Options, Report, Verb, facts, table
from registrar.reconcile import Gap, Outcome, Plan, fill, plan, search

MOST_SHOWN = 20
BLIND = (
    "Deleted instances can't be found, nor what happened to single tasks: DingTalk lists what it still has, and only "
    "whole instances."
)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="since",
        required=True,
        metavar="DAY",
        help="since when events may be missing, such as 2026-11-20",
    )
    parser.add_argument("--to", dest="until", metavar="DAY", help="until when; a day or a time, default: now")
    parser.add_argument(
        "--process-code",
        action="append",
        default=[],
        metavar="PROC-…",
        help="a template; repeatable; default: those that the inbox has approvals of",
    )
    parser.add_argument(
        "--lookback",
        type=int,
        default=30,
        metavar="DAYS",
        help="how long before --from an instance may have begun that ended in the period; default 30",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _reconcile(options: Options) -> Report:
    wanted = _plan(options)
    screen: Screen = options["screen"]
    screen.show(*_shown(wanted))
    agreed = options["yes"] or screen.agrees("List the instances, and fetch those of which something is missing?")
    if not agreed:
        nobody = agreed is None
        refusal = "there is no terminal to ask at; add --yes" if nobody else "you answered no"
        told = f"nothing was asked of DingTalk and nothing was changed: {refusal}"
        return Report({**_data(wanted), "done": False}, [], refusal=told, refusal_status=2 if nobody else 1)
    client, before = DingTalkClient.from_settings(), calls.made()
    try:
        with stoppable() as stop:
            gaps = list(search(client, wanted, stop))
            listing = calls.made() - before
            screen.show(
                f"The lists took {listing} calls. Instances to fetch: {len(gaps)}, a call each; and each event that is "
                "made costs one more when its handler fetches the instance."
            )
            agreed = not gaps or options["yes"] or screen.agrees("Fetch them?")
            go_on = agreed and not stop.is_set()
            outcome = _filled(client, wanted, gaps, stop) if go_on else Outcome(finished=False)
    except DingTalkError as error:
        error.step = "; ".join(filter(None, [error.step, "what was made is made: the same command goes on from there"]))
        raise
    return _report(wanted, gaps, outcome, calls.made() - before)


def _filled(client: DingTalkClient, wanted: Plan, gaps: list[Gap], stop: Any) -> Outcome:
    outcome = Outcome()
    with progress() as bar:
        task = bar.add_task("fetching", total=len(gaps))
        for each in fill(client, wanted, gaps, stop):
            outcome = each
            bar.advance(task)
    return outcome


def _plan(options: Options) -> Plan:
    since = _moment("--from", options["since"])
    until = _moment("--to", options["until"]) if options["until"] else current()
    if since >= min(until, current()):
        raise CommandError("--from must lie before --to, and not in the future", returncode=2)
    if not 0 <= options["lookback"] <= 365:
        raise CommandError("--lookback must be from 0 to 365 days", returncode=2)
    if current() - since > timedelta(days=364):
        raise CommandError("--from: DingTalk lists no instance that began more than 365 days ago", returncode=2)
    return plan(since, until, timedelta(days=options["lookback"]), options["process_code"])


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (make_aware(moment) if is_naive(moment) else moment).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        line = f"{name} must be a day or a time, such as 2026-11-20 or '2026-11-20 10:00', not {text}"
        raise CommandError(line, returncode=2) from None


def _shown(wanted: Plan) -> list[RenderableType]:
    searched = datetime.fromtimestamp(wanted.windows[0].since / 1000, timezone.utc)
    shown = facts(
        {
            "events between": f"{localtime(wanted.since):%Y-%m-%d %H:%M} and {localtime(wanted.until):%Y-%m-%d %H:%M}",
            "of instances begun since": f"{localtime(searched):%Y-%m-%d %H:%M}",
            "templates": ", ".join(wanted.process_codes),
            "calls of the lists": f"at least {wanted.least_calls}, one more for each further 20 instances of a list",
            "calls of the instances": "one for each of which the inbox lacks its start or its end",
            "API calls this month": f"{calls.used()} of {settings.DINGTALK_MONTHLY_CALLS}; the lists stop at 80 %",
        }
    )
    pruned = wanted.complete_since
    warning = (
        f"Events before {localtime(pruned):%Y-%m-%d %H:%M} may have been pruned and are not made anew."
        if pruned
        else ""
    )
    return [shown, *filter(None, [warning]), BLIND]


def _data(wanted: Plan) -> dict[str, Any]:
    return {
        "from": wanted.since.isoformat(),
        "to": wanted.until.isoformat(),
        "process_codes": wanted.process_codes,
        "least_calls": wanted.least_calls,
        "calls_this_month": calls.used(),
        "monthly_calls": settings.DINGTALK_MONTHLY_CALLS,
    }


def _report(wanted: Plan, gaps: list[Gap], outcome: Outcome, spent: int) -> Report:
    data = {
        **_data(wanted),
        "done": outcome.finished,
        "calls_spent": spent,
        "to_fetch": len(gaps),
        "fetched": outcome.fetched,
        "unknown_instances": outcome.unknown,
        "too_young": outcome.too_young,
        "made": len(outcome.made),
        "events": outcome.made,
    }
    shown: list[RenderableType] = []
    if outcome.made:
        events = table("event", "instance", "type")
        for made in outcome.made[:MOST_SHOWN]:
            events.add_row(str(made["event"]), made["instance"], made["type"])
        shown.append(events)
    sentence = f"Events made: {len(outcome.made)}, instances fetched: {outcome.fetched}, API calls spent: {spent}."
    if outcome.unknown:
        sentence += f" Instances that DingTalk listed and does not know: {outcome.unknown}."
    if outcome.too_young:
        sentence += f" Left for two minutes, as their pushes may still come: {outcome.too_young}; run it again then."
    if not outcome.finished:
        sentence += " Stopped; run it again to go on."
    return Report(data, [*shown, sentence])


RECONCILE = Verb(
    "reconcile",
    "make the approval events that never came, from DingTalk's lists of instances",
    "manage.py dingtalk reconcile --from '2026-11-20 10:00' --to '2026-11-20 12:00' --yes",
    _add_arguments,
    _reconcile,
)
