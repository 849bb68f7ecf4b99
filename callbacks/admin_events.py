"""Pages of events: what DingTalk told us, and what became of it."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from callbacks import admin_lists, display, order
from callbacks.admin_facts import OwedAdmin, with_endpoints
from callbacks.models import Attempt, Delivery, DeliveryQuerySet, Event


class EventList(ChangeList):
    """A page of events without their payloads, with the states of their deliveries."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """Read what the list shows and no more: one query for the events, one for all their deliveries."""
        states = Prefetch("deliveries", Delivery.objects.only("event_id", "state"))
        return super().get_queryset(request, exclude_parameters).defer("payload", "body").prefetch_related(states)


class EventAdmin(OwedAdmin):
    """What DingTalk told us, and what became of it."""

    list_display = ("id", "received", "type_in_words", "short_subject", "source", "fate")
    list_filter = (
        admin_lists.FateFilter,
        admin_lists.DayFilter,
        admin_lists.EventTypeFilter,
        "source",
    )
    search_fields = ("id", "subject", "body")
    search_help_text = _(
        "Number, subject, user or instance of any event, or a text in one of the newest 100,000 events"
    )
    fieldsets = (
        (None, {"fields": ("type_in_words", "subject", "corp_id", "source", "received", "identity")}),
        (_("Payload"), {"fields": ("payload_as_json",), "classes": ("wide-facts",)}),
        (_("Decrypted text, as it came"), {"fields": ("body_as_it_came",), "classes": ("collapse", "wide-facts")}),
    )
    readonly_fields = ("type_in_words", "received", "payload_as_json", "body_as_it_came")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Use the list that leaves payloads in the database."""
        return EventList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search as `events_matching` says."""
        term = search_term.strip()
        return (queryset.filter(pk__in=admin_lists.events_matching(term).values("pk")) if term else queryset), False

    def deliveries_of(self, rows: QuerySet[Any]) -> DeliveryQuerySet:
        """Return all deliveries of the events."""
        return Delivery.objects.filter(event__in=rows.values("pk"))

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show the event's deliveries with all their attempts."""
        attempts = Prefetch("attempt_set", Attempt.objects.order_by("id"))
        deliveries = with_endpoints(order.with_heads(Delivery.objects.filter(event=context["original"])))
        context["deliveries"] = deliveries.order_by("id").prefetch_related(attempts)
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description=_("received at"))
    def received(self, event: Event) -> str:
        """Return the time to the second."""
        return display.moment(event.received_at)

    @admin.display(description=_("event type"))
    def type_in_words(self, event: Event) -> str:
        """Return the type's label and name."""
        return display.event_type(event.event_type)

    @admin.display(description=_("subject"))
    def short_subject(self, event: Event) -> str:
        """Return the subject without the corp id."""
        return display.subject(event.subject)

    @admin.display(description=_("what became of it"))
    def fate(self, event: Event) -> str:
        """Return the states of the event's deliveries."""
        return display.fates(event.deliveries.all())

    @admin.display(description=_("payload"))
    def payload_as_json(self, event: Event) -> str:
        """Return the payload, indented."""
        return display.pretty(event.payload)

    @admin.display(description=_("decrypted text"))
    def body_as_it_came(self, event: Event) -> str:
        """Return the text, untouched but for escaping."""
        return display.preformatted(event.body)
