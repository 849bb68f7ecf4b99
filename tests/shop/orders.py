"""A work-order hook that remembers its calls, and fails as often as it is told to."""

from typing import Any

calls: list[tuple[str, dict[str, Any]]] = []
failures: list[Exception] = []


def create(process_instance_id: str, process_instance: dict[str, Any]) -> None:
    """Remember the call; raise what waits in `failures`."""
    calls.append((process_instance_id, process_instance))
    if failures:
        raise failures.pop()
