"""Whatever comes: 4xx with a code and a message, no row, and no secret in an answer or in the log."""

import base64
import json
import logging
import random
import string
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from Crypto.Cipher import AES
from django.conf import settings
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from callbacks.dingcrypto import DingCrypto
from callbacks.middleware import forget_charset
from callbacks.models import Event
from tests.pusher import PATH, Push, seal_push, send, sign

SEED = 20_260_101
MARK = "hunter2-plaintext"
SECRETS = (settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY, settings.DINGTALK_APP_SECRET, MARK)
USER = {"EventType": "user_add_org", "TimeStamp": "1547555546471", "UserId": [MARK], "CorpId": "dingtestcorp0001"}
TEXT = json.dumps(USER)
CONTENT_TYPES = [
    "application/json",
    "application/json; charset=hex",
    "application/json; charset=utf-16",
    "application/json; charset=no-such-charset",
    "application/json; charset=\u00ff",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain; charset=rot13",
    "text/plain;\tCharset = 'undefined'",
    "multipart/form-data; a=\"x\"; charset*=utf-8''idna; boundary=x",
    "",
    ";;=",
]
# A request: query string, body, Content-Type.
Request = tuple[str, bytes, str]


@pytest.fixture
def refused(
    client: Client, db: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Request], None]:
    """Return a function that sends a request and asserts all that is promised of a malformed one."""
    for name in ("callbacks", "django"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    # Queries would be logged, too, which has nothing to do with what is refused.
    caplog.set_level(logging.DEBUG)
    client.raise_request_exception = False
    # The test client makes its requests itself, where the web server has `forget_charset` in front of Django.
    handle: Any = client.handler
    monkeypatch.setattr(client, "handler", lambda environ: forget_charset(lambda e, _: handle(e))(environ, None))

    def check(request: Request) -> None:
        query, body, content_type = request
        caplog.clear()
        answer = client.generic("POST", PATH, body, content_type=content_type, QUERY_STRING=query)
        assert 400 <= answer.status_code < 500, (request, answer.content)
        assert answer.headers["Content-Type"] == "application/json"
        told = answer.json()
        assert set(told) == {"code", "msg"}
        assert told["code"] == answer.status_code
        assert isinstance(told["msg"], str)
        logged = [
            f"{record.getMessage()} {record.args} {record.exc_text} {record.exc_info}" for record in caplog.records
        ]
        assert any(told["msg"] in line for line in logged), "the log says why"
        for text in (answer.content.decode(), *logged):
            assert "Traceback" not in text
            for secret in SECRETS:
                assert secret not in text, (request, text)

    return check


@pytest.fixture
def no_row(db: None) -> Iterator[None]:
    """Assert at the end that nothing was stored."""
    yield
    assert not Event.objects.exists()


def request_of(push: Push, content_type: str = "application/json") -> Request:
    return urlencode(push.query), push.body, content_type


# Kinds of wrong, each of which makes another request every time.


def _bytes(chance: random.Random, longest: int = 200) -> bytes:
    return chance.randbytes(chance.randrange(longest))


def _text(chance: random.Random) -> str:
    alphabet = string.printable + "\x00\x7f\u00ff审\u2028\ud800🎉"
    return "".join(chance.choice(alphabet) for _ in range(chance.randrange(60)))


def _encrypted(plain: bytes) -> str:
    key = base64.b64decode(settings.DINGTALK_AES_KEY + "=")
    return base64.b64encode(AES.new(key, AES.MODE_CBC, key[:16]).encrypt(plain)).decode()


def _padded(plain: bytes) -> bytes:
    pad = 32 - len(plain) % 32
    return plain + bytes([pad]) * pad


def _frame(message: bytes, length: int) -> bytes:
    return b"r" * 16 + struct.pack(">I", length) + message + settings.DINGTALK_CORP_ID.encode()


def any_query(chance: random.Random) -> Request:
    query = _bytes(chance).decode("latin-1") if chance.random() < 0.5 else urlencode({"signature": _bytes(chance)})
    return query, seal_push(USER).body, chance.choice(CONTENT_TYPES)


def missing_or_spoilt_parameter(chance: random.Random) -> Request:
    push = seal_push(USER)
    query: dict[str, Any] = dict(push.query)
    name = chance.choice(["signature", "timestamp", "nonce"])
    value = chance.choice([None, "", "x", query[name] + "0", query[name][:-1], _bytes(chance)])
    query[name] = value
    if name == "signature":
        query["msg_signature"] = value
    if value in (None, ""):
        query = {key: text for key, text in query.items() if text not in (None, "")}
    return urlencode(query), push.body, "application/json"


def too_many_parameters(chance: random.Random) -> Request:
    query, body, content_type = request_of(seal_push(USER))
    return query + "&a=1" * chance.randrange(100, 3000), body, content_type


def any_body(chance: random.Random) -> Request:
    return request_of(Push(seal_push(USER).query, _bytes(chance)), chance.choice(CONTENT_TYPES))


def spoilt_body(chance: random.Random) -> Request:
    push = seal_push(USER)
    body = bytearray(push.body)
    for _ in range(chance.randrange(1, 4)):
        body[chance.randrange(len(body))] ^= chance.randrange(1, 256)
    body = body[: chance.choice([len(body), chance.randrange(len(body))])]
    try:
        same = json.loads(body) == json.loads(push.body)
    except (ValueError, RecursionError):
        same = False
    return request_of(Push(push.query, b"" if same else bytes(body)), chance.choice(CONTENT_TYPES))


def json_without_encrypt(chance: random.Random) -> Request:
    encrypt: Any = chance.choice([None, 1, 1.5, True, [], {}, ["x"], "", {"encrypt": "x"}, float("nan"), 10**400])
    body = chance.choice([encrypt, {"encrypt": encrypt}, {"Encrypt": "x"}, [{"encrypt": "x"}], {"encrypt": [encrypt]}])
    return request_of(Push(seal_push(USER).query, json.dumps(body).encode()), chance.choice(CONTENT_TYPES))


def deep_body(chance: random.Random) -> Request:
    depth = chance.choice([1_000, 10_000, 100_000])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"encrypt":', b"}")])
    return request_of(Push(seal_push(USER).query, opening * depth + b"1" + closing * depth * chance.randrange(2)))


def oversize_body(chance: random.Random) -> Request:
    push = seal_push(USER)
    return request_of(Push(push.query, push.body + b" " * (1024 * 1024 - len(push.body) + chance.randrange(1, 9))))


def forged(chance: random.Random) -> Request:
    wrong: dict[str, Any] = chance.choice(
        [
            {"token": f"forged-{chance.random()}"},
            {
                "owner_key": chance.choice(
                    ["", "dingsomebodyelse", "DINGTESTCORP0001", "dingtestcorp0001 ", _ascii(chance)]
                )
            },
            {"aes_key": "".join(chance.choice(string.ascii_letters + string.digits) for _ in range(43))},
            {"age": chance.choice([-1, 1]) * chance.randrange(3700, 10**9)},
        ]
    )
    return request_of(seal_push(USER, **wrong), chance.choice(CONTENT_TYPES))


def _ascii(chance: random.Random) -> str:
    return "".join(chance.choice(string.printable) for _ in range(chance.randrange(1, 90)))


def signed_rubbish(chance: random.Random) -> Request:
    sealed = base64.b64decode(DingCrypto(settings.DINGTALK_AES_KEY, settings.DINGTALK_CORP_ID).encrypt(TEXT))
    cut = sealed[: chance.randrange(len(sealed))]
    encrypt = chance.choice(
        [
            _text(chance) or "x",
            base64.b64encode(_bytes(chance)).decode() or "x",
            base64.b64encode(chance.randbytes(16 * chance.randrange(1, 20))).decode(),
            base64.b64encode(cut).decode() or "x",
            base64.b64encode(sealed).decode()[:-1],
            base64.b64encode(sealed).decode() + "=",
            "%" + base64.b64encode(sealed).decode(),
        ]
    )
    return request_of(sign(encrypt))


def signed_broken_frame(chance: random.Random) -> Request:
    message = TEXT.encode()
    whole = _padded(_frame(message, len(message)))
    broken = chance.choice(
        [
            _padded(_frame(message, chance.choice([0, 1, len(message) - 5, len(message) + 1, 2**31, 2**32 - 1]))),
            whole[:-1] + bytes([chance.choice([0, 33, 100, 255])]),
            whole[:-32] + chance.randbytes(32),
            _padded(_frame(message + b"\xff\xfe", len(message) + 2)),
            _padded(_frame("审".encode()[:-1], 2)),
            _padded(chance.randbytes(chance.randrange(20))),
            bytes([chance.randrange(17, 33)]) * 16,
        ]
    )
    return request_of(sign(_encrypted(broken)))


def signed_payload_that_is_none(chance: random.Random) -> Request:
    kind = chance.choice(
        [*("null", "1", "-1.5", "true", "[]", "{}", '""', '["user_add_org"]'), json.dumps(MARK * 8), "1" * 5000]
    )
    text = chance.choice(
        [
            f'{{"EventType":{kind},"UserId":"{MARK}"}}',
            f'{{"UserId":"{MARK}"}}',
            kind,
            f"[{TEXT}]",
            TEXT[: chance.randrange(len(TEXT))],
            TEXT + chance.choice(["}", ",", TEXT]),
            TEXT.replace("{", '{"n":' + "9" * 4301 + ","),
            TEXT.replace("{", '{"deep":' + "[" * 600 + "]" * 600 + ","),
            TEXT.replace("{", '{"deep":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + ","),
            TEXT.replace("user_add_org", "user\x00add"),
            "\ufeff" + TEXT,
            MARK,
        ]
    )
    return request_of(seal_push(text))


KINDS: list[Callable[[random.Random], Request]] = [
    *(any_query, missing_or_spoilt_parameter, too_many_parameters, any_body, spoilt_body, json_without_encrypt),
    *(forged, signed_rubbish, signed_broken_frame, signed_payload_that_is_none),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_160_requests_of_each_kind_are_refused(
    refused: Callable[[Request], None], no_row: None, kind: Callable[[random.Random], Request]
) -> None:
    chance = random.Random(f"{SEED} {kind.__name__}")
    for _ in range(160):
        refused(kind(chance))


@pytest.mark.parametrize("kind", [deep_body, oversize_body], ids=lambda kind: kind.__name__)
def test_requests_of_an_expensive_kind_are_refused(
    refused: Callable[[Request], None], no_row: None, kind: Callable[[random.Random], Request]
) -> None:
    chance = random.Random(f"{SEED} {kind.__name__}")
    for _ in range(12):
        refused(kind(chance))


@given(
    query=st.text(st.characters(codec="latin-1"), max_size=80)
    | st.binary(max_size=40).map(lambda b: urlencode({b: b})),
    body=st.binary(max_size=80) | st.text().map(lambda text: json.dumps({"encrypt": text}).encode()),
    content_type=st.sampled_from(CONTENT_TYPES) | st.text(st.characters(codec="latin-1"), max_size=30),
)
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_query_body_and_content_type_are_refused(
    refused: Callable[[Request], None], no_row: None, query: str, body: bytes, content_type: str
) -> None:
    refused((query, body, content_type))


@pytest.mark.parametrize("length", ["\u00b2", "-1", "1e9", "9" * 5000, "0x10", " "])
def test_a_content_length_of_any_kind_is_refused(client: Client, db: None, length: str) -> None:
    push = seal_push(USER)
    answer = client.generic("POST", push.address, push.body, content_type="application/json", CONTENT_LENGTH=length)
    assert 400 <= answer.status_code < 500
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("push", "status", "words"),
    [
        (lambda: seal_push(USER, token="another-token"), 403, "DINGTALK_TOKEN differs"),
        (lambda: seal_push(USER, aes_key="x" * 43), 400, "DINGTALK_AES_KEY differs"),
        (lambda: seal_push(USER, owner_key="dingelse"), 403, "sealed for dingelse, which is neither DINGTALK_APP_KEY"),
        (lambda: seal_push(USER, age=7200.4), 403, "7200 seconds behind"),
        (lambda: seal_push(USER, age=-7200.4), 403, "7200 seconds ahead"),
        (lambda: sign("****"), 400, "not Base64"),
        (lambda: seal_push("no JSON"), 400, "not JSON"),
        (lambda: seal_push({"EventType": 1}), 400, "`EventType`"),
    ],
    ids=["token", "aes key", "owner key", "behind", "ahead", "base64", "json", "type"],
)
def test_the_answer_names_what_to_mend(client: Client, push: Callable[[], Push], status: int, words: str) -> None:
    answer = send(client, push())
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert words in answer.json()["msg"]


@pytest.mark.parametrize("age", [-3500, -60, 0, 60, 3500])
def test_what_is_within_the_time_limit_is_not_refused(client: Client, age: int) -> None:
    assert send(client, seal_push('{"EventType":"check_url"}', age=age)).status_code == 200


def test_a_request_without_anything_is_refused_quickly(client: Client) -> None:
    began = time.monotonic()
    assert client.post(PATH, b"", content_type="application/json").status_code == 400
    assert time.monotonic() - began < 1
