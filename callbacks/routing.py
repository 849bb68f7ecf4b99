"""Which handlers want which events: `router.on("user_add_org")`. Pure: no Django, no I/O."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

from callbacks.dingcrypto import CallbackError
from callbacks.payload import Fields, corp_id

YEAR = 366 * 24 * 3600

HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., dict[str, Any] | None])
Wanted = str | int | Collection[str] | Collection[int] | Collection[str | int]


class RetryLater(CallbackError):
    """Raised by a handler: try again in `seconds`, whatever the schedule says; the attempt counts.

    ValueError, with which the attempt fails like with any other, where that is no number from 0 to a year.
    """

    def __init__(self, seconds: float, reason: str = "the handler asked for a later attempt") -> None:
        if not isinstance(seconds, (int, float)) or not 0 <= seconds <= YEAR:
            raise ValueError(f"RetryLater takes seconds, a number from 0 to {YEAR}, not {seconds!r:.50}")
        super().__init__(reason)
        self.seconds = seconds


class GiveUp(CallbackError):
    """Raised by a handler: no further attempt can help; the delivery is dead, with this reason."""


@dataclass(frozen=True)
class Handler:
    """A function that wants some events; `name` is its dotted path."""

    name: str
    function: Callable[..., dict[str, Any] | None]
    patterns: tuple[str, ...]
    where: Mapping[str, Wanted] = field(default_factory=dict)
    atomic: bool = False
    ordered: bool = True
    timeout: float | None = None
    retry: tuple[int, ...] | None = None

    @property
    def destination(self) -> str:
        """Return what a delivery to this handler is addressed to."""
        return f"handler:{self.name}"

    def wants(self, event_type: str, data: Mapping[str, Any]) -> bool:
        """Tell whether an event of this type and content is owed to this handler."""
        if not any(fnmatchcase(event_type, pattern) for pattern in self.patterns):
            return False
        return _all_match(data, self.where)

    def __call__(self, event: Any, delivery: Any) -> dict[str, Any] | None:
        """Call the function with `event` and, if it names it, `delivery`."""
        if "delivery" in inspect.signature(self.function).parameters:
            return self.function(event, delivery=delivery)
        return self.function(event)


@dataclass(frozen=True)
class Filter:
    """Which events an endpoint wants: of these types (names and globs), organisations and values; empty: any."""

    patterns: tuple[str, ...] = ()
    corps: tuple[str, ...] = ()
    where: Mapping[str, Wanted] = field(default_factory=dict)

    @classmethod
    def of(cls, event_types: Any, corp_ids: Any, where: Any) -> "Filter":
        """Read a row's JSON, which anybody may have written: what has no sense there restricts nothing."""
        return cls(_texts(event_types), _texts(corp_ids), where if isinstance(where, Mapping) else {})

    def wants(self, event_type: str, data: Mapping[str, Any]) -> bool:
        """Tell whether an event of this type and content passes."""
        if self.patterns and not any(fnmatchcase(event_type, pattern) for pattern in self.patterns):
            return False
        if self.corps and corp_id(data) not in self.corps:
            return False
        return _all_match(data, self.where)


class Destination(Protocol):
    """What an event can be owed to: a handler or an endpoint."""

    @property
    def destination(self) -> str:
        """Return what a delivery to it is addressed to."""

    @property
    def ordered(self) -> bool:
        """Tell whether events about one subject go to it one after the other."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the names and globs of the event types that it wants."""

    def wants(self, event_type: str, data: Mapping[str, Any]) -> bool:
        """Tell whether an event of this type and content is owed to it."""


class Router:
    """A table of handlers, filled by the `on` decorator in each app's `handlers.py`."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def on(
        self,
        *patterns: str,
        where: Mapping[str, Wanted] | None = None,
        atomic: bool = False,
        ordered: bool = True,
        timeout: float | None = None,
        retry: Sequence[int] | None = None,
    ) -> Callable[[HandlerFunction], HandlerFunction]:
        """Register a handler for event types by name or glob (`org_dept_*`).

        `where`: values (or collections of values) that payload fields must have, keys in any case, compared as text.
        `atomic`: run in the transaction that settles the delivery, so that what it writes to rows takes effect once.
        `ordered`: False where the order of events about one subject does not matter.
        `timeout`: seconds instead of HANDLER_TIMEOUT; `retry`: seconds before each further attempt instead of
        RETRY_SCHEDULE.
        The function takes `event` and, if it names it, `delivery`; a dict that it returns is kept as the result.
        """
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError('name the event types: @router.on("user_add_org", "org_dept_*")')
        if where is not None and not (isinstance(where, Mapping) and all(isinstance(name, str) for name in where)):
            raise TypeError('`where` is a dict of field names and values: where={"type": "finish"}')

        def register(function: HandlerFunction) -> HandlerFunction:
            name = f"{function.__module__}.{function.__qualname__}"
            _require_callable(name, function)
            if name in self._handlers:
                raise ValueError(f"two handlers are called {name}; rename one of them")
            self._handlers[name] = Handler(
                name, function, patterns, where or {}, atomic, ordered, timeout, None if retry is None else tuple(retry)
            )
            return function

        return register

    def wanting(self, event_type: str, data: Mapping[str, Any]) -> list[Handler]:
        """Return the handlers that want an event of this type and content, in the order of their registration."""
        return [handler for handler in self._handlers.values() if handler.wants(event_type, data)]

    def find(self, destination: str) -> Handler | None:
        """Return the handler with this `handler:<dotted path>`, or None if no app registers it (any more)."""
        return self._handlers.get(destination.removeprefix("handler:"))


def _require_callable(name: str, function: Callable[..., Any]) -> None:
    """Raise TypeError for a function that no worker could ever call with an event."""
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"handler {name} is async; workers call plain functions")
    try:
        inspect.signature(function).bind("event")
    except TypeError:
        try:
            inspect.signature(function).bind("event", delivery="delivery")
        except TypeError:
            raise TypeError(f"handler {name} must take (event) or (event, delivery)") from None


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    return tuple(each for each in values if isinstance(each, str) and each) if isinstance(values, list) else ()


def _all_match(data: Mapping[str, Any], where: Mapping[str, Wanted]) -> bool:
    if not where:
        return True
    fields = Fields(data)
    return all(_matches(fields.get(name), wanted) for name, wanted in where.items())


def _matches(value: Any, wanted: Wanted) -> bool:
    many: Iterable[Any] = wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else [wanted]
    accepted = {str(item) for item in many}
    values = value if isinstance(value, list) else [value]
    return any(str(item) in accepted for item in values if item is not None)


router = Router()
