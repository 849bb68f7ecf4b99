"""Access tokens: handed out, renewed, expired and revoked."""

import threading
import time

from callbacks.dingcrypto import random_text


class Tokens:
    """The access tokens of one app."""

    def __init__(self, lifetime: float) -> None:
        self.lifetime = lifetime
        self._lock = threading.Lock()
        self._expiry: dict[str, float] = {}
        self._current = ""

    def issue(self) -> str:
        """Return the current token, renewed, or a new one where that has expired."""
        with self._lock:
            now = time.monotonic()
            if self._expiry.get(self._current, 0.0) <= now:
                self._current = random_text(32).lower()
            self._expiry[self._current] = now + self.lifetime
            return self._current

    def revoke(self) -> None:
        """Make every token invalid."""
        with self._lock:
            self._expiry.clear()

    def known(self, token: str) -> bool:
        """Tell whether a token was handed out and not revoked; it may have expired."""
        return token in self._expiry

    def expired(self, token: str) -> bool:
        """Tell whether a known token's time is over."""
        return self._expiry.get(token, 0.0) <= time.monotonic()
