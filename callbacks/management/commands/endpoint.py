"""`manage.py endpoint VERB`: the subscribers that events are sent on to."""

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NoReturn

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.utils.translation import override
from rich.console import RenderableType

from callbacks import circuit, judging, outbox, relay, rotation
from callbacks.endpoint import SECRETS
from callbacks.management import endpoint_arguments as arguments
from callbacks.management import endpoint_words as words
from callbacks.management.screen import Screen
from callbacks.models import Delivery, Endpoint
from callbacks.worker import kind

Options = dict[str, Any]
Told = tuple[dict[str, Any], list[RenderableType]]


class Command(BaseCommand):
    """Add, list, test, pause, resume, enable, disable, rotate and remove endpoints, and encrypt their secrets anew."""

    help = "The subscribers (endpoints) that events are sent on to; the admin has the same, with buttons."

    def add_arguments(self, parser: CommandParser) -> None:
        """Make a sub-command of each verb."""
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for name, (text, takes, _) in VERBS.items():
            verb: ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
            verb.add_argument("--json", action="store_true", help="print one JSON document")
            for add in takes:
                add(verb)

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it; whatever stops it becomes one line with the cause and the next step."""
        screen = Screen(self.stdout, as_json=options["json"])
        try:
            data, shown = VERBS[options["verb"]][2](options)
        except Error as error:
            step = "check DATABASE_URL and run `manage.py migrate`, then try again"
            raise CommandError(f"the database failed ({kind(error)}); {step}") from None
        screen.show(*shown)
        screen.end(data)


def _add(options: Options) -> Told:
    endpoint = Endpoint(**_given(options))
    _clean(endpoint)
    endpoint.save()
    told, sentence = words.preview(endpoint)
    facts = words.facts(endpoint, reveal=options["reveal"])
    hint = [] if options["reveal"] else [f"`manage.py endpoint list {endpoint.pk} --reveal` shows its secrets."]
    return {**facts, "preview": told}, [f"endpoint {endpoint.pk} added; {sentence}", words.one(facts), *hint]


def _change(options: Options) -> Told:
    endpoint = _one(options["endpoint"])
    changes = _given(options)
    if not changes:
        raise CommandError("say what to change, such as --url https://erp.example.com/dingtalk", returncode=2)
    before = endpoint.format
    for name, value in changes.items():
        setattr(endpoint, name, value)
    _clean(endpoint)
    endpoint.save(update_fields=list(changes))
    told, sentence = words.preview(endpoint)
    reveal = f"its receiver needs other secrets now: `manage.py endpoint list {endpoint.pk} --reveal` shows them"
    lines: list[RenderableType] = [f"endpoint {endpoint.pk} changed; {sentence}"]
    return {**words.facts(endpoint, reveal=False), "preview": told}, lines + [reveal] * (endpoint.format != before)


def _list(options: Options) -> Told:
    if options["endpoint"]:
        endpoint = _one(options["endpoint"])
        facts, (told, sentence) = words.facts(endpoint, reveal=options["reveal"]), words.preview(endpoint)
        return {**facts, "preview": told}, [words.one(facts), sentence]
    found = [words.facts(endpoint, reveal=options["reveal"]) for endpoint in Endpoint.objects.all()]
    shown: RenderableType = words.rows_of(found) if found else "no endpoint yet: `manage.py endpoint add` makes one"
    return {"endpoints": found}, [shown]


def _test(options: Options) -> Told:
    endpoint = _one(options["endpoint"])
    answered: dict[str, Any] = {}
    try:
        relay.test(endpoint, answered)
    except judging.Refused as error:
        _refuse(endpoint, words.said(error, answered), _remedy(endpoint, answered))
    except relay.Held as error:
        _refuse(endpoint, str(error), "nothing was sent")
    what = (
        "check_url, sealed" if endpoint.format == Endpoint.Format.DINGTALK else "a signed event of type endpoint_test"
    )
    line = f"sent {what}; {endpoint.name} answered {answered['status']} and takes events"
    return {"taken": True, **answered}, [line, *words.waiting(endpoint)]


def _pause(options: Options) -> Told:
    return _after(options, circuit.pause, "paused: events are owed to it, and sent when it is resumed")


def _resume(options: Options) -> Told:
    return _after(options, circuit.resume, "resumed: what is owed to it is due")


def _enable(options: Options) -> Told:
    return _after(options, circuit.enable, "enabled: what is owed to it is due")


def _disable(options: Options) -> Told:
    return _after(
        options, lambda endpoint: circuit.disable(endpoint, circuit.BY_HAND), "disabled: it is owed nothing new"
    )


def _rotate(options: Options) -> Told:
    endpoint = _one(options["endpoint"])
    try:
        if options["finish"]:
            rotation.finish(endpoint)
            return words.facts(endpoint, reveal=False), [f"endpoint {endpoint.pk} is signed with its new secret only"]
        made = rotation.rotate(endpoint)
    except (rotation.RotationUnderWay, rotation.NoRotation) as error:
        raise CommandError(f"endpoint {endpoint.pk}: {error}; nothing was changed") from None
    shown = [f"{name}: {value if options['reveal'] else words.MASK}" for name, value in made.items()]
    if endpoint.format == Endpoint.Format.DINGTALK:
        step = f"it is paused: put the pair into its receiver, then `manage.py endpoint resume {endpoint.pk}`"
    else:
        step = f"both secrets sign until `manage.py endpoint rotate {endpoint.pk} --finish`"
    hint = [] if options["reveal"] else [f"`manage.py endpoint list {endpoint.pk} --reveal` shows it"]
    facts = words.facts(Endpoint.objects.get(pk=endpoint.pk), reveal=options["reveal"])
    return facts, [f"endpoint {endpoint.pk} has a new secret; {step}", *shown, *hint]


def _remove(options: Options) -> Told:
    endpoint = _one(options["endpoint"])
    pending = Delivery.objects.pending().filter(destination=endpoint.destination)
    count = pending.count()
    if count and not options["yes"]:
        raise CommandError(
            f"pending deliveries to it, which would be dead: {count}; add --yes if they may be, nothing was changed",
            returncode=2,
        )
    number, destination = endpoint.pk, endpoint.destination
    endpoint.delete()
    given_up = outbox.give_up(Delivery.objects.filter(destination=destination), by=f"endpoint remove {number}")
    return {"removed": number, "given_up": given_up}, [f"endpoint {number} removed; deliveries given up: {given_up}"]


def _reencrypt(options: Options) -> Told:
    found = [(endpoint, problem) for endpoint, problem in rotation.reencrypt()]
    unreadable = [f"endpoint {endpoint.pk}: {problem}" for endpoint, problem in found if problem]
    if unreadable:
        raise CommandError("; ".join(unreadable))
    return {"reencrypted": len(found)}, [f"the secrets of {len(found)} endpoints are encrypted with the first key"]


def _after(options: Options, verb: Callable[[Endpoint], None], line: str) -> Told:
    endpoint = _one(options["endpoint"])
    verb(endpoint)
    return words.facts(Endpoint.objects.get(pk=endpoint.pk), reveal=False), [f"endpoint {endpoint.pk} is {line}"]


def _one(text: str) -> Endpoint:
    """Return the endpoint with this number, `endpoint:<number>` or name."""
    digits = text.removeprefix("endpoint:")
    number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0
    found = list(Endpoint.objects.filter(pk=number) or Endpoint.objects.filter(name=text)[:2])
    if len(found) != 1:
        problem = "more than one endpoint is called" if found else "there is no endpoint"
        raise CommandError(f"{problem} {text}: `manage.py endpoint list` shows their numbers")
    return found[0]


def _given(options: Options) -> dict[str, Any]:
    """Return the fields that were given; an empty secret is a shell's variable that is not set."""
    given = {name: options[name] for name in arguments.FIELDS if options.get(name) is not None}
    empty = [name for name in SECRETS if given.get(name) == ""]
    if empty:
        option = f"--{empty[0].replace('_', '-')}"
        raise CommandError(
            f"{option} is empty: leave it out for a fresh one, or `manage.py endpoint rotate`", returncode=2
        )
    return {**given, "where": dict(given["where"])} if "where" in given else given


def _clean(endpoint: Endpoint) -> None:
    with override("en"):  # as everything else that commands say
        try:
            endpoint.full_clean(exclude=endpoint.get_deferred_fields())
        except ValidationError as error:
            told = [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
            raise CommandError("; ".join(told), returncode=2) from None


def _remedy(endpoint: Endpoint, answered: Options) -> str:
    if answered.get("status") in (401, 403):
        return f"its secret may differ from this one's: `manage.py endpoint list {endpoint.pk} --reveal` shows it"
    return "test again when that is mended; nothing was changed"


def _refuse(endpoint: Endpoint, line: str, step: str) -> NoReturn:
    raise CommandError(f"{endpoint.name} did not take it: {line}; {step}")


_WHICH = arguments.which
VERBS: dict[str, tuple[str, list[Callable[[ArgumentParser], None]], Callable[[Options], Told]]] = {
    "add": ("add an endpoint", [arguments.name_and_url, arguments.fields, arguments.reveal], _add),
    "change": (
        "change what is given of an endpoint",
        [_WHICH, arguments.optional_name_and_url, arguments.fields],
        _change,
    ),
    "list": ("list all endpoints, or all about one", [arguments.optional_which, arguments.reveal], _list),
    "test": ("send a test event (DingTalk's form: check_url) and explain the answer", [_WHICH], _test),
    "pause": ("owe events to it, but send nothing", [_WHICH], _pause),
    "resume": ("send what is owed, in order", [_WHICH], _resume),
    "enable": ("owe events to it again, and send what was set aside", [_WHICH], _enable),
    "disable": ("owe it nothing new and send nothing; what is owed stays", [_WHICH], _disable),
    "rotate": ("give it a new secret", [_WHICH, arguments.finish, arguments.reveal], _rotate),
    "remove": ("remove it; what is still owed to it is dead", [_WHICH, arguments.yes], _remove),
    "reencrypt": ("encrypt all secrets with the first of FIELD_ENCRYPTION_KEYS", [], _reencrypt),
}
