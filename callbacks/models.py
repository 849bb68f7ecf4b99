"""The rows: what DingTalk told us (Event), to whom it is owed (Delivery), and each try at that (Attempt).

Endpoint has a module of its own.
"""

import hashlib
import json
from datetime import timedelta
from typing import Any, ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from callbacks.dingcrypto import CallbackError
from callbacks.endpoint import Endpoint as Endpoint  # noqa: PLC0414 - it is one of the rows
from callbacks.payload import Fields, storable

LEASE = timedelta(seconds=30)
# A statement that had to wait reads leases written after it began, which end in more than LEASE by its own time.
FARTHEST = 2 * LEASE


class Event(models.Model):
    """One thing DingTalk told us; never changed after it is stored. Only `callbacks.inbox` makes them."""

    class Source(models.TextChoices):
        """How we came to know of it."""

        CALLBACK = "callback", _("callback")
        FAILED_LIST = "failed_list", _("failed list")
        RECONCILE = "reconcile", _("reconcile")

    event_type = models.CharField(_("event type"), max_length=128)
    corp_id = models.CharField(_("corp id"), max_length=128, blank=True)
    identity = models.CharField(_("identity"), max_length=100, unique=True)
    subject = models.CharField(_("subject"), max_length=255, blank=True)
    payload = models.JSONField(_("payload"))
    body = models.TextField(_("decrypted text"))
    source = models.CharField(_("source"), max_length=16, choices=Source.choices, default=Source.CALLBACK)
    received_at = models.DateTimeField(_("received at"), db_default=Now())

    class Meta:
        """Names and indexes."""

        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(fields=["event_type", "-id"], name="event_type_newest"),
            models.Index(fields=["subject", "id"], name="event_subject"),
            models.Index(fields=["received_at"], name="event_received"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.event_type}"

    def save(self, **kwargs: Any) -> None:
        """Insert the row; an event that is stored is a fact and can't be changed."""
        if not self._state.adding:
            raise TypeError("an Event is a fact and is never changed; nothing may save it twice")
        super().save(**kwargs)

    def field(self, name: str) -> Any:
        """Return the payload's value of this name in any case, None where it has none.

        DingTalk writes `userId` or `UserId`, as the way of subscribing is.
        """
        return Fields(self.payload).get(name)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    """What can be said of many deliveries."""

    def pending(self) -> "DeliveryQuerySet":
        """Keep those that are still owed."""
        return self.filter(state=Delivery.State.PENDING)

    def held(self) -> "DeliveryQuerySet":
        """Keep those that a worker holds; a lease that ends in more than FARTHEST comes of a wrong clock."""
        return self.filter(leased_until__gt=Now(), leased_until__lte=Now() + FARTHEST)

    def free(self) -> "DeliveryQuerySet":
        """Keep those that no worker holds."""
        ended = models.Q(leased_until__lte=Now()) | models.Q(leased_until__gt=Now() + FARTHEST)
        return self.filter(models.Q(leased_until=None) | ended)

    def due(self) -> "DeliveryQuerySet":
        """Keep those whose time has come and that no worker holds."""
        return self.pending().filter(next_attempt_at__lte=Now()).free()


class Delivery(models.Model):
    """One event owed to one destination (`handler:<dotted path>` or `endpoint:<id>`)."""

    class State(models.TextChoices):
        """What became of it."""

        PENDING = "pending", _("pending")
        DELIVERED = "delivered", _("delivered")
        DEAD = "dead", _("dead")

    # no index of its own: that of `delivery_owed_once` begins with it
    event = models.ForeignKey(Event, models.CASCADE, related_name="deliveries", verbose_name=_("event"), db_index=False)
    destination = models.CharField(_("destination"), max_length=255)
    subject = models.CharField(_("subject"), max_length=255, blank=True)
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.PENDING, db_default=State.PENDING
    )
    attempts = models.PositiveIntegerField(_("attempts made"), default=0, db_default=0)
    result = models.JSONField(_("result"), null=True, blank=True)
    next_attempt_at = models.DateTimeField(_("next attempt at"), null=True, blank=True, db_default=Now())
    last_error = models.TextField(_("last error"), blank=True, default="", db_default="")
    created_at = models.DateTimeField(_("created at"), db_default=Now())
    settled_at = models.DateTimeField(_("settled at"), null=True, blank=True)
    lease_token = models.UUIDField(null=True, editable=False)
    leased_until = models.DateTimeField(null=True, editable=False)

    behind: int | None = None  # the delivery that it waits behind, where `order.with_heads` filled it in
    endpoint_name: str | None = None  # that, and what keeps it from being sent anything, as `with_endpoints` found it
    endpoint_held: str | None = None

    objects = DeliveryQuerySet.as_manager()
    attempt_set: models.Manager["Attempt"]

    class Meta:
        """Names, constraints and indexes."""

        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-id",)
        permissions: ClassVar = [
            ("redeliver_delivery", _("Can redeliver")),
            ("give_up_delivery", _("Can give up deliveries")),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "destination"], name="delivery_owed_once"),
        ]
        indexes: ClassVar = [
            # from one destination to the next, and what is due of each
            models.Index(
                fields=["destination", "next_attempt_at", "id"],
                name="delivery_due",
                condition=models.Q(state="pending"),
            ),
            # the head of a subject, and which deliveries to a destination a worker holds
            models.Index(
                fields=["destination", "subject", "event"],
                name="delivery_subject",
                condition=models.Q(state="pending") & ~models.Q(subject=""),
            ),
            models.Index(
                # `leased_until`, as SQLite without statistics passes over an index that does not decide enough
                fields=["destination", "subject", "leased_until"],
                name="delivery_held",
                condition=models.Q(state="pending", lease_token__isnull=False),
            ),
            models.Index(fields=["state", "-id"], name="delivery_state_newest"),
            models.Index(fields=["destination", "-id"], name="delivery_destination_newest"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.destination}"

    @property
    def idempotency_key(self) -> str:
        """Return a key that is the same on each attempt at this delivery and on no other."""
        return hashlib.sha256(f"{self.event.identity}\n{self.destination}".encode()).hexdigest()[:32]

    def keep(self, result: dict[str, Any]) -> None:
        """Commit `result` at once, so that a later attempt finds it even if this one fails.

        For handlers outside a transaction; raises LeaseLost where another worker has taken the delivery over.
        """
        if transaction.get_connection().in_atomic_block:
            raise RuntimeError("keep() commits at once, which an atomic handler can't; return the dict instead")
        kept = storable_result(result)
        held = Delivery.objects.filter(pk=self.pk, lease_token=self.lease_token)
        if self.lease_token is None or not held.update(result=kept):
            raise LeaseLost(f"delivery {self.pk} is held by another worker")
        self.result = kept


def storable_result(result: Any) -> dict[str, Any] | None:
    """Return what a handler returned or keeps, as any database can hold it; TypeError if it is no dict of JSON."""
    if result is not None and not isinstance(result, dict):
        raise TypeError(f"a handler returns a dict or None, not {type(result).__name__}")
    return None if result is None else storable(json.loads(json.dumps(result, cls=DjangoJSONEncoder)))


class LeaseLost(CallbackError):
    """Another worker has taken the delivery over; nothing of this attempt counts."""


class Attempt(models.Model):
    """One try at a delivery, written when it starts."""

    class Outcome(models.TextChoices):
        """How it ended; the first while it runs."""

        RUNNING = "running", _("running")
        DELIVERED = "delivered", _("delivered")
        FAILED = "failed", _("failed")
        STOPPED = "stopped", _("worker stopped")
        LOST = "lost", _("worker lost")

    delivery = models.ForeignKey(Delivery, models.CASCADE, verbose_name=_("delivery"))
    worker = models.CharField(_("worker"), max_length=128)
    started_at = models.DateTimeField(_("started at"), db_default=Now())
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    outcome = models.CharField(_("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.RUNNING)
    error = models.TextField(_("error"), blank=True)
    status = models.PositiveSmallIntegerField(_("HTTP status"), null=True, blank=True)
    answer = models.TextField(_("answer"), blank=True, default="")

    class Meta:
        """Names."""

        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"#{self.pk}"


class Duty(models.Model):
    """Something that one process does for all: who does it, and how long that holds if nothing more is heard of it."""

    name = models.CharField(max_length=64, unique=True)
    lease_token = models.UUIDField(null=True, editable=False)
    leased_until = models.DateTimeField(null=True, editable=False)

    class Meta:
        """Names; nobody has a permission about it."""

        verbose_name = _("duty")
        verbose_name_plural = _("duties")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name} until {self.leased_until}" if self.leased_until else f"{self.name} by nobody"


class Lapse(models.Model):
    """The one row that says when pushes may have gone unheard, since somebody last made up for it; null: never."""

    first_at = models.DateTimeField(null=True)
    last_at = models.DateTimeField(null=True)

    class Meta:
        """Names; nobody has a permission about it."""

        verbose_name = _("lapse")
        verbose_name_plural = _("lapses")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.first_at} to {self.last_at}" if self.first_at else "none"


class Horizon(models.Model):
    """The one row that says since when events are complete: of what came before, some may be pruned."""

    complete_since = models.DateTimeField(_("complete since"))

    class Meta:
        """Names; nobody has a permission about it."""

        verbose_name = _("horizon")
        verbose_name_plural = _("horizons")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.complete_since:%Y-%m-%d %H:%M:%S}"
