"""Compare DingTalk's approval instances with the inbox, and make the events that never came.

DingTalk lists instances by template and by when they began, so those that began before the period are searched as well:
they may have ended in it. What it lists no more (deleted instances) can't be found.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from django.conf import settings
from django.utils import timezone

from callbacks import payload
from callbacks.inbox import receive
from callbacks.models import Event
from callbacks.payload import Fields
from callbacks.pruning import horizon
from registrar import calls
from registrar.client import IDS_A_PAGE, DingTalkClient
from registrar.errors import InstanceUnknown, SettingsUnfit, TemporaryFailure, Throttled
from registrar.steps import ENDS, START, Step, steps

KIND = "bpms_instance_change"
LONGEST_WINDOW = timedelta(days=120)
FARTHEST_BACK = timedelta(days=364, hours=23)  # DingTalk's is 365 days, by its own clock
MOST_IDS = 10_000  # of one window that DingTalk lists
MOST_LOOKED_AT = 50_000  # of the newest approval events, for templates and corp ids
BATCH = 200
# A step whose second is not known can't be told from its push, so that is waited for: the last comes after 40 s.
PUSH_MAY_COME = timedelta(minutes=2)
ATTEMPTS = 3
LONGEST_WAIT = 120.0

Answer = TypeVar("Answer")


class Window(NamedTuple):
    """A time (ms, both ends included) whose instances are listed; in the period their starts matter, too."""

    since: int
    until: int
    in_period: bool


@dataclass(frozen=True)
class Plan:
    """What is to be compared, and what that costs at least."""

    since: datetime
    until: datetime
    complete_since: datetime | None
    corp_ids: list[str]
    process_codes: list[str]
    windows: list[Window]

    @property
    def corp_id(self) -> str:
        """Return the corp id of the events that are made."""
        return self.corp_ids[0]

    @property
    def least_calls(self) -> int:
        """Return how many calls the lists take if each fits on one page."""
        return len(self.process_codes) * len(self.windows)


@dataclass(frozen=True)
class Gap:
    """An instance of which the inbox lacks something: its start, its end or both, as far as the inbox can tell."""

    process_code: str
    instance_id: str
    lacks_start: bool
    lacks_end: bool


@dataclass
class Outcome:
    """What filling the gaps came to."""

    made: list[dict[str, Any]] = field(default_factory=list)
    fetched: int = 0
    unknown: int = 0  # instances that DingTalk listed and then did not know
    too_young: int = 0  # steps that may still be pushed
    finished: bool = True


def plan(since: datetime, until: datetime, lookback: timedelta, process_codes: Sequence[str]) -> Plan:
    """Look into the inbox and settle what is to be asked; SettingsUnfit where that can't be known."""
    known_codes, known_corps = _seen()
    codes = list(process_codes) or known_codes
    if not codes:
        step = (
            "name the templates with --process-code PROC-… (the address of a template's page in the console ends in it)"
        )
        raise SettingsUnfit("", "", "the inbox holds no approval to take a template from", step)
    corps = list(dict.fromkeys([*filter(None, [settings.DINGTALK_CORP_ID]), *known_corps]))
    if not corps:
        raise SettingsUnfit("", "", "the corp id is not known", "set DINGTALK_CORP_ID")
    now = timezone.now()
    until = min(until, now)
    first = max(since - lookback, now - FARTHEST_BACK)
    windows = [*_windows(first, since, in_period=False), *_windows(max(since, first), until, in_period=True)]
    return Plan(since, until, horizon(), corps, codes, windows)


def search(client: DingTalkClient, plan: Plan, stop: threading.Event) -> Iterator[Gap]:
    """List the plan's instances and yield those of which the inbox lacks something."""
    for code in plan.process_codes:
        for window in plan.windows:
            gaps = list(_gaps(plan, code, list(_ids(client, code, window, stop)), window.in_period))
            running: set[str] = set()
            if client.lists_statuses and sum(not gap.lacks_start for gap in gaps) > IDS_A_PAGE:
                running = set(_ids(client, code, window, stop, ("RUNNING",)))
            yield from (gap for gap in gaps if gap.lacks_start or gap.instance_id not in running)


def fill(client: DingTalkClient, plan: Plan, gaps: Sequence[Gap], stop: threading.Event) -> Iterator[Outcome]:
    """Fetch each instance and make the events that are missing; yield the outcome so far after each.

    Each event is committed as soon as it is known, so whatever ends this, the next run goes on.
    """
    outcome = Outcome()
    for gap in gaps:
        if stop.is_set():
            outcome.finished = False
            yield outcome
            return
        _fill(client, plan, gap, outcome, stop)
        yield outcome


def _fill(client: DingTalkClient, plan: Plan, gap: Gap, outcome: Outcome, stop: threading.Event) -> None:
    calls.require_spare()
    outcome.fetched += 1
    try:
        instance = _patiently(lambda: client.process_instance(gap.instance_id), stop)
    except InstanceUnknown:
        outcome.unknown += 1
        return
    known = _known(plan, [gap.instance_id])[gap.instance_id]
    for step in steps(instance, gap.instance_id, gap.process_code, plan.corp_id):
        is_lacking = not known & ENDS if step.type in ENDS else gap.lacks_start and START not in known
        if not is_lacking or not _is_wanted(plan, step):
            continue
        if not step.is_exact and step.at > (timezone.now() - PUSH_MAY_COME).timestamp() * 1000:
            outcome.too_young += 1
            continue
        receipt = receive(payload.read(step.body, salt=""), source=Event.Source.RECONCILE)
        if receipt.is_new:
            outcome.made.append({"event": receipt.event_id, "instance": gap.instance_id, "type": step.type})


def _is_wanted(plan: Plan, step: Step) -> bool:
    """Tell whether a step lies in the period, and not before the horizon: there its event may have been pruned."""
    since, until = plan.since.timestamp() * 1000, plan.until.timestamp() * 1000
    if not step.is_exact:
        since -= since % 60_000
    complete_since = plan.complete_since.timestamp() * 1000 if plan.complete_since else 0
    return since <= step.at <= until and step.at >= complete_since


def _seen() -> tuple[list[str], list[str]]:
    """Return the templates and the corp ids of the newest approval events, the most frequent first."""
    newest = Event.objects.filter(event_type=KIND).order_by("-id")[:MOST_LOOKED_AT]
    codes: Counter[str] = Counter()
    corps: Counter[str] = Counter()
    for corp, code in newest.values_list("corp_id", "payload__processCode").iterator():
        codes[str(code or "")] += 1
        corps[corp] += 1
    return [code for code, _ in codes.most_common() if code], [corp for corp, _ in corps.most_common() if corp]


def _windows(since: datetime, until: datetime, *, in_period: bool) -> Iterator[Window]:
    start, end, longest = _ms(since), _ms(until), int(LONGEST_WINDOW.total_seconds() * 1000)
    while start < end:
        yield Window(start, min(start + longest, end) - 1, in_period)
        start += longest


def _ids(
    client: DingTalkClient, code: str, window: Window, stop: threading.Event, statuses: tuple[str, ...] = ()
) -> Iterator[str]:
    cursor, count = 0, 0
    while not stop.is_set():
        calls.require_spare()
        page = cursor
        ids, cursor = _patiently(
            lambda: client.instance_ids(code, window.since, window.until, page, statuses),  # noqa: B023 - called at once
            stop,
        )
        yield from ids
        count += len(ids)
        if not cursor:
            return
        if count >= MOST_IDS:
            begun = f"{datetime.fromtimestamp(window.since / 1000, timezone.get_current_timezone()):%Y-%m-%d}"
            cause = f"DingTalk lists {MOST_IDS} instances at most of {code} since {begun}"
            raise SettingsUnfit("", "", cause, "take a shorter period with --from, --to and --lookback")


def _gaps(plan: Plan, code: str, ids: list[str], in_period: bool) -> Iterator[Gap]:
    for start in range(0, len(ids), BATCH):
        for instance_id, known in _known(plan, ids[start : start + BATCH]).items():
            lacks_start, lacks_end = in_period and START not in known, not known & ENDS
            if lacks_start or lacks_end:
                yield Gap(code, instance_id, lacks_start, lacks_end)


def _known(plan: Plan, ids: Sequence[str]) -> dict[str, set[str]]:
    """Return the types of the events that the inbox has of each instance, under whichever of the corp ids."""
    by_subject = {
        payload.subject({"EventType": KIND, "processInstanceId": each}, corp): each
        for each in ids
        for corp in plan.corp_ids
    }
    known: dict[str, set[str]] = {each: set() for each in ids}
    rows = Event.objects.filter(event_type=KIND, subject__in=list(by_subject)).values_list("subject", "payload")
    for subject, data in rows:
        known[by_subject[subject]].add(Fields(data).text("type"))
    return known


def _patiently(ask: Callable[[], Answer], stop: threading.Event) -> Answer:
    """Ask, and ask again where that may help: when a penalty ends, or a little later."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except TemporaryFailure as error:
            wait = 2.0**attempt
            if isinstance(error, Throttled) and error.until:
                wait = error.until - time.time() + 1
            if attempt == ATTEMPTS or wait > LONGEST_WAIT or stop.wait(max(wait, 0)):
                raise
    raise AssertionError("the last attempt returns or raises")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
