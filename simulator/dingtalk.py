"""The simulated APIs: which there are, who may call them, and what they answer."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace

from simulator.callback_api import CallbackApi
from simulator.failed import FailedList
from simulator.faults import ERRORS, NO_PERMISSION, TOKEN_EXPIRED, TOKEN_INVALID, ApiFaults, broken_answer
from simulator.instances import Instances, in_new_shape
from simulator.limits import Limits
from simulator.listing import Listing
from simulator.messages import OAPI, TOPAPI, V1, Answer, ApiError, ErrorCode, Request, as_json, ok, refuse
from simulator.options import Options
from simulator.tokens import Tokens

NO_TOKEN = {
    OAPI: ErrorCode(41001, "缺少access_token参数"),
    TOPAPI: ErrorCode(40000, "access_token is blank"),
    V1: ErrorCode(41001, "缺少x-acs-dingtalk-access-token", 400, "AuthenticationFailed.MissingParameter"),
}
NO_INSTANCE = ErrorCode(820005, "审批单状态异常，请检查审批实例id", 400, "processInstanceNotExist", "审批实例不存在")


@dataclass(frozen=True)
class _Api:
    family: str
    method: str
    answer: Callable[[Request], Answer]
    needs_token: bool = True


class DingTalk:
    """One app's view of DingTalk."""

    def __init__(self, options: Options) -> None:
        self.tokens = Tokens(options.token_lifetime)
        self.instances = Instances()
        self.faults = ApiFaults()
        self.failed_list = FailedList(delete_on_next_read=options.delete_on_next_read, clock_scale=options.clock_scale)
        self.callbacks = CallbackApi(options, self.failed_list)
        self.limits = Limits(options)
        self._options = options
        listing = Listing(options, self.instances)
        self._apis = {
            "/gettoken": _Api(OAPI, "GET", self._gettoken, needs_token=False),
            "/call_back/register_call_back": _Api(OAPI, "POST", self.callbacks.register),
            "/call_back/update_call_back": _Api(OAPI, "POST", self.callbacks.update),
            "/call_back/get_call_back": _Api(OAPI, "GET", self.callbacks.get),
            "/call_back/delete_call_back": _Api(OAPI, "GET", self.callbacks.delete),
            "/call_back/get_call_back_failed_result": _Api(OAPI, "GET", self.callbacks.failed),
            "/topapi/processinstance/get": _Api(TOPAPI, "POST", self._old_instance),
            "/topapi/processinstance/listids": _Api(TOPAPI, "POST", listing.old),
            "/v1.0/oauth2/accessToken": _Api(V1, "POST", self._access_token, needs_token=False),
            "/v1.0/workflow/processInstances": _Api(V1, "GET", self._new_instance),
            "/v1.0/workflow/processes/instanceIds/query": _Api(V1, "POST", listing.new),
        }

    def answer(self, request: Request) -> Answer:
        """Return what DingTalk answers, or what the fault that waits for this path makes of it."""
        fault = self.faults.take(request.path)
        broken = broken_answer(fault, self._options.hold_seconds)
        if broken:
            return broken
        answer = self._answer(request, fault)
        if fault == "slow":
            return replace(answer, delay=self._options.slow_seconds)
        return replace(answer, cut="half") if fault == "half" else answer

    def _answer(self, request: Request, fault: str) -> Answer:
        api = self._apis.get(request.path)
        if api is None:
            return _no_such_api(request.path)
        try:
            if fault in ERRORS:
                raise ApiError(ERRORS[fault])
            if fault == "penalty":
                raise self.limits.punish(request.path)
            if request.method != api.method:
                raise ApiError(_wrong_method(api.method))
            if api.needs_token:
                self._check_token(request, api.family)
                self.limits.take(request.path)
            return api.answer(request)
        except ApiError as refusal:
            return refuse(refusal.error, api.family)

    def _check_token(self, request: Request, family: str) -> None:
        given = (
            request.headers.get("x-acs-dingtalk-access-token") if family == V1 else request.query.get("access_token")
        )
        if not given:
            raise ApiError(NO_TOKEN[family])
        if not self.tokens.known(given):
            raise ApiError(TOKEN_INVALID)
        if self.tokens.expired(given):
            raise ApiError(TOKEN_EXPIRED)

    def _gettoken(self, request: Request) -> Answer:
        # A body is not read: the official curl sample, which sends one, does not work.
        key, secret = request.query.get("appkey"), request.query.get("appsecret")
        if not key:
            raise ApiError(ErrorCode(40035, "缺少参数 corpid or appkey"))
        self._check_secret(key, secret or "")
        return ok(access_token=self.tokens.issue(), expires_in=int(self._options.token_lifetime))

    def _access_token(self, request: Request) -> Answer:
        fields = request.fields()
        self._check_secret(str(fields.get("appKey", "")), str(fields.get("appSecret", "")))
        return as_json({"accessToken": self.tokens.issue(), "expireIn": int(self._options.token_lifetime)})

    def _check_secret(self, key: str, secret: str) -> None:
        right = f"{self._options.app_key}\n{self._options.app_secret}".encode()
        if not hmac.compare_digest(right, f"{key}\n{secret}".encode("utf-8", "replace")):
            message = "无效的clientId或者clientSecret"
            raise ApiError(ErrorCode(40096, "不合法的appKey或appSecret", 400, "invalidClientIdOrSecret", message))

    def _old_instance(self, request: Request) -> Answer:
        if not self._options.old_workflow_permission:
            raise ApiError(NO_PERMISSION)
        instance_id = str(request.fields().get("process_instance_id", ""))
        if not instance_id:
            raise ApiError(ErrorCode(400002, "参数错误"))
        instance = self.instances.fetch(instance_id)
        if instance is None:
            raise ApiError(NO_INSTANCE)
        return ok(process_instance=instance, request_id="s2201simulator")

    def _new_instance(self, request: Request) -> Answer:
        instance_id = request.query.get("processInstanceId", "")
        if not instance_id:
            raise ApiError(ErrorCode(400002, "参数错误"))
        instance = self.instances.fetch(instance_id)
        if instance is None:
            raise ApiError(NO_INSTANCE)
        # `success` is text in the documentation, too.
        return as_json({"result": in_new_shape(instance), "success": "true"})


def _wrong_method(wanted: str) -> ErrorCode:
    errcode, errmsg = (43001, "需要GET请求") if wanted == "GET" else (43002, "需要POST请求")
    return ErrorCode(errcode, errmsg, 404, "InvalidAction.NotFound")


def _no_such_api(path: str) -> Answer:
    if path.startswith("/v1.0/"):
        return refuse(ErrorCode(22, "Specified api is not found", 404, "InvalidAction.NotFound"), V1)
    name = "dingtalk.oapi." + path.strip("/").replace("/", ".")
    return refuse(ErrorCode(22, f"Invalid method[submsg=不合法ApiName，ApiName = {name}]"), OAPI)
