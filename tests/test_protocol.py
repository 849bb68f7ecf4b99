"""What DingTalk's answers mean: codes in all their envelopes, and bodies that are no answers of DingTalk's."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registrar import errors
from registrar.protocol import KNOWN, decipher, masked, one_line


def refusal(body: Any, status: int = 200) -> errors.DingTalkError:
    text = body if isinstance(body, (str, bytes)) else json.dumps(body, ensure_ascii=False)
    with pytest.raises(errors.DingTalkError) as caught:
        decipher(status, text)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        {"errcode": 0, "errmsg": "ok", "url": "https://shop.example/dingtalk/callback/"},
        {"errcode": "0", "has_more": False},
        {"result": {"title": "采购"}, "success": "true"},
        {"accessToken": "8f1c", "expireIn": 7200},
    ],
)
def test_a_success_is_returned_as_it_came(body: dict[str, Any]) -> None:
    assert decipher(200, json.dumps(body)) == body
    assert decipher(200, json.dumps(body).encode()) == body


# code, DingTalk's words, what the caller is told to do, a word of the next step
HINTS = [
    (-1, "系统繁忙", errors.TemporaryFailure, "try again"),
    (22, "Invalid method", errors.Refused, "DINGTALK_OAPI_URL"),
    (40014, "不合法的access_token", errors.TokenExpired, "renewed"),
    (42001, "access_token超时", errors.TokenExpired, "renewed"),
    (40035, "不合法的参数", errors.Refused, "check"),
    (40089, "不合法的corpid或corpsecret", errors.Refused, "DINGTALK_APP_SECRET"),
    (40096, "不合法的appKey或appSecret", errors.Refused, "DINGTALK_APP_SECRET"),
    (43002, "需要POST请求", errors.Refused, "proxy"),
    (60011, "没有权限", errors.PermissionMissing, "权限管理"),
    (60020, "访问ip不在白名单之中", errors.Refused, "开发配置 › 安全设置 › 服务端出口 IP"),
    (71006, "回调地址已经存在", errors.AlreadyRegistered, "dingtalk update"),
    (71007, "回调地址已不存在", errors.NotRegistered, "if you subscribed in the console this is normal"),
    (71008, "call_back_tag不在可选范围", errors.Refused, "DINGTALK_CALLBACK_TAGS"),
    (71009, "返回文本非success", errors.Refused, "DINGTALK_CORP_ID"),
    (71010, "POST的JSON数据格式不正确", errors.Refused, "DINGTALK_AES_KEY"),
    (71011, "url不合法", errors.Refused, "DINGTALK_CALLBACK_URL"),
    (71012, "url地址访问异常", errors.Refused, "no redirect"),
    (71013, "此域名或IP不能注册", errors.Refused, "public address"),
    (820005, "审批单状态异常", errors.InstanceUnknown, "id"),
    (90002, "接口频率超限", errors.Throttled, "wait"),
    (90018, "频率超限", errors.Throttled, "wait"),
    (90020, "本月调用次数已用完", errors.QuotaUsedUp, "package"),
]


@pytest.mark.parametrize(("code", "words", "kind", "step"), HINTS)
def test_a_known_code_gives_cause_and_next_step_in_one_line(
    code: int, words: str, kind: type[errors.DingTalkError], step: str
) -> None:
    error = refusal({"errcode": code, "errmsg": words})
    assert type(error) is kind
    assert step in error.step
    assert f"{code} {words}: {error.cause}; {error.step}" == str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("code", "words", "kind", "step"), HINTS)
def test_the_88_envelope_hides_no_code(code: int, words: str, kind: type[errors.DingTalkError], step: str) -> None:
    envelope = {
        "errcode": 88,
        "sub_code": str(code),
        "sub_msg": words,
        "errmsg": f"ding talk error[subcode={code},submsg={words}]",
        "request_id": "k2",
    }
    error = refusal(envelope)
    assert (type(error), error.code, error.words) == (kind, str(code), words)
    assert step in error.step


def test_an_88_without_a_sub_code_is_a_refusal_with_its_own_words() -> None:
    error = refusal({"errcode": 88, "errmsg": "鉴权异常"})
    assert (type(error), error.code, error.words) == (errors.Refused, "88", "鉴权异常")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "InvalidAuthentication", errors.TokenExpired),
        (400, "invalidClientIdOrSecret", errors.Refused),
        (400, "processInstanceNotExist", errors.InstanceUnknown),
        (400, "processInstanceIdError", errors.InstanceUnknown),
        (403, "Forbidden.AccessDenied.AccessTokenPermissionDenied", errors.PermissionMissing),
        (403, "Forbidden.AccessDenied.IpNotInWhiteList", errors.Refused),
        (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", errors.Throttled),
        (403, "Forbidden.AccessDenied.QpsLimitForApi", errors.Throttled),
        (403, "Forbidden.AccessDenied.ApiCountLimitForOrg", errors.QuotaUsedUp),
        (500, "systemError", errors.TemporaryFailure),
        (503, "something.new", errors.TemporaryFailure),
        (429, "something.new", errors.Throttled),
        (400, "something.new", errors.Refused),
    ],
)
def test_the_new_api_is_understood_by_its_code_and_status(
    status: int, code: str, kind: type[errors.DingTalkError]
) -> None:
    error = refusal({"code": code, "message": "原因", "requestid": "7B"}, status)
    assert (type(error), error.code, error.words) == (kind, code, "原因")


def test_a_missing_permission_names_the_scopes_that_dingtalk_asks_for() -> None:
    body = {
        "code": "Forbidden.AccessDenied.AccessTokenPermissionDenied",
        "message": "应用尚未开通所需的权限",
        "accessdenieddetail": {"requiredScopes": ["Workflow.Instance.Read"]},
    }
    error = refusal(body, 403)
    assert "Workflow.Instance.Read" in error.words
    assert "权限管理" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "<!doctype html><title>登录</title>", errors.Throttled),
        (200, {"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": "u-1"}, errors.Throttled),
        (200, '{"errcode":0,"failed_li', errors.BrokenAnswer),
        (200, "", errors.BrokenAnswer),
        (200, "[1, 2]", errors.BrokenAnswer),
        (200, "[" * 100_000, errors.BrokenAnswer),
        (200, b"\xff\xfe\x00", errors.BrokenAnswer),
        (502, "<html>Bad Gateway</html>", errors.TemporaryFailure),
        (503, "", errors.TemporaryFailure),
        (500, {"unexpected": True}, errors.TemporaryFailure),
        (429, "", errors.Throttled),
        (302, "", errors.Refused),
        (404, "not found", errors.Refused),
    ],
)
def test_a_body_that_is_no_answer_of_dingtalks_says_what_to_do(
    status: int, body: Any, kind: type[errors.DingTalkError]
) -> None:
    error = refusal(body, status)
    assert type(error) is kind
    assert error.step
    assert "\n" not in str(error)


def test_only_what_time_mends_is_retryable() -> None:
    retryable = {code for code, known in KNOWN.items() if known.error.retryable}
    assert {"-1", "90018", "90002", "systemError", "1111"} <= retryable
    assert not retryable & {"71006", "71007", "71012", "40096", "60011", "60020", "90020", "40014", "820005"}


def test_an_unknown_code_is_final_and_says_where_to_look_it_up() -> None:
    error = refusal({"errcode": 123456, "errmsg": "新的错误"})
    assert type(error) is errors.Refused
    assert not error.retryable
    assert "123456 新的错误" in str(error)
    assert "https://open.dingtalk.com/" in error.step


def test_the_request_that_dingtalk_repeats_is_left_out_and_its_result_kept() -> None:
    said = (
        "url地址访问异常,错误原因为:不允许3xx跳转.http statusCode is:301 HttpRequest: curl "
        "'https://shop.example/cb?signature=90ab&timestamp=1790000000000&nonce=k2Lm9QxZ' -d '{\"encrypt\":\"AAAA\"}' "
        "-H 'Content-Type:application/json'    HttpCode:301   HttpReponse:null"
    )
    words = refusal({"errcode": 71012, "errmsg": said}).words
    assert words == "url地址访问异常,错误原因为:不允许3xx跳转.http statusCode is:301 HttpCode:301 HttpReponse:null"


def test_secrets_and_line_breaks_never_reach_the_words() -> None:
    said = (
        "bad\nhttps://oapi.dingtalk.com/gettoken?appkey=ding1&appsecret=s3cr3t&access_token=t0k3n failed" + "长" * 900
    )
    words = refusal({"errcode": 123456, "errmsg": said}).words
    assert "s3cr3t" not in words
    assert "t0k3n" not in words
    assert "\n" not in words
    assert len(words) <= 400


@pytest.mark.parametrize("name", ["access_token", "appsecret", "corpsecret", "appSecret", "app_secret"])
def test_a_secret_is_masked_wherever_it_stands_in_a_query(name: str) -> None:
    assert masked(f"GET /x?{name}=abc&y=1") == f"GET /x?{name}=***&y=1"
    assert masked(f"'/x?y=1&{name}=abc'") == f"'/x?y=1&{name}=***'"


@given(
    st.integers(100, 599),
    st.one_of(
        st.text(),
        st.binary(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(
                        ["errcode", "errmsg", "code", "message", "sub_code", "sub_msg", "punish", "accessdenieddetail"]
                    ),
                    inner,
                )
            ),
        ).map(json.dumps),
    ),
)
def test_any_answer_is_data_or_an_error_of_ours(status: int, body: str | bytes) -> None:
    try:
        data = decipher(status, body)
    except errors.DingTalkError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(data, dict)
        assert status < 300


@given(st.text())
def test_words_are_one_short_line(text: str) -> None:
    assert len(one_line(text)) <= 400
    assert len(one_line(text).splitlines()) <= 1


def test_an_error_survives_pickling() -> None:
    error = refusal({"errcode": 71006, "errmsg": "回调地址已经存在"})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
