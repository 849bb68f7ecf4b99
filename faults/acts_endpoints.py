"""Faults of the systems that events are sent on to, one endpoint of each form; handlers go on beside them."""

import json
import time

from callbacks.keys import new_secret_key
from faults.plan import fault
from faults.stage import LONG_AGO, Stage
from faults.subscribers import Mood, Subscriber, drip, hang_up, status

# Refusals until an endpoint's circuit is open, and its rest then, as in callbacks.circuit.
REFUSALS = 10


@fault("endpoints paused while events come, and resumed", endpoints=True)
def pause_endpoints(stage: Stage) -> None:
    """Pause and resume each, a few times."""
    for _ in range(stage.times(5)):
        for subscriber in stage.subscribers:
            stage.service.command("endpoint", "pause", subscriber.number)
        stage.pause(1, 3)
        for subscriber in stage.subscribers:
            stage.service.command("endpoint", "resume", subscriber.number)
        stage.pause(0.5, 2)


@fault("endpoints that answer 503 with a Retry-After now and then", endpoints=True)
def busy_endpoints(stage: Stage) -> None:
    """Let them be busy for moments."""
    for _ in range(stage.times(10)):
        _feel(stage, status(503, Retry_After=str(stage.random.choice([1, 2, 3]))))
        stage.pause(0.2, 0.6)
        _feel(stage, None)
        stage.pause(1, 2)


@fault("endpoints that drip their answer, byte by byte without an end", endpoints=True)
def dripping_endpoints(stage: Stage) -> None:
    """Let them drip for moments."""
    for _ in range(stage.times(10)):
        _feel(stage, drip)
        stage.pause(0.5, 1.5)
        _feel(stage, None)
        stage.pause(1, 3)


@fault("endpoints that hang up without an answer until their circuit is open, and come back", endpoints=True)
def endpoints_down(stage: Stage) -> None:
    """Let both be down until only one delivery is tried, a while longer, and be up again."""
    for _ in range(stage.times(3)):
        _feel(stage, hang_up)
        _wait(stage, "SELECT count(*) FROM callbacks_endpoint WHERE rests_until IS NOT NULL", len(stage.subscribers))
        stage.pause(2, 6)
        _feel(stage, None)
        _wait(stage, "SELECT count(*) FROM callbacks_endpoint WHERE rests_until IS NULL", len(stage.subscribers))
        stage.pause(1, 2)


@fault("endpoints that answer 410, which disables them, and are enabled again", endpoints=True, may_be_disabled=True)
def endpoints_gone(stage: Stage) -> None:
    """Let both say that they want no more, and want it again after all."""
    for _ in range(stage.times(5)):
        _disabled_by(stage, status(410))


@fault(
    "endpoints that refuse everything until they are disabled, and are enabled again",
    endpoints=True,
    may_be_disabled=True,
    settings={"ENDPOINT_DISABLE_AFTER": "2"},
)
def endpoints_disabled(stage: Stage) -> None:
    """Let both refuse for longer than ENDPOINT_DISABLE_AFTER."""
    for _ in range(stage.times(3)):
        _disabled_by(stage, status(500))


@fault(
    "each endpoint's secret rotated, then the keys that encrypt them in their rows",
    endpoints=True,
    rate=4.0,
    settings={"FIELD_ENCRYPTION_KEYS": new_secret_key()},
)
def rotate_secrets(stage: Stage) -> None:
    """Rotate everything as the README says, a few times; processes are restarted one after another."""
    key = stage.settings["FIELD_ENCRYPTION_KEYS"]
    for _ in range(stage.times(3)):
        for subscriber in stage.subscribers:
            _rotate(stage, subscriber)
        before, key = key, new_secret_key()
        for keys in (f"{before},{key}", f"{key},{before}"):
            stage.service.restart(FIELD_ENCRYPTION_KEYS=keys)
            stage.pause(1, 2)
        stage.service.command("endpoint", "reencrypt")
        stage.service.restart(FIELD_ENCRYPTION_KEYS=key)
        stage.pause(1, 2)


def _rotate(stage: Stage, subscriber: Subscriber) -> None:
    """Give a subscriber new secrets: while both are good, or while nothing is sent, as its form has it."""
    native = subscriber.form == "dingtalk"
    if native:
        stage.service.command("endpoint", "pause", subscriber.number)
        under_way = f"destination = '{subscriber.destination}' AND state = 'pending' AND leased_until > '{LONG_AGO}'"
        _wait(stage, f"SELECT count(*) = 0 FROM callbacks_delivery WHERE {under_way}", 1)  # noqa: S608 - constants
    told = stage.service.command("endpoint", "rotate", subscriber.number, "--reveal", "--json")
    stage.pause(3, 4)  # a request that was signed before has ended
    subscriber.know(json.loads(told))
    last = ["resume", subscriber.number] if native else ["rotate", subscriber.number, "--finish"]
    stage.service.command("endpoint", *last)


def _disabled_by(stage: Stage, mood: Mood) -> None:
    _feel(stage, mood)
    _wait(stage, "SELECT count(*) FROM callbacks_endpoint WHERE NOT enabled", len(stage.subscribers))
    stage.pause(1, 2)
    _feel(stage, None)
    for subscriber in stage.subscribers:
        stage.service.command("endpoint", "enable", subscriber.number)
    stage.pause(1, 2)


def _feel(stage: Stage, mood: Mood | None) -> None:
    for subscriber in stage.subscribers:
        subscriber.mood = mood


def _wait(stage: Stage, sql: str, count: int) -> None:
    """Wait until a count is reached."""
    end = time.monotonic() + 90
    while stage.database.run(sql)[0][0] < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{sql} did not reach {count}")
        time.sleep(0.2)
