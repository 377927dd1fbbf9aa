"""How the dashboard ended, for the program that opened it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DashboardOutcome:
    """Whether the engine is to keep running, and the exit status.

    The status is 0, or 128 and the number of the signal that ended the dashboard.
    """

    keep_engine: bool
    status: int = 0
