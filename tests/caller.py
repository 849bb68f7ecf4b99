"""An app that calls the simulator's APIs, for the tests of the simulator."""

import time
from typing import Any

import pytest
import requests

from simulator.server import Options, Simulator
from tests.receiver import AES_KEY, TOKEN

# Three attempts and the failed list within a fraction of a second.
FAST = Options(clock_scale=200)


def token_of(simulator: Simulator) -> str:
    query = {"appkey": simulator.options.app_key, "appsecret": simulator.options.app_secret}
    return str(requests.get(f"{simulator.url}/gettoken", params=query, timeout=5).json()["access_token"])


def call(simulator: Simulator, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
    query = {"access_token": token_of(simulator), **query}
    answer: dict[str, Any] = requests.request(method, simulator.url + path, params=query, json=body, timeout=5).json()
    return answer


def fields(url: str, **changes: Any) -> dict[str, Any]:
    return {"call_back_tag": ["user_add_org"], "token": TOKEN, "aes_key": AES_KEY, "url": url, **changes}


def register(simulator: Simulator, url: str, **changes: Any) -> dict[str, Any]:
    return call(simulator, "POST", "/call_back/register_call_back", fields(url, **changes))


def failed_page(simulator: Simulator) -> dict[str, Any]:
    return call(simulator, "GET", "/call_back/get_call_back_failed_result")


def failed_entries(simulator: Simulator, count: int) -> list[dict[str, Any]]:
    """Return the failed list's entries, once it has shown `count` of them."""
    entries: list[dict[str, Any]] = []
    deadline = time.monotonic() + 10
    while len(entries) < count:
        if time.monotonic() > deadline:
            pytest.fail(f"the failed list showed {len(entries)} of {count} entries")
        entries += failed_page(simulator)["failed_list"]
        time.sleep(0.02)
    return entries
