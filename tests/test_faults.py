"""A few of `make faults`' rows with a small count, on the kind of database under test; the rest take too long here."""

import pytest

from faults import acts_endpoints, acts_processes, acts_world
from faults.databases import missing_postgresql
from faults.plan import FAULTS
from faults.stage import play
from tests.conftest import needs_service
from tests.settings import DATABASE

MISSING = missing_postgresql() if DATABASE == "postgresql" else ""
pytestmark = [pytest.mark.rows, *([needs_service(MISSING)] if MISSING else [])]
ACTS = (
    acts_processes.kill_worker_child,
    acts_processes.lose_power,
    acts_world.duplicate_storm,
    acts_endpoints.busy_endpoints,
)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_nothing_is_lost_and_no_atomic_effect_doubled(act: object) -> None:
    fault = next(each for each in FAULTS.values() if each.act is act)

    tally = play(fault, DATABASE, seed=1, scale=0.04)

    assert (tally.lost, tally.doubled, tally.dead) == (0, 0, 0), tally
    assert tally.acknowledged, "the service took nothing"
    assert tally.sent == tally.stored == tally.delivered == tally.effects, tally
