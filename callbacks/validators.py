"""What an endpoint's fields must be, for those who fill them in; a row that was made otherwise is borne."""

import base64
import re
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from callbacks.dingcrypto import DingCrypto, MalformedAesKey
from callbacks.keys import WEBHOOK_SECRET_PREFIX

# As https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md has it.
SECRET_BYTES = range(24, 65)
TOKEN_LENGTHS = range(3, 64)
MONTH = 31 * 24 * 3600


def listed(text: str) -> list[str]:
    """Return the texts of a list as people write it: with commas, of a Chinese keyboard, too."""
    return [part.strip() for part in re.split("[,，、]", text) if part.strip()]


def an_address(value: str) -> None:
    """Demand http or https, a host, and no credentials, which logs would show."""
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValidationError(_("Use an address such as https://erp.example.com/dingtalk, without user or password."))


def a_secret(value: str) -> None:
    """Demand a secret of the Standard Webhooks form; the library itself would take nearly anything."""
    try:
        length = len(base64.b64decode(value.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True))
    except ValueError:
        length = 0
    if not value.startswith(WEBHOOK_SECRET_PREFIX) or length not in SECRET_BYTES:
        raise ValidationError(_("Use whsec_ and 24 to 64 bytes in Base64, or leave it out for a fresh one."))


def a_token(value: str) -> None:
    """Demand what DingTalk takes for a token: 3 to 63 characters, here without blanks."""
    if len(value) not in TOKEN_LENGTHS or not value.isascii() or not value.isprintable() or " " in value:
        raise ValidationError(_("Use 3 to 63 letters, digits and signs, or leave it out for a fresh one."))


def an_aes_key(value: str) -> None:
    """Demand what DingTalk's protocol can seal with."""
    try:
        DingCrypto(value, "")
    except MalformedAesKey:
        raise ValidationError(_("Use 43 letters and digits, or leave it out for a fresh one.")) from None


def texts(value: Any) -> None:
    """Demand a list of non-empty texts."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise ValidationError(_('Use a list of texts, such as ["user_add_org", "org_dept_*"].'))


def conditions(value: Any) -> None:
    """Demand a value or a list of values for each field."""
    if not isinstance(value, dict) or not all(_is_wanted(each) for each in value.values()):
        raise ValidationError(_('Use fields with a value or a list of values, such as {"type": ["start", "finish"]}.'))


def seconds(value: Any) -> None:
    """Demand a list of whole numbers, none longer than a month."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each <= MONTH for each in value):
        raise ValidationError(_("Use a list of seconds, such as [5, 300, 1800]."))


def _is_wanted(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in values)
