"""A claimed delivery handed on through a queue: the message names the claim's token, which whoever starts it swaps.

So a message starts its delivery once at most: a copy, or one that comes when the lease has ended, finds another token.
"""

from collections.abc import Mapping
from uuid import UUID, uuid5

from django.db.models.functions import Now

from callbacks.models import LEASE, Delivery, DeliveryQuerySet


def started_token(token: UUID) -> UUID:
    """Return the token of whoever starts what was claimed with `token`; a process beside it can tell it, too."""
    return uuid5(token, "started")


def start(delivery_id: int, token: UUID) -> Delivery | None:
    """Take a delivery over under a lease of its own; None where its message is late or a copy, and must be dropped."""
    own = started_token(token)
    waiting = Delivery.objects.pending().held().filter(pk=delivery_id, lease_token=token)
    return started(delivery_id, token) if waiting.update(lease_token=own, leased_until=Now() + LEASE) else None


def started(delivery_id: int, token: UUID) -> Delivery | None:
    """Return the delivery as whoever started it holds it; None where nobody does (any more)."""
    rows = Delivery.objects.filter(pk=delivery_id, lease_token=started_token(token))
    return rows.select_related("event").first()


def renew(unstarted: Mapping[int, UUID]) -> None:
    """Prolong the leases of deliveries, by id and token, that nobody has started."""
    _rows(unstarted).held().update(leased_until=Now() + LEASE)


def give_back(unstarted: Mapping[int, UUID]) -> int:
    """Let those go that nobody has started, which are due as before; their messages start nothing any more."""
    return _rows(unstarted).update(lease_token=None, leased_until=None)


def tokens(ids: list[int]) -> dict[int, UUID | None]:
    """Return the tokens of those deliveries that are held at this moment."""
    return dict(Delivery.objects.pending().held().filter(pk__in=ids).values_list("pk", "lease_token"))


def _rows(unstarted: Mapping[int, UUID]) -> DeliveryQuerySet:
    # a token is of one claim, so that of a delivery that was claimed anew is not among these
    return Delivery.objects.pending().filter(pk__in=list(unstarted), lease_token__in=set(unstarted.values()))
