"""The five `call_back` APIs (https://open.dingtalk.com/document/development/, the historical HTTP callback pages)."""

import ipaddress
import re
import socket
from typing import Any
from urllib.parse import urlsplit

from simulator.failed import FailedList
from simulator.messages import Answer, ApiError, ErrorCode, Request, ok
from simulator.options import Options
from simulator.receiver import Attempt, Callback, SubscriptionError, attempt
from simulator.sealing import CHECK_URL, seal_push

# What a callback registered through the API may ask for; all else can be subscribed in the console only.
TAGS = frozenset(
    (
        "attendance_check_record",
        "attendance_overtime_duration",
        "attendance_schedule_change",
        "bpms_instance_change",
        "bpms_task_change",
        "chat_add_member",
        "chat_disband",
        "chat_quit",
        "chat_remove_member",
        "chat_update_owner",
        "chat_update_title",
        "check_in",
        "edu_dept_delete",
        "edu_dept_insert",
        "edu_dept_update",
        "edu_user_delete",
        "edu_user_insert",
        "edu_user_update",
        "edu_user_relation_delete",
        "edu_user_relation_insert",
        "edu_user_relation_update",
        "label_conf_add",
        "label_conf_del",
        "label_conf_modify",
        "label_user_change",
        "meetingroom_book",
        "meetingroom_room_info",
        "org_admin_add",
        "org_admin_remove",
        "org_change",
        "org_dept_create",
        "org_dept_modify",
        "org_dept_remove",
        "org_remove",
        "user_active_org",
        "user_add_org",
        "user_leave_org",
        "user_modify_org",
    )
)
EXISTS = ErrorCode(71006, "回调地址已经存在")
NOT_REGISTERED = ErrorCode(71007, "回调地址已不存在")
PRIVATE = ErrorCode(71013, "此域名或IP不能注册或者接收回调事件")
_AES_KEY = re.compile(r"[A-Za-z0-9]{43}")
_CONSOLE_TOKEN = re.compile(r"[A-Za-z0-9]{3,32}")


class CallbackApi:
    """The callback registered through the API, and the one subscribed in the console."""

    def __init__(self, options: Options, failed_list: FailedList) -> None:
        self.registered: Callback | None = None
        self.subscribed: Callback | None = None
        self._options = options
        self._failed_list = failed_list

    def register(self, request: Request) -> Answer:
        """Register a callback, once its address has answered `check_url`."""
        callback = self._read(request)
        if self.registered:
            raise ApiError(EXISTS)
        return self._save(callback)

    def update(self, request: Request) -> Answer:
        """Replace the registered callback, once the new address has answered `check_url`."""
        callback = self._read(request)
        if not self.registered:
            raise ApiError(NOT_REGISTERED)
        return self._save(callback)

    def get(self, _request: Request) -> Answer:
        """Return the registered callback, its secrets in clear."""
        found = self.registered
        if not found:
            raise ApiError(NOT_REGISTERED)
        return ok(call_back_tag=list(found.tags), token=found.token, aes_key=found.aes_key, url=found.url)

    def delete(self, _request: Request) -> Answer:
        """Forget the registered callback."""
        if not self.registered:
            raise ApiError(NOT_REGISTERED)
        self.registered = None
        return ok()

    def failed(self, _request: Request) -> Answer:
        """Return a page of the failed list; what the call before returned is gone."""
        page, more = self._failed_list.read()
        return ok(has_more=more, failed_list=page)

    def subscribe(self, url: str, token: str, aes_key: str) -> None:
        """Subscribe an address as the console does: sealed for the app key. Raise SubscriptionError."""
        if not _legal(url) or not _CONSOLE_TOKEN.fullmatch(token) or not _AES_KEY.fullmatch(aes_key):
            raise SubscriptionError("the console wants a full url, a token of 3-32 and an aes key of 43 characters")
        callback = Callback(url, token, aes_key, self._options.app_key)
        made = self._check(callback)
        if made.reason:
            raise SubscriptionError(f"{url} did not pass the validation: {made.reason}")
        self.subscribed = callback

    def _read(self, request: Request) -> Callback:
        fields = request.fields()
        tags, url = fields.get("call_back_tag"), fields.get("url")
        token, aes_key = fields.get("token"), fields.get("aes_key")
        _require("call_back_tag", isinstance(tags, list) and tags and all(isinstance(tag, str) for tag in tags))
        _require("token", isinstance(token, str) and 6 <= len(token) < 64)
        _require("aes_key", isinstance(aes_key, str) and _AES_KEY.fullmatch(aes_key))
        _require("url", isinstance(url, str) and url)
        if not _legal(str(url)):
            raise ApiError(ErrorCode(71011, "url不是一个合法的url，需包含协议、域名、端口、路径和参数"))
        unknown = [tag for tag in tags or () if tag not in TAGS]
        if unknown:
            raise ApiError(ErrorCode(71008, f"call_back_tag不在可选的范围内: {','.join(unknown)}"))
        if not self._options.allow_private and _private(str(url)):
            raise ApiError(PRIVATE)
        options = self._options
        owner_key = options.corp_id if options.owner_key_kind == "corp" else options.app_key
        return Callback(str(url), str(token), str(aes_key), owner_key, tuple(tags or ()))

    def _save(self, callback: Callback) -> Answer:
        made = self._check(callback)
        if made.reason:
            raise ApiError(ErrorCode(made.code, made.complaint))
        self.registered = callback
        return ok()

    def _check(self, callback: Callback) -> Attempt:
        url, body = seal_push(callback, CHECK_URL, self._options.query_names)
        return attempt(callback, url, body, self._options.time_limit)


def _require(name: str, fits: Any) -> None:
    if not fits:
        raise ApiError(ErrorCode(71010, f"POST的JSON数据缺少字段或字段格式不正确: {name}"))


def _legal(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _private(url: str) -> bool:
    """Tell whether a host has an address that can't be reached from the internet."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_global for address in found)
