"""The callback as it should be registered, as DingTalk has it, and how to get from one to the other."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.urls import Resolver404, resolve, reverse

from registrar.addresses import is_dingtalk, is_private, malformed
from registrar.catalogue import unregistrable
from registrar.client import DingTalkClient
from registrar.errors import AlreadyRegistered, SettingsUnfit

_AES_KEY = re.compile(r"[A-Za-z0-9]{43}")


@dataclass(frozen=True)
class Registration:
    """Where DingTalk pushes, which event types, and with which credentials."""

    url: str
    tags: list[str]
    token: str = field(repr=False)
    aes_key: str = field(repr=False)

    @classmethod
    def from_settings(cls, url: str = "", tags: list[str] | None = None) -> "Registration":
        """Return what the settings say, but for what is given."""
        return cls(
            url or settings.DINGTALK_CALLBACK_URL,
            list(dict.fromkeys(tags or settings.DINGTALK_CALLBACK_TAGS)),
            settings.DINGTALK_TOKEN,
            settings.DINGTALK_AES_KEY,
        )

    @classmethod
    def from_answer(cls, data: dict[str, Any]) -> "Registration":
        """Return what DingTalk, or a file that `save` wrote, says."""
        tags = data.get("call_back_tag")
        names = [str(tag) for tag in tags] if isinstance(tags, list) else []
        return cls(str(data.get("url", "")), names, str(data.get("token", "")), str(data.get("aes_key", "")))

    @classmethod
    def load(cls, path: Path) -> "Registration":
        """Return what `save` wrote."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise _unfit(
                f"{path} can't be read: {error.strerror}", "give the file that `delete --save` wrote"
            ) from None
        except ValueError:
            data = None
        loaded = cls.from_answer(data if isinstance(data, dict) else {})
        if not (loaded.url and loaded.tags and loaded.token and loaded.aes_key):
            raise _unfit(f"{path} holds no registration", "give the file that `delete --save` wrote")
        return loaded

    def save(self, path: Path) -> None:
        """Write the registration, its secrets in clear, to a new file that only its owner can read."""
        data = {"url": self.url, "call_back_tag": self.tags, "token": self.token, "aes_key": self.aes_key}
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(data, file, ensure_ascii=False, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            raise _unfit(f"{path} exists", "name another file; nothing was deleted") from None
        except OSError as error:
            raise _unfit(f"{path} can't be written: {error.strerror}", "nothing was deleted") from None


@dataclass(frozen=True)
class Change:
    """What was done (`registered`, `updated`) and which event types that added and removed."""

    action: str
    added: list[str]
    removed: list[str]


def register(client: DingTalkClient, wanted: Registration, or_update: bool) -> Change:
    """Register the callback; where one is registered, update it if `or_update`, else raise AlreadyRegistered."""
    try:
        client.register_callback(wanted.url, wanted.tags, wanted.token, wanted.aes_key)
    except AlreadyRegistered:
        if not or_update:
            raise
        return update(client, wanted)
    return Change("registered", wanted.tags, [])


def update(client: DingTalkClient, wanted: Registration) -> Change:
    """Replace the registered callback; NotRegistered where there is none."""
    before = Registration.from_answer(client.query_callback())
    client.update_callback(wanted.url, wanted.tags, wanted.token, wanted.aes_key)
    added = [tag for tag in wanted.tags if tag not in before.tags]
    return Change("updated", added, [tag for tag in before.tags if tag not in wanted.tags])


def look(wanted: Registration, is_restored: bool = False) -> list[str]:
    """Return warnings about what is going to be registered; SettingsUnfit where DingTalk can't but refuse it.

    `is_restored`: it was registered before, perhaps by another service, so its path need not be ours.
    """
    if not settings.DINGTALK_CORP_ID:
        raise _unfit("DINGTALK_CORP_ID is missing", "set it: pushes of a callback registered here are sealed for it")
    _look_at_address(wanted.url, is_restored)
    if not 6 <= len(wanted.token) <= 63:
        length = len(wanted.token)
        raise _unfit(f"DINGTALK_TOKEN has {length} characters", "the API takes 6 to 63: `manage.py dingtalk keygen`")
    if not _AES_KEY.fullmatch(wanted.aes_key):
        raise _unfit("DINGTALK_AES_KEY is not 43 letters and digits", "`manage.py dingtalk keygen` makes one")
    warnings = [
        f"{tag}: console subscription only; DingTalk will probably answer 71008" for tag in unregistrable(wanted.tags)
    ]
    if is_private(wanted.url):
        if is_dingtalk(settings.DINGTALK_OAPI_URL):
            step = "DingTalk's servers can't reach it: set DINGTALK_CALLBACK_URL to a public address or a tunnel's"
            raise _unfit(f"{_shown(wanted.url)} is a private address", step)
        warnings.append(f"{_shown(wanted.url)} is a private address: DingTalk itself would refuse it (71013)")
    if (wanted.token, wanted.aes_key) != (settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY):
        warnings.append("the file's token or aes key is not the settings': this service can't open what will be pushed")
    return warnings


def differences(registered: Registration) -> dict[str, Any]:
    """Return what DingTalk has otherwise than the settings; of secrets only that they differ."""
    wanted = Registration.from_settings()
    found: dict[str, Any] = {}
    if registered.url != wanted.url:
        found["url"] = {"dingtalk": registered.url, "settings": wanted.url}
    if registered.token != wanted.token:
        found["token"] = "differs from DINGTALK_TOKEN"  # noqa: S105 - it says that, not what
    if registered.aes_key != wanted.aes_key:
        found["aes_key"] = "differs from DINGTALK_AES_KEY"
    if missing := [tag for tag in wanted.tags if tag not in registered.tags]:
        found["tags_not_registered"] = missing
    if extra := [tag for tag in registered.tags if tag not in wanted.tags]:
        found["tags_not_in_settings"] = extra
    return found


def _look_at_address(url: str, is_restored: bool) -> None:
    if not url:
        raise _unfit("DINGTALK_CALLBACK_URL is missing", "set it to this service's public address, or give --url")
    if problem := malformed(url):
        step = "set DINGTALK_CALLBACK_URL (--url) to an address such as https://your.domain/dingtalk/callback/"
        raise _unfit(f"the callback address {problem}", step)
    if is_restored:
        return
    path = urlsplit(url).path or "/"
    try:
        answers = resolve(path).func == resolve(reverse("callback")).func
    except Resolver404:
        answers = path.rstrip("/").endswith(reverse("callback").rstrip("/"))  # a proxy may strip what is before it
    if not answers:
        raise _unfit(
            f"this service answers no pushes at {path}", f"end DINGTALK_CALLBACK_URL with {reverse('callback')}"
        )


def _shown(url: str) -> str:
    return url.split("?", maxsplit=1)[0]


def _unfit(cause: str, step: str) -> SettingsUnfit:
    return SettingsUnfit("", "", cause, step)
