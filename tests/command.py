"""`manage.py dingtalk` called in this process, or in one of its own, with everything it said."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from django.core.management import CommandError, call_command

ROOT = Path(__file__).resolve().parent.parent


SOUND = {
    "DINGTALK_TOKEN": "test-token-2026",
    "DINGTALK_AES_KEY": "k7Qm2ZxVb9TnR4wLc8YpJd6HsG3fAe5UoXi1NzBvMq0",
    "DINGTALK_APP_KEY": "dingtestappkey0001",
    "DINGTALK_APP_SECRET": "test-app-secret-0001",
}


class Said(NamedTuple):
    status: int
    out: str
    err: str


def call(command: str, *args: object) -> Said:
    """Run a command and return its exit status and everything it said."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command(command, *map(str, args), stdout=out, stderr=err)
    except CommandError as error:
        return Said(error.returncode, out.getvalue(), err.getvalue() + str(error))
    return Said(0, out.getvalue(), err.getvalue())


def dingtalk(*args: str) -> Said:
    """Run a verb of `manage.py dingtalk`."""
    return call("dingtalk", *args)


def document(said: Said) -> Any:
    assert said.status == 0, said
    return json.loads(said.out)


def manage(*args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `manage.py dingtalk` in a process of its own with no settings but these."""
    return subprocess.run(
        [sys.executable, "manage.py", "dingtalk", *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
