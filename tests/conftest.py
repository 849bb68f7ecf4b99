"""What every test shares: which services are there, and a DingTalk on this machine."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from registrar import calls
from tests.processes import Gate
from tests.settings import DATABASE, POSTGRESQL_URL


def reachable(url: str) -> bool:
    """Tell whether something listens at a service's address."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5432), timeout=2).close()
    except OSError:
        return False
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what touches rows, so that a second run on PostgreSQL takes those tests and no others."""
    missing = DATABASE == "postgresql" and not reachable(POSTGRESQL_URL)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("django_db") or fixtures & {"db", "transactional_db", "live_server", "admin_client"}:
            item.add_marker("rows")
            if missing:
                item.add_marker(needs_service("PostgreSQL is not reachable (TEST_POSTGRESQL_URL)"))


def needs_service(reason: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test whose service is missing, or fails it where CI requires services."""
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.exit(f"REQUIRE_SERVICES=1, but {reason}", returncode=1)
    return pytest.mark.skip(reason=reason)


@pytest.fixture(autouse=True)
def _no_counts_of_earlier_tests() -> Iterator[None]:
    """Leave nothing in memory of the calls that a test made inside its transaction."""
    yield
    calls.forget()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a file for what processes say."""
    return tmp_path / "log"


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Return something slow on the network."""
    with Gate() as gate:
        yield gate
