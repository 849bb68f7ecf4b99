"""What `benchmarks.claim` measures, in a process whose settings name the database."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import django
from django.db import connection
from rich.console import Console
from rich.table import Table

django.setup()  # before any model is imported

from callbacks.inbox import receive  # noqa: E402
from callbacks.outbox import claim  # noqa: E402
from callbacks.payload import read  # noqa: E402

DELIVERIES, SUBJECTS, CLAIMED, TIMES = 1_000_000, 100_000, 100, 100
DESTINATION = "handler:benchmarks.handlers.nothing"
EVENTS = f"""
    WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {DELIVERIES})
    INSERT INTO callbacks_event (event_type, corp_id, identity, subject, payload, body, source)
    SELECT 'bench_nothing', '', 'backlog-' || n, 'subject-' || (n % {SUBJECTS}), '{{}}', '{{}}', 'callback' FROM series
"""  # noqa: S608 - constants
OWED = """
    INSERT INTO callbacks_delivery (event_id, destination, subject)
    SELECT id, %s, subject FROM callbacks_event WHERE identity LIKE 'backlog-%%' ORDER BY id
"""
HEADS_REFUSED = """
    UPDATE callbacks_delivery SET lease_token = NULL, leased_until = NULL, next_attempt_at = '2100-01-01 00:00:00'
    WHERE id IN (SELECT min(id) FROM callbacks_delivery WHERE destination = %s GROUP BY subject)
"""
REFUSED = """
    UPDATE callbacks_delivery SET lease_token = NULL, leased_until = NULL, next_attempt_at = '2100-01-01 00:00:00'
    WHERE lease_token IS NOT NULL
"""
ALL_PARKED = (
    "UPDATE callbacks_delivery SET next_attempt_at = NULL WHERE next_attempt_at < '2100-01-01' AND destination = %s"
)
HEADS_DUE = """
    UPDATE callbacks_delivery SET next_attempt_at = '2020-01-01 00:00:00'
    WHERE next_attempt_at > '2099-01-01 00:00:00' AND destination = %s
"""
TIDY = {"sqlite": ["ANALYZE"], "postgresql": ["VACUUM ANALYZE", "CHECKPOINT"]}


def measure() -> None:
    """Measure the database of the settings, and print a table and the plans of a claim's queries."""
    title = f"{connection.vendor}: {DELIVERIES:,} pending deliveries of {SUBJECTS:,} subjects"
    table = Table("", "median ms", "of it in statements", "longest ms", title=title)
    table.add_row("a push, nothing owed", *times(push))
    run(EVENTS)
    run(OWED, DESTINATION)
    tidy()
    table.add_row("a push beside the backlog", *times(push))
    table.add_row(f"a claim of {CLAIMED}, all due, none parked yet", *times(take, refuse))
    run(HEADS_REFUSED, DESTINATION)
    table.add_row("a claim that comes upon later ones, and parks them", *times(take))
    run(ALL_PARKED, DESTINATION)
    run(HEADS_DUE, DESTINATION)
    tidy()
    table.add_row(f"a claim of {CLAIMED}, all but the heads parked", *times(take, refuse))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for line in plans(take):
        console.print(line, soft_wrap=True, markup=False)


def take() -> None:
    """Claim what one worker claims at most at a time."""
    claim(CLAIMED, DESTINATION)


def refuse() -> None:
    """Let the destination refuse what was claimed."""
    run(REFUSED)


def push() -> None:
    """Store an event as a push does."""
    receive(read(f'{{"EventType": "bench_nothing", "eventId": "{uuid4().hex}"}}', salt=""))


def times(work: Callable[[], Any], between: Callable[[], Any] = bool) -> tuple[str, str, str]:
    """Return the median time of some calls, how much of it their statements took, and the longest time, in ms.

    What happens between the calls takes none.
    """
    took, in_statements = [], []
    for _ in range(TIMES):
        with recorded() as statements:
            began = time.perf_counter()
            work()
            took.append((time.perf_counter() - began) * 1000)
        in_statements.append(sum(each.took for each in statements))
        between()
    return f"{statistics.median(took):.2f}", f"{statistics.median(in_statements):.2f}", f"{max(took):.1f}"


def run(statement: str, *parameters: str) -> None:
    """Run one statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)


def tidy() -> None:
    """Let the database do now what it would do beside the next calls."""
    for statement in TIDY[connection.vendor]:
        run(statement)


@dataclass(frozen=True)
class Statement:
    """One that was sent, with the ms that it took."""

    sql: str
    parameters: Any
    took: float


@contextmanager
def recorded() -> Iterator[list[Statement]]:
    """Give the statements that the block sends."""
    statements: list[Statement] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            statements.append(Statement(sql, params, (time.perf_counter() - began) * 1000))

    with connection.execute_wrapper(note):
        yield statements


def plans(work: Callable[[], Any]) -> Iterator[str]:
    """Run something; yield its queries of deliveries, each with the lines of its plan."""
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN (COSTS OFF)"
    with recorded() as statements:
        work()
    for each in statements:
        if "callbacks_delivery" not in each.sql:
            continue
        yield f"\n{each.sql[:160]} …"
        with connection.cursor() as cursor:
            cursor.execute(f"{explain} {each.sql}", each.parameters)
            for row in cursor.fetchall():
                yield f"    {row[-1]}"


if __name__ == "__main__":
    measure()
