"""System checks of what the verbs need: addresses and event types that can't be right stop start-up by name."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from registrar.addresses import malformed
from registrar.schedule import LEAST_INTERVAL

_TAG = re.compile(r"[A-Za-z0-9_]{1,128}")


@register()
def check_addresses(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report addresses that are no URLs; the callback's may be missing, as a console subscription doesn't need it."""
    return [
        *_address_errors("DINGTALK_CALLBACK_URL", "https://your.domain/dingtalk/callback/", "registrar.E001"),
        *_address_errors("DINGTALK_OAPI_URL", "https://oapi.dingtalk.com", "registrar.E002"),
        *_address_errors("DINGTALK_API_URL", "https://api.dingtalk.com", "registrar.E003"),
    ]


@register()
def check_tags(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report event types that no event type of DingTalk's looks like."""
    return [
        Error(
            f"DINGTALK_CALLBACK_TAGS holds {tag!r}: set it to event types separated by commas, such as "
            "user_add_org,user_leave_org",
            id="registrar.E004",
        )
        for tag in settings.DINGTALK_CALLBACK_TAGS
        if not _TAG.fullmatch(tag)
    ]


@register()
def check_watch(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report a FAILED_LIST_WATCH that would eat the month's calls."""
    if settings.FAILED_LIST_WATCH and settings.FAILED_LIST_WATCH < LEAST_INTERVAL:
        problem = f"is {settings.FAILED_LIST_WATCH}: set it to at least {LEAST_INTERVAL} seconds, or to 0 for none"
        return [Error(f"FAILED_LIST_WATCH {problem}", id="registrar.E005")]
    return []


def _address_errors(name: str, example: str, check_id: str) -> Iterator[CheckMessage]:
    address = getattr(settings, name)
    problem = malformed(address) if address else ""
    if problem:
        yield Error(f"{name} {problem}: set it to an address such as {example}", id=check_id)
