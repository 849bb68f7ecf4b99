"""New secrets for an endpoint, and secrets encrypted anew after a change of FIELD_ENCRYPTION_KEYS."""

from collections.abc import Iterator

from django.db import transaction

from callbacks.endpoint import SECRETS
from callbacks.fields import Unreadable
from callbacks.keys import new_aes_key, new_token, new_webhook_secret
from callbacks.models import Endpoint


def rotate(endpoint: Endpoint) -> dict[str, str]:
    """Give an endpoint new secrets and return them by name.

    Of the standard form the secret before goes on signing, too, until `finish`. DingTalk's form has one pair: pause
    the endpoint, rotate, put the pair into its receiver, resume. An old secret that can't be read is left behind.
    """
    if endpoint.format == Endpoint.Format.DINGTALK:
        made = {"token": new_token(), "aes_key": new_aes_key()}
        Endpoint.objects.filter(pk=endpoint.pk).update(**made)
        return made
    with transaction.atomic():
        rows = Endpoint.objects.select_for_update().filter(pk=endpoint.pk)
        try:
            before = rows.values_list("secret", flat=True).get()
        except Unreadable:
            before = ""
        made = {"secret": new_webhook_secret()}
        rows.update(**made, previous_secret=before)
    return made


def finish(endpoint: Endpoint) -> None:
    """Let the previous secret sign no more: the receiver knows the new one."""
    Endpoint.objects.filter(pk=endpoint.pk).update(previous_secret="")


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
