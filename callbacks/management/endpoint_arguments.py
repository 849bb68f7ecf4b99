"""What the verbs of `manage.py endpoint` take."""

import sys
from argparse import ArgumentParser, ArgumentTypeError

from callbacks import validators
from callbacks.models import Endpoint

FIELDS = (
    *("name", "url", "format", "event_types", "corp_ids", "where", "owner_key", "secret", "token", "aes_key"),
    *("retry_schedule", "timeout", "concurrency", "rate", "paused"),
)


def which(parser: ArgumentParser) -> None:
    """Add the endpoint in question."""
    parser.add_argument("endpoint", metavar="ENDPOINT", help="its number or its name")


def optional_which(parser: ArgumentParser) -> None:
    """Add the endpoint in question, where there may be none."""
    parser.add_argument("endpoint", metavar="ENDPOINT", nargs="?", help="its number or its name; default: all")


def name_and_url(parser: ArgumentParser) -> None:
    """Add what every endpoint needs."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("url", metavar="URL")


def optional_name_and_url(parser: ArgumentParser) -> None:
    """Add the same, to be changed."""
    parser.add_argument("--name")
    parser.add_argument("--url")


def reveal(parser: ArgumentParser) -> None:
    """Add the option that shows secrets."""
    parser.add_argument("--reveal", action="store_true", help="print secrets in clear")


def finish(parser: ArgumentParser) -> None:
    """Add the option that ends a rotation."""
    parser.add_argument("--finish", action="store_true", help="let the previous secret sign no more")


def yes(parser: ArgumentParser) -> None:
    """Add the option that agrees to what can't be undone."""
    parser.add_argument("--yes", action="store_true", help="though deliveries are pending")


def fields(parser: ArgumentParser) -> None:
    """Add what has a default."""
    parser.add_argument("--format", choices=Endpoint.Format.values, help="what is sent (default standard)")
    parser.add_argument("--event-types", type=_texts, metavar="T,…", help="names and globs; default: all")
    parser.add_argument("--corp-ids", type=_texts, metavar="C,…", help="of these organisations; default: all")
    parser.add_argument(
        "--where", action="append", type=_condition, metavar="FIELD=V,…", help="with one of these values; repeatable"
    )
    parser.add_argument("--owner-key", help="dingtalk: the owner key that its receiver knows; default: ours")
    asked = "; -: a line of standard input, which no list of processes shows"
    parser.add_argument("--secret", type=_secret, help=f"standard: whsec_…; default: a fresh one{asked}")
    parser.add_argument("--token", type=_secret, help=f"dingtalk: default: a fresh one{asked}")
    parser.add_argument("--aes-key", type=_secret, help=f"dingtalk: default: a fresh one{asked}")
    parser.add_argument("--retry-schedule", type=_seconds, metavar="S,…", help="instead of RETRY_SCHEDULE")
    parser.add_argument("--timeout", type=int, metavar="S", help="seconds a request may take (default 15)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at the same time (default 10)")
    parser.add_argument("--rate", type=int, metavar="N", help="requests a minute; default: any number")
    parser.add_argument("--paused", action="store_true", default=None, help="send nothing before it is resumed")


def _secret(text: str) -> str:
    return sys.stdin.readline().strip() if text == "-" else text


def _texts(text: str) -> list[str]:
    return validators.listed(text)


def _seconds(text: str) -> list[int]:
    try:
        return [int(part) for part in _texts(text)]
    except ValueError:
        raise ArgumentTypeError("whole numbers separated by commas, such as 5,300,1800") from None


def _condition(text: str) -> tuple[str, list[str]]:
    name, sign, values = text.partition("=")
    if not (name and sign and values):
        raise ArgumentTypeError("a field and its values, such as type=start,finish")
    return name, _texts(values)
