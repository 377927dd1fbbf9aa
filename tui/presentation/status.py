"""The status line, and what all presentations share."""

from __future__ import annotations

import time
from collections.abc import Sequence

from entrepot.api.models import EngineStatus
from entrepot.formatting import out_of, size


def status_parts(status: EngineStatus) -> tuple[str, ...]:
    """What stands at the right of the status line, the most needed first."""
    held = (
        out_of(status.blobs_size, status.space_limit)
        if status.space_limit
        else f"{size(status.blobs_size)} held"
    )
    return (
        f"{status.rules:,} of {status.rules_limit:,} rules",
        held,
        f"{size(status.space_free)} free",
    )


def clock_time(seconds: float) -> str:
    """A time of the day, on this machine's clock."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def day(seconds: float) -> str:
    """A date."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def join_names(names: Sequence[str], *, limit: int, count: int | None = None) -> str:
    """The first *limit* of some names, and how many more there are of *count* (or of those given)."""
    more = max(len(names) if count is None else count, len(names)) - min(len(names), limit)
    told = ", ".join(names[:limit])
    return f"{told} and {more:,} more" if more else told
