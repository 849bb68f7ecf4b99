"""How rows are put into words and HTML for people; everything that DingTalk sent is escaped."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _

from callbacks.models import Attempt, Delivery, Endpoint

# A page shows at most this much of one text: indenting a deep payload can make a hundred times its size of it.
MAX_SHOWN = 100_000
NOTHING = "–"

# Words for the events that are handled out of the box; every other type is shown by its name.
EVENT_TYPES = {
    "user_add_org": _("User added"),
    "user_leave_org": _("User left"),
    "org_dept_create": _("Department added"),
    "org_dept_modify": _("Department changed"),
    "org_dept_remove": _("Department removed"),
    "bpms_task_change": _("Approval task changed"),
    "bpms_instance_change": _("Approval instance changed"),
}


def event_type(name: str) -> SafeString | str:
    """Return the type's words with its name below, or the bare name of a type that has no words here."""
    if name not in EVENT_TYPES:
        return name
    return format_html('<span class="event-type">{} <code class="quiet">{}</code></span>', EVENT_TYPES[name], name)


def subject(text: str) -> SafeString | str:
    """Return a subject without its corp id, which is the same on nearly every row; the whole is the tooltip."""
    short = text.partition(":")[2]
    return format_html('<span title="{}">{}</span>', text, short) if short else text


def destination(name: str, endpoint_name: str | None = None) -> SafeString:
    """Return a destination that may break into lines after its dots, with its endpoint's name where it is one's."""
    shown = format_html_join("", "{}<wbr>", ((part,) for part in re.split(r"(?<=[.:])", name)))
    return format_html("{} {}", shown, endpoint_name) if endpoint_name else shown


def moment(value: datetime | None) -> SafeString | str:
    """Return a time to the second in the settings' time zone, breakable between day and hour; a dash for None."""
    if value is None:
        return NOTHING
    day, clock = date_format(localtime(value), "Y-m-d H:i:s").split()
    return format_html('<span class="whole">{}</span> <span class="whole">{}</span>', day, clock)


def took(attempt: Attempt) -> str:
    """Return the seconds that an attempt took, a dash while it runs."""
    return f"{(attempt.finished_at - attempt.started_at).total_seconds():.2f} s" if attempt.finished_at else NOTHING


def last_line(error: str) -> str:
    """Return the last line of a traceback, which names the error, cut to what a list has room for."""
    return Truncator(error.strip().rpartition("\n")[2]).chars(120)


def pretty(value: Any) -> SafeString | str:
    """Return JSON indented and with Chinese as it is read, a dash for None."""
    if value is None:
        return NOTHING
    shown, size = [], 0
    for chunk in json.JSONEncoder(ensure_ascii=False, indent=2).iterencode(value):
        shown.append(chunk)
        size += len(chunk)
        if size > MAX_SHOWN:
            break
    return preformatted("".join(shown))


def preformatted(text: str) -> SafeString | str:
    """Return a text in lines as it came, cut where it is very long; a dash for an empty one."""
    if not text:
        return NOTHING
    cut = _("… cut here; the whole is in the database") if len(text) > MAX_SHOWN else ""
    return format_html('<pre class="fact">{}{}</pre>', text[:MAX_SHOWN], cut)


def badge(value: str, label: str) -> SafeString:
    """Return a coloured word for the state of a delivery or the outcome of an attempt."""
    return format_html('<span class="state state-{}">{}</span>', value, label)


def fates(deliveries: Iterable[Delivery]) -> SafeString | str:
    """Return how many of an event's deliveries are in which state."""
    counts = Counter(delivery.state for delivery in deliveries)
    if not counts:
        return format_html('<span class="quiet">{}</span>', _("owed to nobody"))
    found = [(state, counts[state.value]) for state in Delivery.State if counts[state.value]]
    badges = format_html_join(" ", "{}", ((badge(state.value, f"{count} {state.label}"),) for state, count in found))
    return format_html('<span class="fates">{}</span>', badges)


def next_attempt(delivery: Delivery) -> SafeString | str:
    """Return when a delivery is tried next, or what it waits behind; a dash where it is owed no more."""
    if delivery.behind:
        words = _("waits behind #%(number)d") % {"number": delivery.behind}
        return format_html(
            '<a href="{}">{}</a>', reverse("admin:callbacks_delivery_change", args=[delivery.behind]), words
        )
    if delivery.state == Delivery.State.PENDING and delivery.next_attempt_at is None:
        return str(_("waits behind an earlier delivery"))
    if delivery.state == Delivery.State.PENDING and delivery.endpoint_held:
        held = Endpoint.Condition(delivery.endpoint_held).label
        return str(_("its endpoint is %(held)s") % {"held": held})
    return moment(delivery.next_attempt_at)


def state(delivery: Delivery) -> SafeString:
    """Return a delivery's state in its colour, with the next attempt below while it is pending."""
    shown = badge(delivery.state, delivery.get_state_display())
    if delivery.state != Delivery.State.PENDING:
        return shown
    return format_html('{}<br><span class="quiet">{} {}</span>', shown, _("next:"), next_attempt(delivery))
