"""Index builds for migrations that must not keep a push waiting: concurrent on PostgreSQL, plain on SQLite."""

from typing import Any

from django.contrib.postgres import operations
from django.db import migrations


class AddIndexConcurrently(operations.AddIndexConcurrently):
    """Build an index while rows are written; the migration says `atomic = False`."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Build it in the way that the database has."""
        how = operations.AddIndexConcurrently if _is_postgresql(schema_editor) else migrations.AddIndex
        how.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop it in the way that the database has."""
        how = operations.AddIndexConcurrently if _is_postgresql(schema_editor) else migrations.AddIndex
        how.database_backwards(self, app_label, schema_editor, from_state, to_state)


class RemoveIndexConcurrently(operations.RemoveIndexConcurrently):
    """Drop an index while rows are written; the migration says `atomic = False`."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop it in the way that the database has."""
        how = operations.RemoveIndexConcurrently if _is_postgresql(schema_editor) else migrations.RemoveIndex
        how.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Build it again in the way that the database has."""
        how = operations.RemoveIndexConcurrently if _is_postgresql(schema_editor) else migrations.RemoveIndex
        how.database_backwards(self, app_label, schema_editor, from_state, to_state)


def _is_postgresql(schema_editor: Any) -> bool:
    return bool(schema_editor.connection.vendor == "postgresql")
