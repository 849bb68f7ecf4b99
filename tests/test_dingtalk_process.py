"""`manage.py dingtalk` as a shell sees it: exit statuses, what is on which stream, and starting without settings."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from callbacks.dingcrypto import DingCrypto
from callbacks.keys import new_aes_key
from simulator.server import Options, Simulator
from tests.command import SOUND, manage

SECRET = "process-app-secret-k2Lm9QxZ"
VERBS = ("register", "update", "query", "delete", "failed", "reconcile", "trigger", "doctor", "keygen")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Options(app_secret=SECRET)) as running:
        yield running


@pytest.mark.parametrize(
    "args",
    [
        ("trigger", "user_add_org", "--set", "no-equals-sign"),
        ("trigger", "user_add_org", "--style", "baroque"),
        ("trigger",),
        ("register", "--no-such-option"),
        ("failed", "--watch", "often"),
        ("failed", "--watch", "--pages"),
        ("reconcile",),
        ("dance",),
        (),
    ],
)
def test_wrong_usage_exits_with_2(args: tuple[str, ...]) -> None:
    made = manage(*args, SECRET_KEY="k" * 60, **SOUND)
    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr


def test_keygen_needs_no_settings_and_is_valid_by_both_rules() -> None:
    made = manage("keygen")
    assert made.returncode == 0
    assert made.stderr == ""
    lines = dict(line.split("=", 1) for line in made.stdout.splitlines())
    assert list(lines) == ["DINGTALK_TOKEN", "DINGTALK_AES_KEY", "SECRET_KEY"]
    assert re.fullmatch("[A-Za-z0-9]{6,32}", lines["DINGTALK_TOKEN"])
    assert re.fullmatch("[A-Za-z0-9]{43}", lines["DINGTALK_AES_KEY"])
    assert len(lines["SECRET_KEY"]) >= 50
    DingCrypto(lines["DINGTALK_AES_KEY"], "ding")
    assert manage("keygen").stdout != made.stdout
    assert set(json.loads(manage("keygen", "--json").stdout)) == set(lines)


@pytest.mark.parametrize("_", range(20))
def test_an_aes_key_of_keygen_is_canonical_base64(_: int) -> None:
    key = new_aes_key()
    assert base64.b64encode(base64.b64decode(key + "=")).decode() == key + "="


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_help_needs_no_settings_and_shows_an_example(verb: str) -> None:
    made = manage(*([verb] if verb else []), "-h")
    assert made.returncode == 0
    assert made.stderr == ""
    assert (f"example: manage.py dingtalk {verb}" if verb else "VERB") in made.stdout


def test_unsound_settings_are_named_one_a_line_without_a_traceback() -> None:
    made = manage("query")
    assert made.returncode == 1
    assert made.stdout == ""
    lines = made.stderr.splitlines()
    for name in ("SECRET_KEY", "DINGTALK_TOKEN", "DINGTALK_AES_KEY", "DINGTALK_APP_KEY"):
        assert sum(f"{name} " in line for line in lines) == 1
    assert "Traceback" not in made.stderr


def test_a_process_exits_with_1_and_one_line_where_dingtalk_refuses(simulator: Simulator) -> None:
    found = {"DINGTALK_OAPI_URL": simulator.url, "DINGTALK_API_URL": simulator.url, "DINGTALK_APP_SECRET": SECRET}
    made = manage("query", SECRET_KEY="k" * 60, **{**SOUND, **found, "DINGTALK_APP_KEY": simulator.options.app_key})
    assert made.returncode == 1
    assert made.stdout == ""
    assert len(made.stderr.splitlines()) == 1
    assert "71007 回调地址已不存在" in made.stderr


def test_a_database_that_is_not_there_gets_one_line(simulator: Simulator, tmp_path: Path) -> None:
    found = {"DINGTALK_OAPI_URL": simulator.url, "DINGTALK_APP_SECRET": SECRET}
    made = manage("failed", SECRET_KEY="k" * 60, **{**SOUND, **found}, DATABASE_URL=f"sqlite:///{tmp_path / 'empty'}")
    assert made.returncode == 1
    assert len(made.stderr.splitlines()) == 1
    assert "manage.py migrate" in made.stderr
    assert not simulator.calls
