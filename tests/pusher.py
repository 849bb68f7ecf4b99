"""DingTalk's side of a push: seal a text with the tests' credentials, send it to the view, open the answer."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.test import Client

from callbacks.dingcrypto import DingCrypto, random_text

PATH = "/dingtalk/callback/"


@dataclass(frozen=True)
class Push:
    """A push's query and body, for any way of sending it."""

    query: dict[str, str]
    body: bytes

    @property
    def address(self) -> str:
        return f"{PATH}?{urlencode(self.query)}"


def seal_push(
    payload: Mapping[str, Any] | str,
    *,
    owner_key: str | None = None,
    token: str | None = None,
    aes_key: str | None = None,
    age: float = 0,
) -> Push:
    """Return a push of a payload (or a text, as it is), sealed now or `age` seconds ago."""
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    owner_key = settings.DINGTALK_CORP_ID if owner_key is None else owner_key
    return sign(DingCrypto(aes_key or settings.DINGTALK_AES_KEY, owner_key).encrypt(text), token=token, age=age)


def sign(encrypt: str, *, token: str | None = None, age: float = 0) -> Push:
    """Return a push of an `encrypt` string with the right signature, whatever is inside."""
    nonce, timestamp = random_text(8), str(int((time.time() - age) * 1000))
    signature = DingCrypto.generate_signature(nonce, timestamp, token or settings.DINGTALK_TOKEN, encrypt)
    query = {"signature": signature, "msg_signature": signature, "timestamp": timestamp, "nonce": nonce}
    return Push(query, json.dumps({"encrypt": encrypt}).encode())


def send(client: Client, push: Push, **headers: str) -> Any:
    """Post a push through Django's test client."""
    return client.post(push.address, push.body, content_type="application/json", headers=headers)


def opened(
    answer: Mapping[str, str], *, owner_key: str | None = None, token: str | None = None, aes_key: str | None = None
) -> str:
    """Return the text inside an answer, its form, signature and owner key checked as DingTalk checks them."""
    assert set(answer) == {"msg_signature", "timeStamp", "nonce", "encrypt"}
    assert all(isinstance(value, str) and value for value in answer.values()), answer
    assert answer["timeStamp"].isdigit()
    assert len(answer["timeStamp"]) == 13
    assert "\n" not in answer["encrypt"]
    assert answer["msg_signature"] == DingCrypto.generate_signature(
        answer["nonce"], answer["timeStamp"], token or settings.DINGTALK_TOKEN, answer["encrypt"]
    )
    owner_key = settings.DINGTALK_CORP_ID if owner_key is None else owner_key
    return DingCrypto(aes_key or settings.DINGTALK_AES_KEY, owner_key).decrypt(answer["encrypt"])
