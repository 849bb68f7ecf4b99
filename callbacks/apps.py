"""Load every installed app's `handlers.py`, as Django loads `admin.py`."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class CallbacksConfig(AppConfig):
    """The app that receives and delivers."""

    name = "callbacks"
    verbose_name = _("DingTalk callbacks")

    def ready(self) -> None:
        """Register system checks and handlers."""
        from callbacks import checks  # noqa: F401, PLC0415 - checks register when imported, after models are ready

        autodiscover_modules("handlers")
