"""What one process does for all, on however many machines: whoever holds the row does it, for as long as it renews.

A row and not a session's lock, as a pooler may give one session to many; a holder that died is made up for when its
lease has run out. The database's clock decides.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import uuid4

from django.db import Error
from django.db.models import Q
from django.db.models.functions import Now

from callbacks.dingcrypto import CallbackError
from callbacks.models import Duty

# The longest lease: the death of a holder is made up for within a minute.
LEASE = timedelta(seconds=45)


class DutyHeld(CallbackError):
    """Another process holds the duty, or has taken it over; nothing may be done for all here."""


@contextmanager
def hold(name: str, lease: timedelta = LEASE) -> Iterator[Callable[[], None]]:
    """Hold a duty while the block runs, and give the means to renew the lease, to be called well before it ends.

    `lease`: at most LEASE. DutyHeld where another process has it, or `renew` finds that one took it over;
    django.db.Error where the database fails, and the lease runs out by itself.
    """
    Duty.objects.get_or_create(name=name)
    token = uuid4()
    # one that ends so late comes of a wrong clock; by less, of a renewal that this statement had to wait for
    ended = Q(leased_until=None) | Q(leased_until__lte=Now()) | Q(leased_until__gt=Now() + 2 * LEASE)
    if not Duty.objects.filter(ended, name=name).update(lease_token=token, leased_until=Now() + lease):
        raise DutyHeld(f"another process holds the duty {name}")
    held = Duty.objects.filter(name=name, lease_token=token)

    def renew() -> None:
        if not held.update(leased_until=Now() + lease):
            raise DutyHeld(f"another process took the duty {name} over")

    try:
        yield renew
    finally:
        with suppress(Error):
            held.update(lease_token=None, leased_until=None)
