"""Look at everything that must be right for events to arrive and be carried, and name the remedy for what isn't."""

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NamedTuple

from django.conf import settings
from django.core.checks import run_checks
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.timezone import localtime

from callbacks import circuit, outbox
from callbacks.models import Delivery, Endpoint
from callbacks.worker import kind
from registrar import calls
from registrar.client import DingTalkClient
from registrar.errors import DingTalkError, NotReached, NotRegistered
from registrar.models import FailedListWatch, FailedPage
from registrar.registration import Registration, differences
from registrar.transport import exchange

TIMEOUT = 10.0


class Finding(NamedTuple):
    """What was looked at, whether it is as it should be, what was seen, and what to do about it."""

    name: str
    fine: bool
    seen: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Yield a finding about each part; of what needs another part that is not well, only that it can't be known."""
    wrong = _settings()
    yield from wrong or [Finding("settings", True, "complete and well-formed")]
    database = _asked("database", _database)
    yield database
    if settings.CELERY_BROKER_URL:
        yield _broker()
    yield _asked("callback", _callback)
    token = _asked("token", _token)
    yield token
    yield _asked("registration", _registration) if token.fine else _unknown("registration", "token")
    for name, look in _IN_ROWS.items():
        yield _asked(name, look) if database.fine else _unknown(name, "database")


def _asked(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except DingTalkError as error:
        said = " ".join(part for part in (error.code, error.words) if part)
        return Finding(name, False, ": ".join(part for part in (said, error.cause) if part), error.step)
    except Error as error:
        return Finding(
            name, False, kind(error), "check DATABASE_URL and that the server is up, then `manage.py migrate`"
        )


def _unknown(name: str, other: str) -> Finding:
    return Finding(name, False, "not known", f"mend the {other} first")


def _settings() -> list[Finding]:
    silenced = set(settings.SILENCED_SYSTEM_CHECKS)
    wrong = [message for message in run_checks() if message.is_serious() and message.id not in silenced]
    return [Finding("settings", False, *_halves(message.msg)) for message in wrong]


def _halves(text: str) -> tuple[str, str]:
    problem, _, remedy = text.partition(": ")
    return problem, remedy


def _database() -> Finding:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        return Finding(
            "database", False, f"{connection.vendor}, migrations missing: {len(missing)}", "`manage.py migrate`"
        )
    return Finding("database", True, f"{connection.vendor}, reachable and migrated")


def _broker() -> Finding:
    try:
        app = import_module(settings.CELERY_APPLICATION).app
        with app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, timeout=TIMEOUT)
    except ImportError as error:
        return Finding("broker", False, kind(error), "pip install -r requirements-celery.txt")
    except Exception as error:  # noqa: BLE001 - each transport raises its own
        return Finding("broker", False, kind(error), "check CELERY_BROKER_URL and that the broker is up")
    return Finding("broker", True, "takes connections")


def _callback() -> Finding:
    url = settings.DINGTALK_CALLBACK_URL
    if not url:
        return Finding("callback", True, "DINGTALK_CALLBACK_URL is not set, so its address was not tried from here")
    start = "start the web server (`manage.py serve`), let no proxy redirect, and `curl -i` the address from outside"
    try:
        status, body = exchange("GET", url, {}, TIMEOUT)
    except NotReached as error:
        return Finding("callback", False, f"{error.code}: {error.cause}", start)
    try:
        lives = status == 200 and json.loads(body).get("code") == 200
    except (ValueError, AttributeError):
        lives = False
    if lives:
        return Finding("callback", True, f"{url} answers from here, which is not to say from the internet")
    return Finding("callback", False, f"{url} answers HTTP {status}, and not as this service does", start)


def _token() -> Finding:
    DingTalkClient.from_settings().token()
    return Finding("token", True, "DingTalk gives one for this app key and secret")


def _registration() -> Finding:
    try:
        found = differences(Registration.from_answer(DingTalkClient.from_settings().query_callback()))
    except NotRegistered:
        return Finding("registration", True, "none through the API, which is as it should be if the console's is used")
    if found:
        names = ", ".join(name.replace("_", " ") for name in found)
        return Finding("registration", False, f"DingTalk differs in: {names}", "`manage.py dingtalk update`")
    return Finding("registration", True, "DingTalk has what the settings say")


def _worker() -> Finding:
    count = outbox.unattended()
    if count:
        feeds = "`manage.py deliver --feed`, and `celery -A dingcallback worker`"
        remedy = feeds if settings.CELERY_BROKER_URL else "`manage.py deliver`"
        return Finding("worker", False, f"{count} deliveries are due and nobody carries them", remedy)
    return Finding("worker", True, "nothing is due for longer than a minute")


def _deliveries() -> Finding:
    count = Delivery.objects.filter(state=Delivery.State.DEAD).count()
    seen = f"dead: {count}; `manage.py redeliver --state dead` shows them" if count else "none is dead"
    return Finding("deliveries", True, seen)


def _endpoints() -> Finding:
    ill = [f"{each.name} is {each.condition.value}" for each in Endpoint.objects.all() if _is_ill(each)]
    return Finding("endpoints", not ill, ", ".join(ill) or "none fails", "`manage.py endpoint list` says why")


def _is_ill(endpoint: Endpoint) -> bool:
    if endpoint.condition == Endpoint.Condition.DISABLED:
        return bool(endpoint.disabled_because) and not endpoint.disabled_because.startswith(circuit.BY_HAND)
    return endpoint.condition == Endpoint.Condition.FAILING


def _failed_list() -> Finding:
    watch = FailedListWatch.objects.filter(pk=1).first()
    read = f"last read {localtime(watch.read_at):%Y-%m-%d %H:%M}" if watch and watch.read_at else "never read"
    if watch and watch.failures:
        return Finding("failed list", False, f"{read}, and not to its end", "`manage.py dingtalk failed` says why")
    every = settings.FAILED_LIST_WATCH
    by = f"workers read it every {every} s" if every else "no worker reads it (FAILED_LIST_WATCH=21600 has them do so)"
    return Finding("failed list", True, f"{read}; {by}")


def _pages() -> Finding:
    left = FailedPage.objects.not_imported().count()
    if left:
        return Finding("pages", False, f"failed list pages not imported yet: {left}", "`manage.py dingtalk failed`")
    return Finding("pages", True, "every page of the failed list is imported")


def _calls() -> Finding:
    count, most = calls.used(), settings.DINGTALK_MONTHLY_CALLS
    seen = f"{count} of {most} this month"
    if calls.spared():
        return Finding("API calls", False, seen, "buy more, and set DINGTALK_MONTHLY_CALLS to what there is")
    return Finding("API calls", True, seen)


_IN_ROWS = {
    "worker": _worker,
    "deliveries": _deliveries,
    "endpoints": _endpoints,
    "failed list": _failed_list,
    "pages": _pages,
    "API calls": _calls,
}
