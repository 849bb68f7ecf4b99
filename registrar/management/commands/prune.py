"""`manage.py prune`: delete old rows that nobody is owed any more."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.timezone import localtime

from callbacks import duty, pruning
from callbacks.batches import batches, ids_of
from callbacks.management.screen import Screen, progress, stoppable, table
from callbacks.models import Attempt, Delivery, Event
from callbacks.worker import kind
from registrar.failed_list import needed_since
from registrar.models import FailedPage

DUTY = "prune"
FEWEST_DAYS, MOST_DAYS = 8, 36_500
LABELS = {
    "events": Event._meta.label,
    "deliveries": Delivery._meta.label,
    "attempts": Attempt._meta.label,
    "failed_pages": FailedPage._meta.label,
}


class Command(BaseCommand):
    """Delete settled events with their deliveries and attempts, and failed list pages, in small batches."""

    help = (
        "Delete events older than N days that are owed to nobody any more, with their deliveries and attempts, and "
        "failed list pages that were imported. What is still owed stays. May be stopped and started again at any time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --days, --dry-run and --json."""
        parser.add_argument("--days", type=int, required=True, metavar="N", help="how old, at least 8")
        parser.add_argument("--dry-run", action="store_true", help="count, and delete nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        """Count or prune; a database that fails becomes one line."""
        if not FEWEST_DAYS <= options["days"] <= MOST_DAYS:
            reason = "DingTalk's failed list remembers 7 days, and what it brings again must still be known here"
            raise CommandError(f"--days must be from {FEWEST_DAYS} to {MOST_DAYS}: {reason}", returncode=2)
        wanted = timezone.now() - timedelta(days=options["days"])
        screen = Screen(self.stdout, as_json=options["json"])
        try:
            needed = needed_since()
            before = min(wanted, needed) if needed else wanted
            if before < wanted:
                self.stderr.write(
                    "warning: a failed list page is not imported yet, so what came after "
                    f"{localtime(before):%Y-%m-%d %H:%M} is kept; run `manage.py dingtalk failed`, then prune again"
                )
            data = _counted(before) if options["dry_run"] else _pruned(before)
        except Error as error:
            line = f"the database failed ({kind(error)}); what is pruned is pruned, run the command again to go on"
            raise CommandError(line) from error
        _tell(screen, before, data)


def _counted(before: datetime) -> dict[str, Any]:
    events = pruning.settled(before)
    return {
        "dry_run": True,
        "finished": True,
        "elsewhere": False,
        "events": events.count(),
        "deliveries": Delivery.objects.filter(event__in=events).count(),
        "attempts": Attempt.objects.filter(delivery__event__in=events).count(),
        "failed_pages": _pages(before).count(),
    }


def _pruned(before: datetime) -> dict[str, Any]:
    """Prune, unless another process does; one that takes over makes this one stop."""
    deleted: Counter[str] = Counter()
    finished = elsewhere = False
    try:
        with duty.hold(DUTY) as renew:
            finished = _prune(before, deleted, renew)
    except duty.DutyHeld:
        elsewhere = True
    counts = {word: deleted[label] for word, label in LABELS.items()}
    return {"dry_run": False, "finished": finished, "elsewhere": elsewhere, **counts}


def _prune(before: datetime, deleted: Counter[str], renew: Callable[[], None]) -> bool:
    """Delete what is old, and count it; return whether it is all of it."""
    pruning.move_horizon(before)
    events, pages = ids_of(pruning.settled(before)), ids_of(_pages(before))
    with stoppable() as stop, progress() as bar:
        task = bar.add_task("pruning", total=len(events) + len(pages))
        for count, rows in _deletions(events, pages):
            deleted += rows
            bar.advance(task, count)
            if stop.is_set():
                return False
            renew()
    return True


def _pages(before: datetime) -> QuerySet[FailedPage]:
    return FailedPage.objects.imported().filter(read_at__lt=before)


def _deletions(events: Sequence[int], pages: Sequence[int]) -> Iterator[tuple[int, Counter[str]]]:
    yield from pruning.prune(events)
    for ids in batches(pages):
        yield len(ids), Counter(FailedPage.objects.filter(pk__in=ids).delete()[1])


def _tell(screen: Screen, before: datetime, data: dict[str, Any]) -> None:
    owed = pruning.owed(before).count()
    counts = table(f"received before {localtime(before):%Y-%m-%d %H:%M}", "to delete" if data["dry_run"] else "deleted")
    for word in LABELS:
        counts.add_row(word.replace("_", " "), str(data[word]))
    ending = "Nothing was deleted." if data["dry_run"] else "Pruned."
    if data["elsewhere"]:
        ending = "Another process prunes; what is left is left to it."
    elif not data["finished"]:
        ending = "Stopped; run it again to go on."
    screen.show(counts, f"{ending} Older events that are still owed, and stay: {owed}.")
    screen.end({"before": before.isoformat(), **data, "still_owed": owed})
