"""Statements of the workers' path, which Django composes once: each time took several times as long as running them.

A function returns a queryset with a `slot` where each run has a value of its own, or a list of ids.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Field, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.sql import UpdateQuery
from django.db.models.sql.compiler import SQLCompiler


@dataclass(frozen=True)
class _Slot:
    name: str
    column: "Field[Any, Any] | None" = None

    def filled(self, values: Mapping[str, Any]) -> Any:
        value = values[self.name]
        return value if self.column is None else self.column.get_db_prep_value(value, connection)


class _IdList(_Slot):
    def filled(self, values: Mapping[str, Any]) -> Any:
        ids = list(values[self.name])
        return json.dumps(ids) if connection.vendor == "sqlite" else ids


class Ids(RawSQL):
    """A list of ids, however long, on the right side of `__in`."""

    def __init__(self, name: str) -> None:
        super().__init__("SELECT unnest(%s::bigint[])", [_IdList(name)])

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:
        """Return it as SQLite reads it."""
        return "(SELECT value FROM json_each(%s))", self.params


def slot(name: str, column: "Field[Any, Any] | None" = None) -> RawSQL:
    """Return what stands for a value; one that databases store in different ways needs the column it is for."""
    return RawSQL("%s", [_Slot(name, column)])


def select(rows: Callable[[], QuerySet[Any, Any]]) -> Callable[..., list[tuple[Any, ...]]]:
    """Make of a function that returns `values_list(…)` a query, called with the values of its slots."""

    @cache
    def compose() -> tuple[SQLCompiler, str, Sequence[Any]]:
        compiler = rows().query.get_compiler(connection=connection)
        sql, parameters = compiler.as_sql()
        del compiler.connection  # which is of this thread, and ends with it
        return compiler, sql, parameters

    def run(**values: Any) -> list[tuple[Any, ...]]:
        composed, sql, parameters = compose()
        with connection.cursor() as cursor:
            _execute(cursor, sql, parameters, values)
            found = cursor.fetchall()
        compiler = copy(composed)
        compiler.connection = connection
        return [tuple(row) for row in compiler.results_iter([found], tuple_expected=True)]

    return run


def update(**changes: Any) -> Callable[[Callable[[], QuerySet[Any, Any]]], Callable[..., int]]:
    """Make of a function an update of its rows, called with the values of its slots; it returns how many there were."""

    def of(rows: Callable[[], QuerySet[Any, Any]]) -> Callable[..., int]:
        @cache
        def compose() -> tuple[str, Sequence[Any]]:
            query = cast(UpdateQuery, rows().query.chain(UpdateQuery))
            query.add_update_values(changes)
            sql, parameters = query.get_compiler(connection=connection).as_sql()
            return sql, parameters

        def run(**values: Any) -> int:
            with connection.cursor() as cursor:
                _execute(cursor, *compose(), values)
                return int(cursor.rowcount)

        return run

    return of


def _execute(cursor: CursorWrapper, sql: str, parameters: Sequence[Any], values: Mapping[str, Any]) -> None:
    cursor.execute(sql, [each.filled(values) if isinstance(each, _Slot) else each for each in parameters])
