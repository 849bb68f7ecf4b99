"""The one guarded HTTP request of the relay: to addresses that are allowed, within a time limit, of a bounded answer."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from callbacks.dingcrypto import CallbackError

CONNECT_TIMEOUT = 5.0
LONGEST_ANSWER = 64 * 1024

_local = threading.local()


class Blocked(CallbackError):
    """The address may not be connected to; `rule` is the network that forbids it, or what else does."""

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(f"blocked: {message}")
        self.rule = rule


class NoAnswer(CallbackError):
    """No whole answer came; the text names what was wrong in one line, and holds no secret of the URL."""


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered; `headers` ignores case, `truncated` tells that the body was longer than was read."""

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
    blocked: Sequence[IPv4Network | IPv6Network],
) -> Answer:
    """Send one POST and return its answer, of at most 64 KB; no redirect is followed.

    `seconds`: the limit for everything. Raises Blocked before anything is connected to, NoAnswer where none came.
    """
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.trust_env = False
    try:
        with _local.session.post(
            url,
            data=body,
            headers=dict(headers),
            timeout=(CONNECT_TIMEOUT, seconds),
            allow_redirects=False,
            stream=True,
        ) as response:
            content = response.raw.read(LONGEST_ANSWER + 1, decode_content=True)
            answer = Answer(
                response.status_code,
                CaseInsensitiveDict(response.headers),
                content[:LONGEST_ANSWER],
                len(content) > LONGEST_ANSWER,
            )
    except (requests.RequestException, HTTPError) as error:
        reason = type(error).__name__
    else:
        return answer
    raise NoAnswer(f"no answer ({reason})")
