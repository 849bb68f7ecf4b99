"""Samples: one file per documented type, and a new event from it each time."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.payload import Fields
from callbacks.payload import read as read_payload
from simulator.samples import PAYLOADS, STYLES, WRITTEN_AT, WRITTEN_CORP_ID, event_types, make, parse_overrides

CORP_ID = "dingmycorp0001"
NOW = 1_800_000_000.5


def written(event_type: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((PAYLOADS / f"{event_type}.json").read_text(encoding="utf-8"))
    return data


def test_every_documented_type_has_a_sample() -> None:
    types = event_types()
    assert len(types) == len(set(types)) == 160
    assert {"bpms_instance_change", "user_add_org", "meetingroom_book", "attendance_schedule_change"} <= set(types)
    for event_type in types:
        assert written(event_type)["EventType"] == event_type


def test_the_files_are_written_for_one_moment_and_corp() -> None:
    for event_type in event_types():
        data = written(event_type)
        assert data.get("EventTime", WRITTEN_AT) == WRITTEN_AT
        assert data.get("CorpId", WRITTEN_CORP_ID) == WRITTEN_CORP_ID
        assert WRITTEN_CORP_ID in json.dumps(data)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("event_type", [*event_types(), "not_documented"])
def test_two_samples_are_never_the_same_event(event_type: str, style: str) -> None:
    first, second = (make(event_type, corp_id=CORP_ID, style=style) for _ in range(2))
    read = [read_payload(json.dumps(payload), salt=str(n)) for n, payload in enumerate((first, second))]
    assert read[0].event_type == event_type
    assert read[0].identity != read[1].identity
    assert read[0].corp_id == CORP_ID
    assert WRITTEN_CORP_ID not in json.dumps([first, second])


@pytest.mark.parametrize("event_type", ["org_change", "ats_job_deliver_change", "label_conf_del"])
def test_old_samples_without_an_id_are_set_apart_by_their_time(event_type: str) -> None:
    samples = [make(event_type, corp_id=CORP_ID, style="pascal-2018") for _ in range(500)]
    assert len({str(sample["TimeStamp"]) for sample in samples}) == 500


def test_todays_shape_has_the_envelope_and_camel_case() -> None:
    sample = make("user_add_org", corp_id=CORP_ID, now=NOW)
    assert list(sample) == ["EventType", "EventTime", "CorpId", "BizId", "eventId", "timeStamp", "userId"]
    assert sample["EventTime"] == int(NOW * 1000)
    assert isinstance(sample["timeStamp"], str)
    assert abs(int(sample["timeStamp"]) - NOW * 1000) < 60_000


def test_the_shape_of_2023_has_an_event_id_and_contacts_no_time() -> None:
    assert set(make("user_add_org", corp_id=CORP_ID, style="pascal-2023")) == {
        "eventId",
        "CorpId",
        "EventType",
        "UserId",
    }
    approval = make("bpms_task_change", corp_id=CORP_ID, style="pascal-2023")
    assert {"corpId", "taskId", "processInstanceId"} <= set(approval)
    assert not {"CorpId", "eventId", "EventTime", "BizId"} & set(approval)


def test_the_shape_of_2018_has_pascal_case_and_times_as_text() -> None:
    contact = make("org_dept_create", corp_id=CORP_ID, style="pascal-2018", now=NOW)
    assert contact == {
        "EventType": "org_dept_create",
        "CorpId": CORP_ID,
        "TimeStamp": str(int(NOW * 1000)),
        "DeptId": contact["DeptId"],
    }
    for event_type in ("chat_quit", "todo_task_create"):
        assert isinstance(make(event_type, corp_id=CORP_ID, style="pascal-2018")["TimeStamp"], int)
    approval = make("bpms_task_change", corp_id=CORP_ID, style="pascal-2018")
    assert not {"CorpId", "eventId", "EventTime", "BizId", "taskId", "businessId"} & set(approval)
    assert approval["corpId"] == CORP_ID


def test_attendance_used_to_carry_the_corp_id_in_its_rows_only() -> None:
    sample = make("attendance_check_record", corp_id=CORP_ID, style="pascal-2018")
    assert set(sample) == {"DataList", "EventType"}
    assert sample["DataList"][0]["corpId"] == CORP_ID


def test_education_used_to_be_in_camel_case() -> None:
    assert "classId" in make("edu_user_insert", corp_id=CORP_ID, style="pascal-2018")
    assert "class_id" in make("edu_user_insert", corp_id=CORP_ID)


def test_an_approvals_times_are_whole_seconds_and_keep_their_distance() -> None:
    sample = make("bpms_instance_change", corp_id=CORP_ID, now=NOW)
    assert sample["createTime"] % 1000 == sample["finishTime"] % 1000 == 0
    original = written("bpms_instance_change")
    assert sample["finishTime"] - sample["createTime"] == original["finishTime"] - original["createTime"]
    assert 0 <= NOW * 1000 - sample["finishTime"] < 60_000


def test_what_is_one_id_in_the_file_is_one_id_in_the_sample() -> None:
    sample = make("user_modify_org", corp_id=CORP_ID)
    assert sample["userId"] == [sample["diffInfo"]["userid"]]
    assert sample["userId"] != written("user_modify_org")["userId"]


def test_a_template_outlives_its_instances() -> None:
    first, second = (make("bpms_instance_change", corp_id=CORP_ID) for _ in range(2))
    assert first["processCode"] == second["processCode"]
    assert first["processInstanceId"] != second["processInstanceId"]


@pytest.mark.parametrize(
    ("event_type", "overrides", "absent", "present"),
    [
        ("bpms_instance_change", {"type": "start"}, {"finishTime", "result"}, {"createTime"}),
        ("bpms_instance_change", {"type": "terminate"}, {"result"}, {"finishTime"}),
        ("bpms_instance_change", {"type": "finish", "result": "refuse"}, set(), {"finishTime", "result"}),
        ("bpms_task_change", {"type": "start"}, {"finishTime", "result", "remark"}, {"taskId"}),
        ("bpms_task_change", {"type": "comment", "content": "请补充"}, {"finishTime", "result"}, {"content"}),
        ("bpms_task_change", {"type": "start", "result": "agree"}, {"finishTime"}, {"result"}),
    ],
)
def test_an_approval_carries_what_its_type_carries(
    event_type: str, overrides: dict[str, Any], absent: set[str], present: set[str]
) -> None:
    sample = make(event_type, corp_id=CORP_ID, overrides=overrides)
    assert not absent & set(sample)
    assert present <= set(sample)
    assert overrides.items() <= sample.items()


@pytest.mark.parametrize("style", STYLES)
def test_an_override_replaces_a_key_in_any_case_or_adds_it(style: str) -> None:
    sample = make("user_add_org", corp_id=CORP_ID, style=style, overrides={"USERID": ["u1"], "more": 1})
    assert Fields(sample).get("userId") == ["u1"]
    assert "USERID" not in sample
    assert sample["more"] == 1


def test_an_unknown_type_is_a_bare_envelope() -> None:
    sample = make("brand_new", corp_id=CORP_ID, now=NOW)
    assert list(sample) == ["EventType", "EventTime", "CorpId", "BizId", "eventId"]
    assert sample["EventTime"] == int(NOW * 1000)


@pytest.mark.parametrize(
    "event_type", ["../payloads/user_add_org", "../../manage", "user_add_org/../user_add_org", "", "a/b"]
)
def test_a_type_is_no_path(event_type: str) -> None:
    assert set(make(event_type, corp_id=CORP_ID)) == {"EventType", "EventTime", "CorpId", "BizId", "eventId"}


def test_an_unknown_style_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="camel-2026, pascal-2023, pascal-2018"):
        make("user_add_org", corp_id=CORP_ID, style="kebab-2030")


def test_overrides_are_json_where_they_parse_else_text() -> None:
    texts = ["type=finish", 'userId=["u1","u2"]', "taskId=7", "title=a=b", "empty=", "on=true"]
    assert parse_overrides(texts) == {
        "type": "finish",
        "userId": ["u1", "u2"],
        "taskId": 7,
        "title": "a=b",
        "empty": "",
        "on": True,
    }


@pytest.mark.parametrize("text", ["type", "=finish", ""])
def test_an_override_without_a_key_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ValueError, match="is not key=value") as refused:
        parse_overrides([text])
    assert "\n" not in str(refused.value)


@given(st.text(), st.text())
def test_any_text_is_a_value(key: str, value: str) -> None:
    name = f"k{key}".replace("=", "")
    assert list(parse_overrides([f"{name}={value}"])) == [name.strip()]
