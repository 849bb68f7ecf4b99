"""The table of a run, for the screen and for docs/faults.md."""

import os
import platform
import re
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import django
from rich.table import Table

from faults.databases import missing_postgresql, postgresql_version
from faults.plan import FAULTS, Fault
from faults.tally import Tally

COLUMNS = ["pushes", "sent", "acknowledged", "stored", "delivered", "dead", "effects", "lost", "doubled", "disordered"]
BEGIN, END = "<!-- {}: written by `make faults` from here -->", "<!-- {}: to here -->"
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@dataclass(frozen=True)
class Row:
    """One fault on one database; `missing` says why it could not be tried."""

    fault: Fault
    vendor: str
    tally: Tally
    missing: str = ""

    @property
    def sound(self) -> bool:
        """Tell whether nothing was lost and nothing doubled, as far as it could be tried."""
        return bool(self.missing) or self.tally.sound

    def cells(self) -> list[str]:
        """Return the counts, as text."""
        return ["–" if self.missing else str(getattr(self.tally, name)) for name in COLUMNS]

    def line(self) -> str:
        """Return one line for the screen while the suite runs."""
        counts = ", ".join(f"{getattr(self.tally, name)} {name}" for name in COLUMNS)
        verdict = f"not tried: {self.missing}" if self.missing else counts
        return f"{'ok  ' if self.sound else 'FAIL'} {self.vendor} {self.fault.name}: {verdict} {self.tally.note}"


def table(rows: list[Row], seed: int) -> Table:
    """Return the table for the screen."""
    result = Table("database", "fault", *COLUMNS, title=f"seed {seed}")
    for row in rows:
        style = "yellow" if row.missing else "green" if row.sound else "bold red"
        result.add_row(DATABASES[row.vendor], row.fault.name, *row.cells(), style=style)
    return result


def write(path: Path, row: Row, seed: int, small: bool) -> None:
    """Write a row between its database's two marks in the document; the other rows and what stands around them stay."""
    begin, end = BEGIN.format(row.vendor), END.format(row.vendor)
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    old, _, after = rest.partition(end)
    text = "\n\n".join([begin, _facts(row.vendor, seed, small), _markdown(row, _known(old)), end])
    path.write_text(before + text + after, encoding="utf-8")


def _known(text: str) -> dict[str, str]:
    """Return the rows that a table has, each under its fault's name."""
    return {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)`: .*$", text, flags=re.M)}


def _facts(vendor: str, seed: int, small: bool) -> str:
    version = f"SQLite {sqlite3.sqlite_version}"
    if vendor == "postgresql":
        version = "no PostgreSQL" if missing_postgresql() else f"PostgreSQL {postgresql_version()}"
    return (
        f"{version}, Python {platform.python_version()}, Django {django.get_version()}, {platform.system()}, "
        f"{os.cpu_count()} cores; {datetime.now(timezone.utc).date()}; {'a small' if small else 'the full'} count of "
        f"each fault. The same random moments again: `make faults DATABASE={vendor} SEED={seed}"
        f"{' COUNT=small' if small else ''}`."
    )


def _markdown(row: Row, known: dict[str, str]) -> str:
    remark = f"not tried: {row.missing}" if row.missing else row.tally.note.rstrip(".")
    first = f"`{row.fault.name}`: {row.fault.text}{f' ({remark})' if remark else ''}"
    known[row.fault.name] = f"| {' | '.join([first, *row.cells()])} |"
    in_order = [known[name] for name in FAULTS if name in known]
    return "\n".join([f"| {' | '.join(['fault', *COLUMNS])} |", f"| --- {'| ---: ' * len(COLUMNS)}|", *in_order])
