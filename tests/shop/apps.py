"""The app, as any project would have it."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Nothing but handlers and a work-order hook."""

    name = "tests.shop"
