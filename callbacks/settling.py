"""How one attempt at a held delivery starts and ends in its rows; nothing counts without the claim's token."""

import logging
import random
import re
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from callbacks import order
from callbacks.models import Attempt, Delivery, LeaseLost
from callbacks.payload import storable

logger = logging.getLogger(__name__)

_SECRET_PARAMETER = re.compile(
    r"(?i)((?:access[_-]?token|(?:app|corp|client)[_-]?secret)[\\\"']*\s*[=:]\s*[\\\"']*)[^&\s\\\"']+"
)


def start(delivery: Delivery, worker: str) -> Attempt:
    """Count the attempt and write its row before anything is tried; LeaseLost if the claim has run out."""
    with transaction.atomic():
        update_held(delivery, attempts=F("attempts") + 1)
        delivery.attempts += 1
        return Attempt.objects.create(delivery=delivery, worker=worker)


def deliver(delivery: Delivery, started: Attempt, result: dict[str, Any] | None, **answered: Any) -> None:
    """Settle as delivered; a result of None leaves what the handler kept. `answered`: the attempt's answer."""
    changes = settled(Delivery.State.DELIVERED, "")
    if result is not None:
        changes["result"] = result
    with transaction.atomic():
        settle(delivery, **changes)
        close(started, Attempt.Outcome.DELIVERED, **answered)


def fail(delivery: Delivery, started: Attempt, delay: timedelta | None, line: str, error: str, **answered: Any) -> None:
    """Settle as due again after the delay, or as dead where it is None.

    `line` becomes the delivery's last error, `error` the attempt's.
    """
    if delay is None:
        changes = settled(Delivery.State.DEAD, line)
        fate = f"dead after {delivery.attempts} attempts"
    else:
        changes = due(Now() + delay, line)
        fate = f"attempt {delivery.attempts} failed, due again in {delay.total_seconds():.0f} s"
    with transaction.atomic():
        settle(delivery, **changes)
        close(started, Attempt.Outcome.FAILED, error, **answered)
    log(delivery, f"{fate}: {line}", logging.ERROR if delay is None else logging.WARNING)


def put_back(delivery: Delivery, line: str, started: Attempt | None = None, **answered: Any) -> None:
    """Let a delivery go as if it had not been tried, but for the row of an attempt that has started."""
    changes: dict[str, Any] = {"last_error": line, "lease_token": None, "leased_until": None}
    with transaction.atomic():
        if started is None:
            settle(delivery, **changes)
        else:
            settle(delivery, attempts=F("attempts") - 1, **changes)
            close(started, Attempt.Outcome.FAILED, line, **answered)
    log(delivery, f"put back: {line}", logging.WARNING)


def settle(delivery: Delivery, **changes: Any) -> None:
    """Let a held delivery go, in a transaction, and let the next of its subject have its turn."""
    order.lock(delivery)
    update_held(delivery, **changes)
    if delivery.subject:
        order.promote([delivery.pk])


def update_held(delivery: Delivery, **changes: Any) -> None:
    """Change the row if this claim still holds it; else raise LeaseLost, which rolls the transaction back."""
    held = Delivery.objects.filter(pk=delivery.pk, lease_token=delivery.lease_token, state=Delivery.State.PENDING)
    if not held.update(**changes):
        raise LeaseLost(f"delivery {delivery.pk} is held by another worker")


def close(started: Attempt, outcome: str, error: str = "", **answered: Any) -> None:
    """Write how an attempt ended."""
    rows = Attempt.objects.filter(pk=started.pk)
    rows.update(outcome=outcome, finished_at=Now(), error=error, **answered)


def due(when: Any, last_error: str = "") -> dict[str, Any]:
    """Return the changes that let a delivery go and make it due at some time."""
    return {"next_attempt_at": when, "last_error": last_error, "lease_token": None, "leased_until": None}


def settled(state: str, last_error: str) -> dict[str, Any]:
    """Return the changes that let a delivery go for good."""
    return {"state": state, "settled_at": Now(), **due(None, last_error)}


def retry_delay(attempts: int, schedule: Sequence[float]) -> timedelta | None:
    """Return the time until the next attempt after `attempts` have failed, or None after the last."""
    if attempts > len(schedule):
        return None
    return timedelta(seconds=schedule[attempts - 1] * random.uniform(1, 1.2))  # noqa: S311 - spread, not secrecy


def describe(error: BaseException) -> str:
    """Return an exception's type and first line, as a row can hold them."""
    try:
        first_line = (str(error).strip() or "no message").splitlines()[0]
    except Exception:  # noqa: BLE001 - an exception's own text may fail, too
        first_line = "its message can't be read"
    return redact(f"{type(error).__name__}: {first_line}")[:500]


def trace(error: BaseException) -> str:
    """Return the end of an exception's traceback, as a row can hold it."""
    return redact("".join(traceback.format_exception(error)))[-8000:]


def redact(text: str) -> str:
    """Return `text` without what a database refuses and without credentials in a URL that a library quoted."""
    cleaned: str = storable(text)
    return _SECRET_PARAMETER.sub(r"\1***", cleaned)


def log(delivery: Delivery, outcome: str, level: int = logging.INFO) -> None:
    """Write one line about a delivery."""
    event = delivery.event
    logger.log(
        level,
        "event %s %s corp=%s delivery %s to %s: %s",
        event.pk,
        event.event_type,
        event.corp_id,
        delivery.pk,
        delivery.destination,
        outcome,
    )
