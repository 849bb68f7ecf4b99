"""Settings from the environment and `.env`: what wins, what is taken, and what a mistake is told."""

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from dingcallback.environment import Environment, isolated

ROOT = Path(__file__).resolve().parent.parent
SECRET_KEY = "k" * 60


def told(env: Environment) -> list[str]:
    return [f"{error.name} {error.problem}: {error.hint}" for error in env.errors]


def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str | bytes, **variables: str) -> Environment:
    """Load a `.env` with this content beside these environment variables."""
    path = tmp_path / ".env"
    path.write_bytes(file if isinstance(file, bytes) else file.encode())
    monkeypatch.setattr(os, "environ", variables)
    return Environment.load(path)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    """Return the service's settings as these environment variables make them."""
    monkeypatch.setattr(os, "environ", isolated(os.environ, **{"SECRET_KEY": SECRET_KEY, **variables}))
    return runpy.run_path(str(ROOT / "dingcallback" / "settings.py"))


# Where a value comes from


def test_environment_variables_win_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = load(monkeypatch, tmp_path, "A=file\nB=file\nC=file\n", B="variable", C="")
    assert (env.text("A"), env.text("B"), env.text("C", "default")) == ("file", "variable", "default")


def test_a_file_that_is_not_there_is_no_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {"A": "variable"})
    env = Environment.load(tmp_path / "missing")
    assert (env.text("A"), env.errors) == ("variable", [])


def test_the_file_is_read_as_people_write_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = "# comment\nexport A=1\nB='x y'\nC=\"审批\"\nD= $HOME/${A} # comment\r\nE=\nF\n  G=2\n"
    env = load(monkeypatch, tmp_path, file)
    assert [env.text(name) for name in "ABCDEFG"] == ["1", "x y", "审批", "$HOME/${A}", "", "", "2"]


def test_a_byte_order_mark_hides_no_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load(monkeypatch, tmp_path, "\ufeffA=1\n".encode()).text("A") == "1"


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = load(monkeypatch, tmp_path, "A=审批\n".encode("gbk"), B="variable")
    assert env.text("B") == "variable"
    assert told(env) == [f"{tmp_path}/.env cannot be read: not UTF-8 text: save it as UTF-8 text that we may read"]


def test_blanks_around_a_value_do_not_count() -> None:
    assert Environment({"A": "  x y \n", "B": "  "}).text("A") == "x y"
    assert Environment({"B": "  "}).text("B", "default") == "default"


# Secrets from files


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n", encoding="utf-8")
    env = Environment({"TOKEN_FILE": str(tmp_path / "token"), "BOTH": "value", "BOTH_FILE": str(tmp_path / "token")})
    assert (env.secret("TOKEN"), env.secret("BOTH"), env.secret("NONE", "default")) == ("from-file", "value", "default")
    assert env.errors == []


def test_a_secret_file_of_the_environment_wins_over_a_value_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("from-file", encoding="utf-8")
    variables = {"TOKEN_FILE": str(tmp_path / "token")}
    assert load(monkeypatch, tmp_path, "TOKEN=old\n", **variables).secret("TOKEN") == "from-file"
    assert load(monkeypatch, tmp_path, "TOKEN=old\n", **variables, TOKEN="new").secret("TOKEN") == "new"


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file or directory"), (b"\xff\xfe", "not UTF-8 text")])
def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    env = Environment({"TOKEN_FILE": str(path)})
    assert env.secret("TOKEN", "default") == "default"
    assert told(env) == [f"TOKEN_FILE names {path}, which cannot be read: {reason}: mend the path or its rights"]


# Values


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("True", True), ("0", False), ("FALSE", False)]
)
def test_booleans_are_0_1_true_or_false(text: str, value: bool) -> None:
    env = Environment({"A": text})
    assert (env.boolean("A", not value), env.errors) == (value, [])


@pytest.mark.parametrize("text", ["yes", "on", "2", "tru", "-1"])
def test_any_other_boolean_is_refused(text: str) -> None:
    env = Environment({"A": text})
    assert env.boolean("A", True) is True
    assert told(env) == [f"A is {text!r}: set it to 0, 1, true or false, or remove it for the default"]


@pytest.mark.parametrize("text", ["1.5", "x", "0", "-1", "1e3", "2678401", "9" * 5000])
def test_a_malformed_number_is_refused(text: str) -> None:
    env = Environment({"A": text})
    assert env.integer("A", 7, minimum=1) == 7
    hint = "set it to a whole number of at least 1 and at most 2678400, or remove it for the default"
    assert told(env) == [f"A is {text[:40]!r}: {hint}"]


def test_lists_are_comma_separated() -> None:
    env = Environment({"A": " a, b ,,c,", "B": ",", "C": "5, 300,0"})
    assert env.names("A", []) == ["a", "b", "c"]
    assert env.names("B", ["default"]) == ["default"]
    assert env.integers("C", []) == [5, 300, 0]
    assert env.integers("D", [1]) == [1]
    assert env.errors == []


@pytest.mark.parametrize("text", ["5,x", "5;300", "5,-1", ",", "5,,300"])
def test_a_malformed_list_of_numbers_is_refused(text: str) -> None:
    env = Environment({"A": text})
    assert env.integers("A", [1]) == [1]
    assert "whole numbers separated by commas, such as 5,300,1800" in told(env)[0]


def test_a_choice_is_one_of_the_choices() -> None:
    env = Environment({"A": "json", "B": "xml"})
    assert env.choice("A", "text", ["text", "json"]) == "json"
    assert env.choice("B", "text", ["text", "json"]) == "text"
    assert told(env) == ["B is 'xml': set it to one of text, json, or remove it for the default"]


# The service's own settings


def test_with_nothing_set_every_setting_but_the_secret_key_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(monkeypatch, SECRET_KEY="")
    assert [error.name for error in made["ENVIRONMENT_ERRORS"]] == ["SECRET_KEY"]
    assert "keygen" in made["ENVIRONMENT_ERRORS"][0].hint
    assert made["DEBUG"] is False
    assert made["DATABASES"]["default"]["ENGINE"] == "callbacks.sqlite"
    assert made["CALLBACK_MAX_AGE"] == 3600
    assert made["RETRY_SCHEDULE"] == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert made["DINGTALK_OAPI_URL"] == "https://oapi.dingtalk.com"
    assert made["DINGTALK_API_URL"] == "https://api.dingtalk.com"
    assert len(made["DINGTALK_CALLBACK_TAGS"]) == 7
    assert (made["LANGUAGE_CODE"], made["TIME_ZONE"]) == ("zh-hans", "Asia/Shanghai")
    assert made["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1", "[::1]"]


def test_the_callback_address_gives_the_admins_host_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(monkeypatch, DINGTALK_CALLBACK_URL="https://Shop.example.com:8443/dingtalk/callback/")
    assert "shop.example.com" in made["ALLOWED_HOSTS"]
    assert made["CSRF_TRUSTED_ORIGINS"] == ["https://Shop.example.com:8443"]
    assert made["SESSION_COOKIE_SECURE"] is made["CSRF_COOKIE_SECURE"] is True


@pytest.mark.parametrize("trust", ["1", "0"])
def test_a_proxy_is_believed_only_when_told_to(monkeypatch: pytest.MonkeyPatch, trust: str) -> None:
    assert ("SECURE_PROXY_SSL_HEADER" in settings(monkeypatch, TRUST_PROXY_HEADERS=trust)) is (trust == "1")


@pytest.mark.parametrize(
    "name", ["SECRET_KEY", "DINGTALK_TOKEN", "DINGTALK_AES_KEY", "DINGTALK_APP_SECRET", "DINGTALK_PREVIOUS_TOKEN"]
)
def test_every_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("from-file\n", encoding="utf-8")
    variables = {"SECRET_KEY": "", f"{name}_FILE": str(tmp_path / "secret")}
    assert settings(monkeypatch, **variables)[name] == "from-file"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("DEBUG", "yes", "0, 1, true or false"),
        ("TRUST_PROXY_HEADERS", "no", "0, 1, true or false"),
        ("CALLBACK_MAX_AGE", "1h", "a whole number"),
        ("HANDLER_TIMEOUT", "0", "a whole number of at least 1"),
        ("RETRY_SCHEDULE", "soon", "whole numbers separated by commas"),
        ("DINGTALK_WORKFLOW_API", "v2", "one of auto, topapi, v1.0"),
        ("DINGTALK_MONTHLY_CALLS", "many", "a whole number"),
        ("RELAY_BLOCKED_NETWORKS", "10.0.0.0/33", "networks separated by commas"),
        ("RELAY_BLOCKED_NETWORKS", "loopback", "networks separated by commas"),
        ("RELAY_BLOCKED_NETWORKS", "127.0.0.0/8,,::1", "networks separated by commas"),
        ("LOG_FORMAT", "xml", "one of text, json"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
        ("LANGUAGE_CODE", "fr", "one of zh-hans, en"),
        ("TIME_ZONE", "Mars/Phobos", "a time zone such as Asia/Shanghai"),
        ("TIME_ZONE", "../../etc", "a time zone such as Asia/Shanghai"),
        ("TIME_ZONE", "Asia", "a time zone such as Asia/Shanghai"),
    ],
)
def test_a_malformed_setting_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    errors = settings(monkeypatch, **{name: value})["ENVIRONMENT_ERRORS"]
    assert [error.name for error in errors] == [name]
    assert remedy in errors[0].hint
    assert value in errors[0].problem


def test_blocked_networks_are_the_default_those_that_are_set_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "169.254.0.0/16" in map(str, settings(monkeypatch)["RELAY_BLOCKED_NETWORKS"])
    made = settings(monkeypatch, RELAY_BLOCKED_NETWORKS="10.1.2.3, fd00::1/8")
    assert list(map(str, made["RELAY_BLOCKED_NETWORKS"])) == ["10.1.2.3/32", "fd00::/8"]
    assert settings(monkeypatch, RELAY_BLOCKED_NETWORKS="")["RELAY_BLOCKED_NETWORKS"] == []
    malformed = settings(monkeypatch, RELAY_BLOCKED_NETWORKS="x")
    assert "169.254.0.0/16" in map(str, malformed["RELAY_BLOCKED_NETWORKS"])


def test_a_callback_address_that_is_no_url_leaves_the_settings_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, DINGTALK_CALLBACK_URL="https://[::1/x")["CSRF_TRUSTED_ORIGINS"] == []


@pytest.mark.parametrize(
    "url",
    [
        "mysql://admin:hunter2-secret@db/name",
        "oracle://admin:hunter2-secret@db/name",
        "mongodb://admin:hunter2-secret@db/name",
        "hunter2-secret",
        "postgresql://admin:hunter2-secret@db:port/name",
        "postgresql://admin:hunter2-secret@[db/name",
        "://hunter2-secret",
    ],
)
def test_a_database_that_is_not_supported_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    made = settings(monkeypatch, DATABASE_URL=url)
    (error,) = made["ENVIRONMENT_ERRORS"]
    assert error.name == "DATABASE_URL"
    assert "sqlite:///" in error.hint
    assert "postgresql://" in error.hint
    assert "hunter2" not in repr(error)
    assert "sqlite" in made["DATABASES"]["default"]["ENGINE"]


def test_sqlite_is_set_up_to_keep_what_it_acknowledged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = settings(monkeypatch, DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3")["DATABASES"]["default"]
    assert database["NAME"] == f"{tmp_path}/x.sqlite3"
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert "synchronous=FULL" in database["OPTIONS"]["init_command"]
    assert "journal_mode=WAL" in database["OPTIONS"]["init_command"]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgresql_is_taken_with_its_options(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    made = settings(monkeypatch, DATABASE_URL=f"{scheme}://u:p%40ss@db:5433/name?sslmode=require")
    database = made["DATABASES"]["default"]
    assert database["ENGINE"] == "callbacks.postgresql"
    assert (database["USER"], database["PASSWORD"], database["HOST"], database["PORT"]) == ("u", "p@ss", "db", 5433)
    assert database["OPTIONS"] == {"connect_timeout": 2, **made["KEEPALIVE"], "sslmode": "require"}
    assert made["ENVIRONMENT_ERRORS"] == []


def test_an_isolated_environment_holds_no_setting_of_the_service_but_the_given_ones() -> None:
    mine = {"PATH": "/bin", "DINGTALK_TOKEN": "t", "DATABASE_URL": "x", "SECRET_KEY_FILE": "f", "DEBUG": "1"}
    assert isolated(mine, DINGTALK_TOKEN="mine") == {"PATH": "/bin", "ENV_FILE": os.devnull, "DINGTALK_TOKEN": "mine"}


def test_keys_for_secrets_are_a_list_of_long_texts_or_come_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"{'a' * 32}, {'b' * 40}\n")
    made = settings(monkeypatch, FIELD_ENCRYPTION_KEYS_FILE=str(tmp_path / "keys"))
    assert (made["FIELD_ENCRYPTION_KEYS"], made["ENVIRONMENT_ERRORS"]) == (["a" * 32, "b" * 40], [])

    (error,) = settings(monkeypatch, FIELD_ENCRYPTION_KEYS=f"{'a' * 32},hunter2")["ENVIRONMENT_ERRORS"]
    assert (error.name, error.problem) == ("FIELD_ENCRYPTION_KEYS", "has 7 characters in entry 2")
    assert "hunter2" not in error.hint
