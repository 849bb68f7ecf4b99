"""A simulator without its HTTP server: the state, and what can be done to it."""

import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

from simulator import sealing
from simulator.dingtalk import DingTalk
from simulator.options import Options
from simulator.pushing import Push, Pusher
from simulator.receiver import Callback
from simulator.samples import make, override

EVENT_FAULTS = ("duplicate", "twin", "reordered", "burst")
PUSH_FAULTS = (*sealing.FAULTS, *EVENT_FAULTS)
# An instance's start and finish have these in common.
_INSTANCE_FIELDS = ("processInstanceId", "businessId", "processCode", "createTime", "staffId", "title", "url")


class Simulation:
    """One DingTalk with one app in it."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.dingtalk = DingTalk(self.options)
        self.calls: list[tuple[str, str]] = []
        self._pusher = Pusher(self.options, lambda: self.callback, self.dingtalk.failed_list)

    @property
    def callback(self) -> Callback | None:
        """Return where pushes go: the callback registered through the API, else the one subscribed."""
        return self.dingtalk.callbacks.registered or self.dingtalk.callbacks.subscribed

    @property
    def acknowledged(self) -> list[dict[str, Any]]:
        """Return the payloads of the pushes that were answered with a sealed `success`."""
        return self._pusher.acknowledged

    @property
    def instances(self) -> dict[str, dict[str, Any]]:
        """Return the process instances put in by hand, by id, in the old API's shape."""
        return self.dingtalk.instances.preset

    @property
    def missing_instances(self) -> set[str]:
        """Return the ids that the instance APIs don't know, whatever was pushed."""
        return self.dingtalk.instances.missing

    @property
    def fetches(self) -> Counter[str]:
        """Return how often each instance was asked for, by either API."""
        return self.dingtalk.instances.fetches

    def subscribe(self, url: str, token: str, aes_key: str) -> None:
        """Subscribe an address as the console does, sealed for the app key; raise SubscriptionError."""
        self.dingtalk.callbacks.subscribe(url, token, aes_key)

    def push(
        self,
        payload_or_type: Mapping[str, Any] | str,
        *,
        style: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        retry: bool = True,
        wait: bool = False,
        fault: str = "",
    ) -> Push:
        """Push a payload, or a sample of a type; `wait`: until it is acknowledged or given up.

        `fault`: one of `sealing.FAULTS`, the way in which the envelope is spoilt.
        """
        payload = self._payload(payload_or_type, style, overrides)
        if not fault:
            self.dingtalk.instances.tell(payload)
        push = Push(payload, retry=retry, fault=fault)
        self._pusher.submit(push)
        if wait:
            push.wait()
        return push

    def push_fault(
        self,
        fault: str,
        payload_or_type: Mapping[str, Any] | str = "user_add_org",
        *,
        count: int = 2,
        style: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> list[Push]:
        """Push in one of the ways of PUSH_FAULTS; return the pushes.

        Spoilt envelopes are not tried again. `duplicate` pushes one event `count` times, `twin` one under `count`
        event ids, `burst` `count` events at once, `reordered` an approval's finish before its start.
        """
        if fault not in PUSH_FAULTS:
            raise ValueError(f"unknown fault {fault}: it is one of {', '.join(PUSH_FAULTS)}")
        if fault in sealing.FAULTS:
            return [self.push(payload_or_type, style=style, overrides=overrides, retry=False, fault=fault)]
        if fault == "reordered":
            return self._push_reordered(style, overrides)
        if fault == "burst":
            return [self.push(payload_or_type, style=style, overrides=overrides) for _ in range(count)]
        payload = self._payload(payload_or_type, style, overrides)
        copies = [payload if fault == "duplicate" else self._twin(payload) for _ in range(count - 1)]
        return [self.push(each) for each in (payload, *copies)]

    def fail(self, api_path: str, fault: str, times: int = 1) -> None:
        """Let the next `times` calls of an API (`*`: of any) go wrong; the faults are `faults.NAMES`."""
        self.dingtalk.faults.add(api_path, fault, times)

    def add_failed(self, entry: dict[str, Any]) -> None:
        """Put an entry on the failed list, as it is."""
        self.dingtalk.failed_list.add(entry)

    def happen(self, payload: Mapping[str, Any]) -> None:
        """Let an approval's step happen that is pushed to nobody; `payload` as a push would say it."""
        self.dingtalk.instances.tell(payload)

    def revoke_tokens(self) -> None:
        """Make every access token invalid (40014)."""
        self.dingtalk.tokens.revoke()

    def state(self) -> dict[str, Any]:
        """Return what there is to see, without a secret."""
        callback = self.callback
        return {
            "callback": callback
            and {"url": callback.url, "owner_key": callback.owner_key, "tags": list(callback.tags)},
            "acknowledged": len(self.acknowledged),
            "failed_list": len(self.dingtalk.failed_list),
            "faults": self.dingtalk.faults.waiting(),
            "fetches": dict(self.fetches),
            "calls_used": self.dingtalk.limits.used,
            "calls": [f"{method} {path}" for method, path in self.calls[-100:]],
        }

    def _payload(
        self, payload_or_type: Mapping[str, Any] | str, style: str | None, overrides: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if isinstance(payload_or_type, str):
            style = style or self.options.style
            return make(payload_or_type, corp_id=self.options.corp_id, style=style, overrides=overrides)
        return override(dict(payload_or_type), overrides or {})

    @staticmethod
    def _twin(payload: Mapping[str, Any]) -> dict[str, Any]:
        return {**payload, "eventId": secrets.token_hex(16)}

    def _push_reordered(self, style: str | None, overrides: Mapping[str, Any] | None) -> list[Push]:
        finish = self._payload("bpms_instance_change", style, {**(overrides or {}), "type": "finish"})
        common = {key: finish[key] for key in _INSTANCE_FIELDS if key in finish}
        start = self._payload("bpms_instance_change", style, {**(overrides or {}), **common, "type": "start"})
        first = self.push(finish)
        first.wait_tried()
        second = self.push(start)
        self.dingtalk.instances.tell(finish)
        return [first, second]
