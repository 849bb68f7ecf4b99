"""A subscriber: where its events go, in which form, which events it wants, and how it goes with it."""

from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from callbacks import validators
from callbacks.fields import EncryptedTextField
from callbacks.keys import new_aes_key, new_token, new_webhook_secret
from callbacks.routing import Filter

PREFIX = "endpoint:"
SECRETS = ("secret", "previous_secret", "token", "aes_key")
LONGEST_TIMEOUT = 60
MOST_A_MINUTE = 60_000


def default_owner_key() -> str:
    """Return the owner key that a receiver written for this app knows: the app key, else the corp id."""
    return str(settings.DINGTALK_APP_KEY or settings.DINGTALK_CORP_ID)


class Endpoints(models.Manager["Endpoint"]):
    """All endpoints, without their secrets: each is read and decrypted when it is asked for."""

    def get_queryset(self) -> "models.QuerySet[Endpoint]":
        """Leave the secrets in the database."""
        return super().get_queryset().defer(*SECRETS)

    def open(self) -> "models.QuerySet[Endpoint]":
        """Return those that may be sent something now."""
        rested = models.Q(rests_until=None) | models.Q(rests_until__lte=Now())
        allowed = models.Q(slow_until=None) | models.Q(slow_until__lte=Now())
        return self.filter(rested, allowed, enabled=True, paused=False)


class Endpoint(models.Model):
    """A subscriber's URL, format, secrets and filter; `callbacks.circuit` writes how it goes with it."""

    class Format(models.TextChoices):
        """What is sent."""

        STANDARD = "standard", _("Standard Webhooks")
        DINGTALK = "dingtalk", _("DingTalk's own protocol")

    class Condition(models.TextChoices):
        """How it goes with it, in a word."""

        OK = "ok", _("ok")
        FAILING = "failing", _("failing")
        PAUSED = "paused", _("paused")
        DISABLED = "disabled", _("disabled")

    name = models.CharField(_("name"), max_length=100)
    url = models.CharField(_("URL"), max_length=2000, validators=[validators.an_address])
    format = models.CharField(_("format"), max_length=16, choices=Format.choices, default=Format.STANDARD)
    enabled = models.BooleanField(
        _("enabled"), default=True, help_text=_("Not enabled: it is owed nothing new, and nothing is sent.")
    )
    paused = models.BooleanField(
        _("paused"), default=False, help_text=_("Paused: events are owed, and sent in order when it is resumed.")
    )

    secret = EncryptedTextField(_("secret"), default=new_webhook_secret, blank=True, validators=[validators.a_secret])
    previous_secret = EncryptedTextField(_("previous secret"), default="", blank=True)
    token = EncryptedTextField(_("token"), default=new_token, blank=True, validators=[validators.a_token])
    aes_key = EncryptedTextField(_("aes key"), default=new_aes_key, blank=True, validators=[validators.an_aes_key])
    owner_key = models.CharField(_("owner key"), max_length=128, default=default_owner_key, blank=True)

    event_types = models.JSONField(
        _("event types"),
        default=list,
        blank=True,
        validators=[validators.texts],
        help_text=_('Names and globs, such as ["org_dept_*"]; empty: all.'),
    )
    corp_ids = models.JSONField(
        _("corp ids"),
        default=list,
        blank=True,
        validators=[validators.texts],
        help_text=_("Events of these organisations; empty: all."),
    )
    where = models.JSONField(
        _("where"),
        default=dict,
        blank=True,
        validators=[validators.conditions],
        help_text=_('Values that payload fields must have, such as {"type": ["start", "finish"]}; empty: any.'),
    )

    retry_schedule = models.JSONField(
        _("retry schedule"),
        default=list,
        blank=True,
        validators=[validators.seconds],
        help_text=_("Seconds before each further attempt, such as [5, 300]; empty: RETRY_SCHEDULE."),
    )
    timeout = models.PositiveSmallIntegerField(
        _("time limit in seconds"), default=15, validators=[MinValueValidator(1), MaxValueValidator(LONGEST_TIMEOUT)]
    )
    concurrency = models.PositiveSmallIntegerField(
        _("requests at the same time"), default=10, validators=[MinValueValidator(1)]
    )
    rate = models.PositiveIntegerField(
        _("requests a minute"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_A_MINUTE)],
        help_text=_("Empty: any number."),
    )

    refusals = models.PositiveIntegerField(_("refusals in a row"), default=0, editable=False)
    failing_since = models.DateTimeField(_("failing since"), null=True, editable=False)
    rests_until = models.DateTimeField(_("rests until"), null=True, editable=False)
    slow_until = models.DateTimeField(null=True, editable=False)
    disabled_because = models.TextField(_("disabled because"), blank=True, default="", editable=False)
    last_error = models.TextField(_("last error"), blank=True, default="", editable=False)
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)

    objects = Endpoints()

    class Meta:
        """Names."""

        verbose_name = _("endpoint")
        verbose_name_plural = _("endpoints")
        ordering = ("id",)

    ordered: ClassVar = True

    def __str__(self) -> str:
        return f"#{self.pk} {self.name}"

    def clean(self) -> None:
        """Demand what the format can't do without; the secrets are made where none are given."""
        if self.format == self.Format.DINGTALK and not self.owner_key:
            raise ValidationError({"owner_key": _("Use the app key or corp id that its receiver was written for.")})

    @property
    def destination(self) -> str:
        """Return what a delivery to this endpoint is addressed to."""
        return f"{PREFIX}{self.pk}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the names and globs of the event types that it wants."""
        return self.filter().patterns or ("*",)

    @property
    def condition(self) -> "Endpoint.Condition":
        """Return how it goes with it."""
        if not self.enabled:
            return self.Condition.DISABLED
        if self.paused:
            return self.Condition.PAUSED
        return self.Condition.FAILING if self.failing_since or self.last_error else self.Condition.OK

    @property
    def schedule(self) -> list[float]:
        """Return its own retry schedule, without what can be none: a row may have been made in any way."""
        given = self.retry_schedule if isinstance(self.retry_schedule, list) else []
        return [each for each in given if type(each) in (int, float) and 0 <= each <= validators.MONTH]

    def filter(self) -> Filter:
        """Return what it wants."""
        return Filter.of(self.event_types, self.corp_ids, self.where)

    def wants(self, event_type: str, data: Any) -> bool:
        """Tell whether an event of this type and content is owed to this endpoint."""
        return self.filter().wants(event_type, data)

    def signing_secrets(self) -> list[str]:
        """Return the secrets that sign now, the newest first; fields.Unreadable where one can't be decrypted."""
        row = Endpoint.objects.filter(pk=self.pk).values_list("secret", "previous_secret").get()
        return [secret for secret in row if secret]

    def sealing_secrets(self) -> tuple[str, str]:
        """Return token and aes key; fields.Unreadable where one can't be decrypted."""
        token, aes_key = Endpoint.objects.filter(pk=self.pk).values_list("token", "aes_key").get()
        return token, aes_key


def is_one(destination: str) -> bool:
    """Tell whether a destination is an endpoint."""
    return destination.startswith(PREFIX)


def number_of(destination: str) -> int:
    """Return the id in `endpoint:<id>`, 0 (which no row has) where there is none."""
    digits = destination.removeprefix(PREFIX)
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0


def find(destination: str) -> Endpoint | None:
    """Return the endpoint with this `endpoint:<id>`, without its secrets; None if there is none (any more)."""
    return Endpoint.objects.filter(pk=number_of(destination)).first()
