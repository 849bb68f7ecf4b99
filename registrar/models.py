"""The rows: the failed list's raw answers as they came, when it is read, and how often DingTalk was asked."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class FailedPageQuerySet(models.QuerySet["FailedPage"]):
    """What can be said of many pages."""

    def not_imported(self) -> "FailedPageQuerySet":
        """Keep those whose entries are not all events yet, the oldest first."""
        return self.filter(imported_at=None).order_by("pk")

    def imported(self) -> "FailedPageQuerySet":
        """Keep those whose entries are events, but for those that can't be read."""
        return self.exclude(imported_at=None)


class FailedPage(models.Model):
    """One answer of DingTalk's failed list, which reading emptied; entries that can't be read stay in it."""

    read_at = models.DateTimeField(_("read at"), db_default=Now())
    raw_answer = models.TextField(_("raw answer"))
    entries_read = models.PositiveIntegerField(_("entries read"), default=0)
    entries_unreadable = models.PositiveIntegerField(_("entries unreadable"), default=0)
    imported_at = models.DateTimeField(_("imported at"), null=True, blank=True)
    error = models.TextField(_("error"), blank=True)

    objects = FailedPageQuerySet.as_manager()

    class Meta:
        """Names and indexes."""

        verbose_name = _("failed list page")
        verbose_name_plural = _("failed list pages")
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(fields=["id"], name="failed_page_to_import", condition=models.Q(imported_at=None)),
            models.Index(fields=["read_at"], name="failed_page_read"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk}"


class FailedListWatch(models.Model):
    """The one row that says when the failed list was read, and what that means for the next time."""

    read_at = models.DateTimeField(null=True)
    failures = models.PositiveIntegerField(default=0)
    not_before = models.DateTimeField(null=True)
    in_vain = models.PositiveIntegerField(default=0)

    class Meta:
        """Names; nobody has a permission about it."""

        verbose_name = _("failed list watch")
        verbose_name_plural = _("failed list watches")
        default_permissions = ()

    def __str__(self) -> str:
        return f"read at {self.read_at}" if self.read_at else "never read"


class ApiCallsQuerySet(models.QuerySet["ApiCalls"]):
    """What can be said of many counts."""

    def total(self) -> int:
        """Return how many calls they are."""
        return int(self.aggregate(total=models.Sum("calls"))["total"] or 0)


class ApiCalls(models.Model):
    """How often one of DingTalk's APIs was called in a month of China's time, and when its next call may be."""

    month = models.CharField(_("month"), max_length=7)
    api = models.CharField(_("API"), max_length=128)
    calls = models.PositiveIntegerField(_("calls"), default=0)
    next_slot = models.BigIntegerField(default=0, editable=False)  # milliseconds since the epoch

    objects = ApiCallsQuerySet.as_manager()

    class Meta:
        """Names and constraints."""

        verbose_name = _("API calls of a month")
        verbose_name_plural = _("API calls by month")
        ordering = ("-month", "-calls")
        constraints: ClassVar = [models.UniqueConstraint(fields=["month", "api"], name="api_calls_once_a_month")]

    def __str__(self) -> str:
        return f"{self.month} {self.api}: {self.calls}"
