"""`keygen`: fresh secrets as lines for `.env`."""

from callbacks.keys import new_aes_key, new_secret_key, new_token
from registrar.management.verbs.report import Options, Report, Verb, no_arguments


def _keygen(options: Options) -> Report:
    made = {"DINGTALK_TOKEN": new_token(), "DINGTALK_AES_KEY": new_aes_key(), "SECRET_KEY": new_secret_key()}
    return Report(dict(made), [f"{name}={value}" for name, value in made.items()])


KEYGEN = Verb(
    "keygen",
    "print a token, an aes key and a SECRET_KEY as lines for .env; needs no settings",
    "manage.py dingtalk keygen >> .env",
    no_arguments,
    _keygen,
    needs_settings=False,
)
