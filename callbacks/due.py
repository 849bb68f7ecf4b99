"""Which destinations have due deliveries; asked before every claim, at a price that no backlog raises.

An endpoint that is paused, disabled or at rest has none, whatever it is owed.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from django.db import connection
from django.db.models import CharField, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Concat

from callbacks.endpoint import PREFIX
from callbacks.models import Delivery, Endpoint

# From one destination to the next in an index: however many deliveries one has, they are not read.
DESTINATIONS = """
    WITH RECURSIVE known(destination) AS (
        SELECT min(destination) FROM callbacks_delivery
        UNION ALL
        SELECT (SELECT min(destination) FROM callbacks_delivery WHERE destination > known.destination)
        FROM known WHERE known.destination IS NOT NULL
    )
    SELECT destination, ({longest_due}) AS since FROM known
    WHERE destination IS NOT NULL AND destination NOT IN ({closed}) ORDER BY since, destination
"""


def destinations() -> list[str]:
    """Return the destinations that have due deliveries, the one with the longest due first."""
    with connection.cursor() as cursor:
        cursor.execute(*_statement())
        return [destination for destination, since in cursor.fetchall() if since is not None]


@cache  # as composing it takes longer than the answer
def _statement() -> tuple[str, Sequence[Any]]:
    of_each = Delivery.objects.due().filter(destination=RawSQL("known.destination", []))
    longest_due = of_each.order_by("next_attempt_at").values("next_attempt_at")[:1]
    sql, params = longest_due.query.sql_with_params()
    number = Cast("pk", CharField())
    closed = Endpoint.objects.exclude(pk__in=Endpoint.objects.open()).order_by()
    closed_sql, closed_params = closed.values_list(Concat(Value(PREFIX), number)).query.sql_with_params()
    return DESTINATIONS.format(longest_due=sql, closed=closed_sql), (*params, *closed_params)
