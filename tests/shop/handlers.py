"""Handlers whose deeds a test decides: by a script, or in another process by the payload's `act`."""

import os
import signal
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import Group

from callbacks.models import Delivery, Event
from callbacks.routing import router

Script = Callable[[Event, Delivery], dict[str, Any] | None]
scripts: dict[str, Script] = {}


@router.on("shop_plain")
def plain(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Act outside any transaction."""
    return _act("plain", event, delivery)


@router.on("shop_atomic", atomic=True)
def atomic(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Act in the transaction that settles the delivery."""
    return _act("atomic", event, delivery)


@router.on("shop_twice")
def first(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Want the same events as `second`."""
    return _act("first", event, delivery)


@router.on("shop_twi*")
def second(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Want the same events as `first`."""
    return _act("second", event, delivery)


@router.on("shop_unordered", ordered=False)
def unordered(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Act without regard to what else is about the same subject."""
    return _act("unordered", event, delivery)


@router.on("shop_impatient", timeout=2, retry=[])
def impatient(event: Event, delivery: Delivery) -> dict[str, Any] | None:
    """Have one attempt of two seconds."""
    return _act("impatient", event, delivery)


@router.on("shop_choosy", where={"processCode": ["PROC-1", "PROC-2"], "type": "finish"})
def choosy(event: Event) -> None:
    """Want some events only."""


def _act(name: str, event: Event, delivery: Delivery) -> dict[str, Any] | None:
    if name in scripts:
        return scripts[name](event, delivery)
    act = event.payload.get("act")
    if act == "row":
        Group.objects.create(name=event.identity)
    elif act == "fetch":
        with urllib.request.urlopen(event.payload["url"], timeout=30) as answer:
            answer.read()
    elif act == "hang":
        time.sleep(3600)
    elif act == "exit":
        os._exit(0)
    elif act == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"at": time.time()}
