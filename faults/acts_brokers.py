"""Faults of a broker, and of the feeders and Celery workers around it, each tried with RabbitMQ and with Redis."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress

from kombu.exceptions import KombuError

from faults.acts_world import now_and_then
from faults.brokers import KINDS, Broker
from faults.plan import Act, fault
from faults.stage import Stage

OUTAGES = 3
KILLS = 20
FEEDERS_KILLED = 8
PURGES = 10
COPIES = 200
A_MINUTE = 60
# What a worker drops is logged; of a copy nothing else is to be seen.
DROPPED = "is late or a copy, and is dropped"


def fault_of_each(text: str, **plan: object) -> Callable[[Act], Act]:
    """Register the decorated function as a fault with each kind of broker."""

    def register(act: Act) -> Act:
        for kind in KINDS:
            fault(text, only="postgresql", broker=kind, **plan)(act)
        return act

    return register


@fault_of_each("the broker stopped for a minute", rate=4)
def stop_broker(stage: Stage) -> None:
    """Let it say good-bye, and be gone."""
    _broker(stage).stop()
    stage.last(A_MINUTE)
    _broker(stage).start()
    stage.pause(1, 3)


@fault_of_each("the broker killed, and started again at once")
def crash_broker(stage: Stage) -> None:
    """Kill it at any moment; Redis has forgotten everything then."""
    for _ in range(stage.times(OUTAGES)):
        stage.pause(1, 3)
        _broker(stage).stop(signal.SIGKILL)
        _broker(stage).start()


@fault_of_each("the queue purged, again and again", rate=20)
def purge_queue(stage: Stage) -> None:
    """Forget what waits."""
    purged = 0
    while purged < stage.times(PURGES):
        stage.pause(0.01, 0.1)
        purged += _broker(stage).purge()
    stage.note += f" {purged} messages were purged."


@fault_of_each("messages delivered twice", rate=20)
def double_messages(stage: Stage) -> None:
    """Put copies behind messages that wait."""
    doubled = 0
    while doubled < stage.times(COPIES):
        stage.pause(0, 0.02)
        with suppress(KombuError):
            doubled += _broker(stage).double()
    dropped, end = 0, time.monotonic() + 20
    while dropped < doubled and time.monotonic() < end:  # workers may have started after this act
        time.sleep(0.2)
        dropped = stage.service.log.read_text().count(DROPPED)
    stage.note += f" {doubled} messages were there twice, {dropped} were dropped."


@fault_of_each("kill -9 of a Celery worker's process in mid-task")
def kill_celery_child(stage: Stage) -> None:
    """Kill the process that carries a delivery."""
    for _ in range(stage.times(KILLS)):
        stage.pause(0.3, 2)
        stage.service.strike(stage.worker(), signal.SIGKILL, child=True)


@fault_of_each("kill -9 of a Celery worker and all its processes")
def kill_celery(stage: Stage) -> None:
    """Kill the whole worker, as a machine's loss of power does."""
    for _ in range(stage.times(KILLS)):
        stage.pause(0.3, 2)
        stage.service.kill(stage.worker())


@fault_of_each("two feeders, and kill -9 of the one that acts")
def kill_feeder(stage: Stage) -> None:
    """Kill one after the other; a dead feeder's duty is let go at once, as its lease would make a long run."""
    for number in range(stage.times(FEEDERS_KILLED)):
        stage.pause(1, 3)
        stage.service.kill(stage.service.feeders[number % 2])
        stage.expire_duty()


@fault_of_each("two feeders that both act, as the duty's lease is cut short again and again")
def two_feeders(stage: Stage) -> None:
    """Take the duty from whoever acts, and let it find out when it renews."""
    for _ in range(stage.times(KILLS)):
        stage.pause(0.5, 1.5)
        stage.expire_duty()


@fault_of_each("handlers under Celery that end their process, after they have written", spice=now_and_then("exit", 25))
def exiting_tasks(stage: Stage) -> None:
    """Let them."""
    stage.last(18)


@fault_of_each("handlers under Celery that hang until their time is over", spice=now_and_then("hang", 40))
def hanging_tasks(stage: Stage) -> None:
    """Let them."""
    stage.last(18)


def _broker(stage: Stage) -> Broker:
    assert stage.broker  # noqa: S101 - the registry sees to it
    return stage.broker
