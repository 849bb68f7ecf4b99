"""Which endpoints want an event, asked at every push: what was read before holds as long as the rows are still so.

PostgreSQL compares a digest of the rows in the statement that stores the event, so that a push costs no query more.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection

from callbacks.endpoint import PREFIX
from callbacks.routing import Filter

# No ORM: this is in every push's path. No secret is in it either.
_ROWS = 'SELECT id, event_types, corp_ids, "where" FROM callbacks_endpoint WHERE enabled ORDER BY id'
DIGEST = """
    md5(coalesce((SELECT string_agg(concat_ws(' ', id, event_types, corp_ids, "where"), ' ' ORDER BY id)
    FROM callbacks_endpoint WHERE enabled), ''))
"""
_ROWS_AND_DIGEST = _ROWS.replace(" FROM", f", {DIGEST} FROM", 1)


@dataclass(frozen=True)
class Filters:
    """The filters of the enabled endpoints, by destination, and the digest of the rows that they were read from."""

    by_destination: Mapping[str, Filter]
    digest: str = hashlib.md5(b"", usedforsecurity=False).hexdigest()

    def wanting(self, event_type: str, data: Mapping[str, Any]) -> list[str]:
        """Return the destinations that want an event of this type and content."""
        return [name for name, wanted in self.by_destination.items() if wanted.wants(event_type, data)]


def read() -> Filters:
    """Return the filters as they are now."""
    on_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute(_ROWS_AND_DIGEST if on_postgresql else _ROWS)
        rows = cursor.fetchall()
    filters = {f"{PREFIX}{row[0]}": Filter.of(*(json.loads(part) for part in row[1:4])) for row in rows}
    return Filters(filters, rows[0][4]) if on_postgresql and rows else Filters(filters)
