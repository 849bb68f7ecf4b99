"""`failed`: bring in the events that DingTalk gave up pushing, once or again and again; the pages that are kept."""

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.utils.timezone import localtime
from rich.console import RenderableType

from callbacks.management.screen import stoppable
from registrar import calls
from registrar.client import DingTalkClient
from registrar.failed_list import Imported, read_failed_list, reimport
from registrar.management.verbs.report import Options, Report, Verb, table
from registrar.models import FailedPage
from registrar.schedule import DEFAULT_INTERVAL, LEAST_INTERVAL
from registrar.watching import watch


def _add_arguments(parser: ArgumentParser) -> None:
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--watch",
        type=int,
        nargs="?",
        const=DEFAULT_INTERVAL,
        metavar="SECONDS",
        help=f"read it again and again until SIGTERM or Ctrl-C; default {DEFAULT_INTERVAL}, at least {LEAST_INTERVAL}",
    )
    ways.add_argument("--pages", action="store_true", help="list the pages that are kept; asks DingTalk for nothing")
    ways.add_argument(
        "--reimport", action="store_true", help="read the kept pages once more; asks DingTalk for nothing"
    )


def _failed(options: Options) -> Report:
    if options["watch"] is not None:
        return _watch(options["watch"])
    if options["pages"]:
        return _pages()
    if options["reimport"]:
        return _imported(reimport(page) for page in FailedPage.objects.order_by("pk").iterator(chunk_size=10))
    report = _imported(read_failed_list(DingTalkClient.from_settings()))
    spent = f"API calls this month: {calls.used()} of {settings.DINGTALK_MONTHLY_CALLS}."
    return Report(report.data, [*report.shown, spent])


def _watch(interval: int) -> Report:
    if interval < LEAST_INTERVAL:
        raise CommandError(f"--watch {interval}: give at least {LEAST_INTERVAL} seconds", returncode=2)
    with stoppable() as stop:
        watch(interval, stop)
    return Report({"stopped": True}, ["Stopped."])


def _pages() -> Report:
    fields = ("pk", "read_at", "imported_at", "entries_read", "entries_unreadable", "error")
    rows: list[dict[str, Any]] = []
    shown = table("page", "read at", "entries read", "unreadable", "imported", "error")
    for page in FailedPage.objects.only(*fields).order_by("pk").iterator():
        read, imported = localtime(page.read_at), page.imported_at and localtime(page.imported_at)
        counts = {"entries_read": page.entries_read, "entries_unreadable": page.entries_unreadable}
        moments = {"read_at": read.isoformat(), "imported_at": imported.isoformat() if imported else None}
        rows.append({"page": page.pk, **moments, **counts, "error": page.error})
        cells = (page.pk, f"{read:%Y-%m-%d %H:%M:%S}", page.entries_read, page.entries_unreadable)
        shown.add_row(*map(str, cells), f"{imported:%Y-%m-%d %H:%M:%S}" if imported else "not yet", page.error)
    sentence = (
        f"Pages kept: {len(rows)}. `manage.py dingtalk failed --reimport` reads them again, `prune` deletes old ones."
    )
    return Report({"pages": rows}, [shown, sentence])


def _imported(pages: Iterable[Imported]) -> Report:
    rows = [_row(imported) for imported in pages]
    total = {name: sum(row[name] for row in rows) for name in ("new", "known", "unreadable")}
    shown = table("page", "new events", "known before", "unreadable")
    for row in rows:
        shown.add_row(*(str(row[name]) for name in ("page", "new", "known", "unreadable")))
    sentence = f"New events: {total['new']}, known before: {total['known']}, unreadable entries: {total['unreadable']}"
    ending = ", which stay in their pages (admin: failed list pages)." if total["unreadable"] else "."
    told: list[RenderableType] = [shown, sentence + ending]
    return Report({**total, "pages": rows}, told)


def _row(imported: Imported) -> dict[str, int]:
    page = imported.page
    return {
        "page": page.pk,
        "new": imported.new,
        "known": imported.known,
        "unreadable": page.entries_unreadable,
    }


FAILED = Verb(
    "failed",
    "read the failed list, which empties it, and store its events",
    "manage.py dingtalk failed",
    _add_arguments,
    _failed,
)
