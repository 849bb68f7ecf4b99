"""The one HTTP request of the relay: to an address that is allowed, within a time limit, for a bounded answer."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import DecodeError, HTTPError, LocationParseError
from urllib3.util import parse_url

from callbacks.addresses import Network
from callbacks.connections import CONNECT_TIMEOUT, Blocked, Call, Resolver, current, resolve, session
from callbacks.dingcrypto import CallbackError

__all__ = ["Answer", "Blocked", "NoAnswer", "post"]

LONGEST_ANSWER = 64 * 1024

# What is said of an error, the first kind that fits; none of it repeats a URL.
_WORDS: list[tuple[type[BaseException], Callable[[Any], str | None]]] = [
    (ssl.SSLCertVerificationError, lambda error: f"TLS: {error.verify_message}"),
    (ssl.SSLError, lambda error: f"TLS: {(error.reason or 'no handshake').replace('_', ' ').lower()}"),
    (socket.gaierror, lambda error: f"the host name does not resolve: {error.strerror}"),
    (UnicodeError, lambda _: "the host name is malformed"),
    (ConnectionRefusedError, lambda _: "connection refused"),
    (ConnectionError, lambda _: "the connection was closed before a whole answer came"),
    (http.client.IncompleteRead, lambda _: "the answer broke off"),
    (http.client.HTTPException, lambda _: "what came is no HTTP answer"),
    (DecodeError, lambda _: "the answer's body is not what its Content-Encoding says"),
    (requests.exceptions.InvalidURL, lambda _: "the URL is malformed"),
    (OSError, lambda error: error.strerror),
]

_local = threading.local()


class NoAnswer(CallbackError):
    """No whole answer came; the text says why, in one line that holds nothing of the URL."""


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered; `headers` are found in any case, `truncated` tells that the body goes on."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    seconds: float = 15.0,
    blocked: Sequence[Network],
    resolver: Resolver = resolve,
) -> Answer:
    """Send one POST and return its answer, of whose body at most 64 KB are read; a redirect is an answer, too.

    `seconds`: for everything, from the name's resolution to the answer's end. Raises Blocked, before anything is
    connected to, where the URL or an address of its host is forbidden, NoAnswer where no whole answer came.
    """
    _demand(url)
    call = Call(blocked, resolver, time.monotonic() + seconds)
    token = current.set(call)
    try:
        outcome = _exchange(url, body, headers, seconds)
        if isinstance(outcome, str) and _was_left(call):
            outcome = _exchange(url, body, headers, seconds)
    finally:
        current.reset(token)
    if isinstance(outcome, str):
        raise NoAnswer(outcome)
    return outcome


def _demand(url: str) -> None:
    """Raise Blocked for a URL that can't be right, whatever its host's addresses are."""
    try:
        parts = parse_url(url)
    except LocationParseError:
        parts = parse_url("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise Blocked("the URL is no http:// or https:// address of a host", "http and https only")
    if parts.auth is not None:
        raise Blocked("the URL holds a user name or a password", "no user name in a URL")


def _exchange(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer | str:
    """Return an answer, or the reason why there is none.

    The reason is raised elsewhere: inside the `except` it would carry the original, and with it the URL's secrets.
    """
    if not hasattr(_local, "session"):
        _local.session = session()
    outward: requests.Session = _local.session
    try:
        with outward.post(url, data=body, headers=dict(headers), timeout=seconds, stream=True) as response:
            content = response.raw.read(LONGEST_ANSWER + 1, decode_content=True)
    except (requests.RequestException, HTTPError, OSError) as error:
        return _reason(error, seconds)
    return Answer(
        response.status_code,
        CaseInsensitiveDict(response.headers),
        content[:LONGEST_ANSWER],
        len(content) > LONGEST_ANSWER,
    )


def _was_left(call: Call) -> bool:
    """Tell whether a connection that was kept had ended at its other side: no byte of an answer came on it.

    An endpoint may have taken the request all the same. It may hear of every event twice, and knows it by its id; if
    each such end were a refusal, an endpoint that closes idle connections would seem to fail.
    """
    return call.sent and not call.connected and not call.heard and time.monotonic() < call.until


def _reason(error: BaseException, seconds: float) -> str:
    """Say in one line what kept an answer from coming; the innermost cause that has words knows best."""
    for cause in reversed(list(_causes(error))):
        if isinstance(cause, TimeoutError):
            if current.get().sent:
                return f"no whole answer within {seconds:g} seconds"
            return f"no connection within {min(CONNECT_TIMEOUT, seconds):g} seconds"
        for kind, words in _WORDS:
            if isinstance(cause, kind) and (text := words(cause)):
                return text
    return f"no answer ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
