"""Entries of the failed list in all their shapes become what a push would have said."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks import payload
from registrar.failed_entries import read_page

APPROVAL = {
    "EventType": "bpms_instance_change",
    "processInstanceId": "3f0c-77a1",
    "corpId": "dingshop0001",
    "createTime": 1790000000000,
    "finishTime": 1790000600000,
    "type": "finish",
    "result": "agree",
    "title": "采购申请",
    "staffId": "u-17",
}


def answer(*entries: Any, has_more: bool = False) -> str:
    return json.dumps({"errcode": 0, "errmsg": "ok", "has_more": has_more, "failed_list": list(entries)})


def push_of(entry: Any) -> Any:
    (read,) = read_page(answer(entry)).entries
    return read.body and json.loads(read.body)


def entry(tag: str, **fields: Any) -> dict[str, Any]:
    return {"call_back_tag": tag, "event_time": 1790000623000, **fields}


@pytest.mark.parametrize("as_text", [False, True])
def test_an_approval_is_the_event_that_was_pushed(as_text: bool) -> None:
    inner = {"bpmsCallBackData": APPROVAL, "corpid": "dingshop0001"}
    deeper = {**inner, "bpmsCallBackData": json.dumps(APPROVAL)}
    for value in (inner, deeper):
        pushed = push_of(entry("bpms_instance_change", bpms_instance_change=json.dumps(value) if as_text else value))
        assert pushed == APPROVAL
        assert payload.read(json.dumps(pushed), "a").identity == payload.read(json.dumps(APPROVAL), "b").identity


@pytest.mark.parametrize(
    ("given_entry", "pushed"),
    [
        (
            entry("label_conf_add", label_conf_add={"roleLabelChange": {"labelIdList": [7]}, "corpid": "dingshop0001"}),
            {"EventType": "label_conf_add", "labelIdList": [7], "CorpId": "dingshop0001"},
        ),
        (
            entry("check_in", check_in={"callbackData": {"staffId": "u-1"}, "corpid": "dingshop0001"}),
            {"EventType": "check_in", "staffId": "u-1", "CorpId": "dingshop0001"},
        ),
        (
            entry("user_add_org", user_add_org={"userid": ["u-1", "u-2"], "corpid": "dingshop0001"}),
            {"EventType": "user_add_org", "userid": ["u-1", "u-2"], "CorpId": "dingshop0001"},
        ),
        (
            entry("org_dept_create", deptid=[11], corpid="dingshop0001"),
            {"EventType": "org_dept_create", "deptid": [11], "CorpId": "dingshop0001"},
        ),
        (
            entry("new_thing", new_thing={"CALLBACKDATA": '{"x": 1}', "corpid": "dingshop0001"}),
            {"EventType": "new_thing", "x": 1, "CorpId": "dingshop0001"},
        ),
        (
            entry("bpms_task_change", bpms_task_change={"bpmsCallBackData": {}, "corpid": "dingshop0001"}),
            {"EventType": "bpms_task_change", "CorpId": "dingshop0001"},
        ),
        (entry("org_change", org_change={}), {"EventType": "org_change"}),
    ],
)
def test_every_shape_becomes_a_push(given_entry: dict[str, Any], pushed: dict[str, Any]) -> None:
    assert push_of(given_entry) == pushed


@pytest.mark.parametrize(
    "given_entry",
    [
        None,
        17,
        "text",
        [],
        {},
        {"event_time": 1},
        {"call_back_tag": 5, "event_time": 1},
        entry("user_add_org", user_add_org=17),
        entry("user_add_org", user_add_org=None),
        entry("user_add_org", user_add_org="{broken"),
        entry("user_add_org", user_add_org={"callbackData": "{broken"}),
        entry("user_add_org", user_add_org={"callbackData": [1]}),
    ],
)
def test_an_unreadable_entry_stays_beside_its_readable_neighbours(given_entry: Any) -> None:
    good = entry("user_add_org", user_add_org={"userid": ["u-1"]})
    before, odd, after = read_page(answer(good, given_entry, good)).entries
    assert before.body == after.body is not None
    assert odd == (given_entry, None)


def test_a_number_that_python_refuses_costs_nothing() -> None:
    raw = answer(entry("a_b", a_b={"n": "N"}), entry("user_add_org", user_add_org={"userid": ["u-1"]}))
    entries = read_page(raw.replace('"N"', "9" * 5000)).entries
    assert [json.loads(read.body or "")["EventType"] for read in entries] == ["a_b", "user_add_org"]


def test_lone_surrogates_and_chinese_can_be_stored() -> None:
    raw = answer(entry("a_b", a_b={"bad": "\ud800", "name": "张三"}))
    (read,) = read_page(raw).entries
    assert payload.read(read.body or "", "s").data["name"] == "张三"
    (read,) = read_page(answer(entry("a_b", a_b={"name": "张三"}))).entries
    assert "张三" in (read.body or "")


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
def test_of_an_answer_that_broke_off_every_whole_entry_is_kept(kept: float) -> None:
    raw = answer(*(entry("user_add_org", user_add_org={"userid": [f"u-{n}"]}) for n in range(50)), has_more=True)
    page = read_page(raw[: int(len(raw) * kept)])
    assert not page.whole
    assert not page.has_more
    whole = [read for read in page.entries if read.body]
    assert len(whole) >= 50 * kept - 2
    assert [json.loads(read.body or "")["userid"] for read in whole] == [[f"u-{n}"] for n in range(len(whole))]
    assert len(page.entries) - len(whole) <= 1


@pytest.mark.parametrize("raw", ["", "<html>", "[]", "17", '{"failed_list": 5}', "[" * 50_000])
def test_what_is_no_page_has_no_entries_and_says_so(raw: str) -> None:
    assert read_page(raw) == ([], False, False)


def test_an_empty_list_that_claims_more_ends_the_reading() -> None:
    assert read_page(answer(has_more=True)) == ([], False, True)
    assert read_page('{"errcode": 0}') == ([], False, True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["call_back_tag", "user_add_org", "callbackData", "corpid", "bpmsCallBackData"]),
                    inner,
                )
            ),
        )
    ),
    st.integers(0, 400),
)
def test_no_answer_makes_it_fail(entries: list[Any], cut: int) -> None:
    raw = answer(*entries)
    assert len(read_page(raw).entries) == len(entries)
    read_page(raw[:cut])
