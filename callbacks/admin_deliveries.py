"""Pages of deliveries and of the attempts at them: what is owed to whom, and how it went."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from callbacks import admin_lists, display, order
from callbacks.admin_facts import FactAdmin, OwedAdmin, page_of, with_endpoints
from callbacks.models import Attempt, Delivery, DeliveryQuerySet


class DeliveryList(ChangeList):
    """A page of deliveries with their events, without payloads and results."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """Read what the list shows and no more, in one query."""
        rows = super().get_queryset(request, exclude_parameters).select_related("event")
        return rows.defer("result", "event__payload", "event__body")


class DeliveryAdmin(OwedAdmin):
    """What is owed to whom, and how it went."""

    list_display = ("id", "event_link", "destination_in_lines", "state_and_next", "tries", "error", "created")
    list_filter = (
        "state",
        admin_lists.DeliveryDayFilter,
        admin_lists.DestinationFilter,
        admin_lists.DeliveryEventTypeFilter,
    )
    search_fields = ("id", "event", "subject")
    search_help_text = _(
        "Number of a delivery or event, subject, user or instance, or a text in one of the newest events"
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "event_link",
                    "destination_in_lines",
                    "subject",
                    "badge",
                    "attempts",
                    "next_attempt",
                    "created",
                    "settled",
                    "last_error_in_full",
                )
            },
        ),
        (_("Result"), {"fields": ("result_as_json",), "classes": ("wide-facts",)}),
    )
    readonly_fields = (
        "event_link",
        "destination_in_lines",
        "badge",
        "next_attempt",
        "created",
        "settled",
        "last_error_in_full",
        "result_as_json",
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Use the list that leaves results in the database."""
        return DeliveryList

    def get_queryset(self, request: HttpRequest) -> DeliveryQuerySet:
        """Let each say what it waits behind, and what its endpoint is called."""
        return with_endpoints(order.with_heads(Delivery.objects.all()))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search as `deliveries_matching` says."""
        term = search_term.strip()
        return (queryset.filter(admin_lists.deliveries_matching(term)) if term else queryset), False

    def deliveries_of(self, rows: QuerySet[Any]) -> DeliveryQuerySet:
        """Return the rows themselves."""
        return Delivery.objects.filter(pk__in=rows.values("pk"))

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show the delivery's attempts."""
        context["attempts"] = context["original"].attempt_set.order_by("id")
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description=_("event"))
    def event_link(self, delivery: Delivery) -> SafeString:
        """Return the event's number and type, as a link to its page."""
        event = delivery.event
        return format_html('<a href="{}">#{}</a> {}', page_of(event), event.pk, display.event_type(event.event_type))

    @admin.display(description=_("state"))
    def badge(self, delivery: Delivery) -> SafeString:
        """Return the state in its colour."""
        return display.badge(delivery.state, delivery.get_state_display())

    @admin.display(description=_("state"))
    def state_and_next(self, delivery: Delivery) -> SafeString:
        """Return the state and, while it is pending, when it is tried next."""
        return display.state(delivery)

    @admin.display(description=_("destination"))
    def destination_in_lines(self, delivery: Delivery) -> SafeString:
        """Return the destination, to be broken at its dots."""
        return display.destination(delivery.destination, delivery.endpoint_name)

    @admin.display(description=_("attempts"))
    def tries(self, delivery: Delivery) -> int:
        """Return the count of attempts, under a heading that takes less room than the field's."""
        return delivery.attempts

    @admin.display(description=_("next attempt at"))
    def next_attempt(self, delivery: Delivery) -> SafeString | str:
        """Return when it is tried next, or what it waits behind."""
        return display.next_attempt(delivery)

    @admin.display(description=_("last error"))
    def error(self, delivery: Delivery) -> str:
        """Return what names the last error."""
        return display.last_line(delivery.last_error)

    @admin.display(description=_("last error"))
    def last_error_in_full(self, delivery: Delivery) -> str:
        """Return the last error, line by line."""
        return display.preformatted(delivery.last_error)

    @admin.display(description=_("created at"))
    def created(self, delivery: Delivery) -> str:
        """Return since when it has been owed."""
        return display.moment(delivery.created_at)

    @admin.display(description=_("settled at"))
    def settled(self, delivery: Delivery) -> str:
        """Return when it was delivered or given up."""
        return display.moment(delivery.settled_at)

    @admin.display(description=_("result"))
    def result_as_json(self, delivery: Delivery) -> str:
        """Return what the handler returned, indented."""
        return display.pretty(delivery.result)


class AttemptAdmin(FactAdmin):
    """Each try at a delivery."""

    list_display = ("id", "delivery_link", "worker", "started", "took", "badge", "last_line")
    list_filter = ("outcome",)
    list_select_related = ("delivery",)
    search_fields = ("id", "delivery")
    search_help_text = _("Number of an attempt or a delivery")
    fields = ("delivery_link", "worker", "started", "finished", "took", "badge", "error_in_full", "status", "answer")
    readonly_fields = ("delivery_link", "started", "finished", "took", "badge", "error_in_full")

    @admin.display(description=_("delivery"))
    def delivery_link(self, attempt: Attempt) -> SafeString:
        """Return the delivery's number and destination, as a link to its page."""
        delivery = attempt.delivery
        return format_html(
            '<a href="{}">#{}</a> {}', page_of(delivery), delivery.pk, display.destination(delivery.destination)
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find an attempt by its number, and all attempts at a delivery by the delivery's."""
        number = admin_lists.number(search_term.strip())
        return (queryset.filter(Q(pk=number) | Q(delivery=number)) if search_term.strip() else queryset), False

    @admin.display(description=_("started at"))
    def started(self, attempt: Attempt) -> str:
        """Return when it started."""
        return display.moment(attempt.started_at)

    @admin.display(description=_("finished at"))
    def finished(self, attempt: Attempt) -> str:
        """Return when it ended."""
        return display.moment(attempt.finished_at)

    @admin.display(description=_("took"))
    def took(self, attempt: Attempt) -> str:
        """Return the seconds between the two."""
        return display.took(attempt)

    @admin.display(description=_("outcome"))
    def badge(self, attempt: Attempt) -> SafeString:
        """Return the outcome in its colour."""
        return display.badge(attempt.outcome, attempt.get_outcome_display())

    @admin.display(description=_("error"))
    def last_line(self, attempt: Attempt) -> str:
        """Return the last line of the error, which names it."""
        return display.last_line(attempt.error)

    @admin.display(description=_("error"))
    def error_in_full(self, attempt: Attempt) -> str:
        """Return the whole error, with where it was raised."""
        return display.preformatted(attempt.error)
