"""One HTTP exchange with DingTalk, with time limits, of which no exception and no log line tells a secret."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from registrar.errors import NotReached
from registrar.protocol import masked

CONNECT_TIMEOUT = 5.0


class _MaskSecrets(logging.Filter):
    """Mask tokens and secrets in the URLs that urllib3 logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage()), ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_MaskSecrets())


def exchange(
    method: str,
    url: str,
    query: Mapping[str, str],
    timeout: float,
    *,
    json: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Return an answer's status and body; of an answer that breaks off or drags on, the part that came.

    `timeout`: seconds without a byte, and for the whole body. Raises NotReached where no answer came.
    """
    body, reason = bytearray(), ""
    response: requests.Response | None = None
    try:
        with requests.request(
            method,
            url,
            params=query,
            json=json,
            headers=headers,
            timeout=(CONNECT_TIMEOUT, timeout),
            allow_redirects=False,  # the query holds a token, which is for DingTalk's host only
            stream=True,
        ) as response:
            deadline = time.monotonic() + timeout
            # read1, as it gives what has come before it raises: of a broken answer every byte may matter
            while time.monotonic() < deadline and (piece := response.raw.read1(65536, decode_content=True)):
                body += piece
    except (requests.RequestException, HTTPError) as error:
        reason = type(error).__name__
    if response is None:
        # Raised out here: inside the `except` it would carry the original, and with it the URL and its secrets.
        step = "check the network, the proxy settings, DINGTALK_OAPI_URL and DINGTALK_API_URL; then try again"
        raise NotReached(reason, "", f"no answer from {url}", step)
    return response.status_code, bytes(body)
