"""`make faults`: let every fault happen on every database, print the table and write it to docs/faults.md."""

import argparse
import os
import random
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
from faults.processes import stopping
from faults.report import Row, table, write
from faults.stage import play
from faults.tally import Tally

SMALL = 0.06
REPORT = Path(__file__).resolve().parent.parent / "docs" / "faults.md"


def main() -> int:
    """Run the suite; 1 where an event was lost, or an atomic effect doubled."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    seed = arguments.seed or random.randrange(1, 10**6)  # noqa: S311 - to be repeated, not to be secret
    chosen = [each for each in FAULTS.values() if not arguments.only or each.name in arguments.only.split(",")]
    vendors = VENDORS if arguments.database == "all" else (arguments.database,)
    plays = [(each, vendor) for vendor in vendors for each in chosen if vendor in each.vendors]
    rows = []
    with console.status(f"{len(plays)} faults"), ThreadPoolExecutor(arguments.jobs) as pool:
        played = [pool.submit(_play, each, vendor, seed, arguments.scale) for each, vendor in plays]
        try:
            for each in played:
                rows.append(each.result())
                console.print(rows[-1].line(), soft_wrap=True)
                if arguments.write:
                    write(REPORT, rows[-1], seed, arguments.scale == SMALL)
        finally:
            pool.shutdown(cancel_futures=True)  # of which there are some where it is told to stop
    console.print(table(rows, seed))
    return 0 if all(row.sound for row in rows) else 1


def _stop(number: int, _: Any) -> None:
    stopping.set()
    sys.exit(128 + number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=int(os.environ.get("SEED") or 0), help="repeat a run's random moments"
    )
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), help="comma-separated names of faults")
    parser.add_argument("--database", choices=[*VENDORS, "all"], default=os.environ.get("DATABASE") or "all")
    parser.add_argument("--count", choices=["full", "small"], default=os.environ.get("COUNT") or "full")
    parser.add_argument("--write", action="store_true", help="write also the rows of --only into docs/faults.md")
    parser.add_argument(
        "--jobs", type=int, default=int(os.environ.get("JOBS") or 1), help="so many faults at the same time"
    )
    arguments = parser.parse_args()
    arguments.write = arguments.write or not arguments.only
    arguments.scale = SMALL if arguments.count == "small" else 1.0
    return arguments


def _play(fault: Fault, vendor: str, seed: int, scale: float) -> Row:
    missing = (missing_postgresql() if vendor == "postgresql" else "") or fault.plan.missing()
    return Row(fault, vendor, Tally() if missing else play(fault, vendor, seed, scale), missing)


if __name__ == "__main__":
    sys.exit(main())
