"""Push an event to the callback address as DingTalk does, and see what becomes of it."""

import json
import time
from dataclasses import dataclass

from callbacks import credentials
from callbacks.dingcrypto import RefusedPush, seal
from callbacks.models import Delivery, Event
from callbacks.payload import Payload, read
from registrar.errors import NotReached, Refused
from registrar.protocol import one_line
from registrar.transport import exchange

# DingTalk's own limits are 1.5 and 2.5 s; what is slower is shown as that, not cut off.
TIMEOUT = 10.0
POLL_EVERY = 0.2


@dataclass(frozen=True)
class Acknowledged:
    """A push that was answered with the encrypted `success`."""

    payload: Payload
    owner_key: str
    status: int
    milliseconds: int


def push(url: str, body: str) -> Acknowledged:
    """Seal `body` with the configured credentials and post it; Refused tells what came instead of `success`."""
    owner_key = credentials.owner_keys()[0]
    crypto, token = credentials.current(owner_key)
    sealed = seal(crypto, token, body, time.time())
    signature, timestamp, nonce = sealed["msg_signature"], sealed["timeStamp"], sealed["nonce"]
    query = {"signature": signature, "msg_signature": signature, "timestamp": timestamp, "nonce": nonce}
    began = time.monotonic()
    try:
        status, answer = exchange("POST", url, query, TIMEOUT, json={"encrypt": sealed["encrypt"]})
    except NotReached as error:
        step = "start the web server (`make run`), or name its address with --url"
        raise NotReached(error.code, "", error.cause, step) from None
    milliseconds = round((time.monotonic() - began) * 1000)
    _require_success(url, status, answer)
    return Acknowledged(read(body, salt=f"{timestamp}:{nonce}"), owner_key, status, milliseconds)


def find_event(payload: Payload, wait: float) -> Event | None:
    """Return the event's row once each delivery was attempted, or after `wait` seconds; None where there is no row."""
    deadline = time.monotonic() + wait
    while True:
        event = Event.objects.filter(identity=payload.identity).first()
        if event is None or time.monotonic() >= deadline:
            return event
        if not Delivery.objects.pending().filter(event=event, last_error="").exists():
            return event
        time.sleep(POLL_EVERY)


def _require_success(url: str, status: int, answer: bytes) -> None:
    """Judge an answer as DingTalk does: 200, JSON, signed, decrypting to `success`; Refused otherwise."""
    said = one_line(answer.decode("utf-8", "replace"))
    if 300 <= status < 400:
        raise Refused(
            f"HTTP {status}", "", "the address redirects, which DingTalk refuses", f"push to where {url} leads"
        )
    if said.startswith("<"):
        step = "check the address: it ends with /dingtalk/callback/ as a rule"
        raise Refused(f"HTTP {status}", "", "a web page answered, and not the callback", step)
    if status != 200:
        step = "mend what it names; the web server's log says more"
        raise Refused(f"HTTP {status}", said, "the push was not acknowledged", step)
    try:
        fields = {key: str(value) for key, value in json.loads(answer).items()}
        opened = credentials.keyring().open(fields, fields.get("encrypt", ""), time.time())
    except (ValueError, AttributeError, RefusedPush) as error:
        reason = str(error) if isinstance(error, RefusedPush) else "it is no JSON object"
        step = "check that the address is this service's and that its web server has the same settings"
        raise Refused(f"HTTP {status}", said, f"the answer is no encrypted `success`: {reason}", step) from None
    if opened.text != "success":
        raise Refused(f"HTTP {status}", opened.text[:100], "the answer is not `success`", "check the address")
