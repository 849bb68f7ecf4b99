"""One request to a receiver, and what DingTalk would say about the answer.

The words of a refusal are those that people have posted from DingTalk's answers, misspelling included.
"""

import hmac
import http.client
import json
import socket
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from callbacks.dingcrypto import CallbackError, DingCrypto

MAX_ANSWER = 1_000_000
WRONG_ANSWER = 71009
NO_ACCESS = 71012


class SimulatorError(Exception):
    """Root of the simulator's errors; the text says what to change."""


class SubscriptionError(SimulatorError):
    """DingTalk would not save this address in the console."""


@dataclass(frozen=True)
class Callback:
    """Where events are pushed to, and with which secrets and owner key they are sealed."""

    url: str
    token: str = field(repr=False)
    aes_key: str = field(repr=False)
    owner_key: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One request to a receiver: `reason` is empty where DingTalk is content, else it says why not."""

    url: str
    body: str
    status: int = 0
    answer: str = ""
    seconds: float = 0.0
    code: int = 0
    reason: str = ""

    @property
    def complaint(self) -> str:
        """Return the errmsg that DingTalk gives when this was the validation of an address."""
        request = f"HttpRequest: curl '{self.url}' -d '{self.body}' -H 'Content-Type:application/json'"
        if self.code == WRONG_ANSWER:
            words = "返回文本非success, HTTP请求结果校验返回字段值失败"
            return f"{words} {request} HttpCode:{self.status} HttpReponse:{self.answer}"
        answer = self.answer or "null"
        words = f"url地址访问异常,错误原因为:{self.reason}"
        return f"{words} {request}    HttpCode:{self.status}   HttpReponse:{answer}"


def attempt(callback: Callback, url: str, body: str, limit: float) -> Attempt:
    """POST `body` to `url`, and judge the answer; `limit`: seconds for everything together."""
    started = time.monotonic()
    status, answer, location, failure = _post(url, body, limit)
    seconds = time.monotonic() - started
    if failure:
        return Attempt(url, body, seconds=seconds, code=NO_ACCESS, reason=failure)
    if 300 <= status < 400:
        reason = f"不允许3xx跳转.http statusCode is:{status}跳转后地址为:{location}"
        return Attempt(url, body, status, "", seconds, NO_ACCESS, reason)
    if status != 200:
        return Attempt(url, body, status, answer, seconds, NO_ACCESS, f"http statusCode is:{status}")
    reason = wrong_with(answer, callback)
    return Attempt(url, body, status, answer, seconds, WRONG_ANSWER if reason else 0, reason)


def wrong_with(answer: str, callback: Callback) -> str:
    """Return why an answer's text is not the sealed `success`, or ''.

    DingTalk bears any content type, further fields, a line break at the end of `encrypt` and any time in it.
    """
    try:
        fields = json.loads(answer)
    except ValueError:
        return "the answer is not JSON"
    if not isinstance(fields, dict):
        return "the answer is not a JSON object"
    values = {name: fields.get(name) for name in ("msg_signature", "nonce", "encrypt")}
    values["timeStamp"] = fields.get("timeStamp", fields.get("timestamp"))
    for name, value in values.items():
        if not isinstance(value, (str, int)) or value == "":
            return f"the answer has no {name}"
    text = {name: str(value) for name, value in values.items()}
    signature = DingCrypto.generate_signature(text["nonce"], text["timeStamp"], callback.token, text["encrypt"])
    if not hmac.compare_digest(signature.encode(), text["msg_signature"].encode("utf-8", "replace")):
        return "the answer's msg_signature is not made with the callback's token over what was sent"
    try:
        opened = DingCrypto(callback.aes_key, callback.owner_key).decrypt(text["encrypt"])
    except CallbackError as error:
        return f"the answer's encrypt can't be opened: {error}"
    return "" if opened == "success" else "the answer's encrypt does not hold success"


def _post(url: str, body: str, limit: float) -> tuple[int, str, str, str]:
    """Return (status, text, redirect's address, failure); a cut by the clock ends a receiver that drips, too."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    late = threading.Event()
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
        host, parts.port, timeout=limit
    )
    where = f"{host}:{parts.port or (443 if secure else 80)}"
    with closing(connection):
        started = time.monotonic()
        try:
            connection.connect()
        except TimeoutError:
            return (
                0,
                "",
                "",
                f"org.apache.http.conn.ConnectTimeoutException: Connect to {where} failed: connect timed out",
            )
        except OSError as error:
            return (
                0,
                "",
                "",
                f"org.apache.http.conn.HttpHostConnectException: Connect to {where} failed: {error.strerror}",
            )
        timer = threading.Timer(limit - (time.monotonic() - started), _cut, (connection.sock, late))
        timer.start()
        try:
            target = f"{parts.path or '/'}?{parts.query}"
            connection.request("POST", target, body.encode(), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                text = response.read(MAX_ANSWER).decode("utf-8", "replace")
                status, location = response.status, response.getheader("Location", "")
        except (OSError, http.client.HTTPException, ValueError) as error:
            late_or_broken = late.is_set() or isinstance(error, TimeoutError)
            broken = f"org.apache.http.NoHttpResponseException: {where} failed to respond"
            return 0, "", "", "java.net.SocketTimeoutException: Read timed out" if late_or_broken else broken
        finally:
            timer.cancel()
            timer.join()
    return (
        (0, "", "", "java.net.SocketTimeoutException: Read timed out")
        if late.is_set()
        else (status, text, location, "")
    )


def _cut(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
