"""An outage in small: what was missed comes in, once, though each step on the way is killed half-way."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_all_that_can_be_known_comes_in_once_though_each_command_is_killed_half_way() -> None:
    small = {"OUTAGE_EVENTS": "100", "OUTAGE_SCALE": "4000", "OUTAGE_WAIT": "0", "OUTAGE_DATABASE": "sqlite"}
    command = [sys.executable, "-m", "benchmarks.outage"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **small}, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {name.strip(): int(count) for name, count in re.findall(r"│ ([^│]+)│ (\d+) +│", done.stdout)}
    assert figures["missed"] == 100
    assert figures["brought in by `failed`"] == 80
    assert figures["made by `reconcile`"] == 15
    assert figures["can't be known"] == 5
    assert figures["not found though it could be"] == figures["stored twice"] == figures["still owed"] == 0
    assert figures["calls: failed"] <= 6
    assert figures["calls: failed --reimport"] == 0
