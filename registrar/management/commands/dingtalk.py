"""`manage.py dingtalk VERB`: everything that is asked of DingTalk by hand."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial
from typing import Any

from django.conf import settings
from django.core.checks import run_checks
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from rich.console import Console

from registrar.errors import DingTalkError
from registrar.management.verbs.failed import FAILED
from registrar.management.verbs.keygen import KEYGEN
from registrar.management.verbs.querying import DELETE, QUERY
from registrar.management.verbs.registering import REGISTER, UPDATE
from registrar.management.verbs.report import Report, Verb
from registrar.management.verbs.trigger import TRIGGER

VERBS = {verb.name: verb for verb in (REGISTER, UPDATE, QUERY, DELETE, FAILED, TRIGGER, KEYGEN)}
# Wide enough that no address of usual length is broken where nobody measures the screen.
WIDTH_IN_PIPES = 160


class Command(BaseCommand):
    """Register, update, query and delete the callback, read the failed list, trigger a sample, make keys."""

    help = "What is asked of DingTalk: its registered callback, its failed list; and samples and keys for this service."
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
        self._print(_run(verb, options), options["json"])

    def _print(self, report: Report, as_json: bool) -> None:
        for warning in report.warnings:
            self.stderr.write(f"warning: {warning}")
        if as_json:
            self.stdout.write(json.dumps(report.data, ensure_ascii=False, indent=2))
            return
        console = Console(file=self.stdout, markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]
        if not console.is_terminal:
            console.width = WIDTH_IN_PIPES
        for shown in report.shown:
            console.print(shown, soft_wrap=isinstance(shown, str))


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
