"""What a fault is: a function that lets it happen, in one line of words, and what it needs around it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.brokers import missing_broker
from faults.databases import VENDORS

CLOCK_LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("/nonexistent"))


@dataclass(frozen=True)
class Plan:
    """The surroundings of a fault: settings, workers, what the machine must have, and the load (events a second).

    `endpoints`: one of each form; `may_be_disabled`: they are, for a while, and owed nothing that comes then.
    `together`: so many events at once, of a subject of their own; 1: of any of so many `subjects`. `broker`: of this
    kind, with feeders and Celery workers of two processes each; '': with workers of `deliver`.
    """

    settings: dict[str, str] = field(default_factory=dict)
    rate: float = 8.0
    subjects: int = 40
    together: int = 1
    webs: int = 1
    workers: int = 2
    broker: str = ""
    feeders: int = 2
    before_worker: tuple[str, ...] = ()
    small_disk: bool = False
    clock: bool = False
    hurry: bool = True
    endpoints: bool = False
    may_be_disabled: bool = False
    spice: Callable[[int], dict[str, Any]] = lambda number: {}

    def missing(self) -> str:
        """Return why this machine can't give what is needed, or ''."""
        if self.small_disk and (os.geteuid() != 0 or not shutil.which("mount")):
            return "needs root, to mount a small disk"
        if self.clock and not CLOCK_LIBRARY.exists():
            return "needs libfaketime (apt-get install faketime)"
        if self.before_worker and not shutil.which(self.before_worker[0]):
            return f"needs {self.before_worker[0]}"
        return missing_broker(self.broker) if self.broker else ""


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    text: str
    act: Callable[[Any], None]
    vendors: tuple[str, ...] = VENDORS
    plan: Plan = Plan()


FAULTS: dict[str, Fault] = {}
Act = Callable[[Any], None]


def fault(text: str, *, only: str = "", broker: str = "", **plan: Any) -> Callable[[Act], Act]:
    """Register the decorated function as a fault under its own name; `only`: the one database that has it.

    `broker`: the kind of broker that it is tried with, which its name ends with.
    """

    def register(act: Act) -> Act:
        name = f"{act.__name__}_{broker}" if broker else act.__name__
        FAULTS[name] = Fault(name, text, act, (only,) if only else VENDORS, Plan(broker=broker, **plan))
        return act

    return register
