"""`make faults`: let every fault happen on every database, print the table and write it to docs/faults.md."""

import argparse
import os
import random
import signal
import sys
from pathlib import Path

from rich.console import Console

from faults import (  # noqa: F401 - they register when imported
    acts_brokers,
    acts_endpoints,
    acts_postgresql,
    acts_processes,
    acts_sqlite,
    acts_world,
)
from faults.databases import VENDORS, missing_postgresql
from faults.plan import FAULTS, Fault
from faults.report import Row, table, write
from faults.stage import play
from faults.tally import Tally

SMALL = 0.06
REPORT = Path(__file__).resolve().parent.parent / "docs" / "faults.md"


def main() -> int:
    """Run the suite; 1 where an event was lost, or an atomic effect doubled."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = arguments.seed or random.randrange(1, 10**6)  # noqa: S311 - to be repeated, not to be secret
    chosen = [each for each in FAULTS.values() if not arguments.only or each.name in arguments.only.split(",")]
    every = []
    for vendor in VENDORS if arguments.database == "all" else [arguments.database]:
        rows = []
        for each in [each for each in chosen if vendor in each.vendors]:
            with console.status(f"{vendor}: {each.text}"):
                rows.append(Row(each, vendor, *_play(each, vendor, seed, arguments.scale)))
            console.print(rows[-1].line(), soft_wrap=True)
        if not arguments.only:
            write(REPORT, vendor, rows, seed, small=arguments.scale == SMALL)
        every += rows
    console.print(table(every, seed))
    return 0 if all(row.sound for row in every) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=int(os.environ.get("SEED") or 0), help="repeat a run's random moments"
    )
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), help="comma-separated names of faults")
    parser.add_argument("--database", choices=[*VENDORS, "all"], default=os.environ.get("DATABASE") or "all")
    parser.add_argument("--count", choices=["full", "small"], default=os.environ.get("COUNT") or "full")
    arguments = parser.parse_args()
    arguments.scale = SMALL if arguments.count == "small" else 1.0
    return arguments


def _play(fault: Fault, vendor: str, seed: int, scale: float) -> tuple[Tally, str]:
    """Return what came of a fault, and why it could not be tried or tallied."""
    missing = (missing_postgresql() if vendor == "postgresql" else "") or fault.plan.missing()
    if missing:
        return Tally(), missing
    return play(fault, vendor, seed, scale), ""


if __name__ == "__main__":
    sys.exit(main())
