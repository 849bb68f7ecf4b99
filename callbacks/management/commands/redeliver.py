"""`manage.py redeliver`: try deliveries again by hand, or owe old events to a destination that was added later."""

from datetime import datetime, timezone
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.utils.timezone import is_naive, localtime, make_aware

from callbacks.batches import batches
from callbacks.display import last_line
from callbacks.management.redelivery import Choice, Plan, Row, to_a_latecomer, to_where_they_were
from callbacks.management.screen import Screen, progress, stoppable, table
from callbacks.models import Delivery
from callbacks.worker import kind

MOST_SHOWN = 20
BIGGEST_ID = 2**63 - 1


class Command(BaseCommand):
    """Show what would be redelivered, ask, and do it."""

    help = (
        "Make deliveries due again, chosen by their numbers or by what they are; or, with --to, owe their events to a "
        "handler or an endpoint that was added later. Shows them and asks first. Attempts made before stay on record, "
        "order is kept, and what a worker holds at this moment is left to it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what chooses, and --to, --yes and --json."""
        parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="numbers of deliveries")
        parser.add_argument("--event-type", metavar="T", help="of events of this type")
        parser.add_argument("--state", choices=Delivery.State.values, help="in this state")
        parser.add_argument("--since", metavar="DAY", help="of events received since, such as 2026-11-20 or with 10:00")
        parser.add_argument("--destination", metavar="D", help="owed to this, such as handler:shop.handlers.ticket")
        parser.add_argument("--to", metavar="D", help="owe the events to this instead, where they never were")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--json", action="store_true", help="print one JSON document, and do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        """Show, ask and do; whatever stops it becomes one line with the cause and the next step."""
        choice = _choice(options)
        screen = Screen(self.stdout, as_json=options["json"])
        try:
            plan = to_a_latecomer(choice, options["to"]) if options["to"] else to_where_they_were(choice)
            rows = list(plan.rows(None if options["json"] else MOST_SHOWN))
            _show(screen, plan, rows)
            agreed = options["yes"] or screen.agrees(plan.question)
            count, tried = _carry_out(plan) if agreed else (0, 0)
        except Error as error:
            line = f"the database failed ({kind(error)}); what is done is done, run the command again for the rest"
            raise CommandError(line) from error
        rest = len(plan.ids) - tried
        screen.end({"done": not rest, plan.verb: count, "left": tried - count, "rest": rest, plan.noun: rows})
        if agreed is None:
            raise CommandError("nothing was changed: there is no terminal to ask at; add --yes", returncode=2)
        if not agreed:
            raise CommandError("nothing was changed, as you answered no")
        left = f"; {tried - count} {plan.left}" if tried > count else ""
        screen.show(f"{count} {plan.done}{left}.", *([f"Stopped with {rest} to go."] if rest else []))


def _choice(options: dict[str, Any]) -> Choice:
    since = _moment(options["since"]) if options["since"] else None
    choice = Choice(options["ids"], options["event_type"], options["state"], options["destination"], since)
    if choice.is_empty:
        raise CommandError(
            "say which: numbers of deliveries, or --event-type, --state, --since, --destination", returncode=2
        )
    if choice.ids and choice != Choice(choice.ids, None, None, None, None):
        raise CommandError("give either numbers of deliveries or what they have in common, not both", returncode=2)
    if not all(0 < number <= BIGGEST_ID for number in choice.ids):
        raise CommandError("a delivery's number is positive, as the admin shows it", returncode=2)
    return choice


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (make_aware(moment) if is_naive(moment) else moment).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        line = f"--since must be a day or a time, such as 2026-11-20 or '2026-11-20 10:00', not {text}"
        raise CommandError(line, returncode=2) from None


def _show(screen: Screen, plan: Plan, rows: list[Row]) -> None:
    shown = table(*(name.replace("_", " ") for name in rows[0] if name != "held"))
    for row in rows:
        shown.add_row(*_words(row))
    more = len(plan.ids) - len(rows)
    screen.show(shown, *([f"… and {more} more {plan.noun}"] if more else []))


def _words(row: Row) -> list[str]:
    words = dict(row)
    if words.pop("held", False):
        words["state"] += ", a worker is at it"
    if words.get("waits_behind"):
        words["waits_behind"] = f"waits behind #{words['waits_behind']}"
    if words.get("last_error"):
        words["last_error"] = last_line(words["last_error"])
    return [_word(value) for value in words.values()]


def _word(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{localtime(value):%Y-%m-%d %H:%M:%S}"
    return "" if value is None else str(value)


def _carry_out(plan: Plan) -> tuple[int, int]:
    """Return how many were done, and how many were tried before SIGTERM or the end."""
    count = tried = 0
    with stoppable() as stop, progress() as bar:
        task = bar.add_task("redelivering", total=len(plan.ids))
        for ids in batches(plan.ids):
            count += plan.carry_out(ids)
            tried += len(ids)
            bar.advance(task, len(ids))
            if stop.is_set():
                break
    return count, tried
