"""The envelope: published vectors, round trips, and every way in which one can be wrong."""

import base64
import hashlib
import json
import string
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from Crypto.Cipher import AES
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.dingcrypto import (
    BrokenCiphertext,
    CallbackError,
    Credential,
    DingCrypto,
    Keyring,
    MalformedAesKey,
    MalformedRequest,
    OwnerKeyMismatch,
    RefusedPush,
    SignatureMismatch,
    StaleTimestamp,
    WrongAesKey,
    seal,
)

VECTORS: list[dict[str, str]] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
TOKEN, PREVIOUS_TOKEN = "token-of-today", "token-before"
AES_KEY = "Yue0EfdN5900c1ce5cf6A152c63DDe1808a60c5ecd7"
PREVIOUS_AES_KEY = "4g5j64qlyl3zvetqxz5jiocdr586fn2zvjpa8zls3ij"
CORP_ID, APP_KEY = "dingcorp0001", "dingappkey0001"
SECRET_TEXT = '{"EventType":"user_add_org","name":"张三","phone":"13800000000"}'
NOW = 1_790_000_000.0

aes_keys = st.text(string.ascii_letters + string.digits, min_size=43, max_size=43)
owner_keys = st.text(min_size=1, max_size=80)


def ring(max_age: int = 3600) -> Keyring:
    credentials = [Credential(TOKEN, AES_KEY), Credential(PREVIOUS_TOKEN, PREVIOUS_AES_KEY)]
    return Keyring(credentials, [APP_KEY, CORP_ID], max_age)


def query(encrypt: str, token: str = TOKEN, timestamp: str = str(int(NOW * 1000)), nonce: str = "nEXhMP4r") -> Any:
    signature = DingCrypto.generate_signature(nonce, timestamp, token, encrypt)
    return {"signature": signature, "timestamp": timestamp, "nonce": nonce}


def encrypted(plain: bytes, aes_key: str = AES_KEY) -> str:
    """Return Base64 of `plain` under the key, with no padding but what `plain` holds."""
    key = base64.b64decode(aes_key + "=")
    return base64.b64encode(AES.new(key, AES.MODE_CBC, key[:16]).encrypt(plain)).decode()


def framed(message: bytes, owner_key: str = CORP_ID, length: int | None = None) -> bytes:
    length = len(message) if length is None else length
    return b"r" * 16 + struct.pack(">I", length) + message + owner_key.encode()


def padded(plain: bytes, block: int = 32) -> bytes:
    pad = block - len(plain) % block
    return plain + bytes([pad]) * pad


# Vectors


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_it_opens_and_signs_as_the_published_vectors_do(vector: dict[str, str]) -> None:
    crypto = DingCrypto(vector["aes_key"], vector["owner_key"])
    assert crypto.decrypt(vector["encrypt"]) == vector["plaintext"]
    assert (
        crypto.generate_signature(vector["nonce"], vector["timestamp"], vector["token"], vector["encrypt"])
        == vector["signature"]
    )
    keyring = Keyring([Credential(vector["token"], vector["aes_key"])], [vector["owner_key"]], max_age=60)
    opened = keyring.open(vector, vector["encrypt"], int(vector["timestamp"]) / 1000)
    assert (opened.text, opened.timestamp, opened.nonce, opened.owner_key) == (
        vector["plaintext"],
        vector["timestamp"],
        vector["nonce"],
        vector["owner_key"],
    )


def test_the_vectors_are_all_there() -> None:
    assert [vector["name"] for vector in VECTORS] == ["a", "b", "d"]


@given(st.lists(st.text(), min_size=4, max_size=4))
def test_the_signature_is_the_sha1_of_the_sorted_strings(parts: list[str]) -> None:
    nonce, timestamp, token, encrypt = parts
    expected = hashlib.sha1("".join(sorted(parts)).encode()).hexdigest()
    assert DingCrypto.generate_signature(nonce, timestamp, token, encrypt) == expected


# Round trips


@given(text=st.text(), aes_key=aes_keys, owner_key=owner_keys)
def test_what_is_encrypted_decrypts_to_the_same_text(text: str, aes_key: str, owner_key: str) -> None:
    encrypt = DingCrypto(aes_key, owner_key).encrypt(text)
    assert encrypt == "".join(encrypt.split())
    assert len(base64.b64decode(encrypt, validate=True)) % 32 == 0
    assert DingCrypto(aes_key, owner_key).decrypt(encrypt) == text


@given(seed=st.text(min_size=1, max_size=5), size=st.integers(0, 1024 * 1024))
@settings(max_examples=15, deadline=None)
def test_messages_up_to_a_megabyte_survive_a_round_trip(seed: str, size: int) -> None:
    text = (seed * (size // len(seed.encode()) + 1))[: size // 4]
    crypto = DingCrypto(AES_KEY, CORP_ID)
    assert crypto.decrypt(crypto.encrypt(text)) == text


@pytest.mark.parametrize("size", [0, 1, 127, 128, 1024 * 1024])
def test_a_message_of_this_many_bytes_survives_a_round_trip(size: int) -> None:
    crypto = DingCrypto(AES_KEY, CORP_ID)
    assert crypto.decrypt(crypto.encrypt("x" * size)) == "x" * size


def test_lengths_are_counted_in_bytes() -> None:
    key = base64.b64decode(AES_KEY + "=")
    sealed = base64.b64decode(DingCrypto(AES_KEY, CORP_ID).encrypt("审批🎉"))
    plain = AES.new(key, AES.MODE_CBC, key[:16]).decrypt(sealed)
    assert struct.unpack(">I", plain[16:20]) == (10,)
    assert plain[20:30].decode() == "审批🎉"


def test_two_envelopes_of_one_text_differ() -> None:
    crypto = DingCrypto(AES_KEY, CORP_ID)
    assert crypto.encrypt("success") != crypto.encrypt("success")


@given(aes_key=aes_keys)
def test_keys_with_unused_bits_set_work_like_those_without(aes_key: str) -> None:
    """About 74 % of random keys are of this kind; strict decoders refuse them."""
    canonical = base64.b64encode(base64.b64decode(aes_key + "=")).decode()[:43]
    assert DingCrypto(canonical, CORP_ID).decrypt(DingCrypto(aes_key, CORP_ID).encrypt("通知")) == "通知"


@pytest.mark.parametrize(
    "aes_key", ["", "x" * 42, "x" * 44, "x" * 42 + "=", "x" * 42 + "é", "x" * 42 + "-", "x y" * 14 + "x"]
)
def test_a_malformed_aes_key_is_refused_without_being_quoted(aes_key: str) -> None:
    with pytest.raises(MalformedAesKey, match="43 letters and digits") as caught:
        DingCrypto(aes_key, CORP_ID)
    assert not aes_key or aes_key not in repr(caught.value)


# Leniency and strictness when receiving


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_line_break_after_encrypt_is_borne_and_signed_over(ending: str) -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("success") + ending
    assert DingCrypto(AES_KEY, CORP_ID).decrypt(encrypt) == "success"
    assert ring().open(query(encrypt), encrypt, NOW).text == "success"
    with pytest.raises(SignatureMismatch):
        ring().open(query(encrypt.strip()), encrypt, NOW)


@pytest.mark.parametrize("pad", range(1, 33))
def test_every_padding_up_to_32_is_accepted(pad: int) -> None:
    message = b"m" * ((-pad - len(framed(b""))) % 32)
    plain = framed(message) + bytes([pad]) * pad
    assert len(plain) % 32 == 0
    assert DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(plain)) == message.decode()


def test_padding_to_the_cipher_block_is_accepted() -> None:
    """DingTalk's Go library pads to 16."""
    for size in range(16):
        plain = padded(framed(b"m" * size), block=16)
        assert DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(plain)) == "m" * size


@pytest.mark.parametrize("pad", [0, 33, 64, 128, 255])
def test_a_padding_that_no_sender_makes_is_refused(pad: int) -> None:
    plain = framed(b"m" * ((-len(framed(b"")) - 1) % 32)) + bytes([pad])
    with pytest.raises(WrongAesKey):
        DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(plain))


@pytest.mark.parametrize("pad", range(2, 33))
def test_every_byte_of_the_padding_is_checked(pad: int) -> None:
    message = b"m" * ((-pad - len(framed(b""))) % 32)
    for position in range(pad - 1):
        padding = bytearray([pad]) * pad
        padding[position] ^= 1
        with pytest.raises(WrongAesKey):
            DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(framed(message) + bytes(padding)))


@pytest.mark.parametrize("length", [100, 2**31, 2**32 - 1])
def test_a_length_beyond_the_buffer_is_refused(length: int) -> None:
    with pytest.raises(WrongAesKey, match="length"):
        DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(padded(framed(b"m", length=length))))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 19])
def test_a_plaintext_without_room_for_a_length_is_refused(size: int) -> None:
    with pytest.raises(WrongAesKey, match="length"):
        DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(padded(b"r" * size)))


def test_a_padding_longer_than_the_plaintext_is_refused() -> None:
    with pytest.raises(WrongAesKey, match="padding"):
        DingCrypto(AES_KEY, CORP_ID).decrypt(encrypted(bytes([32]) * 16))


def test_a_length_that_counts_characters_shows_nothing_of_the_message() -> None:
    """What such a sender leaves behind the message is the message's own end, not an owner key."""
    message = SECRET_TEXT.encode()
    encrypt = encrypted(padded(framed(message, length=len(message) - 14)))
    for open_it in (DingCrypto(AES_KEY, CORP_ID).decrypt, lambda e: ring().open(query(e), e, NOW)):
        with pytest.raises(OwnerKeyMismatch) as caught:
            open_it(encrypt)
        assert "1380" not in repr(caught.value)
        assert "000" not in str(caught.value).replace(CORP_ID, "")


@pytest.mark.parametrize("encrypt", ["", "=", "AAAA", "****", "审批", "A" * 31, "A" * 24, "\ud800", "AAAA\x00AAA="])
def test_what_is_no_base64_of_whole_blocks_is_refused(encrypt: str) -> None:
    with pytest.raises(BrokenCiphertext):
        DingCrypto(AES_KEY, CORP_ID).decrypt(encrypt)


@given(st.text())
def test_any_text_for_encrypt_is_refused_and_nothing_else_happens(encrypt: str) -> None:
    with pytest.raises(RefusedPush):
        ring().open(query(encrypt), encrypt, NOW)


@given(st.binary(min_size=1, max_size=12).map(lambda blocks: blocks * 16))
def test_any_blocks_are_refused_and_nothing_else_happens(plain: bytes) -> None:
    encrypt = encrypted(plain)
    with pytest.raises(RefusedPush):
        ring().open(query(encrypt), encrypt, NOW)


# The ring


@pytest.mark.parametrize("owner_key", [APP_KEY, CORP_ID])
@pytest.mark.parametrize(("token", "aes_key"), [(TOKEN, AES_KEY), (PREVIOUS_TOKEN, PREVIOUS_AES_KEY)])
def test_the_answer_is_sealed_with_what_opened_the_request(token: str, aes_key: str, owner_key: str) -> None:
    encrypt = DingCrypto(aes_key, owner_key).encrypt(SECRET_TEXT)
    opened = ring().open(query(encrypt, token), encrypt, NOW)
    assert (opened.text, opened.owner_key) == (SECRET_TEXT, owner_key)
    answer = opened.seal("success", NOW)
    assert set(answer) == {"msg_signature", "timeStamp", "nonce", "encrypt"}
    assert answer["timeStamp"] == "1790000000000"
    assert DingCrypto(aes_key, owner_key).decrypt(answer["encrypt"]) == "success"
    assert answer["msg_signature"] == DingCrypto.generate_signature(
        answer["nonce"], answer["timeStamp"], token, answer["encrypt"]
    )


@pytest.mark.parametrize("aes_key", [AES_KEY, PREVIOUS_AES_KEY])
def test_a_rotation_may_change_the_aes_key_alone(aes_key: str) -> None:
    keyring = Keyring([Credential(TOKEN, AES_KEY), Credential(TOKEN, PREVIOUS_AES_KEY)], [APP_KEY, CORP_ID])
    encrypt = DingCrypto(aes_key, CORP_ID).encrypt("通知")
    opened = keyring.open(query(encrypt), encrypt, NOW)
    assert opened.text == "通知"
    assert DingCrypto(aes_key, CORP_ID).decrypt(opened.seal("success", NOW)["encrypt"]) == "success"


def test_a_rotation_may_change_the_token_alone() -> None:
    keyring = Keyring([Credential(TOKEN, AES_KEY), Credential(PREVIOUS_TOKEN, AES_KEY)], [CORP_ID])
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    answer = keyring.open(query(encrypt, PREVIOUS_TOKEN), encrypt, NOW).seal("success", NOW)
    expected = DingCrypto.generate_signature(answer["nonce"], answer["timeStamp"], PREVIOUS_TOKEN, answer["encrypt"])
    assert answer["msg_signature"] == expected


def test_a_pair_is_never_mixed_from_two_credentials() -> None:
    encrypt = DingCrypto(PREVIOUS_AES_KEY, CORP_ID).encrypt("通知")
    with pytest.raises(WrongAesKey):
        ring().open(query(encrypt, TOKEN), encrypt, NOW)


@pytest.mark.parametrize("owner_key", ["张三公司", "ding corp:0001", "d" * 80])
def test_an_owner_key_is_any_non_empty_string(owner_key: str) -> None:
    encrypt = DingCrypto(AES_KEY, owner_key).encrypt("通知")
    assert Keyring([Credential(TOKEN, AES_KEY)], [owner_key]).open(query(encrypt), encrypt, NOW).owner_key == owner_key


@pytest.mark.parametrize("signature_name", ["signature", "msg_signature"])
@pytest.mark.parametrize("time_name", ["timestamp", "timeStamp"])
def test_query_parameters_are_read_in_both_spellings(signature_name: str, time_name: str) -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    signed = query(encrypt)
    spelt = {signature_name: signed["signature"], time_name: signed["timestamp"], "nonce": signed["nonce"]}
    assert ring().open(spelt, encrypt, NOW).text == "通知"


@pytest.mark.parametrize("name", ["signature", "timestamp", "nonce"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_parameter_is_named(name: str, value: str | None) -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    incomplete = {key: text for key, text in query(encrypt).items() if key != name}
    if value is not None:
        incomplete[name] = value
    with pytest.raises(MalformedRequest, match=f"`{name}`"):
        ring().open(incomplete, encrypt, NOW)


# Time


@pytest.mark.parametrize(("seconds", "direction"), [(-3700, "behind"), (3700, "ahead of")])
def test_a_stale_request_is_told_the_difference_and_what_to_check(seconds: int, direction: str) -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    with pytest.raises(StaleTimestamp, match=f"3700 seconds {direction}.*check this machine's clock"):
        ring().open(query(encrypt, timestamp=str(int((NOW + seconds) * 1000))), encrypt, NOW)


@pytest.mark.parametrize("timestamp", ["1790000000000", "1790000000", "1789996401000", "1790003599"])
def test_a_time_in_milliseconds_or_seconds_within_the_limit_is_accepted(timestamp: str) -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    assert ring().open(query(encrypt, timestamp=timestamp), encrypt, NOW).timestamp == timestamp


def test_no_time_is_stale_where_the_limit_is_zero() -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    assert ring(max_age=0).open(query(encrypt, timestamp="1000000000000"), encrypt, NOW).text == "通知"


@pytest.mark.parametrize(
    "timestamp", ["29", "1e12", "-1790000000000", "１７９００００００００００", "17900000000000", "now"]
)
def test_a_time_that_is_no_time_is_refused(timestamp: str) -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt("通知")
    with pytest.raises(MalformedRequest, match="timestamp"):
        ring().open(query(encrypt, timestamp=timestamp), encrypt, NOW)


# What an error says, and what it keeps to itself


def _cause(name: str) -> tuple[Any, str]:
    """Return a query and an `encrypt` of a push that is wrong in one way."""
    encrypt = {
        "aes key": DingCrypto(PREVIOUS_AES_KEY, CORP_ID).encrypt(SECRET_TEXT),
        "owner key": DingCrypto(AES_KEY, "dingsomebodyelse").encrypt(SECRET_TEXT),
        "nobody": encrypted(padded(framed(SECRET_TEXT.encode(), owner_key=""))),
        "ciphertext": DingCrypto(AES_KEY, CORP_ID).encrypt(SECRET_TEXT)[:-8],
        "padding": encrypted(framed(SECRET_TEXT.encode() + b"x" * 32)[:64]),
        "encoding": encrypted(padded(framed(SECRET_TEXT.encode() + b"\xff"))),
    }.get(name) or DingCrypto(AES_KEY, CORP_ID).encrypt(SECRET_TEXT)
    token = "some-other-token" if name == "token" else TOKEN
    return query(encrypt, token, timestamp="1000000000000" if name == "stale" else str(int(NOW * 1000))), encrypt


@pytest.mark.parametrize(
    ("cause", "error", "words"),
    [
        ("token", SignatureMismatch, "DINGTALK_TOKEN differs"),
        ("aes key", WrongAesKey, "DINGTALK_AES_KEY differs"),
        ("padding", WrongAesKey, "DINGTALK_AES_KEY differs"),
        (
            "owner key",
            OwnerKeyMismatch,
            "sealed for dingsomebodyelse, which is neither DINGTALK_APP_KEY (subscribed in the console) "
            "nor DINGTALK_CORP_ID (registered through the API)",
        ),
        ("nobody", OwnerKeyMismatch, "sealed for nobody"),
        ("ciphertext", BrokenCiphertext, "AES blocks"),
        ("encoding", MalformedRequest, "not UTF-8"),
        ("stale", StaleTimestamp, "check this machine's clock"),
    ],
)
def test_each_cause_has_a_class_that_says_what_to_mend_and_tells_no_secret(
    cause: str, error: type[RefusedPush], words: str
) -> None:
    signed, encrypt = _cause(cause)
    with pytest.raises(RefusedPush) as caught:
        ring().open(signed, encrypt, NOW)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert 400 <= caught.value.status < 500
    assert isinstance(caught.value, CallbackError)
    told = str(caught.value) + repr(caught.value) + repr(caught.value.args) + repr(vars(caught.value))
    for secret in (TOKEN, PREVIOUS_TOKEN, AES_KEY, PREVIOUS_AES_KEY, SECRET_TEXT, "张三", "13800000000", encrypt):
        assert secret not in told


def test_a_foreign_owner_key_that_is_no_identifier_is_not_quoted() -> None:
    for owner_key in ("x\nINFO forged line", "张三", "o" * 65, '"phone":"13800000000"}dingcorp0001'):
        encrypt = DingCrypto(AES_KEY, owner_key).encrypt(SECRET_TEXT)
        with pytest.raises(OwnerKeyMismatch) as caught:
            ring().open(query(encrypt), encrypt, NOW)
        assert owner_key not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(caught.value).isascii()


def test_no_repr_shows_a_secret_or_the_message() -> None:
    encrypt = DingCrypto(AES_KEY, CORP_ID).encrypt(SECRET_TEXT)
    opened = ring().open(query(encrypt), encrypt, NOW)
    shown = repr([opened, ring(), DingCrypto(AES_KEY, CORP_ID), Credential(TOKEN, AES_KEY)])
    for secret in (TOKEN, PREVIOUS_TOKEN, AES_KEY, PREVIOUS_AES_KEY, "张三", "13800000000"):
        assert secret not in shown


# Threads


def test_sixteen_threads_share_one_keyring() -> None:
    keyring, wrong = ring(), []
    start = threading.Barrier(16)

    def work(number: int) -> None:
        token, aes_key = [(TOKEN, AES_KEY), (PREVIOUS_TOKEN, PREVIOUS_AES_KEY)][number % 2]
        owner_key = [APP_KEY, CORP_ID][number // 2 % 2]
        start.wait()
        for turn in range(20):
            text = f"{number}/{turn}" * 50
            pushed = seal(DingCrypto(aes_key, owner_key), token, text, NOW)
            opened = keyring.open({**pushed, "signature": pushed["msg_signature"]}, pushed["encrypt"], NOW)
            answer = opened.seal("success", NOW)
            right = DingCrypto(aes_key, owner_key).decrypt(answer["encrypt"]) == "success"
            if (opened.text, opened.owner_key) != (text, owner_key) or not right:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
