"""What keeps the admin's lists cheap on millions of rows: bounded counts, filters that use indexes, bounded search."""

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, timezone
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import Exists, Max, Model, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils.timezone import localdate, make_aware
from django.utils.translation import gettext_lazy as _

from callbacks import display
from callbacks.models import Delivery, Endpoint, Event
from callbacks.payload import SUBJECT_KINDS

MOST_COUNTED = 10_000
MOST_SEARCHED = 100_000
MOST_FOUND = 500
MOST_CHOICES = 300


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # not subscriptable when it runs
    """Pages over the first rows only: counting every one of millions takes longer than showing a page."""

    @cached_property
    def count(self) -> int:
        """Return how many rows there are, or MOST_COUNTED where there are more."""
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # the admin gives querysets only
        return rows.order_by().values("pk")[:MOST_COUNTED].count()

    @property
    def is_cut(self) -> bool:
        """Tell whether there may be more rows than are shown."""
        return bool(self.count == MOST_COUNTED)


def distinct(model: type[Model], field_name: str) -> list[str]:
    """Return the different values of a field that leads an index, one index lookup for each.

    SELECT DISTINCT reads the whole index on both databases.
    """
    table = connection.ops.quote_name(model._meta.db_table)
    column = connection.ops.quote_name(field_name)
    query = f"""
        WITH RECURSIVE found(value) AS (
            SELECT MIN({column}) FROM {table}
            UNION ALL
            SELECT (SELECT MIN({column}) FROM {table} WHERE {column} > value) FROM found WHERE value IS NOT NULL
        )
        SELECT value FROM found WHERE value IS NOT NULL LIMIT {MOST_CHOICES}
    """  # noqa: S608 - only names from our own models
    with connection.cursor() as cursor:
        cursor.execute(query)
        return [value for (value,) in cursor.fetchall()]


class EventTypeFilter(SimpleListFilter):
    """Events of one type."""

    title = _("event type")
    parameter_name = "type"
    path = "event_type"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> list[tuple[str, Any]]:
        """Offer the types that have come."""
        return [(name, display.EVENT_TYPES.get(name, name)) for name in distinct(Event, "event_type")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the rows of the chosen type."""
        return queryset.filter(**{self.path: self.value()}) if self.value() else queryset


class DeliveryEventTypeFilter(EventTypeFilter):
    """Deliveries of events of one type."""

    path = "event__event_type"


class DestinationFilter(SimpleListFilter):
    """Deliveries owed to one destination."""

    title = _("destination")
    parameter_name = "destination"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> list[tuple[str, str]]:
        """Offer the destinations that were ever owed anything."""
        names = {endpoint.destination: endpoint.name for endpoint in Endpoint.objects.only("name")}
        found = distinct(Delivery, "destination")
        return [(name, display.destination(name, names.get(name))) for name in found]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the deliveries of the chosen destination."""
        return queryset.filter(destination=self.value()) if self.value() else queryset


class FateFilter(SimpleListFilter):
    """Events with at least one delivery in a state, or with none at all."""

    title = _("delivery state")
    parameter_name = "state"
    NOBODY = "none"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> list[tuple[str, Any]]:
        """Offer the states, and events that no destination wanted."""
        return [*Delivery.State.choices, (self.NOBODY, _("owed to nobody"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the events with the chosen fate."""
        if self.value() == self.NOBODY:
            return queryset.filter(~Exists(Delivery.objects.filter(event=OuterRef("pk"))))
        if self.value():
            return queryset.filter(pk__in=Delivery.objects.filter(state=self.value()).values("event"))
        return queryset


class DayFilter(SimpleListFilter):
    """Events received on one day of the settings' time zone, today, yesterday or any that is typed."""

    title = _("day")
    parameter_name = "day"
    template = "admin/callbacks/day_filter.html"
    path = "received_at"

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> list[tuple[str, Any]]:
        """Offer the last two days; the template adds a field for any other."""
        today = localdate()
        return [(today.isoformat(), _("today")), ((today - timedelta(days=1)).isoformat(), _("yesterday"))]

    def choices(self, changelist: ChangeList) -> Iterable[Any]:  # type: ignore[override]
        """Keep the list's other parameters at hand for the template's form."""
        self.others = [
            (name, value)
            for name, values in changelist.get_filters_params().items()
            for value in values
            if name != self.parameter_name
        ]
        if changelist.query:
            self.others.append(("q", changelist.query))
        return super().choices(changelist)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the rows of the chosen day, as a range that an index serves."""
        if not self.value():
            return queryset
        try:
            start = make_aware(datetime.combine(date.fromisoformat(str(self.value())), time.min)).astimezone(
                timezone.utc
            )
            end = start + timedelta(days=1)
        except (ValueError, OverflowError) as error:
            raise IncorrectLookupParameters from error
        return queryset.filter(**{f"{self.path}__gte": start, f"{self.path}__lt": end})


class DeliveryDayFilter(DayFilter):
    """Deliveries of events received on one day."""

    path = "event__received_at"


def events_matching(term: str) -> QuerySet[Event]:
    """Return the events with this number or about this subject, user, instance or department.

    Of the newest MOST_SEARCHED also those with the term anywhere in their text: to read a whole table's takes seconds.
    """
    newest = Event.objects.aggregate(Max("pk"))["pk__max"] or 0
    named = [name for name, label in display.EVENT_TYPES.items() if term in str(label)]
    found = (
        Q(subject__in=_subjects(term)) | Q(event_type__in=named) | Q(body__contains=term, pk__gt=newest - MOST_SEARCHED)
    )
    return Event.objects.filter(found | Q(pk=number(term)))


def deliveries_matching(term: str) -> Q:
    """Return the condition for deliveries with this number or of the newest events that match the term."""
    events = list(events_matching(term).order_by("-pk").values_list("pk", flat=True)[:MOST_FOUND])
    return Q(pk=number(term)) | Q(event__in=events)


def number(term: str) -> int:
    """Return a row's number as typed, 0 (which no row has) for anything else."""
    digits = term.removeprefix("#")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0


def _subjects(term: str) -> list[str]:
    """Return the subjects that a term may name, with and without corp id and kind: exact, so that the index serves."""
    corps = {"", settings.DINGTALK_CORP_ID, *Event.objects.values_list("corp_id", flat=True)[:1]}
    kinds = ("", *(f"{kind}:" for kind in SUBJECT_KINDS))
    return [term, *(f"{corp}:{kind}{term}" for corp in sorted(corps) for kind in kinds)]
