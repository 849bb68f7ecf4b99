"""What a payload says: event type, corp id, identity and subject out of every shape that DingTalk has sent."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callbacks.payload import MAX_DEPTH, Fields, MalformedPayload, Payload, read, storable

CORP = "dingcorp0001"
NEVER = "salt of one request"


def payload(data: Any, salt: str = NEVER) -> Payload:
    return read(data if isinstance(data, str) else json.dumps(data), salt)


def same(one: Any, other: Any) -> bool:
    """Tell whether two pushes, each with a timestamp and nonce of its own, are taken for one event."""
    return payload(one, "salt 1").identity == payload(other, "salt 2").identity


CAMEL_ENVELOPE = {"EventTime": 1663143335567, "CorpId": CORP, "BizId": "1663000", "eventId": "c7c7120f"}
INSTANCE_FINISH = {
    "EventType": "bpms_instance_change",
    "processInstanceId": "ad253df6",
    "finishTime": 1495592305000,
    "corpId": CORP,
    "title": "自测-1016",
    "type": "finish",
    "result": "refuse",
    "createTime": 1495592272000,
    "staffId": "manager75",
    "processCode": "Pro-xxx",
}
TASK_FINISH = {
    "EventType": "bpms_task_change",
    "processInstanceId": "ce133dd0",
    "finishTime": 1495605749000,
    "corpId": CORP,
    "type": "finish",
    "result": "refuse",
    "remark": "拒绝理由",
    "createTime": 1495593189000,
    "staffId": "manager75",
    "taskId": 811165,
}
COMMENT = {
    "EventType": "bpms_task_change",
    "type": "comment",
    "content": "请补充",
    "createTime": 1495593189000,
    "staffId": "manager75",
    "processInstanceId": "ce133dd0",
    "corpId": CORP,
}
USER_2018 = {"EventType": "user_add_org", "TimeStamp": "1547555546471", "UserId": ["manager123"], "CorpId": CORP}
USER_2023 = {"eventId": "83546b53", "CorpId": CORP, "EventType": "user_leave_org", "UserId": ["u1"]}
USER_2026 = {"EventType": "user_add_org", **CAMEL_ENVELOPE, "timeStamp": "1685501863357", "userId": ["015xxxx227"]}

# Shapes


@pytest.mark.parametrize(
    ("data", "corp_id", "subject"),
    [
        (USER_2018, CORP, "user:manager123"),
        (USER_2023, CORP, "user:u1"),
        (USER_2026, CORP, "user:015xxxx227"),
        ({**USER_2018, "UserId": ["b", "a", "b"]}, CORP, "user:a,b"),
        (
            {"EventType": "org_dept_create", "TimeStamp": "1", "DeptId": [97393188], "CorpId": CORP},
            CORP,
            "dept:97393188",
        ),
        ({"EventType": "org_dept_create", **CAMEL_ENVELOPE, "deptId": [432825033]}, CORP, "dept:432825033"),
        ({"EventType": "org_dept_remove", "DeptId": [2, 10], "CorpId": CORP}, CORP, "dept:10,2"),
        (
            {"EventType": "label_user_change", **CAMEL_ENVELOPE, "userIdList": ["8459"], "labelIdList": [1881]},
            CORP,
            "user:8459",
        ),
        ({"EventType": "org_change", **CAMEL_ENVELOPE}, CORP, ""),
        (INSTANCE_FINISH, CORP, "instance:ad253df6"),
        (TASK_FINISH, CORP, "instance:ce133dd0"),
        (
            {"EventType": "chat_add_member", "OpenConversationId": "cid1", "ChatId": "chat1", "UserId": ["u"]},
            "",
            "chat:cid1",
        ),
        ({"EventType": "chat_update_title", "ChatId": "chat1", "CorpId": CORP}, CORP, "chat:chat1"),
        ({"EventType": "check_in", "TimeStamp": 1495542282000, "CorpId": CORP, "StaffId": "s1"}, CORP, "user:s1"),
        ({"DataList": [{"corpId": CORP, "userId": "u"}], "EventType": "attendance_check_record"}, CORP, ""),
        ({"dataList": [{"corpid": CORP}], "EventType": "attendance_overtime_duration"}, CORP, ""),
        ({"corpid": CORP, "name": "早班", "id": 1, "EventType": "attend_group_change"}, CORP, ""),
        ({"EventType": "edu_user_insert", "corpId": CORP, "userId": "u1"}, CORP, "user:u1"),
        ({"EventType": "edu_dept_delete", "corpId": CORP, "deptId": 5}, CORP, "dept:5"),
        ({"EventType": "something_new"}, "", ""),
        ({"EventType": "something_new", "CorpId": None, "DataList": "x", "userId": {"a": 1}}, "", ""),
        ({"EventType": "something_new", "CorpId": "", "DataList": [], "userId": [None, True, ""]}, "", ""),
    ],
    ids=lambda value: value.get("EventType", "") if isinstance(value, dict) else None,
)
def test_corp_and_subject_are_found_in_every_shape(data: dict[str, Any], corp_id: str, subject: str) -> None:
    read_payload = payload(data)
    assert read_payload.event_type == data["EventType"]
    assert read_payload.corp_id == corp_id
    assert read_payload.subject == (f"{corp_id}:{subject}" if subject else "")
    assert read_payload.data == data
    assert not read_payload.is_validation


def test_several_users_are_a_subject_of_their_own_in_any_order() -> None:
    subjects = {payload({**USER_2018, "UserId": users}).subject for users in (["a", "b"], ["b", "a"], ["a"], ["b"])}
    assert subjects == {f"{CORP}:user:a,b", f"{CORP}:user:a", f"{CORP}:user:b"}


def test_a_subject_of_many_users_stays_within_its_column_and_tells_groups_apart() -> None:
    many = [f"user{number}" for number in range(500)]
    one, other = (payload({**USER_2018, "UserId": users}).subject for users in (many, many[1:]))
    assert one != other
    assert max(len(one), len(other)) <= 200
    assert one == payload({**USER_2018, "UserId": many[::-1]}).subject


def test_an_overlong_corp_id_is_cut_to_its_column() -> None:
    assert len(payload({**USER_2018, "CorpId": "c" * 5000}).corp_id) == 128


@pytest.mark.parametrize("event_type", ["check_url", "check_create_suite_url", "check_update_suite_url"])
def test_the_questions_whether_the_address_works_are_told_apart(event_type: str) -> None:
    assert payload({"EventType": event_type, "Random": "brdkKLMW"}).is_validation


def test_the_body_is_kept_exactly_as_it_came() -> None:
    text = '{ "EventType" : "x",\n"n": 1.10, "t":"\\u5f20\\u0000" , "n":2 }'
    assert payload(text).body == text


# EventType


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"eventtypes":"x"}',
        *(f'{{"EventType":{value}}}' for value in ("null", "1", "1.5", "true", "[]", '["x"]', "{}", '""')),
        json.dumps({"EventType": "x" * 129}),
        '{"EventType":"","eventType":"usable"}',
        '{"EventType":null,"eventtype":"usable"}',
    ],
)
def test_an_event_type_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MalformedPayload, match="EventType"):
        payload(text)


def test_the_exact_spelling_of_event_type_counts_first() -> None:
    assert payload('{"eventType":"other","EventType":"mine"}').event_type == "mine"
    assert payload('{"EventType":"mine","eventType":"other"}').event_type == "mine"
    assert payload('{"eventtype":"mine"}').event_type == "mine"


@pytest.mark.parametrize("event_type", ["x" * 128, "审" * 128, "a b", "../x", "🎉"])
def test_any_text_of_up_to_128_characters_is_an_event_type(event_type: str) -> None:
    assert payload({"EventType": event_type}).event_type == event_type


# Identity


@pytest.mark.parametrize("data", [INSTANCE_FINISH, TASK_FINISH], ids=["instance", "task"])
def test_an_approval_is_one_event_with_or_without_or_with_another_event_id(data: dict[str, Any]) -> None:
    pushed = {**data, **CAMEL_ENVELOPE}
    assert same(pushed, {**pushed, "eventId": "another", "EventTime": 1, "BizId": "2"})
    assert same(pushed, data)
    copy = {key: value for key, value in data.items() if key != "corpId"}
    assert same(data, {"corpid": CORP, **copy, "title": "renamed"})
    assert same(data, {key.upper() if key != "EventType" else key: value for key, value in data.items()})


@pytest.mark.parametrize("field", ["processInstanceId", "type", "result", "finishTime"])
def test_another_step_of_an_instance_is_another_event(field: str) -> None:
    assert not same(INSTANCE_FINISH, {**INSTANCE_FINISH, field: "1"})


@pytest.mark.parametrize(
    "field", ["processInstanceId", "type", "result", "finishTime", "createTime", "taskId", "staffId"]
)
def test_another_step_of_a_task_is_another_event(field: str) -> None:
    assert not same(TASK_FINISH, {**TASK_FINISH, field: "1"})


def test_an_instance_and_a_task_with_equal_fields_are_two_events() -> None:
    assert not same(INSTANCE_FINISH, {**INSTANCE_FINISH, "EventType": "bpms_task_change"})


def test_an_instance_that_ends_is_known_by_its_end_and_one_that_starts_by_its_start() -> None:
    assert same(INSTANCE_FINISH, {**INSTANCE_FINISH, "createTime": 1})
    started = {key: value for key, value in INSTANCE_FINISH.items() if key not in ("finishTime", "result")}
    assert not same({**started, "type": "start"}, {**started, "type": "start", "createTime": 1})


def test_an_extra_field_called_event_type_leaves_an_approval_an_approval() -> None:
    assert same({"eventType": "finished", **INSTANCE_FINISH, "eventId": "1"}, {**INSTANCE_FINISH, "eventId": "2"})


def test_comments_go_by_their_event_id_or_their_whole_content() -> None:
    assert same(COMMENT, dict(reversed(COMMENT.items())))
    assert not same(COMMENT, {**COMMENT, "content": "另一条"})
    assert same({**COMMENT, "eventId": "1"}, {**COMMENT, "eventId": "1", "EventTime": 2})
    assert not same({**COMMENT, "eventId": "1"}, {**COMMENT, "eventId": "2"})


@pytest.mark.parametrize("missing", ["processInstanceId", "type"])
def test_an_approval_without_an_id_or_a_type_goes_by_its_event_id(missing: str) -> None:
    rest = {key: value for key, value in INSTANCE_FINISH.items() if key != missing}
    assert same({**rest, "eventId": "1"}, {**rest, "eventId": "1", "EventTime": 2})
    assert not same({**rest, "eventId": "1"}, {**rest, "eventId": "2"})


def test_an_approval_without_any_time_goes_by_its_event_id_else_is_always_new() -> None:
    rest = {key: value for key, value in INSTANCE_FINISH.items() if key not in ("createTime", "finishTime")}
    assert same({**rest, "eventId": "1"}, {**rest, "eventId": "1"})
    assert not same(rest, rest)


def test_other_events_go_by_corp_and_event_id() -> None:
    assert same(USER_2023, {**USER_2023, "UserId": ["u2"]})
    assert not same(USER_2023, {**USER_2023, "eventId": "other"})
    assert not same(USER_2023, {**USER_2023, "CorpId": "dingother"})
    assert not same(USER_2023, {**USER_2023, "EventType": "user_modify_org"})
    assert same({**USER_2026, "eventId": 7}, {**USER_2026, "eventId": "7"})


@pytest.mark.parametrize("time", ["TimeStamp", "timeStamp", "EventTime", "event_time"])
def test_events_without_an_id_but_with_a_time_go_by_their_content(time: str) -> None:
    event = {"EventType": "user_modify_org", time: "1547555546471", "UserId": ["u"], "CorpId": CORP}
    assert same(event, dict(reversed(event.items())))
    assert not same(event, {**event, time: "1547555546472"})
    assert not same(event, {**event, "UserId": ["u2"]})


def test_events_with_neither_an_id_nor_a_time_are_told_apart_by_their_requests() -> None:
    event = {"EventType": "user_modify_org", "UserId": ["u"], "CorpId": CORP}
    assert not same(event, event)
    assert payload(event, "salt").identity == payload(event, "salt").identity


def test_two_spellings_of_one_key_both_count() -> None:
    """A type of the event's own beside `EventType` is content like any other."""
    event = {"EventType": "something", "TimeStamp": "1547555546471", "CorpId": CORP}
    assert not same({**event, "eventType": "opened"}, {**event, "eventType": "closed"})


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_an_identity_fits_its_column_whatever_the_payload(data: dict[str, str]) -> None:
    assert 1 <= len(payload({**data, "EventType": "x"}).identity) <= 100


# What a database can hold


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        (r'"a\u0000b"', "a\ufffdb"),
        (r'"\ud83d"', "\ufffd"),
        (r'"\udc00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83c\udf89"', "🎉"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e400", "1e400"),
        ("-1e400", "-1e400"),
        ("1e-400", 0.0),
        ("1.5", 1.5),
        ("12345678901234567890123", 12345678901234567890123),
        (r'["\u0000", {"\u0000": [NaN]}]', ["\ufffd", {"\ufffd": ["NaN"]}]),
        (r'"line\nbreak\ttab\u200b"', "line\nbreak\ttab\u200b"),
    ],
)
def test_what_json_allows_and_a_database_refuses_is_replaced(written: str, stored: Any) -> None:
    assert payload(f'{{"EventType":"x","value":{written}}}').data["value"] == stored


def test_an_event_type_holds_nothing_that_a_database_refuses() -> None:
    assert payload(r'{"EventType":"a\u0000\ud800"}').event_type == "a\ufffd\ufffd"


@pytest.mark.parametrize("nested", ['{"a":' * 499 + "1" + "}" * 499, "[" * 499 + "]" * 499])
def test_a_payload_nested_500_deep_is_read(nested: str) -> None:
    assert payload(f'{{"EventType":"x","value":{nested}}}').event_type == "x"


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_payload_nested_deeper_is_refused(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(MalformedPayload, match="nested deeper than 500 levels"):
        payload(f'{{"EventType":"x","value":{opening * depth}1{closing * depth}}}')


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "null", "1", '"x"', "[]", '[{"EventType":"x"}]', "{", '{"EventType":"x"', "{'EventType':'x'}"),
        *('{"EventType":"x",}', '\ufeff{"EventType":"x"}', '{"EventType":"x"}{}', "EventType=x", "<xml/>", "no JSON"),
        '{"EventType":"x\x00"}',
        '{"EventType":"x","n":' + "9" * 5000 + "}",
        '{"EventType":"x","n":-' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_json_object_that_can_be_read_is_refused(text: str) -> None:
    with pytest.raises(MalformedPayload) as caught:
        payload(text)
    assert caught.value.status == 400
    assert not text.strip("{ }") or text not in str(caught.value)


def test_an_integer_of_4300_digits_is_read() -> None:
    data = payload('{"EventType":"x","EventTime":1,"userId":' + "9" * 4300 + "}")
    assert data.data["userId"] == int("9" * 4300)
    assert len(data.subject) <= 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)
keys_that_count = [
    *("EventType", "eventType", "CorpId", "corpid", "DataList", "eventId", "TimeStamp", "processInstanceId", "type"),
    *("result", "createTime", "finishTime", "taskId", "staffId", "UserId", "userIdList", "deptId", "chatId"),
]
kinds = st.sampled_from(["bpms_instance_change", "bpms_task_change", "user_add_org", "check_url"])


@given(
    st.dictionaries(st.sampled_from(keys_that_count) | st.text(max_size=5), json_values, max_size=8),
    kinds | json_values,
)
@example({"type": "finish", "processInstanceId": 1.5, "createTime": float("inf")}, "bpms_instance_change")
def test_any_json_object_is_read_or_refused_and_nothing_else_happens(data: dict[str, Any], kind: Any) -> None:
    body = json.dumps({**data, "EventType": kind})
    try:
        result = read(body, NEVER)
    except MalformedPayload:
        assert not isinstance(kind, str) or not kind.strip() or len(kind) > 128
        return
    assert result.body == body
    assert 1 <= len(result.identity) <= 100
    assert max(len(result.corp_id), len(result.event_type)) <= 128
    assert len(result.subject) <= 200
    # Strict JSON without what PostgreSQL or UTF-8 refuse.
    text = json.dumps(result.data, ensure_ascii=False, allow_nan=False)
    assert "\\u0000" not in text.replace("\\\\", "")
    assert text.encode()


@given(st.text() | st.text('{}[]":,EventTypx01e+-.\\u \n', max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else_happens(text: str) -> None:
    try:
        read(text, NEVER)
    except MalformedPayload:
        return


@given(json_values)
def test_making_a_value_storable_changes_it_once(value: Any) -> None:
    once = storable(value)
    assert storable(once) == once


# Fields


def test_fields_are_found_in_any_case_and_the_exact_spelling_wins() -> None:
    fields = Fields({"userid": "first", "UserId": "second"})
    assert fields.get("UserId") == "second"
    assert fields.get("USERID") == "first"
    assert fields.get("missing") is None


@pytest.mark.parametrize("value", ["", 0, None, True, [], {}, ["x"]])
def test_a_text_is_a_non_empty_string_or_a_number(value: Any) -> None:
    assert Fields({"a": value, "b": 5}).text("a", "b") == "5"
