"""`manage.py dingtalk VERB`: everything that is asked of DingTalk by hand."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial
from typing import Any

from django.conf import settings
from django.core.checks import run_checks
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from callbacks.management.screen import Screen
from registrar.errors import DingTalkError
from registrar.management.verbs.doctor import DOCTOR
from registrar.management.verbs.failed import FAILED
from registrar.management.verbs.keygen import KEYGEN
from registrar.management.verbs.querying import DELETE, QUERY
from registrar.management.verbs.reconcile import RECONCILE
from registrar.management.verbs.registering import REGISTER, UPDATE
from registrar.management.verbs.report import Report, Verb
from registrar.management.verbs.trigger import TRIGGER

VERBS = {verb.name: verb for verb in (REGISTER, UPDATE, QUERY, DELETE, FAILED, RECONCILE, TRIGGER, DOCTOR, KEYGEN)}


class Command(BaseCommand):
    """Everything about the callback, the events that were missed, samples and keys, a verb each."""

    help = "What is asked of DingTalk: its registered callback, what it could not push; and samples and keys."
    # Run below, for the verbs that need settings: keygen and -h run with none at all.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Make a sub-command of each verb, with an example."""
        parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for verb in VERBS.values():
            add = partial(parsers.add_parser, verb.name, help=verb.help, description=_sentence(verb.help))
            sub: ArgumentParser = add(epilog=f"example: {verb.example}", formatter_class=RawDescriptionHelpFormatter)
            sub.add_argument("--json", action="store_true", help="print one JSON document")
            verb.add_arguments(sub)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the verb; whatever stops it becomes one line with the cause and the next step."""
        verb = VERBS[options["verb"]]
        if verb.needs_settings:
            _require_sound_settings()
        screen = Screen(self.stdout, as_json=options["json"])
        report = _run(verb, {**options, "screen": screen})
        for warning in report.warnings:
            self.stderr.write(f"warning: {warning}")
        screen.show(*report.shown)
        screen.end(report.data)
        if report.refusal:
            raise CommandError(report.refusal, returncode=report.refusal_status)


def _run(verb: Verb, options: dict[str, Any]) -> Report:
    try:
        return verb.run(options)
    except DingTalkError as error:
        line = str(error)
    except Error as error:
        kind = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        line = f"the database failed ({kind}); check DATABASE_URL and run `manage.py migrate`, then try again"
    raise CommandError(line)


def _require_sound_settings() -> None:
    silenced = set(settings.SILENCED_SYSTEM_CHECKS)
    wrong = [message for message in run_checks() if message.is_serious() and message.id not in silenced]
    if wrong:
        raise CommandError("\n".join(f"{message.msg} ({message.id})" for message in wrong))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
