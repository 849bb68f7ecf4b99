"""`failed`: bring in the events that DingTalk gave up pushing."""

from registrar.client import DingTalkClient
from registrar.failed_list import Imported, read_failed_list
from registrar.management.verbs.report import Options, Report, Verb, no_arguments, table


def _failed(options: Options) -> Report:
    pages = list(read_failed_list(DingTalkClient.from_settings()))
    rows = [_row(imported) for imported in pages]
    total = {name: sum(row[name] for row in rows) for name in ("new", "known", "unreadable")}
    shown = table("page", "new events", "known before", "unreadable")
    for row in rows:
        shown.add_row(*(str(row[name]) for name in ("page", "new", "known", "unreadable")))
    sentence = f"New events: {total['new']}, known before: {total['known']}, unreadable entries: {total['unreadable']}"
    ending = ", which stay in their pages (admin: failed list pages)." if total["unreadable"] else "."
    return Report({**total, "pages": rows}, [shown, sentence + ending])


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
    no_arguments,
    _failed,
)
