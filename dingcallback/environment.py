"""Read settings from the environment and `.env`, and collect what is wrong with them instead of stopping.

Commands that need no settings (`keygen`, `simulator`, `-h`) must start without any, so a bad value becomes an entry
in `Environment.errors`; a system check reports them all at once.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values

from callbacks.addresses import Network, networks

T = TypeVar("T")

MOST = 31 * 24 * 3600
BROKERS = ("amqp", "amqps", "pyamqp", "redis", "rediss", "sentinel")

# How this service's settings begin.
_OURS = (
    "ALLOWED_HOSTS",
    "CALLBACK_",
    "CELERY_",
    "CSRF_TRUSTED_ORIGINS",
    "DATABASE_",
    "DEBUG",
    "DINGTALK_",
    "DJANGO_SETTINGS_MODULE",
    "ENDPOINT_",
    "ENV_FILE",
    "EXTRA_APPS",
    "FAILED_LIST_",
    "FEED_",
    "FIELD_ENCRYPTION_KEYS",
    "HANDLER_",
    "LANGUAGE_CODE",
    "LOG_",
    "RELAY_",
    "RETRY_",
    "SECRET_KEY",
    "TIME_ZONE",
    "TRUST_PROXY_HEADERS",
    "WORK_ORDER_",
)


def isolated(environment: Mapping[str, str], **settings: str) -> dict[str, str]:
    """Return `environment` with no setting of this service (of any settings module) but the given ones, no `.env`.

    For the demo, the tests and the benchmarks, which must never touch what a developer's `.env` points to.
    """
    others = {name: value for name, value in environment.items() if not name.startswith(_OURS)}
    return {**others, "ENV_FILE": os.devnull, **settings}


@dataclass(frozen=True)
class SettingError:
    """One missing or malformed setting: its name, what is wrong, how to mend it."""

    name: str
    problem: str
    hint: str


@dataclass
class Environment:
    """Settings by name; environment variables win over the `.env` file, `NAME_FILE` names a file with the value."""

    values: Mapping[str, str]
    errors: list[SettingError] = field(default_factory=list)

    @classmethod
    def load(cls, env_file: Path) -> "Environment":
        """Merge `env_file` (may be absent) with the process's environment."""
        env = cls(os.environ)
        try:
            # Windows' editors put a byte order mark before UTF-8.
            from_file = dotenv_values(env_file, interpolate=False, encoding="utf-8-sig") if env_file.is_file() else {}
        except (OSError, UnicodeDecodeError) as error:
            env.refuse(str(env_file), f"cannot be read: {_reason(error)}", "save it as UTF-8 text that we may read")
            return env
        # A NAME_FILE of the environment wins over a NAME of the file, too.
        kept = {k: v for k, v in from_file.items() if v is not None and not os.environ.get(f"{k}_FILE")}
        env.values = {**kept, **os.environ}
        return env

    def text(self, name: str, default: str = "") -> str:
        """Return the value without surrounding blanks, or the default where it is missing or empty."""
        return self.values.get(name, "").strip() or default

    def secret(self, name: str, default: str = "") -> str:
        """Return the value of `name`, or the content of the file that `NAME_FILE` names."""
        path = self.text(f"{name}_FILE")
        if self.text(name) or not path:
            return self.text(name, default)
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"names {path}, which cannot be read: {_reason(error)}"
            self.refuse(f"{name}_FILE", problem, "mend the path or its rights")
            return default

    def secrets(self, name: str, shortest: int = 1) -> list[str]:
        """Return a comma-separated list of secrets, or that in the file that `NAME_FILE` names."""
        found = [part.strip() for part in self.secret(name).split(",") if part.strip()]
        for number, each in enumerate(found, start=1):
            if len(each) < shortest:
                problem = f"has {len(each)} characters in entry {number}"
                self.refuse(name, problem, f"use long random text, at least {shortest} characters each")
        return found

    def integer(self, name: str, default: int, minimum: int = 0) -> int:
        """Return a whole number of at least `minimum`, and no larger than a month has seconds."""

        def parse(text: str) -> int:
            number = int(text)
            if not minimum <= number <= MOST:
                raise ValueError
            return number

        return self._parsed(name, default, parse, f"a whole number of at least {minimum} and at most {MOST}")

    def boolean(self, name: str, default: bool) -> bool:
        """Return 0, 1, true or false, in any case, as a bool."""
        words = {"0": False, "false": False, "1": True, "true": True}
        return self._parsed(name, default, lambda text: words[text.lower()], "0, 1, true or false")

    def brokers(self, name: str) -> str:
        """Return the address of a broker, or several separated by semicolons; their passwords reach no error."""
        value = self.secret(name)
        if all(_is_broker(url) for url in value.split(";")) or not value:
            return value
        hint = "use amqp://user:password@host:5672/vhost or redis://host:6379/0, or remove it"
        self.refuse(name, "is no address of RabbitMQ or Redis", hint)
        return ""

    def names(self, name: str, default: list[str]) -> list[str]:
        """Return a comma-separated list without blanks and empty entries."""
        return [part.strip() for part in self.text(name).split(",") if part.strip()] or default

    def integers(self, name: str, default: list[int]) -> list[int]:
        """Return a comma-separated list of whole numbers, none negative, none larger than a month has seconds."""

        def parse(text: str) -> list[int]:
            numbers = [int(part) for part in text.split(",")]
            if min(numbers) < 0 or max(numbers) > MOST:
                raise ValueError
            return numbers

        return self._parsed(
            name, default, parse, f"whole numbers separated by commas, such as 5,300,1800, up to {MOST}"
        )

    def networks(self, name: str, default: str) -> list[Network]:
        """Return comma-separated networks, none where the setting is there but empty."""
        if name in self.values and not self.text(name):
            return []
        expected = "networks separated by commas, such as 127.0.0.0/8,fe80::/10"
        return self._parsed(name, networks(default), networks, expected)

    def apps(self, name: str) -> list[str]:
        """Return a comma-separated list of Python packages that can be found."""
        found = []
        for app in self.names(name, []):
            try:
                missing = find_spec(app) is None
            except (ImportError, ValueError):
                missing = True
            if missing:
                self.refuse(name, f"names {app[:60]!r}, which is no package here", "check its spelling and its folder")
            else:
                found.append(app)
        return found

    def choice(self, name: str, default: str, choices: list[str]) -> str:
        """Return one of the named choices."""

        def parse(text: str) -> str:
            return choices[choices.index(text)]

        return self._parsed(name, default, parse, f"one of {', '.join(choices)}")

    def time_zone(self, name: str, default: str) -> str:
        """Return the name of a time zone that this machine knows."""
        return self._parsed(name, default, lambda text: ZoneInfo(text).key, "a time zone such as Asia/Shanghai")

    def refuse(self, name: str, problem: str, hint: str) -> None:
        """Note that the setting `name` cannot be used."""
        self.errors.append(SettingError(name, problem, hint))

    def _parsed(self, name: str, default: T, parse: Callable[[str], T], expected: str) -> T:
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except (ValueError, KeyError, OSError):
            self.refuse(name, f"is {text[:40]!r}", f"set it to {expected}, or remove it for the default")
            return default


def _is_broker(url: str) -> bool:
    try:
        parts = urlsplit(url.strip())
        return parts.scheme in BROKERS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "not UTF-8 text"
