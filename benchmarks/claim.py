"""A claim, and a push, beside a million pending deliveries of one destination: `python -m benchmarks.claim`."""

import subprocess
import sys

from benchmarks.acknowledge import ROOT
from benchmarks.service import databases, environment


def main() -> None:
    """Measure each database that is there, each in a process of its own, as Django knows one at a time."""
    with databases() as found:
        for _, database in found:
            command = [sys.executable, "-m", "benchmarks.backlog"]
            subprocess.run(command, cwd=ROOT, env=environment(database, LOG_LEVEL="ERROR"), check=True)


if __name__ == "__main__":
    main()
