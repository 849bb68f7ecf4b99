"""Start-up: every process refuses bad settings by name, and what needs none runs without any."""

import subprocess

import pytest

from simulator.ports import free_port
from tests.granian import ROOT, arguments, command, environment

# Several mistakes at once, and what each line must name.
BAD = {
    "SECRET_KEY": "",
    "DEBUG": "yes",
    "DINGTALK_TOKEN": "ab",
    "DINGTALK_AES_KEY": "short",
    "DINGTALK_APP_KEY": "",
    "DINGTALK_CORP_ID": "",
    "DATABASE_URL": "mysql://admin:hunter2-secret@db/name",
    "DINGTALK_CALLBACK_URL": "https://[::1/x",
    "TIME_ZONE": "Mars/Phobos",
    "CSRF_TRUSTED_ORIGINS": "shop.example.com",
}
LINES = [
    ("callbacks.E001", "SECRET_KEY is missing", "keygen"),
    ("callbacks.E001", "DEBUG is 'yes'", "0, 1, true or false"),
    ("callbacks.E001", "DATABASE_URL names the engine mysql", "postgresql://"),
    ("callbacks.E001", "TIME_ZONE is 'Mars/Phobos'", "Asia/Shanghai"),
    ("callbacks.E002", "DINGTALK_TOKEN has 2 characters", "keygen"),
    ("callbacks.E003", "DINGTALK_AES_KEY has 5 characters", "keygen"),
    ("callbacks.E004", "DINGTALK_APP_KEY and DINGTALK_CORP_ID are both missing", "Client ID"),
    ("registrar.E001", "DINGTALK_CALLBACK_URL is no URL", "https://"),
    ("4_0.E001", "CSRF_TRUSTED_ORIGINS", "https://"),
]
NOTHING = dict.fromkeys(
    ["SECRET_KEY", "DINGTALK_TOKEN", "DINGTALK_AES_KEY", "DINGTALK_APP_KEY", "DINGTALK_CORP_ID"], ""
)


def assert_named(output: str) -> None:
    """Assert that each mistake has one line with its setting and its remedy, and that no password is told."""
    for check_id, problem, remedy in LINES:
        named = [line for line in output.splitlines() if check_id in line and problem in line and remedy in line]
        assert len(named) == 1, (check_id, problem, output)
    assert "hunter2" not in output
    assert "Traceback" not in output


def test_the_web_server_refuses_bad_settings() -> None:
    done = subprocess.run(
        arguments(free_port()),
        cwd=ROOT,
        env=environment(**BAD),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert_named(done.stdout + done.stderr)


@pytest.mark.parametrize(
    "arguments", [["check"], ["deliver", "--once"], ["migrate"], ["dingtalk", "query"]], ids=" ".join
)
def test_a_command_refuses_bad_settings(arguments: list[str]) -> None:
    done = command("manage.py", *arguments, **BAD)
    assert done.returncode == 1
    assert_named(done.stdout + done.stderr)


def test_settings_that_are_complete_are_accepted() -> None:
    done = command("manage.py", "check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("settings", [NOTHING, BAD], ids=["none", "bad"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dingtalk", "keygen"], "DINGTALK_AES_KEY="),
        (["dingtalk", "-h"], "keygen"),
        (["dingtalk", "register", "-h"], "--url"),
        (["simulator", "--help"], "--port"),
        (["deliver", "-h"], "--once"),
        (["-h"], "deliver"),
        (["help", "dingtalk"], "keygen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_no_settings_runs_without_any(arguments: list[str], words: str, settings: dict[str, str]) -> None:
    done = command("manage.py", *arguments, **settings)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert "Traceback" not in done.stderr
