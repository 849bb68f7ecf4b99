"""The list of pushes that failed for good, as `get_call_back_failed_result` hands it out."""

import threading
import time
from collections.abc import Mapping
from typing import Any

PAGE = 200
KEPT = 7 * 86_400
_ENVELOPE = ("eventtype", "eventtime", "corpid", "bizid", "eventid", "timestamp")


class FailedList:
    """Entries that show up after a while and go when they have been read; times in seconds of `time.monotonic`."""

    def __init__(self, *, delete_on_next_read: bool, clock_scale: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._delete_on_next_read = delete_on_next_read
        self._kept = KEPT / clock_scale
        self._entries: list[tuple[float, dict[str, Any]]] = []
        self._handed_out: list[int] = []

    def add(self, entry: dict[str, Any], delay: float = 0.0) -> None:
        """Put an entry on the list, to show up in `delay` seconds."""
        with self._lock:
            self._entries.append((time.monotonic() + delay, entry))

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return at most a page of entries, and whether there are more; what the read before returned is gone."""
        with self._lock:
            now = time.monotonic()
            gone = set(self._handed_out)
            self._entries = [e for e in self._entries if id(e[1]) not in gone and now - e[0] < self._kept]
            visible = [entry for at, entry in self._entries if at <= now]
            page = visible[:PAGE]
            self._handed_out = [id(entry) for entry in page]
            if not self._delete_on_next_read:
                taken = set(self._handed_out)
                self._entries = [e for e in self._entries if id(e[1]) not in taken]
                self._handed_out = []
            return page, len(visible) > PAGE

    def __len__(self) -> int:
        """Return how many entries there are, those that do not show up yet with them."""
        return len(self._entries)


def entry(payload: Mapping[str, Any], shape: str, corp_id: str, moment: float) -> dict[str, Any]:
    """Return a failed event as an entry; `moment`: seconds since the epoch, the time of the failure.

    `shape`: `callbackData` nests the fields, `inlined` puts them beside the corp id, `flat` is 2016's.
    """
    tag = str(payload.get("EventType", ""))
    head = {"call_back_tag": tag, "event_time": int(moment * 1000)}
    fields = {key: value for key, value in payload.items() if key.lower() not in _ENVELOPE}
    if shape == "flat":
        return {**_lower(fields), "corpid": corp_id, **head}
    if tag.startswith("bpms_"):
        inner: dict[str, Any] = {"bpmsCallBackData": dict(payload)}
    elif tag.startswith("label_"):
        inner = {"roleLabelChange": fields}
    elif shape == "inlined":
        inner = _lower(fields)
    else:
        inner = {"callbackData": fields}
    return {tag: {**inner, "corpid": corp_id}, **head}


def _lower(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in fields.items()}
