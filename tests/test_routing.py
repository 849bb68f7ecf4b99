"""Which handlers want which events, and how they are called."""

from typing import Any

import pytest

from callbacks.routing import Router


def names(router: Router, event_type: str, **data: Any) -> list[str]:
    return [handler.function.__name__ for handler in router.wanting(event_type, {"EventType": event_type, **data})]


def routed(*patterns: str, **options: Any) -> Router:
    """Return a router with one handler, called `handler`."""
    router = Router()

    @router.on(*patterns, **options)
    def handler(event: Any) -> None:
        pass

    return router


@pytest.mark.parametrize(
    ("pattern", "wanted", "not_wanted"),
    [
        ("user_add_org", "user_add_org", "user_add_org2"),
        ("org_dept_*", "org_dept_modify", "org_change"),
        ("*", "something new", None),
        ("edu_*_insert", "edu_user_insert", "edu_user_update"),
        ("user_[al]*", "user_leave_org", "user_modify_org"),
        ("user_add_org", "user_add_org", "User_Add_Org"),
    ],
)
def test_types_are_named_or_matched_by_a_glob(pattern: str, wanted: str, not_wanted: str | None) -> None:
    router = routed("nothing_else", pattern)
    assert names(router, wanted) == ["handler"]
    assert not_wanted is None or names(router, not_wanted) == []


@pytest.mark.parametrize(
    ("where", "data", "wanted"),
    [
        ({"type": "finish"}, {"type": "finish"}, True),
        ({"type": "finish"}, {"Type": "finish"}, True),
        ({"PROCESSCODE": "PROC-1"}, {"processCode": "PROC-1"}, True),
        ({"type": "finish"}, {"type": "Finish"}, False),
        ({"type": "finish"}, {}, False),
        ({"type": "None"}, {"type": None}, False),
        ({"processCode": ["PROC-1", "PROC-2"]}, {"processCode": "PROC-2"}, True),
        ({"processCode": ("PROC-1", "PROC-2")}, {"processCode": "PROC-2"}, True),
        ({"processCode": {"PROC-1", "PROC-2"}}, {"processCode": "PROC-3"}, False),
        ({"processCode": []}, {"processCode": "PROC-1"}, False),
        ({"taskId": 811165}, {"taskId": "811165"}, True),
        ({"taskId": "811165"}, {"taskId": 811165}, True),
        ({"deptId": [1, "2"]}, {"deptId": [7, 2]}, True),
        ({"deptId": 1}, {"deptId": [7, 2]}, False),
        ({"type": "finish", "result": "agree"}, {"type": "finish", "result": "agree"}, True),
        ({"type": "finish", "result": "agree"}, {"type": "finish", "result": "refuse"}, False),
    ],
)
def test_where_compares_fields_as_text_whatever_the_case_of_their_keys(
    where: dict[str, Any], data: dict[str, Any], wanted: bool
) -> None:
    assert names(routed("bpms_*", where=where), "bpms_instance_change", **data) == ["handler"] * wanted


def test_two_handlers_of_one_event_are_two_destinations_in_their_order() -> None:
    router = Router()

    @router.on("user_add_org")
    def second_by_name(event: Any) -> None:
        pass

    @router.on("user_*", "user_add_org")
    def first_by_name(event: Any) -> None:
        pass

    assert names(router, "user_add_org") == ["second_by_name", "first_by_name"]
    destinations = [handler.destination for handler in router.wanting("user_add_org", {})]
    assert len(set(destinations)) == 2
    assert [router.find(destination) for destination in destinations] == router.wanting("user_add_org", {})


def test_a_handler_is_called_with_the_delivery_only_if_it_names_it() -> None:
    router = Router()

    @router.on("plain")
    def plain(event: str) -> dict[str, Any]:
        return {"event": event}

    @router.on("with_delivery")
    def with_delivery(event: str, *, delivery: str) -> dict[str, Any]:
        return {"event": event, "delivery": delivery}

    (one,) = router.wanting("plain", {})
    (other,) = router.wanting("with_delivery", {})
    assert one("an event", "a delivery") == {"event": "an event"}
    assert other("an event", "a delivery") == {"event": "an event", "delivery": "a delivery"}
    assert plain("still a function") == {"event": "still a function"}


def test_a_handler_is_addressed_by_its_dotted_path() -> None:
    (handler,) = routed("x").wanting("x", {})
    assert handler.destination == f"handler:{__name__}.routed.<locals>.handler"


def test_a_destination_that_nobody_registers_is_not_found() -> None:
    assert routed("x").find("handler:gone.module.function") is None


def test_two_handlers_of_one_name_are_refused_by_that_name() -> None:
    router = Router()

    def register() -> None:
        @router.on("x")
        def twice(event: Any) -> None:
            pass

    register()
    with pytest.raises(ValueError, match=r"two handlers are called .*twice; rename one"):
        register()


def test_a_decorator_without_event_types_says_what_to_write() -> None:
    router: Any = Router()
    with pytest.raises(TypeError, match="name the event types"):
        router.on()
    with pytest.raises(TypeError, match="name the event types"):
        router.on(lambda event: None)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_handler_says_whether_it_runs_in_the_settling_transaction(atomic: bool) -> None:
    (handler,) = routed("x", atomic=atomic).wanting("x", {})
    assert handler.atomic is atomic


@pytest.mark.parametrize("where", ["x", lambda payload: True, {1: "a"}, ["type"]])
def test_a_where_that_is_no_dict_of_fields_is_refused_when_it_is_written(where: Any) -> None:
    with pytest.raises(TypeError, match="a dict of field names"):
        Router().on("user_add_org", where=where)


def test_a_function_that_no_worker_could_call_is_refused_by_name() -> None:
    def takes_nothing() -> None: ...

    def takes_too_much(event: Any, other: Any) -> None: ...

    async def waits(event: Any) -> None: ...

    for function in (takes_nothing, takes_too_much, waits):
        with pytest.raises(TypeError, match=function.__name__):
            Router().on("user_add_org")(function)  # type: ignore[type-var]


def test_a_function_may_have_parameters_with_defaults() -> None:
    def handler(event: Any, shop: str = "main", *, delivery: Any) -> None: ...

    Router().on("user_add_org")(handler)
