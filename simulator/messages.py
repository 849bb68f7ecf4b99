"""A request to the simulated APIs, its answer, and the errors in the forms in which the APIs tell of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from callbacks.dingcrypto import random_text
from simulator.receiver import SimulatorError
from simulator.sealing import plaintext

OAPI = "oapi"
TOPAPI = "topapi"
V1 = "v1.0"
# Errors that the topapi gateway answers itself, in an envelope of its own.
_GATEWAY = (40000, 40014, 42001, 60011, 60020, 90018, 90020)


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    def fields(self) -> dict[str, Any]:
        """Return the body's fields, from JSON or from a form; empty where it is neither."""
        try:
            data = json.loads(self.body)
        except ValueError:
            return dict(parse_qsl(self.body.decode("utf-8", "replace")))
        return data if isinstance(data, dict) else {}


@dataclass(frozen=True)
class Answer:
    """What the client gets: after `delay` seconds, and `cut` (`half`, `all`) where the connection breaks."""

    body: bytes
    status: int = 200
    content_type: str = "application/json;charset=UTF-8"
    delay: float = 0.0
    cut: str = ""


@dataclass(frozen=True)
class ErrorCode:
    """An error under the names that the old and the new API have for it."""

    errcode: int
    errmsg: str
    status: int = 400
    code: str = "invalidParameter"
    message: str = ""


class ApiError(SimulatorError):
    """A call that is answered with an error."""

    def __init__(self, error: ErrorCode) -> None:
        super().__init__(error.errmsg)
        self.error = error


def as_json(data: Mapping[str, Any], status: int = 200) -> Answer:
    """Return an answer of JSON."""
    return Answer(plaintext(data).encode(), status)


def ok(**fields: Any) -> Answer:
    """Return the old API's answer to what went well."""
    return as_json({"errcode": 0, "errmsg": "ok", **fields})


def refuse(error: ErrorCode, family: str) -> Answer:
    """Return an error as the APIs of `family` tell it."""
    if family == V1:
        body = {"code": error.code, "message": error.message or error.errmsg, "requestid": random_text(24).upper()}
        return as_json(body, error.status)
    if family == TOPAPI and error.errcode in _GATEWAY:
        text = f"ding talk error[subcode={error.errcode},submsg={error.errmsg}]"
        envelope = {"errcode": 88, "sub_code": str(error.errcode), "sub_msg": error.errmsg, "errmsg": text}
        return as_json({**envelope, "request_id": random_text(13).lower()})
    return as_json({"errcode": error.errcode, "errmsg": error.errmsg})
