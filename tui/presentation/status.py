"""The status line, and formats that several screens use."""

from __future__ import annotations

import time
from collections.abc import Sequence

from entrepot.api.models import EngineStatus
from entrepot.formatting import out_of, size


def status_parts(status: EngineStatus) -> tuple[str, ...]:
    """The figures at the right of the status line, the most important first."""
    cached = (
        out_of(status.blobs_size, status.space_limit)
        if status.space_limit
        else f"{size(status.blobs_size)} cached"
    )
    return (
        f"{status.rules:,} of {status.rules_limit:,} rules",
        cached,
        f"{size(status.space_free)} free",
    )


def clock_time(seconds: float) -> str:
    """The time of day, in this machine's time zone."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def day(seconds: float) -> str:
    """A date, in this machine's time zone."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def join_names(names: Sequence[str], *, limit: int, count: int | None = None) -> str:
    """The first *limit* names, and how many more there are of *count* (or of *names*)."""
    more = max(len(names) if count is None else count, len(names)) - min(len(names), limit)
    first = ", ".join(names[:limit])
    return f"{first} and {more:,} more" if more else first
