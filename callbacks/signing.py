"""What is sent to an endpoint: a signed JSON webhook, or DingTalk's own sealed push. Pure: no Django, no I/O.

The first as https://github.com/standard-webhooks/standard-webhooks specifies it, the second as DingTalk documents it
(see `callbacks.dingcrypto`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode, urlsplit

from standardwebhooks.webhooks import Webhook

from callbacks.dingcrypto import CallbackError, DingCrypto, MalformedAesKey, seal

_JSON = {"Content-Type": "application/json", "User-Agent": "dingcallback"}


class MalformedSecret(CallbackError):
    """A secret of an endpoint can't be signed or sealed with; a row to mend, and nothing was sent."""


@dataclass(frozen=True)
class Message:
    """One POST, ready to be sent: its address, headers and body."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def standard(url: str, secrets: Sequence[str], message_id: str, fields: Mapping[str, Any], now: float) -> Message:
    """Return a Standard Webhooks message with the JSON `fields`, with a signature by each of the secrets.

    `now`: seconds. Raises MalformedSecret, also where there is no secret: nothing is sent unsigned.
    """
    if not secrets:
        raise MalformedSecret("it has no secret: `manage.py endpoint rotate` makes one")
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    try:
        body.encode()
    except UnicodeEncodeError:  # a lone surrogate is JSON, but no UTF-8
        body = json.dumps(fields, separators=(",", ":"))
    moment = datetime.fromtimestamp(int(now), timezone.utc)
    try:
        signatures = [Webhook(secret).sign(message_id, moment, body) for secret in secrets]
    except Exception:  # noqa: BLE001 - the library raises several kinds, whose text may quote the secret
        raise MalformedSecret("its secret is no `whsec_` and Base64: `manage.py endpoint rotate` makes one") from None
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now)), "webhook-signature": " ".join(signatures)}
    return Message(url, {**_JSON, **headers}, body.encode())


def sealed(url: str, crypto: DingCrypto, token: str, text: str, now: float) -> Message:
    """Return a push of `text` as DingTalk sends it, its parameters after those that the URL has; `now` in seconds."""
    fields = seal(crypto, token, text, now)
    signature = fields["msg_signature"]
    query = urlencode(
        {
            "signature": signature,
            "msg_signature": signature,
            "timestamp": fields["timeStamp"],
            "nonce": fields["nonce"],
        }
    )
    parts = urlsplit(url)
    address = parts._replace(query=f"{parts.query}&{query}" if parts.query else query, fragment="").geturl()
    return Message(address, _JSON, json.dumps({"encrypt": fields["encrypt"]}).encode())


def crypto_of(aes_key: str, owner_key: str) -> DingCrypto:
    """Return the DingCrypto of an endpoint; MalformedSecret where its aes key is none."""
    try:
        return DingCrypto(aes_key, owner_key)
    except MalformedAesKey:
        raise MalformedSecret(
            "its aes key is not 43 letters and digits: `manage.py endpoint rotate` makes one"
        ) from None
