"""The table of a run, for the screen and for docs/faults.md."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from faults.plan import Fault
from faults.tally import Tally

COLUMNS = ["pushes", "sent", "acknowledged", "stored", "delivered", "dead", "effects", "lost", "doubled", "disordered"]
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
        return self.tally.sound

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


def write(path: Path, rows: list[Row], seed: int, scale: float) -> None:
    """Write the run into the part of the document between its marks."""
