"""The time, as answers and files tell it."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_time() -> str:
    """Now, in UTC, ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
