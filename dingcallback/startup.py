"""Refuse to start with unsound settings where no command of Django's would run the system checks."""

import sys

from django.core.checks import ERROR, run_checks


def refuse_unsound_settings() -> None:
    """Exit with 1 and a line for each system check that fails; the apps are loaded."""
    errors = [message for message in run_checks() if message.level >= ERROR and not message.is_silenced()]
    for message in errors:
        sys.stderr.write(f"{message.id}: {' '.join(filter(None, [message.msg, message.hint]))}\n")
    if errors:
        sys.exit(1)
