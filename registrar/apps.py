"""The app that asks DingTalk for things."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RegistrarConfig(AppConfig):
    """Registration and the failed list."""

    name = "registrar"
    verbose_name = _("DingTalk registration")

    def ready(self) -> None:
        """Register system checks, and what workers do for this app."""
        from callbacks import chores  # noqa: PLC0415 - its models are ready now
        from registrar import checks, watching  # noqa: F401, PLC0415 - checks register when imported

        chores.add(watching.chore)
