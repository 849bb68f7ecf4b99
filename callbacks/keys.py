"""Fresh secrets: for `.env`, valid by the rules of DingTalk's console and of its API alike, and for endpoints. Pure."""

import base64
import secrets
import string

WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 - what every one begins with
_LETTERS_AND_DIGITS = string.ascii_letters + string.digits
# The last of 43 Base64 characters carries two unused bits; with these they are zero, as strict decoders want them.
_CANONICAL_ENDS = "AEIMQUYcgkosw048"


def new_token() -> str:
    """Return a callback token: 32 letters and digits (console: 3 to 32 of them; API: 6 to 63 characters)."""
    return _random(32)


def new_aes_key() -> str:
    """Return 43 letters and digits that decode to 32 bytes."""
    return _random(42) + secrets.choice(_CANONICAL_ENDS)


def new_secret_key() -> str:
    """Return a SECRET_KEY for Django that needs no quotes in `.env`."""
    return _random(64)


def new_webhook_secret() -> str:
    """Return a secret of the Standard Webhooks form, `whsec_` and 32 random bytes in Base64."""
    return WEBHOOK_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS_AND_DIGITS) for _ in range(length))
