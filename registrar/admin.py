"""Pages of the failed list for people: read-only, the raw answer and the entries that could not be read."""

import json
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from callbacks import admin_lists, display
from callbacks.admin_facts import FactAdmin
from registrar.failed_list import unreadable_entries
from registrar.models import ApiCalls, FailedPage


class ReadDayFilter(admin_lists.DayFilter):
    """Pages read on one day."""

    path = "read_at"


class UnreadableFilter(admin.SimpleListFilter):
    """Pages that somebody should look at."""

    title = _("entries")
    parameter_name = "entries"

    def lookups(self, request: HttpRequest, model_admin: "admin.ModelAdmin[Any]") -> list[tuple[str, Any]]:
        """Offer the two things that can be amiss."""
        return [("unreadable", _("with unreadable entries")), ("left", _("not imported yet"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the pages of the chosen kind."""
        if self.value() == "unreadable":
            return queryset.filter(entries_unreadable__gt=0)
        return queryset.filter(imported_at=None) if self.value() == "left" else queryset


@admin.register(FailedPage)
class FailedPageAdmin(FactAdmin):
    """What DingTalk gave up pushing, as the failed list told of it."""

    list_display = ("id", "read", "entries_read", "entries_unreadable", "imported", "error")
    list_filter = (UnreadableFilter, ReadDayFilter)
    search_fields = ("id", "raw_answer")
    search_help_text = _("Number of a page, or a text in its raw answer")
    fieldsets = (
        (None, {"fields": ("read", "imported", "entries_read", "entries_unreadable", "error")}),
        (_("Unreadable entries"), {"fields": ("unreadable_as_json",), "classes": ("wide-facts",)}),
        (_("Raw answer"), {"fields": ("answer_as_json",), "classes": ("wide-facts",)}),
    )
    readonly_fields = ("read", "imported", "unreadable_as_json", "answer_as_json")

    def get_queryset(self, request: HttpRequest) -> QuerySet[FailedPage]:
        """Leave the raw answers in the database but for the one page that shows its own."""
        rows: QuerySet[FailedPage] = super().get_queryset(request)
        match = request.resolver_match
        return rows if match and match.kwargs.get("object_id") else rows.defer("raw_answer")

    @admin.display(description=_("read at"), ordering="read_at")
    def read(self, page: FailedPage) -> str:
        """Return when DingTalk was asked."""
        return display.moment(page.read_at)

    @admin.display(description=_("imported at"), ordering="imported_at")
    def imported(self, page: FailedPage) -> str:
        """Return since when its entries are events."""
        return display.moment(page.imported_at)

    @admin.display(description=_("unreadable entries"))
    def unreadable_as_json(self, page: FailedPage) -> SafeString | str:
        """Return the entries that are no events, indented."""
        return display.pretty(unreadable_entries(page) or None)

    @admin.display(description=_("raw answer"))
    def answer_as_json(self, page: FailedPage) -> SafeString | str:
        """Return the answer, indented where it is JSON, else as it came."""
        try:
            return display.pretty(json.loads(page.raw_answer))
        except (ValueError, RecursionError):
            return display.preformatted(page.raw_answer)


@admin.register(ApiCalls)
class ApiCallsAdmin(FactAdmin):
    """How often DingTalk's APIs were called, by month."""

    list_display = ("month", "api", "calls")
    list_filter = ("month",)
    fields = ("month", "api", "calls")
