"""Push many sealed events over persistent connections, and measure what comes back."""

import http.client
import itertools
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from simulator.receiver import Callback, wrong_with
from simulator.samples import make
from simulator.sealing import plaintext, seal_push

TIMEOUT = 10.0
# After a broken connection: a receiver that is being restarted should not be told all events in the meantime.
PAUSE = 0.05


@dataclass
class LoadReport:
    """What became of the events; `latencies` (seconds) of the acknowledged ones only."""

    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def p50(self) -> float:
        """Return the median latency in seconds."""
        return self._quantile(0.5)

    @property
    def p99(self) -> float:
        """Return the latency in seconds that one in a hundred exceeds."""
        return self._quantile(0.99)

    @property
    def per_second(self) -> float:
        """Return the acknowledgements per second."""
        return len(self.acknowledged) / self.seconds if self.seconds else 0.0

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass(frozen=True)
class _Sealed:
    payload: dict[str, Any]
    target: str
    body: str


@dataclass(frozen=True)
class _Answered:
    payload: dict[str, Any]
    seconds: float
    status: int
    text: str


def run(
    url: str,
    token: str,
    aes_key: str,
    owner_key: str,
    *,
    connections: int = 8,
    count: int = 1000,
    payloads: Iterable[Mapping[str, Any]] | None = None,
    corp_id: str = "dingsimulatorcorp01",
    event_types: Iterable[str] = ("user_add_org",),
    stop: threading.Event | None = None,
) -> LoadReport:
    """Push `payloads`, or `count` samples of `event_types` in turn, each once; set `stop` to end early.

    Events are sealed before the clock starts and answers verified after it stopped, so that what is measured is the
    receiver and the client's sockets.
    """
    callback = Callback(url, token, aes_key, owner_key)
    if payloads is None:
        kinds = itertools.islice(itertools.cycle(event_types), count)
        payloads = [make(kind, corp_id=corp_id) for kind in kinds]
    waiting = deque(_seal(callback, payload) for payload in payloads)
    answers: list[_Answered] = []
    args = (callback, waiting, answers, stop or threading.Event())
    threads = [threading.Thread(target=_push_all, args=args, name=f"load-{n}") for n in range(connections)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _report(callback, answers, time.monotonic() - started)


def _seal(callback: Callback, payload: Mapping[str, Any]) -> _Sealed:
    address, body = seal_push(callback, plaintext(payload), "signature")
    parts = urlsplit(address)
    return _Sealed(dict(payload), f"{parts.path or '/'}?{parts.query}", body)


def _push_all(callback: Callback, waiting: deque[_Sealed], answers: list[_Answered], stop: threading.Event) -> None:
    """Push over one connection until nothing waits; a connection that broke is opened anew for the next event."""
    parts = urlsplit(callback.url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    while not stop.is_set():
        try:
            event = waiting.popleft()
        except IndexError:
            break
        started = time.perf_counter()
        try:
            connection.request("POST", event.target, event.body, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                status, text = response.status, response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            status, text = 0, type(error).__name__
            connection.close()
            stop.wait(PAUSE)
        answers.append(_Answered(event.payload, time.perf_counter() - started, status, text))
    connection.close()


def _report(callback: Callback, answers: Iterable[_Answered], seconds: float) -> LoadReport:
    report = LoadReport(seconds=seconds)
    for answer in answers:
        if answer.status != 200:
            report.refusals[f"{answer.status} {_shortened(answer.text)}".strip()] += 1
        elif reason := wrong_with(answer.text, callback):
            report.refusals[reason] += 1
        else:
            report.acknowledged.append(answer.payload)
            report.latencies.append(answer.seconds)
    return report


def _shortened(text: str) -> str:
    """Return the `msg` of an answer, or its first characters."""
    try:
        return str(json.loads(text)["msg"])[:200]
    except (ValueError, KeyError, TypeError):
        return text[:200]
