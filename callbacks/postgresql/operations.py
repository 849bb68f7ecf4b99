"""Index builds for migrations that must not keep a push waiting: concurrent on PostgreSQL, plain on SQLite."""

from typing import Any, ClassVar

from django.contrib.postgres import operations
from django.db import migrations


class _AsTheDatabaseCan:
    concurrent: ClassVar[type[migrations.operations.base.Operation]]
    plain: ClassVar[type[migrations.operations.base.Operation]]

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Do it in the way that the database has."""
        self._way(schema_editor).database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Undo it in the way that the database has."""
        self._way(schema_editor).database_backwards(self, app_label, schema_editor, from_state, to_state)

    def _way(self, schema_editor: Any) -> Any:
        return self.concurrent if schema_editor.connection.vendor == "postgresql" else self.plain


class AddIndexConcurrently(_AsTheDatabaseCan, operations.AddIndexConcurrently):
    """Build an index while rows are written; the migration says `atomic = False`."""

    concurrent, plain = operations.AddIndexConcurrently, migrations.AddIndex


class RemoveIndexConcurrently(_AsTheDatabaseCan, operations.RemoveIndexConcurrently):
    """Drop an index while rows are written; the migration says `atomic = False`."""

    concurrent, plain = operations.RemoveIndexConcurrently, migrations.RemoveIndex
