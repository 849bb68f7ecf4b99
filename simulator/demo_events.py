"""What the demo pushes, and the table of what became of it."""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import django
from rich.table import Table

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dingcallback.settings")
django.setup()

from callbacks import endpoint  # noqa: E402
from callbacks.models import Delivery, Event  # noqa: E402 - models need the setup above
from callbacks.payload import read  # noqa: E402
from simulator.pushing import Push  # noqa: E402
from simulator.server import Simulator  # noqa: E402

APPROVAL = {"processInstanceId": "demo-approval-1"}
PUSHES: list[tuple[str, dict[str, Any]]] = [
    ("check_url", {}),
    ("bpms_instance_change", {**APPROVAL, "type": "start"}),
    ("bpms_task_change", {**APPROVAL, "type": "start"}),
    ("bpms_task_change", {**APPROVAL, "type": "finish", "result": "agree"}),
    ("bpms_instance_change", {**APPROVAL, "type": "finish", "result": "agree"}),
    ("bpms_instance_change", {"processInstanceId": "demo-approval-2", "type": "terminate"}),
    ("user_add_org", {}),
    ("user_leave_org", {}),
    ("org_dept_create", {}),
    ("org_dept_modify", {}),
    ("org_dept_remove", {}),
    ("brand_new_event_2030", {"anything": "a type that nobody has documented"}),
]


@dataclass
class Row:
    """One push and the event it made, if it was to make one."""

    label: str
    push: Push
    expects_event: bool
    event: Event | None = None

    @property
    def deliveries(self) -> list[Delivery]:
        """Return the deliveries of the event as they stand now."""
        return list(self.event.deliveries.all()) if self.event else []

    @property
    def is_handled(self) -> bool:
        """Tell whether the push was acknowledged and all that is owed for it was delivered."""
        stored = self.event is not None or not self.expects_event
        return self.push.acknowledged and stored and all(d.state == Delivery.State.DELIVERED for d in self.deliveries)


def push_all(simulator: Simulator) -> list[Row]:
    """Push one event after the other, the last of them twice; wait for each answer."""
    rows = []
    for event_type, overrides in PUSHES:
        push = simulator.push(event_type, overrides=overrides, wait=True)
        rows.append(Row(" ".join([event_type, overrides.get("type", "")]).strip(), push, event_type != "check_url"))
    rows.append(Row("the same once more", simulator.push(rows[-2].push.payload, wait=True), expects_event=True))
    return rows


def wait_until_handled(rows: list[Row], seconds: float) -> bool:
    """Wait until every row is handled; False where some are not in time."""
    end = time.monotonic() + seconds
    while True:
        for row in rows:
            row.event = Event.objects.filter(identity=read(json.dumps(row.push.payload), "").identity).first()
        if all(row.is_handled for row in rows):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def table(rows: list[Row]) -> Table:
    """Return what arrived and what was done with it."""
    result = Table(title="What arrived, and what became of it")
    for heading in ("pushed", "answer", "event", "destination", "state", "result"):
        result.add_column(heading, overflow="fold")
    seen: set[int] = set()
    for row in rows:
        answer = "success" if row.push.acknowledged else f"[red]{row.push.reason}"
        number = _number(row.event, seen)
        for outcome in [_outcome(delivery) for delivery in row.deliveries] or [("owed to nobody", "", "")]:
            result.add_row(row.label, answer, number, *outcome)
    return result


def _number(event: Event | None, seen: set[int]) -> str:
    """Return an event's number, saying so where it was in the table before."""
    if event is None:
        return "none (answered only)"
    repeated = " (stored once)" if event.pk in seen else ""
    seen.add(event.pk)
    return f"#{event.pk}{repeated}"


def _outcome(delivery: Delivery) -> tuple[str, str, str]:
    kept = delivery.result or {}
    words = [str(kept[name]) for name in ("title", "status", "who", "what", "result", "recorded") if kept.get(name)]
    state, subscriber = delivery.get_state_display(), endpoint.find(delivery.destination)
    if subscriber is None:
        return delivery.destination.rpartition(".")[2], state, " ".join(words) or delivery.last_error
    failed = list(delivery.attempt_set.filter(outcome="failed").order_by("id").values_list("error", flat=True))
    return (
        f"{subscriber.name} ({subscriber.format})",
        state,
        "; ".join([*failed, f"taken at attempt {delivery.attempts}"]),
    )
