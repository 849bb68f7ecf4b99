"""What is known of the event types, for labels and warnings only."""

import pytest

from registrar.addresses import is_dingtalk, is_private, malformed
from registrar.catalogue import catalogue, unregistrable
from simulator.samples import event_types


def test_every_documented_type_has_a_meaning_in_both_languages() -> None:
    assert set(event_types()) <= set(catalogue())
    for name, meaning in catalogue().items():
        assert meaning.zh, name
        assert meaning.en.isascii(), name
        assert any("\u4e00" <= character <= "\u9fff" for character in meaning.zh), name


def test_the_apis_list_has_38_types() -> None:
    assert sum(meaning.registrable for meaning in catalogue().values()) == 38


def test_a_type_that_is_not_listed_is_only_warned_of() -> None:
    assert unregistrable(["user_add_org", "todo_task_create", "new_in_2030"]) == ["todo_task_create", "new_in_2030"]


@pytest.mark.parametrize(
    ("name", "metered"),
    [
        ("user_add_org", False),
        ("org_dept_remove", False),
        ("org_change", False),
        ("org_admin_add", False),
        ("label_user_change", False),
        ("industry_medical_full_sync", False),
        ("org_annual_certification_submission", False),
        ("org_remove", True),
        ("bpms_instance_change", True),
        ("bpms_task_change", True),
        ("attendance_check_record", True),
        ("chat_quit", True),
        ("check_in", True),
    ],
)
def test_contacts_are_free_and_the_rest_is_metered(name: str, metered: bool) -> None:
    assert catalogue()[name].metered is metered


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/dingtalk/callback/",
        "http://shop.example:8066/cb?shop=3",
        "http://203.0.113.7/cb",
        "https://[2001:db8::1]/cb",
        "https://钉钉.example/cb",
    ],
)
def test_an_address_is_well_formed(url: str) -> None:
    assert malformed(url) == ""


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("shop.example/cb", "https://"),
        ("ftp://shop.example/cb", "https://"),
        ("https://", "host"),
        ("https:///cb", "host"),
        ("https://shop.example:0/cb", "port"),
        ("https://shop.example:99999/cb", "no URL"),
        ("https://shop.example:x/cb", "no URL"),
        ("https://[::1/cb", "no URL"),
        ("https://shop.example/c b", "blanks"),
        ("https://shop.example/cb\n", "blanks"),
        ("https://shop.example/\x00", "control"),
        ("https://user:pa55@shop.example/cb", "user name"),
        ("https://shop.example/cb#part", "fragment"),
    ],
)
def test_a_malformed_address_is_told_what_is_wrong_and_no_password(url: str, problem: str) -> None:
    assert problem in malformed(url)
    assert "pa55" not in malformed(url)


def test_dingtalks_own_hosts_are_known() -> None:
    assert is_dingtalk("https://oapi.dingtalk.com")
    assert is_dingtalk("https://dingtalk.com/")
    assert not is_dingtalk("http://127.0.0.1:9000")
    assert not is_dingtalk("https://notdingtalk.com")


def test_a_public_name_is_not_private() -> None:
    assert not is_private("https://shop.example/cb")
    assert not is_private("http://8.8.8.8/cb")
    assert is_private("http://192.168.1.9/cb")
    assert is_private("http://shop.local./cb")
