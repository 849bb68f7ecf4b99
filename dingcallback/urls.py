"""Addresses: those for machines are in `callbacks.urls`, those for people in the admin."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", include("callbacks.urls")),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(url="admin/")),
]
