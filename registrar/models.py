"""The rows: the failed list's raw answers as they came."""

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
