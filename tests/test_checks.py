"""System checks: each mistake stops start-up by its name and says how to mend it."""

from typing import Any

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from dingcallback.environment import SettingError

KEY = "Yue0EfdN5900c1ce5cf6A152c63DDe1808a60c5ecd7"


def found() -> dict[str, list[str]]:
    """Return the messages of all checks by id."""
    messages: dict[str, list[str]] = {}
    for message in run_checks():
        messages.setdefault(str(message.id), []).append(message.msg)
    return messages


def test_settings_that_are_complete_pass_every_check() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("check_id", "changes", "words"),
    [
        ("callbacks.E002", {"DINGTALK_TOKEN": ""}, ["DINGTALK_TOKEN is missing", "keygen"]),
        ("callbacks.E002", {"DINGTALK_TOKEN": "ab"}, ["DINGTALK_TOKEN has 2 characters", "3 to 63", "keygen"]),
        ("callbacks.E002", {"DINGTALK_TOKEN": "t" * 64}, ["DINGTALK_TOKEN has 64 characters", "3 to 63"]),
        ("callbacks.E003", {"DINGTALK_AES_KEY": ""}, ["DINGTALK_AES_KEY is missing", "keygen"]),
        ("callbacks.E003", {"DINGTALK_AES_KEY": KEY[:-1]}, ["DINGTALK_AES_KEY has 42 characters", "keygen"]),
        ("callbacks.E003", {"DINGTALK_AES_KEY": KEY[:-1] + "é"}, ["DINGTALK_AES_KEY holds other characters"]),
        (
            "callbacks.E004",
            {"DINGTALK_APP_KEY": "", "DINGTALK_CORP_ID": ""},
            ["DINGTALK_APP_KEY and DINGTALK_CORP_ID are both missing", "Client ID", "corp id"],
        ),
        ("callbacks.E005", {"DINGTALK_PREVIOUS_TOKEN": "token"}, ["DINGTALK_PREVIOUS_AES_KEY go together"]),
        ("callbacks.E005", {"DINGTALK_PREVIOUS_AES_KEY": KEY}, ["DINGTALK_PREVIOUS_TOKEN and"]),
        (
            "callbacks.E005",
            {"DINGTALK_PREVIOUS_TOKEN": "token", "DINGTALK_PREVIOUS_AES_KEY": "x"},
            ["DINGTALK_PREVIOUS_AES_KEY has 1 characters"],
        ),
        (
            "callbacks.E006",
            {"WORK_ORDER_HANDLER": "gone.module.function"},
            ["'gone.module.function' can't be imported"],
        ),
        ("callbacks.E006", {"WORK_ORDER_HANDLER": "callbacks.handlers.gone"}, ["can't be imported", "dotted path"]),
        ("callbacks.E006", {"WORK_ORDER_HANDLER": "nodots"}, ["'nodots' can't be imported", "dotted path"]),
        ("callbacks.E006", {"WORK_ORDER_HANDLER": ".relative"}, ["'.relative' can't be imported"]),
        ("callbacks.E006", {"WORK_ORDER_HANDLER": "..relative.path"}, ["'..relative.path' can't be imported"]),
        ("callbacks.E006", {"WORK_ORDER_HANDLER": "tests.test_checks.KEY"}, ["names something that can't be called"]),
        ("registrar.E001", {"DINGTALK_CALLBACK_URL": "shop.example.com"}, ["DINGTALK_CALLBACK_URL", "https://"]),
        ("registrar.E002", {"DINGTALK_OAPI_URL": "ftp://x"}, ["DINGTALK_OAPI_URL", "https://oapi.dingtalk.com"]),
        ("registrar.E003", {"DINGTALK_API_URL": "https://[x"}, ["DINGTALK_API_URL", "https://api.dingtalk.com"]),
        ("registrar.E005", {"FAILED_LIST_WATCH": 599}, ["FAILED_LIST_WATCH is 599", "at least 600", "0 for none"]),
        ("registrar.E004", {"DINGTALK_CALLBACK_TAGS": ["user add"]}, ["DINGTALK_CALLBACK_TAGS", "'user add'"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    settings: Settings, check_id: str, changes: dict[str, Any], words: list[str]
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    messages = found()
    assert list(messages) == [check_id]
    (message,) = messages[check_id]
    assert "\n" not in message
    for word in words:
        assert word in message


def test_mistakes_of_the_environment_are_reported_all_at_once(settings: Settings) -> None:
    settings.ENVIRONMENT_ERRORS = [
        SettingError("A", "is 'x'", "set it to 1"),
        SettingError("B", "is missing", "set it"),
    ]
    assert found() == {"callbacks.E001": ["A is 'x': set it to 1", "B is missing: set it"]}


def test_one_owner_key_of_either_kind_is_enough(settings: Settings) -> None:
    settings.DINGTALK_APP_KEY = ""
    assert found() == {}
    settings.DINGTALK_APP_KEY, settings.DINGTALK_CORP_ID = "any text", ""
    assert found() == {}


def test_no_check_quotes_a_secret(settings: Settings) -> None:
    settings.DINGTALK_TOKEN = settings.DINGTALK_PREVIOUS_TOKEN = "hunter2-" * 9
    settings.DINGTALK_AES_KEY = settings.DINGTALK_PREVIOUS_AES_KEY = "hunter2-" * 3
    assert set(found()) == {"callbacks.E002", "callbacks.E003", "callbacks.E005"}
    assert "hunter2" not in repr(found())
