"""New secrets for an endpoint, and secrets encrypted anew after a change of FIELD_ENCRYPTION_KEYS."""

from collections.abc import Iterator

from django.db import transaction

from callbacks.dingcrypto import CallbackError
from callbacks.endpoint import SECRETS
from callbacks.fields import Unreadable
from callbacks.keys import new_aes_key, new_token, new_webhook_secret
from callbacks.models import Endpoint


class RotationUnderWay(CallbackError):
    """A receiver may still know the secret before only, which another new one would leave behind."""


class NoRotation(CallbackError):
    """There is no previous secret to drop."""


def rotate(endpoint: Endpoint) -> dict[str, str]:
    """Give an endpoint new secrets and return them by name.

    Of the standard form the secret before goes on signing, too, until `finish`; RotationUnderWay where one does
    already. DingTalk's form has one pair, so the endpoint is paused until its receiver has it. An old secret that
    can't be read is left behind.
    """
    if endpoint.format == Endpoint.Format.DINGTALK:
        made = {"token": new_token(), "aes_key": new_aes_key()}
        Endpoint.objects.filter(pk=endpoint.pk).update(**made, paused=True)
        return made
    with transaction.atomic():
        rows = Endpoint.objects.filter(pk=endpoint.pk)
        rows.select_for_update().values_list("pk").get()
        if is_under_way(endpoint):
            raise RotationUnderWay(
                "both its secrets sign: drop the previous one first, when its receiver has the new one "
                f"(`manage.py endpoint rotate {endpoint.pk} --finish`)"
            )
        try:
            before = rows.values_list("secret", flat=True).get()
        except Unreadable:
            before = ""
        made = {"secret": new_webhook_secret()}
        rows.update(**made, previous_secret=before)
    return made


def finish(endpoint: Endpoint) -> None:
    """Let the previous secret sign no more, as the receiver knows the new one; NoRotation where there is none."""
    if not is_under_way(endpoint):
        raise NoRotation("it has no previous secret, so there is nothing to finish")
    Endpoint.objects.filter(pk=endpoint.pk).update(previous_secret="")


def is_under_way(endpoint: Endpoint) -> bool:
    """Tell whether the secret before the present one still signs, too."""
    return Endpoint.objects.filter(pk=endpoint.pk).exclude(previous_secret="").exists()


def reencrypt() -> Iterator[tuple[Endpoint, str]]:
    """Encrypt all secrets with the first key; yield each endpoint with what could not be read, '' where all was."""
    for endpoint in Endpoint.objects.all():
        problem = ""
        for name in SECRETS:
            try:
                _reencrypt(endpoint, name)
            except Unreadable as error:
                problem = str(error)
        yield endpoint, problem


def _reencrypt(endpoint: Endpoint, name: str) -> None:
    with transaction.atomic():
        rows = Endpoint.objects.select_for_update().filter(pk=endpoint.pk)
        for value in rows.values_list(name, flat=True):
            rows.update(**{name: value})
