"""The admin of events, deliveries and attempts, read-only, since they are facts, and of endpoints, which are not."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from callbacks.admin_deliveries import AttemptAdmin, DeliveryAdmin
from callbacks.admin_endpoints import EndpointAdmin
from callbacks.admin_events import EventAdmin
from callbacks.models import Attempt, Delivery, Endpoint, Event

admin.site.register(Event, EventAdmin)
admin.site.register(Delivery, DeliveryAdmin)
admin.site.register(Attempt, AttemptAdmin)
admin.site.register(Endpoint, EndpointAdmin)

admin.site.site_header = admin.site.site_title = _("DingTalk callbacks")
admin.site.index_title = _("Overview")
admin.site.index_template = "admin/callbacks/index.html"
admin.site.enable_nav_sidebar = False  # the lists need its width
