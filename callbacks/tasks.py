"""The one task that Celery's workers run: attempt a delivery that `manage.py deliver --feed` has claimed for them."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from billiard.exceptions import TimeLimitExceeded
from celery import Task, shared_task
from django.db import Error, connection

from callbacks import deadline, handover, outbox
from callbacks.feeder import EXPIRES_AFTER, Unpublished
from callbacks.models import Delivery, LeaseLost
from callbacks.worker import attempt, keep_leases, kind, refresh_connection

logger = logging.getLogger(__name__)

CONFIRMED_WITHIN = 5
RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_max": 0}  # the broker may have been restarted since


class Carrying(Task):  # type: ignore[type-arg] # the stubs' generic is no class at run time
    """A task whose process is ended when the handler's time is over."""

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Settle the delivery as failed, in the process that ends the one in which the handler hangs."""
        if isinstance(exc, TimeLimitExceeded):
            delivery_id, token = args
            try:
                deadline.in_time(lambda: _time_out(delivery_id, UUID(token)))
            except (LeaseLost, Error) as error:
                logger.warning("delivery %s falls due when its lease ends: %s", delivery_id, kind(error))
            finally:
                connection.close()  # the processes that are forked from this one have their own


def publish(delivery: Delivery) -> None:
    """Put a claimed delivery into the queue; Unpublished where the broker does not say that it has it."""
    options: dict[str, Any] = {
        "time_limit": outbox.time_limit(delivery),
        "expiration": EXPIRES_AFTER,  # by the broker's clock: workers' clocks may differ
        "confirm_timeout": CONFIRMED_WITHIN,
        "retry": True,
        "retry_policy": RETRY_ONCE,
    }
    try:
        carry.apply_async((delivery.pk, str(delivery.lease_token)), **options)
    except Exception as error:  # each transport raises its own, and none may end the feeder
        raise Unpublished(kind(error)) from error


@shared_task(base=Carrying, name="callbacks.carry")
def carry(delivery_id: int, token: str) -> None:
    """Start and attempt a delivery, unless the message is late or a copy."""
    refresh_connection()
    try:
        delivery = handover.start(delivery_id, UUID(token))
    except Error as error:
        logger.error("delivery %s is not started and falls due again: %s", delivery_id, kind(error))
        connection.close()
        return
    if delivery is None:
        logger.info("a message about delivery %s is late or a copy, and is dropped", delivery_id)
        return
    with _lease_kept(delivery):
        attempt(delivery, f"{socket.gethostname()}:{os.getpid()}")


@contextmanager
def _lease_kept(delivery: Delivery) -> Iterator[None]:
    done = threading.Event()
    keeper = threading.Thread(target=keep_leases, args=(lambda: [delivery], done), name="keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join(2.0)


def _time_out(delivery_id: int, token: UUID) -> None:
    delivery = handover.started(delivery_id, token)
    if delivery:
        outbox.time_out(delivery)
