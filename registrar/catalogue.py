"""What DingTalk's event types mean, for labels and warnings: a type that is not listed is as good as any. Pure."""

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Meaning(NamedTuple):
    """An event type in words; `registrable` through the API, `metered` on the free edition."""

    zh: str
    en: str
    registrable: bool
    metered: bool


@cache
def catalogue() -> dict[str, Meaning]:
    """Return the documented event types."""
    text = files("registrar").joinpath("catalogue.json").read_text(encoding="utf-8")
    return {name: Meaning(**fields) for name, fields in json.loads(text).items()}


def unregistrable(tags: list[str]) -> list[str]:
    """Return those that the API's list lacks: DingTalk will probably answer 71008."""
    return [tag for tag in tags if tag not in catalogue() or not catalogue()[tag].registrable]
