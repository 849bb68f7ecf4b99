"""What would keep pushes waiting, or break workers of the release before, in a migration on PostgreSQL."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.postgres import operations as postgresql
from django.db import models
from django.db.migrations import Migration, operations
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models.fields import NOT_PROVIDED
from django.db.models.functions import Now

TWO_STEPS = "workers of the release before use it: take it out of the state now, and drop it in the release after"
BLOCKING_INDEX = re.compile(
    r"\bCREATE\s+(UNIQUE\s+)?INDEX\b(?!\s+CONCURRENTLY)|\bDROP\s+INDEX\b(?!\s+CONCURRENTLY)", re.I
)
Judge = Callable[[Any, Migration, ProjectState], Iterator[str]]


def complaints(migration: Migration, state: ProjectState) -> list[str]:
    """Return what is wrong with each operation; `state` is that before the migration, and is changed."""
    found = []
    for operation in migration.operations:
        found += [f"{operation.describe()}: {wrong}" for wrong in _judge(operation, migration, state)]
        operation.state_forwards(migration.app_label, state)
    return found


def _judge(operation: Operation, migration: Migration, state: ProjectState) -> Iterator[str]:
    if isinstance(operation, operations.SeparateDatabaseAndState):
        for each in operation.database_operations:
            yield from _judge(each, migration, state)
        return
    for kind, judge in JUDGES:
        if isinstance(operation, kind):
            yield from judge(operation, migration, state)
            return
    yield "nobody has thought about what it locks: add it to this list"


def _nothing(operation: Any, migration: Migration, state: ProjectState) -> Iterator[str]:
    yield from ()


def _not_atomic(operation: Any, migration: Migration, state: ProjectState) -> Iterator[str]:
    if migration.atomic:
        yield "the migration needs `atomic = False`"


def _index(operation: Any, migration: Migration, state: ProjectState) -> Iterator[str]:
    yield "it keeps writers out while it works: use callbacks.postgresql.operations"


def _constraint(operation: Any, migration: Migration, state: ProjectState) -> Iterator[str]:
    if isinstance(getattr(operation, "constraint", None), models.CheckConstraint):
        yield "it reads the whole table under a lock: use AddConstraintNotValid, and ValidateConstraint after it"
    else:
        yield "it builds an index under a lock: build a unique one concurrently first"


def _gone(operation: Any, migration: Migration, state: ProjectState) -> Iterator[str]:
    yield TWO_STEPS


def _added(operation: operations.AddField, migration: Migration, state: ProjectState) -> Iterator[str]:
    field: Any = operation.field
    if field.unique or field.db_index:
        yield "its index is built under a lock: add the field without one, then the index concurrently"
    if isinstance(field, models.GeneratedField):
        yield "it rewrites the whole table"
    elif not field.null and field.db_default is NOT_PROVIDED:
        yield "workers of the release before leave it out: give it a db_default, or let it be null"
    elif isinstance(field.db_default, models.Func) and not isinstance(field.db_default, Now):
        yield "a default that differs from row to row rewrites the whole table"


def _altered(operation: operations.AlterField, migration: Migration, state: ProjectState) -> Iterator[str]:
    before = state.models[migration.app_label, operation.model_name_lower].fields[operation.name]
    if type(before) is not type(operation.field):
        yield "another type rewrites the whole table: add a new field"
        return
    old, new = before.deconstruct()[3], operation.field.deconstruct()[3]
    for name in sorted(set(old) | set(new)):
        ours, theirs = new.get(name), old.get(name)
        harmless = (
            name in {*before.non_db_attrs, "default", "db_default"}
            or (name == "null" and ours)
            or (name == "max_length" and theirs and (ours is None or ours >= theirs))
        )
        if ours != theirs and not harmless:
            yield f"a change of {name} rewrites or reads the whole table under a lock"


def _sql(operation: operations.RunSQL, migration: Migration, state: ProjectState) -> Iterator[str]:
    if BLOCKING_INDEX.search(str(operation.sql)):
        yield "it keeps writers out while it works: say CONCURRENTLY"


# The first that an operation is of judges it.
JUDGES: list[tuple[type[Operation] | tuple[type[Operation], ...], Judge]] = [
    ((postgresql.AddIndexConcurrently, postgresql.RemoveIndexConcurrently, operations.RunPython), _not_atomic),
    ((operations.AddIndex, operations.RemoveIndex, operations.AlterIndexTogether), _index),
    ((postgresql.AddConstraintNotValid, postgresql.ValidateConstraint), _nothing),
    ((operations.AddConstraint, operations.AlterUniqueTogether), _constraint),
    ((operations.RemoveField, operations.DeleteModel, operations.RenameField, operations.RenameModel), _gone),
    (operations.AddField, _added),
    (operations.AlterField, _altered),
    (operations.RunSQL, _sql),
    ((operations.CreateModel, operations.AlterModelOptions, operations.AlterModelManagers), _nothing),
    ((operations.RemoveConstraint, operations.RenameIndex), _nothing),
]
