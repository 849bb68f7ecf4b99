"""The callback that DingTalk pushes to, and the two addresses that load balancers ask.

Store, then answer: no handler, no network call and no broker takes part in a request.
"""

import json
import logging
import threading
import time
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import parse_qsl

from django.conf import settings
from django.db import Error, InterfaceError, OperationalError, ProgrammingError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from callbacks import lapse, wakeup
from callbacks.credentials import keyring
from callbacks.deadline import in_time
from callbacks.dingcrypto import MalformedRequest, RefusedPush
from callbacks.inbox import Receipt, receive
from callbacks.payload import Payload, read

logger = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
MAX_PARAMETERS = 100

migrated = threading.Event()


class OversizeBody(RefusedPush):
    """The body is larger than any push."""

    status = 413


@csrf_exempt
@transaction.non_atomic_requests
def callback(request: HttpRequest) -> HttpResponse:
    """Verify, decrypt and store a push, and answer with the encrypted `success` (GET: say that this address lives)."""
    if request.method in ("GET", "HEAD"):
        return JsonResponse({"code": 200, "msg": "ok"})
    if request.method != "POST":
        return _answer(405, "use POST (DingTalk's pushes) or GET", headers={"Allow": "GET, HEAD, POST"})
    began = time.monotonic()
    answer = _acknowledge(request)
    if answer.status_code != 200 or time.monotonic() - began > lapse.LATE:
        lapse.note()
    return answer


def _acknowledge(request: HttpRequest) -> HttpResponse:
    try:
        opened = keyring().open(_query(request), _encrypt_field(request), time.time())
        payload = read(opened.text, salt=f"{opened.timestamp}:{opened.nonce}")
    except RefusedPush as error:
        logger.warning("push from %s refused with %s: %s", _peer(request), error.status, error)
        return _answer(error.status, str(error))
    if payload.is_validation:
        logger.info("%s from %s answered", payload.event_type, opened.owner_key)
    else:
        try:
            receipt = in_time(lambda: receive(payload))
        except Exception as error:  # noqa: BLE001 - whatever keeps an event from being stored must not acknowledge it
            logger.error(
                "%s not stored, answered 503 so that DingTalk pushes again: %s", payload.event_type, _kind(error)
            )
            return _answer(503, "the event could not be stored; push it again")
        if receipt.deliveries:
            wakeup.owed()
        _log(payload, receipt)
    return JsonResponse(opened.seal("success", time.time()))


def healthz(request: HttpRequest) -> HttpResponse:
    """Say that the process is alive."""
    return _answer(200, "alive") if request.method in ("GET", "HEAD") else _answer(405, "use GET")


def readyz(request: HttpRequest) -> HttpResponse:
    """Say whether the database is reachable and migrated; 503 where it isn't."""
    if request.method not in ("GET", "HEAD"):
        return _answer(405, "use GET")
    try:
        ready = in_time(_is_migrated)
    except Error as error:
        logger.error("not ready: the database is not reachable: %s", _kind(error))
        return _answer(503, "the database is not reachable")
    if not ready:
        return _answer(503, "the database is not migrated: run `manage.py migrate`")
    return _answer(200, "ready")


def _is_migrated() -> bool:
    """Tell whether no migration is missing; once none is, only ask the database for a sign of life."""
    if migrated.is_set():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")  # without a table, SQLite would not read its file
        return True
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return False
    migrated.set()
    return True


def _peer(request: HttpRequest) -> str:
    """Return who sent a request, for the log: the address that a trusted proxy names, else the socket's."""
    named = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    if settings.TRUST_PROXY_HEADERS:
        with suppress(ValueError):
            return str(ip_address(named))
    return str(request.META.get("REMOTE_ADDR") or "?")


def _query(request: HttpRequest) -> dict[str, str]:
    """Return the query's parameters; Django's own parsing would follow the charset of a forged Content-Type."""
    try:
        return dict(parse_qsl(request.META.get("QUERY_STRING", ""), max_num_fields=MAX_PARAMETERS))
    except ValueError:
        raise MalformedRequest(f"the query has more than {MAX_PARAMETERS} parameters") from None


def _encrypt_field(request: HttpRequest) -> str:
    try:
        body = json.loads(_body(request))
    except (ValueError, RecursionError):
        raise MalformedRequest("the body is not JSON") from None
    encrypt = body.get("encrypt") if isinstance(body, dict) else None
    if not isinstance(encrypt, str) or not encrypt:
        raise MalformedRequest("the body has no `encrypt` string")
    return encrypt


def _body(request: HttpRequest) -> bytes:
    """Return the body, of which no more than MAX_BODY bytes are read."""
    length = request.META.get("CONTENT_LENGTH") or ""
    try:
        announced = int(length or 0)
    except ValueError:
        raise MalformedRequest("Content-Length is no number") from None
    if announced > MAX_BODY:
        raise OversizeBody("the body is over 1 MB")
    # Django reads nothing of a chunked body, which has no length; where the server marks its end, that is enough.
    chunked = not length and request.META.get("wsgi.input_terminated")
    stream = request.META["wsgi.input"] if chunked else request
    try:
        body: bytes = stream.read(MAX_BODY + 1)
    except UnreadablePostError:
        raise MalformedRequest("the body ended early") from None
    if len(body) > MAX_BODY:
        raise OversizeBody("the body is over 1 MB")
    return body


def _log(payload: Payload, receipt: Receipt) -> None:
    outcome = f"stored, owed to {receipt.deliveries}" if receipt.is_new else "a repeat, stored before"
    logger.info("event %s %s corp=%s: %s", receipt.event_id, payload.event_type, payload.corp_id, outcome)


def _kind(error: Exception) -> str:
    """Return an error's kind and, for a database out of reach or not migrated, its first line; others quote rows."""
    told = isinstance(error, (OperationalError, InterfaceError, ProgrammingError))
    lines = str(error).strip().splitlines() if told else []
    return ": ".join([type(error).__name__, *lines[:1]])


def _answer(status: int, msg: str, headers: dict[str, str] | None = None) -> JsonResponse:
    return JsonResponse({"code": status, "msg": msg}, status=status, headers=headers)
