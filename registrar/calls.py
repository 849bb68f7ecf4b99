"""Every call of DingTalk's API, counted by month, and at most so many a second of one API over all machines.

One statement on one row does both: it counts, and hands out the next of the slots that lie evenly on the second; a
penalty is a slot that lies far ahead. Inside a transaction the row would be held until its end, so there the count
waits in memory, and so it does where the database is out of reach.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime

from django.conf import settings
from django.db import Error, connection, transaction

from registrar.errors import QuotaSpared, Throttled
from registrar.models import ApiCalls
from registrar.protocol import CHINA

logger = logging.getLogger(__name__)

# How long a call waits for its slot, and how far ahead a slot is believed; beyond that it comes of a wrong clock.
PATIENCE_MS = 10_000
FARTHEST_MS = 3_600_000
# Machines and networks bunch calls, and one too many in a second is punished: they are sent slower than is allowed.
MARGIN = 1.25
SPARED_PERCENT = 20

COUNT = """
    INSERT INTO registrar_apicalls (month, api, calls, next_slot) VALUES (%s, %s, %s, {now} + %s)
    ON CONFLICT (month, api) DO UPDATE SET
        calls = registrar_apicalls.calls + excluded.calls,
        next_slot = CASE WHEN registrar_apicalls.next_slot BETWEEN {now} AND {now} + {patience}
            THEN registrar_apicalls.next_slot ELSE {now} END + %s
        WHERE registrar_apicalls.next_slot NOT BETWEEN {now} + {patience} AND {now} + {farthest}
    RETURNING next_slot - %s - {now}
"""
PENALISE = "UPDATE registrar_apicalls SET next_slot = {now} + %s WHERE month = %s AND api = %s"
POSTGRESQL_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_lock = threading.Lock()
_uncounted: Counter[tuple[str, str]] = Counter()
_slots: dict[str, float] = {}
_made: Counter[str] = Counter()


@contextmanager
def calling(api: str) -> Iterator[None]:
    """Count a call of an API (its path) once its slot has come, and let what is said about its penalty hold for all.

    Raises Throttled, and counts nothing, while a penalty lasts.
    """
    wait = _count(api)
    if wait is None:
        raise _still_punished(api)
    time.sleep(wait)
    with _lock:
        _made[api] += 1
    try:
        yield
    except Throttled as error:
        if error.until > time.time():
            _penalise(api, error.until - time.time() + 1)
        raise


def made() -> int:
    """Return how many calls this process has made."""
    with _lock:
        return _made.total()


def used(month: str = "") -> int:
    """Return how often DingTalk's APIs were called in a month (default: this one), as far as this process knows."""
    month = month or this_month()
    with _lock:
        waiting = sum(count for key, count in _uncounted.items() if key[0] == month)
    return ApiCalls.objects.filter(month=month).total() + waiting


def spared() -> bool:
    """Tell whether what is left of the month's calls is for approval instances."""
    return used() * 100 >= settings.DINGTALK_MONTHLY_CALLS * (100 - SPARED_PERCENT)


def require_spare() -> None:
    """Raise QuotaSpared where what is left of the month's calls is for approval instances."""
    if spared():
        cause = f"{used()} of this month's {settings.DINGTALK_MONTHLY_CALLS} API calls are used"
        rest = f"the last {SPARED_PERCENT} % are for approval instances"
        step = "wait for the next month, or set DINGTALK_MONTHLY_CALLS to what your organisation has"
        raise QuotaSpared("", "", f"{cause}, and {rest}", step)


def this_month() -> str:
    """Return the month in China, by which DingTalk counts, as 2026-11."""
    return datetime.now(CHINA).strftime("%Y-%m")


def forget() -> None:
    """Forget what waits in memory, for tests."""
    with _lock:
        _uncounted.clear()
        _slots.clear()


def _still_punished(api: str) -> Throttled:
    slot = ApiCalls.objects.filter(month=this_month(), api=api).values_list("next_slot", flat=True).first()
    error = Throttled("", "", f"DingTalk still refuses {api}, which was called too often", "try again in a minute")
    error.until = (slot or 0) / 1000
    return error


def _count(api: str) -> float | None:
    """Count a call and return the seconds until its slot; None, and no count, where that is too far ahead."""
    key = (this_month(), api)
    if connection.in_atomic_block:
        transaction.on_commit(_write_waiting, robust=True)
        return _count_in_memory(key)
    with _lock:
        waiting = _uncounted.pop(key, 0)
    try:
        return _count_in_row(key, waiting + 1, waiting)
    except Exception as error:  # noqa: BLE001 - a count must never stand in the way of what is counted
        logger.debug("a call of %s is counted in memory, as the database refuses: %s", api, type(error).__name__)
        connection.close()
        with _lock:
            _uncounted[key] += waiting
        return _count_in_memory(key)


def _count_in_row(key: tuple[str, str], count: int, waiting: int) -> float | None:
    step = _step()
    # on SQLite whoever waits for the write lock outside a transaction may wait in vain: SQLite polls, the others queue
    with transaction.atomic() if connection.vendor == "sqlite" else nullcontext(), connection.cursor() as cursor:
        cursor.execute(_with_now(COUNT), [*key, count, step, step, step])
        slot = cursor.fetchone()
    if slot is None:
        with _lock:
            _uncounted[key] += waiting
        return None
    return max(int(slot[0]), 0) / 1000


def _count_in_memory(key: tuple[str, str]) -> float | None:
    now = time.monotonic()
    with _lock:
        slot = max(_slots.get(key[1], now), now)
        if slot - now > PATIENCE_MS / 1000:
            return None
        _slots[key[1]] = slot + _step() / 1000
        _uncounted[key] += 1
    return slot - now


def _write_waiting() -> None:
    with _lock:
        waiting = dict(_uncounted)
        _uncounted.clear()
    for key, count in waiting.items():
        try:
            _count_in_row(key, count, count)
        except Error:
            with _lock:
                _uncounted[key] += count


def _penalise(api: str, seconds: float) -> None:
    milliseconds = min(int(seconds * 1000), FARTHEST_MS)
    logger.warning("%s is called too often: DingTalk refuses it for %.0f s, and it is not called before", api, seconds)
    with _lock:
        _slots[api] = time.monotonic() + milliseconds / 1000
    if connection.in_atomic_block:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute(_with_now(PENALISE), [milliseconds, this_month(), api])
    except Error:
        connection.close()


def _step() -> int:
    """Return the milliseconds between two calls of one API."""
    most: int = settings.DINGTALK_CALLS_PER_SECOND
    return int(1000 * MARGIN / most) if most else 0


def _with_now(sql: str) -> str:
    now = POSTGRESQL_NOW if connection.vendor == "postgresql" else str(int(time.time() * 1000))
    return sql.format(now=now, patience=PATIENCE_MS, farthest=FARTHEST_MS)
