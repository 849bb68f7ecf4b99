"""Approval events pushed at random moments, as DingTalk pushes them, until told to stop."""

import itertools
import random
import threading
import time
from typing import Any

from faults.plan import Plan
from simulator.pushing import Push
from simulator.samples import make
from simulator.server import Simulator


class Load:
    """One thread that pushes; each event carries a `reference` by which it is counted."""

    def __init__(self, simulator: Simulator, chance: random.Random, plan: Plan) -> None:
        self.pushes: list[Push] = []
        self._simulator = simulator
        self._random = chance
        self._plan = plan
        self._numbers = itertools.count(1)
        self._instances = [f"INSTANCE{number:04}" for number in range(plan.subjects)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def stop(self) -> None:
        """Push nothing new; what is on its way stays so."""
        self._stop.set()
        self._thread.join()

    def payload(self) -> dict[str, Any]:
        """Return a new event: mostly a task of one of a few instances, now and then an instance of its own.

        Those that the plan wants together are of an instance that has no others.
        """
        number = next(self._numbers)
        own = {"reference": f"r{number}", **self._plan.spice(number)}
        corp = self._simulator.options.corp_id
        if self._plan.together == 1 and number % 5 == 0:
            return make("bpms_instance_change", corp_id=corp) | own
        together = f"TOGETHER{number // self._plan.together:06}"
        instance = self._random.choice(self._instances) if self._plan.together == 1 else together
        return make("bpms_task_change", corp_id=corp) | {"processInstanceId": instance, "taskId": number} | own

    def push(self, count: int) -> None:
        """Push so many new events at once."""
        for _ in range(count):
            self.pushes.append(self._simulator.push(self.payload()))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.push(self._plan.together)
            time.sleep(self._random.expovariate(self._plan.rate / self._plan.together))
