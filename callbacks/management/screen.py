"""How the commands talk to people: tables, a progress bar, a question, and a stop between two batches."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import OutputWrapper
from django.core.serializers.json import DjangoJSONEncoder
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.prompt import Confirm
from rich.table import Table

# Wide enough that no usual row is broken where nobody measures the screen.
WIDTH_IN_PIPES = 160


class Screen:
    """Either one JSON document or tables and sentences on stdout; the progress bar on stderr where that is a screen."""

    def __init__(self, stdout: OutputWrapper, *, as_json: bool) -> None:
        self._stdout = stdout
        self._as_json = as_json
        self._console = Console(file=stdout, markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]
        if not self._console.is_terminal:
            self._console.width = WIDTH_IN_PIPES

    def show(self, *shown: RenderableType) -> None:
        """Print for people."""
        for each in shown if not self._as_json else ():
            self._console.print(each, soft_wrap=isinstance(each, str))

    def end(self, data: dict[str, Any]) -> None:
        """Print for programs."""
        if self._as_json:
            self._stdout.write(json.dumps(data, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2))

    def agrees(self, question: str) -> bool | None:
        """Ask for y or n, n by default; None where nobody is there to answer."""
        if self._as_json or not sys.stdin.isatty():
            return None
        try:
            return Confirm.ask(question, console=self._console, default=False)
        except (EOFError, KeyboardInterrupt):
            return False


def table(*columns: str) -> Table:
    """Return an empty table in the commands' style."""
    made = Table(show_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def progress() -> Progress:
    """Return a progress bar."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Turn SIGTERM and Ctrl-C into an event to look at between batches; a thread that isn't the main one gets none."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
