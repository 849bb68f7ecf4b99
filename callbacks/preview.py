"""How many of the newest events an endpoint's filter lets through: "37 of the last 1,000 would have gone here"."""

from callbacks.models import Endpoint, Event

NEWEST = 1000


def wanted(endpoint: Endpoint) -> tuple[int, int]:
    """Return how many of the newest events it wants, and of how many that is."""
    rows = Event.objects.order_by("-pk").values_list("event_type", "payload")[:NEWEST]
    found = [endpoint.wants(event_type, data) for event_type, data in rows.iterator(100)]
    return sum(found), len(found)
