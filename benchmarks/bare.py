"""The least that could acknowledge a push: a WSGI function that verifies, decrypts, inserts one row and answers."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import psycopg

from callbacks.dingcrypto import Credential, Keyring

DATABASE = os.environ["DATABASE_URL"]
keyring = Keyring(
    [Credential(os.environ["DINGTALK_TOKEN"], os.environ["DINGTALK_AES_KEY"])], [os.environ["DINGTALK_CORP_ID"]]
)
local = threading.local()


def insert(body: str) -> None:
    """Commit one row, as durably as the service does."""
    if DATABASE.startswith("sqlite"):
        if not hasattr(local, "sqlite"):
            local.sqlite = sqlite3.connect(DATABASE.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
            local.sqlite.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        local.sqlite.execute("INSERT INTO bare (body) VALUES (?)", [body])
        return
    if not hasattr(local, "postgresql"):
        local.postgresql = psycopg.connect(DATABASE, autocommit=True)
    local.postgresql.execute("INSERT INTO bare (body) VALUES (%s)", [body])


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer any request as a push."""
    sent = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    opened = keyring.open(dict(parse_qsl(environ["QUERY_STRING"])), json.loads(sent)["encrypt"], time.time())
    insert(opened.text)
    answer = json.dumps(opened.seal("success", time.time())).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
