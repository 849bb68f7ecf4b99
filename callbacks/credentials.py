"""The credentials and owner keys of the settings, as the keyring that opens pushes."""

from django.conf import settings

from callbacks.dingcrypto import Credential, DingCrypto, Keyring


def keyring() -> Keyring:
    """Return the current and previous pair and both owner keys, with CALLBACK_MAX_AGE."""
    pairs = [
        (settings.DINGTALK_TOKEN, settings.DINGTALK_AES_KEY),
        (settings.DINGTALK_PREVIOUS_TOKEN, settings.DINGTALK_PREVIOUS_AES_KEY),
    ]
    credentials = [Credential(token, aes_key) for token, aes_key in pairs if token and aes_key]
    return Keyring(credentials, owner_keys(), settings.CALLBACK_MAX_AGE)


def owner_keys() -> list[str]:
    """Return the configured owner keys; the app key first, as new apps subscribe in the console."""
    return [key for key in (settings.DINGTALK_APP_KEY, settings.DINGTALK_CORP_ID) if key]


def current(owner_key: str) -> tuple[DingCrypto, str]:
    """Return the current aes key's DingCrypto for an owner key, and the current token, to seal a push of our own."""
    return DingCrypto(settings.DINGTALK_AES_KEY, owner_key), settings.DINGTALK_TOKEN
