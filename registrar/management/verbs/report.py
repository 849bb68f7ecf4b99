"""What a verb is, and what it tells: data for programs, tables and sentences for people."""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.table import Table

Options = dict[str, Any]
MASK = "***"


@dataclass(frozen=True)
class Report:
    """What a verb did; `warnings` go to stderr, and so does a `refusal`, which ends the command with its status."""

    data: dict[str, Any]
    shown: list[RenderableType]
    warnings: list[str] = field(default_factory=list)
    refusal: str = ""
    refusal_status: int = 1


@dataclass(frozen=True)
class Verb:
    """One sub-command."""

    name: str
    help: str
    example: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Options], Report]
    needs_settings: bool = True


def no_arguments(parser: ArgumentParser) -> None:
    """Add nothing to what every verb takes."""


def add_reveal(parser: ArgumentParser) -> None:
    """Add the option that shows secrets."""
    parser.add_argument("--reveal", action="store_true", help="print token and aes key in clear")


def table(*columns: str) -> Table:
    """Return an empty table in this command's style."""
    made = Table(show_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def facts(rows: dict[str, str]) -> Table:
    """Return a table of names and values."""
    made = Table(show_header=False, show_edge=False, box=None)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(name, value)
    return made
