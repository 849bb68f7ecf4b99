"""The counts of one run: from what was pushed to what took effect."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from faults.databases import Database
from faults.subscribers import Subscriber

SETTLED = ("delivered", "dead")


@dataclass(frozen=True)
class Tally:
    """Events, but for `pushes`, which counts requests; `note` says what else there is to know."""

    pushes: int = 0
    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    delivered: int = 0
    dead: int = 0
    effects: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    note: str = ""

    @property
    def sound(self) -> bool:
        """Tell whether something was acknowledged, nothing lost and nothing doubled."""
        return bool(self.acknowledged) and not (self.lost or self.doubled)


def count(
    database: Database,
    pushes: int,
    sent: Iterable[str],
    acknowledged: Iterable[str],
    poisoned: Iterable[str],
    note: str,
) -> Tally:
    """Count rows; an event is lost that was sent and is not stored, not settled everywhere, or without effect.

    `sent`, `acknowledged`, `poisoned` are references; a delivery may only be dead where it was poisoned.
    """
    sent, acknowledged, poisoned = set(sent), set(acknowledged), set(poisoned)
    references = {
        pk: str(json.loads(body)["reference"]) for pk, body in database.run("SELECT id, body FROM callbacks_event")
    }
    states = database.run("SELECT event_id, destination, state FROM callbacks_delivery")
    unsettled = {references[event] for event, _, state in states if state not in SETTLED}
    dead = {(references[event], destination) for event, destination, state in states if state == "dead"}
    wrongly_dead = {reference for reference, destination in dead if not destination.endswith(".poison")}
    effects = database.run("SELECT reference, event_id, subject FROM faults_effect ORDER BY id")
    counts = Counter(reference for reference, _, _ in effects)
    keyed = Counter(reference for (reference,) in database.run("SELECT reference FROM faults_keyed"))
    stored = set(references.values())
    lost = (sent | acknowledged) - (set(counts) & set(keyed) & stored) | unsettled | wrongly_dead
    return Tally(
        pushes=pushes,
        sent=len(sent),
        acknowledged=len(acknowledged),
        stored=len(references),
        delivered=len(stored - unsettled - wrongly_dead),
        dead=len(dead),
        effects=len(effects),
        lost=len(lost),
        doubled=sum(times > 1 for times in counts.values()),
        disordered=late(effects),
        note=note,
    )


def with_endpoints(tally: Tally, database: Database, subscribers: Sequence[Subscriber], *, all_owed: bool) -> Tally:
    """Add what the endpoints did not get, or got out of order or with a wrong signature, and note the rest.

    `all_owed`: every stored event is owed to each; otherwise what a delivery says. A repeat is noted, and no fault.
    """
    rows = database.run("SELECT id, body, subject FROM callbacks_event")
    events = {str(json.loads(body)["reference"]): (pk, subject) for pk, body, subject in rows}
    for each in subscribers:
        owed = database.run(f"SELECT event_id FROM callbacks_delivery WHERE destination = '{each.destination}'")  # noqa: S608
        wanted = {pk for pk, _ in events.values()} if all_owed else {pk for (pk,) in owed}
        first = [(reference, *events[reference]) for reference in dict.fromkeys(each.taken) if reference in events]
        lost = len(wanted - {pk for _, pk, _ in first}) + each.forged
        tally = replace(
            tally,
            lost=tally.lost + lost,
            disordered=tally.disordered + late(first),
            note=f"{tally.note} {each.form}: {len(first)} of {len(wanted)} taken, {each.refused} requests refused, "
            f"{len(each.taken) - len(first)} repeated.".strip(),
        )
    return tally


def late(effects: Sequence[Any]) -> int:
    """Return how many effects, (reference, event, subject), came after that of a later event of the same subject."""
    latest: dict[str, int] = defaultdict(int)
    count = 0
    for _, event, subject in effects:
        count += event < latest[subject]
        latest[subject] = max(latest[subject], event)
    return count
