"""Pages of endpoints: who is sent what, how it goes, and buttons for what `manage.py endpoint` does."""

import logging
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from callbacks import circuit, display, judging, outbox, relay, rotation, validators
from callbacks.admin_facts import page_of
from callbacks.models import Delivery, Endpoint
from callbacks.preview import wanted

logger = logging.getLogger(__name__)


class ListField(forms.CharField):
    """A list of texts, written with commas."""

    widget = AdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        """Write the list."""
        return ", ".join(str(each) for each in value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        """Read the list."""
        return validators.listed(str(super().to_python(value)))


class SecondsField(ListField):
    """A list of seconds, written with commas."""

    def to_python(self, value: Any) -> Any:
        """Read the list; what is no number is left for the validator."""
        return [int(each) if each.isascii() and each.isdecimal() else each for each in super().to_python(value)]


def _secret(label: Any, *checks: Any) -> forms.CharField:
    widget = forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"})
    text = _("Write-only. Left empty it stays as it is; a new endpoint gets a fresh one.")
    return forms.CharField(label=label, required=False, widget=widget, help_text=text, validators=checks)


class EndpointForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable when it runs
    """An endpoint's fields; secrets go in and never come out."""

    event_types = ListField(
        label=_("event types"),
        required=False,
        help_text=_("Names and globs with commas, such as org_dept_*; empty: all."),
    )
    corp_ids = ListField(label=_("corp ids"), required=False, help_text=_("With commas; empty: all."))
    retry_schedule = SecondsField(
        label=_("retry schedule"),
        required=False,
        validators=[validators.seconds],
        help_text=_("Seconds before each further attempt, with commas; empty: RETRY_SCHEDULE."),
    )
    new_secret = _secret(_("secret"), validators.a_secret)
    new_token = _secret(_("token"), validators.a_token)
    new_aes_key = _secret(_("aes key"), validators.an_aes_key)

    class Meta:
        """What may be filled in."""

        model = Endpoint
        fields = (
            *("name", "url", "format", "enabled", "paused", "event_types", "corp_ids", "where", "owner_key"),
            *("retry_schedule", "timeout", "concurrency", "rate"),
        )

    def clean_where(self) -> Any:
        """Take an empty field for no condition."""
        return self.cleaned_data["where"] or {}

    def save(self, commit: bool = True) -> Any:
        """Put what was given of the secrets into the row."""
        for name in ("secret", "token", "aes_key"):
            if self.cleaned_data[f"new_{name}"]:
                setattr(self.instance, name, self.cleaned_data[f"new_{name}"])
        return super().save(commit)


class EndpointAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """Who is sent what, and how it goes."""

    form = EndpointForm
    change_form_template = "admin/callbacks/endpoint.html"
    list_display = ("id", "name", "format", "url", "condition_badge", "pending", "dead", "why")
    list_display_links = ("id", "name")
    list_filter = ("format", "enabled", "paused")
    search_fields = ("name", "url")
    sortable_by = ()
    actions = ("test", "pause", "resume", "enable", "disable")
    buttons = (*actions, "rotate", "finish")
    readonly_fields = ("condition_badge", "why", "pending", "dead", "preview")
    fieldsets = (
        (None, {"fields": ("name", "url", "format")}),
        (_("How it goes"), {"fields": ("condition_badge", "why", "pending", "dead", "preview", "enabled", "paused")}),
        (_("Which events"), {"fields": ("event_types", "corp_ids", "where")}),
        (_("Standard Webhooks"), {"fields": ("new_secret",)}),
        (_("DingTalk's own protocol"), {"fields": ("owner_key", "new_token", "new_aes_key")}),
        (_("Sending"), {"fields": ("retry_schedule", "timeout", "concurrency", "rate"), "classes": ("collapse",)}),
    )

    class Media:
        """Styles of the states."""

        css: ClassVar = {"all": ["callbacks/admin.css"]}

    @admin.display(description=_("state"))
    def condition_badge(self, endpoint: Endpoint) -> SafeString:
        """Return how it goes in its colour, and since when it fails."""
        badge = display.badge(endpoint.condition.value, str(endpoint.condition.label))
        if not endpoint.failing_since:
            return badge
        return format_html("{} {} {}", badge, _("failing since"), display.moment(endpoint.failing_since))

    @admin.display(description=_("why"))
    def why(self, endpoint: Endpoint) -> str:
        """Return what keeps it from being sent anything."""
        return (endpoint.last_error if endpoint.enabled else endpoint.disabled_because) or display.NOTHING

    @admin.display(description=_("pending"))
    def pending(self, endpoint: Endpoint) -> int:
        """Return how many deliveries are owed to it."""
        return Delivery.objects.pending().filter(destination=endpoint.destination).count()

    @admin.display(description=_("dead"))
    def dead(self, endpoint: Endpoint) -> int:
        """Return how many deliveries to it were given up."""
        return Delivery.objects.filter(destination=endpoint.destination, state=Delivery.State.DEAD).count()

    @admin.display(description=_("preview"))
    def preview(self, endpoint: Endpoint) -> str:
        """Return how many of the newest events would have gone there."""
        count, of = wanted(endpoint)
        return str(_("%(count)d of the last %(of)d events would have gone here.") % {"count": count, "of": of})

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Show the secrets of a new endpoint, this once."""
        names = ("token", "aes_key") if obj.format == Endpoint.Format.DINGTALK else ("secret",)
        return self._reveal(request, obj, {name: getattr(obj, name) for name in names})

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save what was changed and no more: workers write how it goes into the same row."""
        if not change:
            obj.save()
            return
        given = [name for name in ("secret", "token", "aes_key") if form.cleaned_data[f"new_{name}"]]
        changed = [name for name in form.changed_data if not name.startswith("new_")]
        obj.save(update_fields=[*changed, *given])

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Leave to the buttons what workers change, too: a page that was open meanwhile would change it back."""
        return self.readonly_fields if obj is None else (*self.readonly_fields, "enabled", "paused")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Say nothing of how it goes before it is there."""
        if obj is not None:
            return self.fieldsets
        seen = set(self.readonly_fields)
        return [
            (title, {**options, "fields": [name for name in options["fields"] if name not in seen]})
            for title, options in self.fieldsets
        ]

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Tell beside what is removed how many pending deliveries would be dead."""
        told, *others = super().get_deleted_objects(objs, request)
        owed = Delivery.objects.pending().filter(destination__in=[endpoint.destination for endpoint in objs])
        line = _("Pending deliveries, which would be dead: %(count)d") % {"count": owed.count()}
        return [*told, line], *others

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Remove an endpoint; what is still owed to it is dead."""
        self.delete_queryset(request, Endpoint.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Remove endpoints; what is still owed to them is dead."""
        destinations = [endpoint.destination for endpoint in queryset]
        queryset.delete()
        outbox.give_up(Delivery.objects.filter(destination__in=destinations), by=request.user.get_username())

    @admin.action(description=_("Send a test event"), permissions=["change"])
    def test(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Send a test event to each and explain the answers."""
        for endpoint in rows:
            answered: dict[str, Any] = {}
            try:
                relay.test(endpoint, answered)
            except (judging.Refused, *relay.Held) as error:
                refused = _("%(name)s did not take it: %(error)s") % {"name": endpoint.name, "error": error}
                self.message_user(request, refused, messages.ERROR)
            else:
                taken = _("%(name)s answered %(status)d and takes events.") % {"name": endpoint.name, **answered}
                self.message_user(request, taken, messages.SUCCESS)

    @admin.action(description=_("Pause"), permissions=["change"])
    def pause(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Owe events to them, but send nothing."""
        for endpoint in rows:
            circuit.pause(endpoint)
            self._note(request, endpoint, _("%(name)s is paused: events are owed to it, and sent when it is resumed."))

    @admin.action(description=_("Resume"), permissions=["change"])
    def resume(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Send what is owed to them, in order."""
        for endpoint in rows:
            circuit.resume(endpoint)
            self._note(request, endpoint, _("%(name)s is resumed: what is owed to it is due."))

    @admin.action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Owe events to them again."""
        for endpoint in rows:
            circuit.enable(endpoint)
            self._note(request, endpoint, _("%(name)s is enabled: what is owed to it is due."))

    @admin.action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Owe them nothing new and send nothing."""
        for endpoint in rows:
            circuit.disable(endpoint, f"{circuit.BY_HAND}, by {request.user.get_username()}")
            self._note(request, endpoint, _("%(name)s is disabled: it is owed nothing new."))

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Tell the page whether there is a previous secret to drop."""
        endpoint = context.get("original")
        context["rotates"] = endpoint is not None and rotation.is_under_way(endpoint)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        """Add the buttons' addresses."""
        view = self.admin_site.admin_view(self.act_on_one)
        prefix = f"{self.opts.app_label}_{self.opts.model_name}"
        buttons = [
            path(f"<path:object_id>/{verb}/", view, {"verb": verb}, name=f"{prefix}_{verb}") for verb in self.buttons
        ]
        return [*buttons, *super().get_urls()]

    @method_decorator(require_POST)
    def act_on_one(self, request: HttpRequest, object_id: str, verb: str) -> HttpResponse:
        """Do what a button says to one endpoint and go back to its page; new secrets are shown this once."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        endpoint = self.get_object(request, unquote(object_id))
        if endpoint is None:
            raise Http404
        try:
            if verb == "rotate":
                made = rotation.rotate(endpoint)
                self.log_change(request, endpoint, "rotated")
                return self._reveal(request, endpoint, made)
            if verb == "finish":
                rotation.finish(endpoint)
                self._note(request, endpoint, _("%(name)s is signed with its new secret only."))
            else:
                getattr(self, verb)(request, Endpoint.objects.filter(pk=endpoint.pk))
        except rotation.RotationUnderWay:
            text = _("Both secrets of %(name)s sign: drop the previous one first, when its receiver has the new one.")
            self.message_user(request, text % {"name": endpoint.name}, messages.ERROR)
        except rotation.NoRotation:
            text = _("%(name)s has no previous secret, so there is nothing to drop.")
            self.message_user(request, text % {"name": endpoint.name}, messages.ERROR)
        return HttpResponseRedirect(page_of(endpoint))

    def _note(self, request: HttpRequest, endpoint: Endpoint, text: Any) -> None:
        self.log_change(request, endpoint, str(text % {"name": endpoint.name}))
        self.message_user(request, text % {"name": endpoint.name}, messages.SUCCESS)

    def _reveal(self, request: HttpRequest, endpoint: Endpoint, made: dict[str, str]) -> HttpResponse:
        logger.info("%s sees new secrets of endpoint %s", request.user.get_username(), endpoint.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": _("New secrets, shown this once"),
            "endpoint": endpoint,
            "made": {_(name.replace("_", " ")): value for name, value in made.items()},
            "back": page_of(endpoint),
            "rotates": rotation.is_under_way(endpoint),
            "paused": Endpoint.objects.get(pk=endpoint.pk).paused,
            "preview": self.preview(endpoint),
        }
        return TemplateResponse(request, "admin/callbacks/secrets.html", context)
