"""A text that is encrypted in its row: by FIELD_ENCRYPTION_KEYS, or by keys that follow from SECRET_KEY."""

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import models

from callbacks.dingcrypto import CallbackError

MARK = "fernet:"  # how an encrypted text begins, in rows and in dumps

# What Fernet makes of no text at all: version, time, vector, one block, digest.
FERNET_VERSION, FERNET_LENGTH = b"\x80", 1 + 8 + 16 + 16 + 32


class Unreadable(CallbackError):
    """A row's secret was encrypted with a key that is not configured (any more)."""


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]  # not subscriptable when it runs
    """A text that only this process sees: its row, and a dump of it, hold what `cryptography` makes of it."""

    def get_prep_value(self, value: Any) -> Any:
        """Encrypt; what is encrypted already, as in a dump that is loaded, stays as it is."""
        if value in (None, "") or _is_encrypted(str(value)):
            return value
        return MARK + _cipher().encrypt(str(value).encode()).decode()

    def from_db_value(self, value: str | None, *_: Any) -> str | None:
        """Decrypt; Unreadable where none of the keys does."""
        if not value or not value.startswith(MARK):
            return value
        try:
            return _cipher().decrypt(value.removeprefix(MARK).encode()).decode()
        except InvalidToken:
            raise Unreadable(
                f"its {self.name} can't be read: put the key that encrypted it at the end of FIELD_ENCRYPTION_KEYS"
            ) from None

    def value_to_string(self, obj: models.Model) -> str:
        """Return what a dump holds: the encrypted text."""
        return str(self.get_prep_value(self.value_from_object(obj)) or "")


def _is_encrypted(text: str) -> bool:
    """Tell an encrypted text, by whichever key, from a clear one that begins like it."""
    try:
        token = base64.urlsafe_b64decode(text.removeprefix(MARK).encode())
    except ValueError:
        return False
    return text.startswith(MARK) and token.startswith(FERNET_VERSION) and len(token) >= FERNET_LENGTH


def _cipher() -> MultiFernet:
    return _cipher_of(tuple(settings.FIELD_ENCRYPTION_KEYS), (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=4)
def _cipher_of(keys: Sequence[str], secret_keys: Sequence[str]) -> MultiFernet:
    """The first key encrypts; those of SECRET_KEY go on reading what was written before there were others."""
    return MultiFernet([Fernet(_derived(key)) for key in (*keys, *secret_keys) if key])


def _derived(key: str) -> bytes:
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"dingcallback secrets in rows")
    return base64.urlsafe_b64encode(derivation.derive(key.encode()))
