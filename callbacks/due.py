"""Which destinations have due deliveries; asked before every claim, at a price that no backlog raises."""

from django.db import connection
from django.db.models.expressions import RawSQL

from callbacks.models import Delivery

# From one destination to the next in the index: however many deliveries one has, they are not read.
DESTINATIONS = """
    WITH RECURSIVE owed(destination) AS (
        SELECT min(destination) FROM callbacks_delivery WHERE state = 'pending'
        UNION ALL
        SELECT (SELECT min(destination) FROM callbacks_delivery
                WHERE state = 'pending' AND destination > owed.destination)
        FROM owed WHERE owed.destination IS NOT NULL
    )
    SELECT destination FROM (
        SELECT destination, ({longest_due}) AS since FROM owed WHERE destination IS NOT NULL
    ) AS found WHERE since IS NOT NULL ORDER BY since, destination
"""


def destinations() -> list[str]:
    """Return the destinations that have due deliveries, the one with the longest due first."""
    of_each = Delivery.objects.due().filter(destination=RawSQL("owed.destination", []))
    longest_due = of_each.order_by("next_attempt_at").values("next_attempt_at")[:1]
    sql, params = longest_due.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(DESTINATIONS.format(longest_due=sql), params)
        return [destination for (destination,) in cursor.fetchall()]
