"""DingTalk's envelope: verify and decrypt a push, encrypt and sign the answer. Pure: no Django, no I/O.

The format, as DingTalk documents it (https://open.dingtalk.com/document/development/http-callback-overview):
AES-256-CBC with key = base64(aes_key + "=") and IV = key[:16]; plaintext = 16 random characters, the message's length
in bytes as a big-endian uint32, the message in UTF-8, the owner key; PKCS7 padding to 32 bytes; signature = SHA-1 over
the sorted token, timestamp, nonce and the `encrypt` string exactly as it was sent.
"""

import base64
import hashlib
import hmac
import re
import secrets
import string
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from Crypto.Cipher import AES

AES_BLOCK = 16
PADDING_BLOCK = 32
RANDOM_PREFIX = 16
_LETTERS_AND_DIGITS = string.ascii_letters + string.digits
_IDENTIFIER = re.compile(rb"[A-Za-z0-9_.-]{1,64}")


class CallbackError(Exception):
    """Root of this app's errors; the text names the cause and what mends it, and never holds a secret."""


class RefusedPush(CallbackError):
    """A push that is not stored; `status` is the HTTP status it is answered with."""

    status = 400


class MalformedRequest(RefusedPush):
    """A part of the request is missing or has no valid form."""


class SignatureMismatch(RefusedPush):
    """No configured token makes this signature."""

    status = 403


class StaleTimestamp(RefusedPush):
    """The request's time is too far from this machine's."""

    status = 403


class BrokenCiphertext(RefusedPush):
    """`encrypt` is no Base64 of whole AES blocks."""


class WrongAesKey(RefusedPush):
    """What decryption gives has no valid padding or length."""


class OwnerKeyMismatch(RefusedPush):
    """The envelope was sealed for an owner key that is not configured."""

    status = 403


class MalformedAesKey(ValueError):
    """The configured aes key is not 43 Base64 characters; a setting to mend, not a request to refuse."""


def random_text(length: int) -> str:
    """Return `length` random ASCII letters and digits."""
    return "".join(secrets.choice(_LETTERS_AND_DIGITS) for _ in range(length))


def _decode_aes_key(aes_key: str) -> bytes:
    """Return the 32 bytes of a 43-character key; its last character may carry unused bits, as most random keys do."""
    try:
        key = base64.b64decode(aes_key + "=", validate=True)
    except ValueError:
        key = b""
    if len(aes_key) != 43 or len(key) != 32:
        raise MalformedAesKey("the aes key must be 43 letters and digits (`manage.py dingtalk keygen` makes one)")
    return key


class DingCrypto:
    """Encrypt and decrypt for one aes key and one owner key (corp id or app key)."""

    def __init__(self, aes_key: str, owner_key: str) -> None:
        self._key = _decode_aes_key(aes_key)
        self.owner_key = owner_key

    def encrypt(self, text: str) -> str:
        """Return `text` sealed for the owner key, as Base64 without line breaks."""
        message = text.encode()
        plain = (
            random_text(RANDOM_PREFIX).encode() + struct.pack(">I", len(message)) + message + self.owner_key.encode()
        )
        pad = PADDING_BLOCK - len(plain) % PADDING_BLOCK
        cipher = AES.new(self._key, AES.MODE_CBC, self._key[:AES_BLOCK])
        return base64.b64encode(cipher.encrypt(plain + bytes([pad]) * pad)).decode()

    def decrypt(self, encrypt: str) -> str:
        """Return the text inside; BrokenCiphertext, WrongAesKey, OwnerKeyMismatch or MalformedRequest if it can't."""
        message, owner = self.unseal(encrypt)
        if not hmac.compare_digest(owner, self.owner_key.encode()):
            raise OwnerKeyMismatch(f"sealed for {_printable(owner)}, not for {self.owner_key}")
        return _as_text(message)

    def unseal(self, encrypt: str) -> tuple[bytes, bytes]:
        """Return (message, owner key) as bytes; the owner key is not compared."""
        try:
            # Python's official library of DingTalk sends a line break at the end, so blanks are borne.
            sealed = base64.b64decode("".join(encrypt.split()), validate=True)
        except ValueError:
            raise BrokenCiphertext("`encrypt` is not Base64") from None
        if not sealed or len(sealed) % AES_BLOCK:
            raise BrokenCiphertext("`encrypt` does not hold whole AES blocks")
        plain = AES.new(self._key, AES.MODE_CBC, self._key[:AES_BLOCK]).decrypt(sealed)
        pad = plain[-1]
        if not 1 <= pad <= PADDING_BLOCK or plain[-pad:] != bytes([pad]) * pad:
            raise WrongAesKey("the padding is wrong")
        body = plain[RANDOM_PREFIX:-pad]
        if len(body) < 4 or (length := struct.unpack(">I", body[:4])[0]) > len(body) - 4:
            raise WrongAesKey("the length field is wrong")
        return body[4 : 4 + length], body[4 + length :]

    @staticmethod
    def generate_signature(nonce: str, timestamp: str, token: str, msg_encrypt: str) -> str:
        """Return the lower-case hex SHA-1 that DingTalk sends as `signature`."""
        # surrogatepass: a forged query may hold any character, and gets a mismatch, not an exception
        joined = "".join(sorted([nonce, timestamp, token, msg_encrypt])).encode("utf-8", "surrogatepass")
        return hashlib.sha1(joined).hexdigest()  # noqa: S324 - the protocol's choice


@dataclass(frozen=True)
class Credential:
    """A callback's token and aes key."""

    token: str = field(repr=False)
    aes_key: str = field(repr=False)


@dataclass(frozen=True)
class Opened:
    """An opened envelope: its text, its request's timestamp and nonce, and the means to answer it."""

    text: str = field(repr=False)
    timestamp: str
    nonce: str
    _crypto: DingCrypto = field(repr=False)
    _token: str = field(repr=False)

    @property
    def owner_key(self) -> str:
        """Return the configured owner key that the envelope was sealed for."""
        return self._crypto.owner_key

    def seal(self, text: str, now: float) -> dict[str, str]:
        """Return the answer's JSON fields, sealed with the credential and owner key that opened the request."""
        return seal(self._crypto, self._token, text, now)


def seal(crypto: DingCrypto, token: str, text: str, now: float) -> dict[str, str]:
    """Return `msg_signature`, `timeStamp` (ms, 13 digits), `nonce` and `encrypt` for `text`; `now` in seconds."""
    timestamp, nonce, encrypt = str(int(now * 1000)), random_text(8), crypto.encrypt(text)
    signature = crypto.generate_signature(nonce, timestamp, token, encrypt)
    return {"msg_signature": signature, "timeStamp": timestamp, "nonce": nonce, "encrypt": encrypt}


class Keyring:
    """Every credential (current, previous) and owner key (app key, corp id) that a push may be sealed with."""

    def __init__(self, credentials: Iterable[Credential], owner_keys: Iterable[str], max_age: int = 0) -> None:
        """`max_age`: seconds by which a request's time may differ from now; 0: not checked."""
        self._credentials = list(credentials)
        self._owner_keys = list(owner_keys)
        self._max_age = max_age

    def open(self, query: Mapping[str, str], encrypt: str, now: float) -> Opened:
        """Verify, then decrypt a push; `now` in seconds. Raise the RefusedPush that names what is wrong."""
        signature = _first(query, "signature", "msg_signature")
        timestamp = _first(query, "timestamp", "timeStamp")
        nonce = _first(query, "nonce")
        matching = [c for c in self._credentials if self._signed(c, signature, timestamp, nonce, encrypt)]
        if not matching:
            raise SignatureMismatch(
                "signature mismatch: DINGTALK_TOKEN differs from the token that DingTalk signs with"
            )
        self._check_age(timestamp, now)
        crypto, message = self._unseal(matching, encrypt)
        token = next(c.token for c in matching)
        return Opened(_as_text(message), timestamp, nonce, crypto, token)

    @staticmethod
    def _signed(credential: Credential, signature: str, timestamp: str, nonce: str, encrypt: str) -> bool:
        expected = DingCrypto.generate_signature(nonce, timestamp, credential.token, encrypt)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass"))

    def _check_age(self, timestamp: str, now: float) -> None:
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) in (10, 13)):
            raise MalformedRequest("`timestamp` must be 13 digits (ms) or 10 digits (s)")
        age = now - int(timestamp) / (1000 if len(timestamp) == 13 else 1)
        if self._max_age and abs(age) > self._max_age:
            direction = "behind" if age > 0 else "ahead of"
            raise StaleTimestamp(
                f"stale timestamp: {abs(age):.0f} seconds {direction} this machine's clock; check this machine's clock"
            )

    def _unseal(self, credentials: list[Credential], encrypt: str) -> tuple[DingCrypto, bytes]:
        unknown_owner: bytes | None = None
        for credential in credentials:
            crypto = DingCrypto(credential.aes_key, "")
            try:
                message, owner = crypto.unseal(encrypt)
            except WrongAesKey:
                continue
            for owner_key in self._owner_keys:
                if hmac.compare_digest(owner, owner_key.encode()):
                    return DingCrypto(credential.aes_key, owner_key), message
            unknown_owner = owner
        if unknown_owner is None:
            raise WrongAesKey("decryption failed: DINGTALK_AES_KEY differs from the key that DingTalk encrypts with")
        raise OwnerKeyMismatch(
            f"sealed for {_printable(unknown_owner)}, which is neither DINGTALK_APP_KEY (subscribed in the console) "
            "nor DINGTALK_CORP_ID (registered through the API)"
        )


def _first(query: Mapping[str, str], *names: str) -> str:
    """Return the first of the named query parameters that has a value."""
    for name in names:
        if value := query.get(name):
            return value
    raise MalformedRequest(f"the query has no `{names[0]}`")


def _as_text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise MalformedRequest("the decrypted text is not UTF-8") from None


def _printable(owner: bytes) -> str:
    """Return a foreign owner key for a log line, unless it may be the end of a message whose length was wrong."""
    if not owner:
        return "nobody"
    return owner.decode() if _IDENTIFIER.fullmatch(owner) else "what is no identifier"
