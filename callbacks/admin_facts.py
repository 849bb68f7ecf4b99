"""What the admin's pages of facts share: nobody may change anything, and some may redeliver or give up."""

import logging
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Case, CharField, Model, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Cast, Concat
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from callbacks import admin_lists, display, outbox
from callbacks.endpoint import PREFIX
from callbacks.models import Delivery, DeliveryQuerySet, Endpoint

logger = logging.getLogger(__name__)


class FactAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """Pages of rows that nobody may change."""

    change_list_template = "admin/callbacks/facts.html"
    change_form_template = "admin/callbacks/fact.html"
    paginator = admin_lists.BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by = ()  # newest first; sorting millions by another column takes minutes
    empty_value_display = display.NOTHING

    class Media:
        """Styles of the states and of preformatted texts."""

        css: ClassVar = {"all": ["callbacks/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Facts are made by the service alone."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Facts are not changed."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Old rows go by `manage.py prune`."""
        return False


class OwedAdmin(FactAdmin):
    """Pages of what can be delivered again or given up: actions in the list, buttons on the row's page."""

    actions = ("redeliver", "give_up")

    def deliveries_of(self, rows: QuerySet[Any]) -> DeliveryQuerySet:
        """Return the deliveries that these rows mean."""
        raise NotImplementedError

    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user may redeliver; Django asks this before it offers the action."""
        return bool(request.user.has_perm("callbacks.redeliver_delivery"))

    def has_give_up_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user may give up deliveries."""
        return bool(request.user.has_perm("callbacks.give_up_delivery"))

    def _is_more_than_shown(self, request: HttpRequest, rows: QuerySet[Any]) -> bool:
        """Tell whether "select all" means more rows than the page said, and tell the user."""
        if request.POST.get("select_across") != "1" or not admin_lists.BoundedPaginator(rows, 1).is_cut:
            return False
        text = _("These are more than %(count)d rows: choose fewer by a filter, or use `manage.py redeliver`.")
        self.message_user(request, text % {"count": admin_lists.MOST_COUNTED}, messages.ERROR)
        return True

    @admin.action(description=_("Redeliver"), permissions=["redeliver"])
    def redeliver(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Make the rows' deliveries due again and say how many there are."""
        if self._is_more_than_shown(request, rows):
            return
        count = outbox.redeliver(self.deliveries_of(rows))
        logger.info("%s redelivers %d from the admin", request.user.get_username(), count)
        if not count:
            self.message_user(request, _("Nothing to redeliver, or a worker is at it right now."), messages.WARNING)
            return
        text = ngettext("%(count)d delivery is due again.", "%(count)d deliveries are due again.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)

    @admin.action(description=_("Give up"), permissions=["give_up"])
    def give_up(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Make the rows' pending deliveries dead, which lets those behind them go, and say how many there are."""
        if self._is_more_than_shown(request, rows):
            return
        user = request.user.get_username()
        count = outbox.give_up(self.deliveries_of(rows), by=user)
        logger.info("%s gives up %d from the admin", user, count)
        if not count:
            self.message_user(request, _("Nothing to give up, or a worker is at it right now."), messages.WARNING)
            return
        text = ngettext("%(count)d delivery was given up.", "%(count)d deliveries were given up.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)

    def get_urls(self) -> list[URLPattern]:
        """Add the buttons' addresses."""
        view = self.admin_site.admin_view(self.act_on_one)
        prefix = f"{self.opts.app_label}_{self.opts.model_name}"
        buttons = [
            path(f"<path:object_id>/{verb}/", view, {"verb": verb}, name=f"{prefix}_{verb}") for verb in self.actions
        ]
        return [*buttons, *super().get_urls()]

    @method_decorator(require_POST)
    def act_on_one(self, request: HttpRequest, object_id: str, verb: str) -> HttpResponse:
        """Do what a button says to one row and go back to its page."""
        action = self.get_actions(request).get(verb)
        if action is None or not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        action[0](self, request, self.get_queryset(request).filter(pk=row.pk))
        return HttpResponseRedirect(page_of(row))

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Tell the template where the buttons lead, for those who may press them and where there is something to it."""
        row = context["original"]
        states = set(self.deliveries_of(self.get_queryset(request).filter(pk=row.pk)).values_list("state", flat=True))
        prefix = f"admin:{self.opts.app_label}_{self.opts.model_name}"
        if states and self.has_redeliver_permission(request):
            context["redeliver_url"] = reverse(f"{prefix}_redeliver", args=[row.pk])
        if Delivery.State.PENDING in states and self.has_give_up_permission(request):
            context["give_up_url"] = reverse(f"{prefix}_give_up", args=[row.pk])
        return super().render_change_form(request, context, *args, **kwargs)


def with_endpoints(deliveries: DeliveryQuerySet) -> DeliveryQuerySet:
    """Fill in `endpoint_name` and `endpoint_held`: what an endpoint is called, and whether it is sent nothing now."""
    number = Concat(Value(PREFIX), Cast("pk", CharField()))
    rows = Endpoint.objects.order_by().annotate(number=number).filter(number=OuterRef("destination"))
    held = Case(
        When(enabled=False, then=Value(Endpoint.Condition.DISABLED.value)),
        When(paused=True, then=Value(Endpoint.Condition.PAUSED.value)),
        When(rests_until__isnull=False, then=Value(Endpoint.Condition.FAILING.value)),
        default=Value(""),
    )
    return deliveries.annotate(  # type: ignore[no-redef]
        endpoint_name=Subquery(rows.values("name")[:1]),
        endpoint_held=Subquery(rows.annotate(held=held).values("held")[:1]),
    )


def page_of(row: Model) -> str:
    """Return the address of a row's page."""
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
