"""Receive events in DingTalk's own form: python dingtalk_receiver.py, with DINGTALK_TOKEN, _AES_KEY and _OWNER_KEY set.

Python 3.10 or newer; pip install pycryptodome
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from Crypto.Cipher import AES

TOKEN = os.environ["DINGTALK_TOKEN"]
KEY = base64.b64decode(os.environ["DINGTALK_AES_KEY"] + "=")  # 43 characters, 32 bytes
OWNER_KEY = os.environ["DINGTALK_OWNER_KEY"].encode()
PORT = int(os.environ.get("PORT", "8080"))

seen: set[bytes] = set()  # yours is a unique column, in the transaction in which you store the event


def handle(text: str) -> None:
    """Take an event: store it, and work later where the work takes longer than a few seconds."""
    if json.loads(text)["EventType"] == "check_url":
        return  # a question whether this address works
    key = hashlib.sha256(text.encode()).digest()
    if key in seen:
        return  # sent again, because the answer to the first was lost: its text is the same
    print(text, flush=True)
    seen.add(key)


def signature(timestamp: str, nonce: str, encrypt: str) -> str:
    """Return the SHA-1 over the four texts in alphabetical order."""
    return hashlib.sha1("".join(sorted([TOKEN, timestamp, nonce, encrypt])).encode()).hexdigest()


def unseal(encrypt: str) -> str:
    """Return the text inside: 16 random bytes, its length, the text, the owner key, padding."""
    plain = AES.new(KEY, AES.MODE_CBC, KEY[:16]).decrypt(base64.b64decode(encrypt))
    plain = plain[16 : -plain[-1]]
    end = 4 + int.from_bytes(plain[:4], "big")
    if plain[end:] != OWNER_KEY:
        raise ValueError("sealed for another owner key")
    return plain[4:end].decode()


def seal(text: str) -> dict[str, str]:
    """Return the answer's four fields."""
    plain = secrets.token_bytes(16) + len(text.encode()).to_bytes(4, "big") + text.encode() + OWNER_KEY
    padding = 32 - len(plain) % 32
    sealed = AES.new(KEY, AES.MODE_CBC, KEY[:16]).encrypt(plain + bytes([padding]) * padding)
    encrypt, timestamp, nonce = base64.b64encode(sealed).decode(), str(int(time.time() * 1000)), secrets.token_hex(8)
    signed = signature(timestamp, nonce, encrypt)
    return {"msg_signature": signed, "timeStamp": timestamp, "nonce": nonce, "encrypt": encrypt}


class Receiver(BaseHTTPRequestHandler):
    """Verify a request, take its event, and answer."""

    def do_POST(self) -> None:
        """200 and a sealed `success`: taken, and not sent again; anything else, an error here in it: sent later."""
        query = parse_qs(urlsplit(self.path).query)
        encrypt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["encrypt"]
        expected = signature(query["timestamp"][0], query["nonce"][0], encrypt)
        # DingTalk itself, where the callback was registered through the API, sends `signature` only
        given = query.get("msg_signature") or query["signature"]
        if not hmac.compare_digest(expected, given[0]):
            self.answer(401, {"error": "wrong signature: does the token match?"})
            return
        try:
            text = unseal(encrypt)
        except (ValueError, IndexError):
            self.answer(400, {"error": "can't be opened: do the aes key and the owner key match?"})
            return
        handle(text)
        self.answer(200, seal("success"))

    def answer(self, status: int, fields: dict[str, str]) -> None:
        """Answer with JSON."""
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Receiver).serve_forever()
