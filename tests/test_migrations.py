"""From the first release on, no migration keeps pushes waiting or breaks the workers that still run the one before."""

from typing import Any

import pytest
from django.contrib.postgres.operations import AddConstraintNotValid, ValidateConstraint
from django.db import connection, migrations, models
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
from django.db.models.functions import Now, Random

from callbacks.postgresql.operations import AddIndexConcurrently, RemoveIndexConcurrently
from tests.lockless import complaints

OURS = ("callbacks", "registrar")
FIRST = "0001_initial"
INDEX = models.Index(fields=["corp_id"], name="event_corp")
CHECK = models.CheckConstraint(condition=~models.Q(event_type=""), name="event_typed")


def loader() -> MigrationLoader:
    return MigrationLoader(None, ignore_no_migrations=True)


def before() -> ProjectState:
    return loader().project_state([(app, FIRST) for app in OURS])


def migration(*operations: Any, atomic: bool = True) -> Migration:
    made: type[Migration] = type("MadeUp", (Migration,), {"operations": list(operations), "atomic": atomic})
    return made("0002_made_up", "callbacks")


def test_ours_take_no_long_lock() -> None:
    ours = [key for key in loader().disk_migrations if key[0] in OURS]
    assert {key for key in ours if key[1] == FIRST} == {(app, FIRST) for app in OURS}
    for key in sorted(ours):
        if key[1] != FIRST:
            state = loader().project_state(key, at_end=False)
            assert complaints(loader().disk_migrations[key], state) == [], key


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (migrations.AddIndex("event", INDEX), "keeps writers out"),
        (AddIndexConcurrently("event", INDEX), "atomic = False"),
        (migrations.RemoveIndex("event", "event_subject"), "keeps writers out"),
        (migrations.AddConstraint("event", CHECK), "AddConstraintNotValid"),
        (migrations.AddConstraint("event", models.UniqueConstraint("body", name="event_once")), "unique one"),
        (migrations.AlterUniqueTogether("event", {("body", "corp_id")}), "unique one"),
        (migrations.AddField("event", "note", models.TextField(default="")), "db_default"),
        (migrations.AddField("event", "note", models.TextField(null=True, db_index=True)), "index is built"),
        (migrations.AddField("event", "note", models.TextField(null=True, unique=True)), "index is built"),
        (migrations.AddField("event", "chance", models.FloatField(db_default=Random())), "differs from row to row"),
        (
            migrations.AddField(
                "attempt", "event", models.ForeignKey("callbacks.event", models.CASCADE, null=True, db_index=True)
            ),
            "index is built",
        ),
        (migrations.AlterField("event", "corp_id", models.TextField(blank=True)), "another type"),
        (migrations.AlterField("event", "corp_id", models.CharField(max_length=64)), "max_length"),
        (migrations.AlterField("event", "corp_id", models.CharField(max_length=128, unique=True)), "unique"),
        (migrations.AlterField("delivery", "settled_at", models.DateTimeField()), "null"),
        (migrations.RemoveField("event", "source"), "release before"),
        (migrations.DeleteModel("Horizon"), "release before"),
        (migrations.RenameField("event", "source", "origin"), "release before"),
        (migrations.RunSQL("create  unique index x on callbacks_event (body)"), "CONCURRENTLY"),
        (migrations.RunPython(migrations.RunPython.noop), "atomic = False"),
        (migrations.AlterModelTable("event", "events"), "nobody has thought"),
        (
            migrations.SeparateDatabaseAndState(database_operations=[migrations.AddIndex("event", INDEX)]),
            "keeps writers out",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, migrations.operations.base.Operation) else None,
)
def test_one_that_would_is_found(operation: Any, said: str) -> None:
    (complaint,) = complaints(migration(operation), before())
    assert said in complaint


def test_one_that_would_not_may_pass() -> None:
    quick = migration(
        AddIndexConcurrently("event", INDEX),
        RemoveIndexConcurrently("event", "event_subject"),
        migrations.AddField("event", "note", models.TextField(db_default="")),
        migrations.AddField("event", "seen_at", models.DateTimeField(db_default=Now())),
        migrations.AddField("event", "remark", models.TextField(null=True)),
        migrations.AlterField("event", "corp_id", models.CharField("name", max_length=200, blank=True)),
        migrations.AlterField("event", "body", models.TextField(null=True)),
        migrations.CreateModel("Thing", [("id", models.BigAutoField(primary_key=True))]),
        migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("event", "source")]),
        migrations.RunSQL("CREATE INDEX CONCURRENTLY x ON callbacks_event (body)"),
        AddConstraintNotValid("event", CHECK),
        ValidateConstraint("event", CHECK.name),
        atomic=False,
    )
    assert complaints(quick, before()) == []


@pytest.mark.django_db(transaction=True)
def test_an_index_is_built_and_dropped_concurrently_on_postgresql_and_plainly_on_sqlite() -> None:
    def names() -> set[str]:
        with connection.cursor() as cursor:
            return set(connection.introspection.get_constraints(cursor, "callbacks_event"))

    executor = MigrationExecutor(connection)
    state = before()
    add = migration(AddIndexConcurrently("event", INDEX), atomic=False)
    remove = migration(RemoveIndexConcurrently("event", INDEX.name), atomic=False)
    with_index = executor.apply_migration(state, add, fake=False)
    try:
        assert INDEX.name in names()
        executor.apply_migration(with_index.clone(), remove, fake=False)
        assert INDEX.name not in names()
        executor.unapply_migration(with_index.clone(), remove, fake=False)
        assert INDEX.name in names()
    finally:
        executor.unapply_migration(before(), add, fake=False)
        executor.recorder.record_unapplied("callbacks", "0002_made_up")
    assert INDEX.name not in names()
