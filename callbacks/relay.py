"""One signed HTTP request to one endpoint, and what its answer changes: the delivery, the attempt, the endpoint."""

import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import Error, transaction
from django.utils.timezone import now

from callbacks import circuit, judging, settling
from callbacks import endpoint as endpoints
from callbacks.dingcrypto import DingCrypto
from callbacks.fields import Unreadable
from callbacks.judging import NotSuccess, Refused
from callbacks.models import Attempt, Delivery, Endpoint, Event, LeaseLost
from callbacks.outward import Blocked, NoAnswer, post
from callbacks.payload import VALIDATION_TYPES
from callbacks.signing import MalformedSecret, Message, crypto_of, sealed, standard

# A request ends by itself before: this is for a thread that hangs for another reason.
TIME_LIMIT = endpoints.LONGEST_TIMEOUT + 30.0
TEST = "endpoint_test"
# Nothing was sent: what keeps it is no fault of the receiver's.
Held = (Blocked, Unreadable, MalformedSecret)


def attempt(delivery: Delivery, worker: str) -> bool:
    """Send a claimed delivery once and settle it; return whether its endpoint takes events.

    LeaseLost where another worker holds it, django.db.Error where the database fails.
    """
    endpoint = endpoints.find(delivery.destination)
    if endpoint is None:
        _bury(delivery)
        return False
    event, started = delivery.event, None
    answered: dict[str, Any] = {}
    try:
        ready = parcel(endpoint, delivery.idempotency_key, _fields(event), event.body)
        started = settling.start(delivery, worker)
        send(endpoint, ready, answered)
    except Held as error:
        circuit.hold(endpoint, str(error), until_resumed=isinstance(error, Blocked))
        settling.put_back(delivery, str(error), started)
        return False
    except (LeaseLost, Error):
        raise
    except Exception as error:  # noqa: BLE001 - what nobody thought of is tried again like any refusal
        refusal = error if isinstance(error, Refused) else Refused(settling.describe(error))
        _refused(endpoint, delivery, started or settling.start(delivery, worker), refusal, answered)
        return False
    settling.deliver(delivery, started, None, **answered)
    settling.log(delivery, "delivered")
    circuit.succeeded(endpoint)
    return True


@dataclass(frozen=True)
class Parcel:
    """A message ready to be sent and, in DingTalk's own form, what its answer must be sealed with."""

    message: Message
    crypto: DingCrypto | None = None
    token: str = field(default="", repr=False)


def parcel(endpoint: Endpoint, message_id: str, fields: Mapping[str, Any], text: str) -> Parcel:
    """Return what an endpoint is sent: JSON `fields` under a `message_id`, or `text` sealed, as its format is.

    Raises Unreadable or MalformedSecret where its secrets can't be used.
    """
    if endpoint.format == Endpoint.Format.DINGTALK:
        token, aes_key = endpoint.sealing_secrets()
        crypto = crypto_of(aes_key, endpoint.owner_key)
        return Parcel(sealed(endpoint.url, crypto, token, text, time.time()), crypto, token)
    return Parcel(standard(endpoint.url, endpoint.signing_secrets(), message_id, fields, time.time()))


def send(endpoint: Endpoint, ready: Parcel, answered: dict[str, Any]) -> None:
    """Post a parcel and judge the answer, whose status and start go into `answered`.

    Raises Refused where it was not taken, Blocked where nothing may be sent there.
    """
    seconds = float(min(max(endpoint.timeout, 1), endpoints.LONGEST_TIMEOUT))
    url, headers, body = ready.message.url, ready.message.headers, ready.message.body
    try:
        answer = post(url, body, headers, seconds=seconds, blocked=settings.RELAY_BLOCKED_NETWORKS)
    except NoAnswer as error:
        raise Refused(str(error)) from None
    answered.update(status=answer.status, answer=judging.start_of(answer.body))
    judging.judge_status(answer.status, answer.headers, time.time())
    if ready.crypto is not None:
        judging.judge_sealed(answer.status, answer.body, ready.crypto, ready.token)


def test(endpoint: Endpoint, answered: dict[str, Any]) -> None:
    """Send a test event (DingTalk's form: `check_url`); the answer's status and start go into `answered`.

    It changes no row. Raises Refused, or what of Held kept it from being sent.
    """
    moment = now().isoformat(timespec="milliseconds")
    nothing = dict.fromkeys(("corp_id", "subject", "identity"), "")
    data = {"payload": {"EventType": TEST}, **nothing, "source": "test"}
    fields = {"type": TEST, "timestamp": moment, "data": data}
    text = json.dumps({"EventType": VALIDATION_TYPES[0]})
    send(endpoint, parcel(endpoint, f"test_{uuid.uuid4().hex}", fields, text), answered)


def _fields(event: Event) -> dict[str, Any]:
    data = {
        "payload": event.payload,
        "corp_id": event.corp_id,
        "subject": event.subject,
        "identity": event.identity,
        "source": event.source,
    }
    return {"type": event.event_type, "timestamp": event.received_at.isoformat(timespec="milliseconds"), "data": data}


def _bury(delivery: Delivery) -> None:
    line = f"endpoint {endpoints.number_of(delivery.destination)} was removed"
    with transaction.atomic():
        settling.settle(delivery, **settling.settled(Delivery.State.DEAD, line))
    settling.log(delivery, f"dead: {line}", logging.ERROR)


def _refused(
    endpoint: Endpoint, delivery: Delivery, started: Attempt, error: Refused, answered: dict[str, Any]
) -> None:
    line = settling.redact(str(error))[:500]
    if isinstance(error, NotSuccess):
        circuit.answered(endpoint, line)
        delay = settling.retry_delay(_not_success_in_a_row(delivery), judging.AS_DINGTALK_RETRIES)
        settling.fail(delivery, started, delay, line, line, **answered)
        return
    circuit.refused(endpoint, line, gone=error.gone, rest=error.later or timedelta(0))
    # a probe and the word that it is gone say nothing of this delivery
    if endpoint.rests_until or error.gone:
        settling.put_back(delivery, line, started, **answered)
        return
    delay = settling.retry_delay(delivery.attempts, endpoint.schedule or settings.RETRY_SCHEDULE)
    if delay is not None and error.later is not None:
        delay = error.later
    settling.fail(delivery, started, delay, line, line, **answered)


def _not_success_in_a_row(delivery: Delivery) -> int:
    """Return how many of the newest attempts were answered so, this one included."""
    before = delivery.attempt_set.exclude(outcome=Attempt.Outcome.RUNNING).order_by("-id")
    errors = before.values_list("error", flat=True)[: len(judging.AS_DINGTALK_RETRIES)]
    count = 1
    for error in errors:
        if judging.NOT_SUCCESS not in error:
            break
        count += 1
    return min(count, delivery.attempts)
