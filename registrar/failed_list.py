"""Read DingTalk's failed list without losing an entry, although every reading empties it.

A page is committed as it came before its entries become events and before the next page is asked for. Whatever ends
this midway, the next call first imports the pages that are left, then goes on.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from callbacks import duty
from callbacks.inbox import receive
from callbacks.models import Event
from callbacks.payload import MalformedPayload, Payload, read
from callbacks.pruning import horizon
from registrar.client import DingTalkClient
from registrar.errors import BrokenAnswer, ListHeld
from registrar.failed_entries import Entry, event_time, read_page
from registrar.models import FailedPage

DUTY = "failed_list"
LEASE = timedelta(seconds=45)
RENEW_EVERY = 50  # entries
REMEMBERED = timedelta(days=8)  # DingTalk's list remembers seven, and its clock may differ from ours


class Imported(NamedTuple):
    """A page and what became of its entries: events new to us, events known before; the rest is unreadable."""

    page: FailedPage
    new: int
    known: int
    has_more: bool


def read_failed_list(client: DingTalkClient) -> Generator[Imported, None, None]:
    """Import what earlier readers left, then read page after page until DingTalk has no more; yield each when done.

    Raises ListHeld where another reader is at it, BrokenAnswer after a page that broke off, and what the client raises.
    """
    with _sole_reader() as renew:
        for left in FailedPage.objects.not_imported():
            yield _import(left, renew)
        has_more = True
        while has_more:
            raw_answer = client.failed_callbacks()
            # PostgreSQL's text holds no NUL, and valid JSON has none
            page = FailedPage.objects.create(raw_answer=raw_answer.replace("\x00", "\ufffd"))
            renew()
            imported = _import(page, renew)
            yield imported
            if page.error:
                step = f"what came is kept in failed list page {page.pk}; run `manage.py dingtalk failed` again"
                raise BrokenAnswer("", "", page.error, step)
            has_more = imported.has_more


@contextmanager
def _sole_reader() -> Iterator[Callable[[], None]]:
    """Hold the one lease and give the means to renew it; that of a reader that died runs out by itself."""
    try:
        with duty.hold(DUTY, LEASE) as renew:
            yield renew
    except duty.DutyHeld:
        step = "nothing is lost; wait for it, or a minute if it died, and run this again"
        raise ListHeld("", "", "another reader is at the failed list", step) from None


def unreadable_entries(page: FailedPage) -> list[Any]:
    """Return those of a page's entries that are no events, as they came."""
    return [entry.raw for entry in read_page(page.raw_answer).entries if _payload(entry, salt="") is None]


def _import(page: FailedPage, renew: Callable[[], None]) -> Imported:
    """Make events of a page's entries; doing it again adds nothing, as an entry's identity hangs on its place.

    An entry from before the horizon counts as known: its event may have been here and been pruned.
    """
    answer = read_page(page.raw_answer)
    complete_since = horizon()
    new = known = unreadable = 0
    for position, entry in enumerate(answer.entries):
        if position % RENEW_EVERY == 0:
            renew()
        payload = _payload(entry, salt=f"failed_list:{page.pk}:{position}")
        if payload is None:
            unreadable += 1
        elif not _is_older(entry, complete_since) and _store(payload):
            new += 1
        else:
            known += 1
    page.entries_read, page.entries_unreadable = new + known, unreadable
    page.error = "" if answer.whole else "the answer of the failed list broke off"
    page.imported_at = timezone.now()
    page.save()
    return Imported(page, new, known, answer.has_more)


def _is_older(entry: Entry, complete_since: datetime | None) -> bool:
    moment = event_time(entry)
    return complete_since is not None and moment is not None and moment < complete_since


def needed_since() -> datetime | None:
    """Return since when events must be kept for the pages that are not imported yet, None where there is none.

    Some of their entries may be events already; if those were pruned, the import could not tell them from new ones.
    """
    oldest = FailedPage.objects.not_imported().order_by("read_at").values_list("read_at", flat=True).first()
    return None if oldest is None else oldest - REMEMBERED


def _payload(entry: Entry, salt: str) -> Payload | None:
    try:
        return read(entry.body, salt) if entry.body is not None else None
    except MalformedPayload:
        return None


def _store(payload: Payload) -> bool:
    """Store an entry's event and tell whether it is new; a question whether the address works is no event."""
    return not payload.is_validation and receive(payload, source=Event.Source.FAILED_LIST).is_new
