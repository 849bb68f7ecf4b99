"""Connections to allowed addresses only, on which no wait outlasts the request that it is for.

A name is resolved once, all its addresses are judged, and one of those is connected to. A time limit of each read is
none of the whole: a peer that sends one byte at a time would hold a thread for as long as it likes.
"""

import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from callbacks.addresses import Network, forbidding
from callbacks.dingcrypto import CallbackError

CONNECT_TIMEOUT = 5.0
# A connection is used no longer, so that a name that has moved is followed.
CONNECTION_LASTS = 60.0
# Hosts that one thread stays connected to.
HOSTS = 50

# Returns the IP addresses of a host; may block, and raises OSError or UnicodeError where it finds none.
Resolver = Callable[[str], Sequence[str]]


class Blocked(CallbackError):
    """A URL that may not be sent to; `rule` is the network, or the demand on URLs, that forbids it."""

    def __init__(self, problem: str, rule: str) -> None:
        super().__init__(f"blocked: {problem}")
        self.rule = rule


@dataclass
class Call:
    """The request that a thread is at: what it may connect to, until when it may last, and how far it came."""

    blocked: Sequence[Network]
    resolver: Resolver
    until: float
    connected: bool = False  # anew: False on a connection that was kept
    sent: bool = False
    heard: bool = False

    def remaining(self) -> float:
        """Return the seconds that are left; TimeoutError where none are."""
        return _left(self.until)


current: ContextVar[Call] = ContextVar("call")


def resolve(host: str) -> list[str]:
    """Return the IP addresses of a host as this machine finds them, which takes `2130706433` and `127.1`, too."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def session() -> requests.Session:
    """Return a session that connects as `current` allows, follows no redirect, and keeps no cookie."""
    made = _Session()
    made.trust_env = False  # no proxy, no .netrc
    made.headers.clear()
    made.headers["User-Agent"] = "dingcallback"
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(pool_connections=HOSTS, pool_maxsize=1)
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    return made


class _Limited(socket.socket):
    """A socket whose every wait ends with the request under way."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        call = current.get()
        self.settimeout(call.remaining())
        count = super().recv_into(*args, **kwargs)
        call.heard = call.heard or count > 0
        return count

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        current.get().sent = True
        self.settimeout(current.get().remaining())
        super().sendall(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(current.get().remaining())
        return super().send(*args, **kwargs)


class _LimitedTLS(_Limited, ssl.SSLSocket):
    """The same with TLS, whose `sendall` sends piece by piece."""


class _Guarded(HTTPConnection):
    """A connection to an address that was judged, given up when it is old or its address is forbidden since."""

    _address = ""
    _since = 0.0

    def _new_conn(self) -> socket.socket:
        try:
            # The host comes without a dot at its end, which would hide a number from the resolver.
            connected, self._address = _connect(current.get(), self.host, self.port)
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, "not connected") from error
        self._since = time.monotonic()
        return connected

    @property
    def is_connected(self) -> bool:
        """Tell whether the connection may be used again."""
        young = time.monotonic() - self._since < CONNECTION_LASTS
        return young and not forbidding(self._address, current.get().blocked) and super().is_connected


class _GuardedTLS(_Guarded, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        # What the machine trusts, a company's own authority in it (SSL_CERT_FILE works, too), and what requests does.
        context = ssl.create_default_context()
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        context.sslsocket_class = _LimitedTLS
        super().init_poolmanager(connections, maxsize, block, ssl_context=context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Leave out requests' reading of its certificates at every connection: the context has them."""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return none, or requests would read the whole body of a redirect, however long."""


def _connect(call: Call, host: str, port: int) -> tuple[socket.socket, str]:
    """Return a connection to a host whose addresses are all allowed, and the address; Blocked if one is not."""
    until = min(time.monotonic() + CONNECT_TIMEOUT, call.until)
    addresses = list(dict.fromkeys(_in_time(lambda: call.resolver(host), until)))
    for address in addresses:
        if network := forbidding(address, call.blocked):
            raise Blocked(f"{address} is in {network}, which RELAY_BLOCKED_NETWORKS names", str(network))
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        connected = _Limited(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connected.settimeout(_left(until) / left)
            connected.connect((address, port))
            connected.settimeout(_left(until))  # for a TLS handshake
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connected.close()
            failure = error
        else:
            call.connected = True
            return connected, address
    raise failure


def _in_time(work: Callable[[], Sequence[str]], until: float) -> Sequence[str]:
    """Return what `work` does, or raise what it raises; TimeoutError where it goes on, which nothing can interrupt."""
    outcome: Future[Sequence[str]] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(_left(until))
    except NotDone:
        raise TimeoutError from None


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _MaskQueries(logging.Filter):
    """Mask the queries of the URLs that urllib3 logs: they may hold a subscriber's secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = re.sub(r"\?[^\s\"')]*", "?…", record.getMessage()), ()
        return True


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_MaskQueries())
