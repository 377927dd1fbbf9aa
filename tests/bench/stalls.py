"""What an engine says about its own event loop."""

from __future__ import annotations

from pathlib import Path


def longest_loop_lag(management: Path) -> float | None:
    """Seconds that the event loop was late at the most; None where the engine does not say.

    *management* is the socket of its management API.
    """
    return None
