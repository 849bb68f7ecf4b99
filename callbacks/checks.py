"""System checks: a missing or malformed setting stops start-up with its name, what is wrong and how to mend it."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.utils.module_loading import import_string

from callbacks.dingcrypto import DingCrypto, MalformedAesKey

KEYGEN = "`manage.py dingtalk keygen` makes one"


@register()
def check_environment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report what could not be read from the environment or `.env`."""
    return [
        Error(f"{error.name} {error.problem}: {error.hint}", id="callbacks.E001")
        for error in settings.ENVIRONMENT_ERRORS
    ]


@register()
def check_credentials(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report what is missing or malformed for receiving."""
    return [
        *_token_errors("DINGTALK_TOKEN", settings.DINGTALK_TOKEN, "callbacks.E002"),
        *_aes_key_errors("DINGTALK_AES_KEY", settings.DINGTALK_AES_KEY, "callbacks.E003"),
        *_owner_key_errors(),
        *_previous_pair_errors(),
    ]


@register()
def check_work_order_handler(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report a WORK_ORDER_HANDLER that can't be called."""
    path = settings.WORK_ORDER_HANDLER
    hint = "set it to the dotted path of a function (process_instance_id, process_instance), such as shop.orders.create"
    try:
        if callable(import_string(path)):
            return []
        problem = "names something that can't be called"
    except Exception as error:  # noqa: BLE001 - the module is the user's, and may raise anything
        problem = f"can't be imported ({type(error).__name__}: {error})"
    return [Error(f"WORK_ORDER_HANDLER {path!r} {problem}: {hint}", id="callbacks.E006")]


def _token_errors(name: str, token: str, check_id: str) -> Iterator[CheckMessage]:
    if not token:
        yield Error(f"{name} is missing: set it to the token given to DingTalk; {KEYGEN}", id=check_id)
    elif not 3 <= len(token) <= 63:
        yield Error(f"{name} has {len(token)} characters: DingTalk takes 3 to 63; {KEYGEN}", id=check_id)


def _aes_key_errors(name: str, aes_key: str, check_id: str) -> Iterator[CheckMessage]:
    if not aes_key:
        yield Error(f"{name} is missing: set it to the 43-character key given to DingTalk; {KEYGEN}", id=check_id)
        return
    try:
        DingCrypto(aes_key, "")
    except MalformedAesKey:
        problem = f"has {len(aes_key)} characters" if len(aes_key) != 43 else "holds other characters than A-Z a-z 0-9"
        yield Error(f"{name} {problem}: DingTalk takes 43 letters and digits; {KEYGEN}", id=check_id)


def _owner_key_errors() -> Iterator[CheckMessage]:
    if not settings.DINGTALK_APP_KEY and not settings.DINGTALK_CORP_ID:
        yield Error(
            "DINGTALK_APP_KEY and DINGTALK_CORP_ID are both missing: set the app's Client ID (events subscribed in "
            "the console) or the corp id (callback registered through the API)",
            id="callbacks.E004",
        )


def _previous_pair_errors() -> Iterator[CheckMessage]:
    token, aes_key = settings.DINGTALK_PREVIOUS_TOKEN, settings.DINGTALK_PREVIOUS_AES_KEY
    if bool(token) != bool(aes_key):
        yield Error(
            "DINGTALK_PREVIOUS_TOKEN and DINGTALK_PREVIOUS_AES_KEY go together: set both to the pair before the "
            "rotation, or remove both",
            id="callbacks.E005",
        )
    elif token:
        yield from _token_errors("DINGTALK_PREVIOUS_TOKEN", token, "callbacks.E005")
        yield from _aes_key_errors("DINGTALK_PREVIOUS_AES_KEY", aes_key, "callbacks.E005")
