"""DingTalk's server API, as far as this service asks: a token, the registered callback, the failed list, instances."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from django.conf import settings

from registrar.calls import calling
from registrar.errors import (
    BrokenAnswer,
    InstanceUnknown,
    PermissionMissing,
    Refused,
    SettingsUnfit,
    TokenExpired,
)
from registrar.instances import old_shape
from registrar.protocol import decipher
from registrar.transport import exchange

READ_TIMEOUT = 10.0
# register and update answer only after DingTalk has called our address and judged what it said.
VALIDATION_TIMEOUT = 20.0
# What it answers exists nowhere else any more, however slowly it comes.
FAILED_LIST_TIMEOUT = 60.0
# How long before its end a token is renewed, in seconds.
TOKEN_MARGIN = 300.0

LIST_IDS = "/topapi/processinstance/listids"
LIST_IDS_V1 = "/v1.0/workflow/processes/instanceIds/query"
IDS_A_PAGE = 20  # DingTalk's most
INSTANCE = re.compile("实例|审批|流程|instance|process", re.IGNORECASE)

Answer = TypeVar("Answer")
Field = TypeVar("Field")


@dataclass
class _Shared:
    """What all clients of one app in this process share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str = ""
    renew_at: float = 0.0
    topapi_refused: bool = False


@dataclass(frozen=True)
class DingTalkClient:
    """One app's view of DingTalk; safe to share between threads. Each method raises a DingTalkError."""

    app_key: str
    app_secret: str = field(repr=False)
    oapi_url: str = "https://oapi.dingtalk.com"
    api_url: str = "https://api.dingtalk.com"
    workflow_api: str = "auto"
    timeout: float = READ_TIMEOUT

    _shared: ClassVar[dict[tuple[str, ...], _Shared]] = {}

    @classmethod
    def from_settings(cls) -> "DingTalkClient":
        """Return the client that the settings describe; SettingsUnfit names what is missing."""
        for name in ("DINGTALK_APP_KEY", "DINGTALK_APP_SECRET"):
            if not getattr(settings, name):
                raise SettingsUnfit("", "", f"{name} is missing", "copy it from open-dev.dingtalk.com into .env")
        return cls(
            settings.DINGTALK_APP_KEY,
            settings.DINGTALK_APP_SECRET,
            settings.DINGTALK_OAPI_URL,
            settings.DINGTALK_API_URL,
            settings.DINGTALK_WORKFLOW_API,
        )

    def token(self) -> str:
        """Return an access token, asked for once and kept until shortly before it expires."""
        shared = self._state()
        with shared.lock:
            if not shared.token or time.monotonic() >= shared.renew_at:
                query = {"appkey": self.app_key, "appsecret": self.app_secret}
                with calling("/gettoken"):
                    data = decipher(*exchange("GET", f"{self.oapi_url}/gettoken", query, self.timeout))
                lifetime = float(data.get("expires_in") or 7200)
                shared.token = _required(data, "access_token", str)
                shared.renew_at = time.monotonic() + max(lifetime - TOKEN_MARGIN, lifetime / 2)
            return shared.token

    def register_callback(self, url: str, tags: list[str], token: str, aes_key: str) -> None:
        """Register the callback; DingTalk posts `check_url` to the address before it answers."""
        self._submit("/call_back/register_call_back", url, tags, token, aes_key)

    def update_callback(self, url: str, tags: list[str], token: str, aes_key: str) -> None:
        """Replace the registered callback's address, types and credentials."""
        self._submit("/call_back/update_call_back", url, tags, token, aes_key)

    def query_callback(self) -> dict[str, Any]:
        """Return `url`, `call_back_tag`, `token` and `aes_key`, the secrets in clear, as DingTalk has them."""
        return self._oapi("GET", "/call_back/get_call_back")

    def delete_callback(self) -> None:
        """Delete the registered callback."""
        self._oapi("GET", "/call_back/delete_call_back")

    def failed_callbacks(self) -> str:
        """Return the raw answer with up to 200 pushes that DingTalk gave up.

        Reading empties the list at DingTalk, so commit the answer before anything else. An answer that broke off is
        returned as far as it came; a refusal is raised.
        """
        path = "/call_back/get_call_back_failed_result"

        def ask(token: str) -> str:
            with calling(path):
                status, body = exchange("GET", self.oapi_url + path, {"access_token": token}, FAILED_LIST_TIMEOUT)
                # whatever is no refusal may hold entries, and exists nowhere else any more
                with suppress(BrokenAnswer):
                    decipher(status, body)
            return body.decode("utf-8", "replace")

        return self._with_token(ask)

    def process_instance(self, process_instance_id: str) -> dict[str, Any]:
        """Return an approval instance in the old API's shape, from whichever API the app may use.

        Raises InstanceUnknown where DingTalk doesn't know it.
        """
        try:
            return self._instance(process_instance_id)
        except Refused as error:
            # Which code an unknown id gets is not documented; the words say it, as they say it of apps and companies.
            if "不存在" not in error.words or not INSTANCE.search(error.words):
                raise
            raise InstanceUnknown(error.code, error.words, "DingTalk doesn't know this approval instance") from None

    def instance_ids(
        self, process_code: str, since: int, until: int, cursor: int = 0, statuses: tuple[str, ...] = ()
    ) -> tuple[list[str], int]:
        """Return at most 20 ids of a template's instances that began from `since` to `until` (ms), and the next cursor.

        The cursor is 0 where there are no more. `statuses` narrows the list where `lists_statuses`. DingTalk refuses
        more than 120 days at once, and a `since` a year ago or earlier.
        """
        if not self._uses_v1():
            with self._falling_to_v1():
                body = {"process_code": process_code, "start_time": since, "end_time": until}
                data = self._oapi("POST", LIST_IDS, {**body, "cursor": cursor, "size": IDS_A_PAGE})
                return _ids_and_cursor(data, "next_cursor")
        body = {"processCode": process_code, "startTime": since, "endTime": until, "nextToken": cursor}
        more = {"statuses": list(statuses)} if statuses else {}
        data = self._v1("POST", LIST_IDS_V1, json={**body, "maxResults": IDS_A_PAGE, **more})
        return _ids_and_cursor(data, "nextToken")

    @property
    def lists_statuses(self) -> bool:
        """Tell whether lists of instances can be narrowed by status, as far as is known before one was asked for."""
        return self._uses_v1()

    def _instance(self, process_instance_id: str) -> dict[str, Any]:
        if not self._uses_v1():
            with self._falling_to_v1():
                data = self._oapi("POST", "/topapi/processinstance/get", {"process_instance_id": process_instance_id})
                return _required(data, "process_instance", dict)
        query = {"processInstanceId": process_instance_id}
        return old_shape(_required(self._v1("GET", "/v1.0/workflow/processInstances", query), "result", dict))

    def _uses_v1(self) -> bool:
        return self.workflow_api == "v1.0" or (self.workflow_api == "auto" and self._state().topapi_refused)

    @contextmanager
    def _falling_to_v1(self) -> Iterator[None]:
        """Let a permission that the old API lacks end the block quietly, where the new one may be asked instead."""
        try:
            yield
        except PermissionMissing:
            if self.workflow_api == "topapi":
                raise
            # New apps can't be granted the old permission: no use in asking again in this process.
            self._state().topapi_refused = True

    def _v1(
        self, method: str, path: str, query: Mapping[str, str] | None = None, json: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        def ask(token: str) -> dict[str, Any]:
            headers = {"x-acs-dingtalk-access-token": token}
            with calling(path):
                answer = exchange(method, self.api_url + path, query or {}, self.timeout, json=json, headers=headers)
                return decipher(*answer)

        return self._with_token(ask)

    def _submit(self, path: str, url: str, tags: list[str], token: str, aes_key: str) -> None:
        body = {"call_back_tag": tags, "token": token, "aes_key": aes_key, "url": url}
        self._oapi("POST", path, body, VALIDATION_TIMEOUT)

    def _oapi(
        self, method: str, path: str, body: dict[str, Any] | None = None, patience: float = 0.0
    ) -> dict[str, Any]:
        def ask(token: str) -> dict[str, Any]:
            timeout = patience or self.timeout
            with calling(path):
                return decipher(*exchange(method, self.oapi_url + path, {"access_token": token}, timeout, json=body))

        return self._with_token(ask)

    def _with_token(self, ask: Callable[[str], Answer]) -> Answer:
        """Call `ask` with a token; once more with a new one where DingTalk refuses it or a permission is missing.

        A permission granted a moment ago may need a token that is younger than the grant.
        """
        token = self.token()
        try:
            return ask(token)
        except (TokenExpired, PermissionMissing):
            self._drop(token)
        return ask(self.token())

    def _drop(self, token: str) -> None:
        """Forget a token, unless another thread has renewed it already."""
        shared = self._state()
        with shared.lock:
            if shared.token == token:
                shared.token = ""

    def _state(self) -> _Shared:
        key = (self.oapi_url, self.api_url, self.app_key, self.app_secret)
        return self._shared.setdefault(key, _Shared())


def _required(data: dict[str, Any], name: str, kind: type[Field]) -> Field:
    """Return a field that an answer without an error code must have."""
    value = data.get(name)
    if not isinstance(value, kind):
        raise BrokenAnswer("", "", f"DingTalk's answer has no `{name}`", "ask again")
    return value


def _ids_and_cursor(data: dict[str, Any], cursor_name: str) -> tuple[list[str], int]:
    result = _required(data, "result", dict)
    cursor = str(result.get(cursor_name) or "0")
    if not cursor.isdecimal():
        raise BrokenAnswer("", "", f"DingTalk's answer has an odd `{cursor_name}`", "ask again")
    return [str(key) for key in result.get("list") or []], int(cursor)
