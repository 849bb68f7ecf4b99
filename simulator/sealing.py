"""A push's address and body, as DingTalk seals them or spoilt in one way."""

import base64
import json
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from callbacks.dingcrypto import DingCrypto, random_text, seal
from simulator.receiver import Callback

FAULTS = ("signature", "owner_key", "aes_key", "padding", "ciphertext", "stale", "json")
CHECK_URL = '{"EventType":"check_url"}'
_DAY = 86_400


def plaintext(payload: Mapping[str, Any]) -> str:
    """Return a payload as the text that is sealed; half a surrogate pair, which UTF-8 can't hold, is escaped."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(payload, separators=(",", ":")) if re.search("[\ud800-\udfff]", text) else text


def seal_push(callback: Callback, text: str, query_names: str, fault: str = "") -> tuple[str, str]:
    """Return (url, body) of a push of `text`; `fault` is one of FAULTS."""
    owner_key = f"ding{random_text(16).lower()}" if fault == "owner_key" else callback.owner_key
    crypto = DingCrypto(random_text(43) if fault == "aes_key" else callback.aes_key, owner_key)
    now = time.time() - (_DAY if fault == "stale" else 0)
    sealed = seal(crypto, callback.token, "no JSON" if fault == "json" else text, now)
    if fault in ("padding", "ciphertext"):
        sealed["encrypt"] = _spoil(sealed["encrypt"], fault)
    token = random_text(16) if fault == "signature" else callback.token
    signature = crypto.generate_signature(sealed["nonce"], sealed["timeStamp"], token, sealed["encrypt"])
    names = ("signature", "msg_signature") if query_names == "both" else (query_names,)
    query = dict.fromkeys(names, signature) | {"timestamp": sealed["timeStamp"], "nonce": sealed["nonce"]}
    separator = "&" if "?" in callback.url else "?"
    return callback.url + separator + urlencode(query), json.dumps(
        {"encrypt": sealed["encrypt"]}, separators=(",", ":")
    )


def _spoil(encrypt: str, fault: str) -> str:
    """Return a ciphertext whose padding is wrong, or that ends within a block."""
    sealed = bytearray(base64.b64decode(encrypt))
    if fault == "ciphertext":
        del sealed[-5:]
    else:
        # In CBC a byte of the last block but one flips the same byte of the last block's plaintext: its padding.
        sealed[-17] ^= 0xFF
    return base64.b64encode(sealed).decode()
