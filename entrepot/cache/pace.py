"""The pace of a fill: its speed, and whether its source is too slow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SPEED_WINDOW = 5.0
"""Seconds over which the speed of a fill is measured."""

SAMPLE_INTERVAL = 0.25
"""Seconds between two measurements of it, at least."""

MIN_RATE = 1000.0
"""Bytes per second, over `RATE_WINDOW`, that a source has to send. A fill that gets less yields its
turn to others that wait for one."""

RATE_WINDOW = 60.0
"""Seconds over which the pace of a fill is judged. Longer than the read time-out: a source that
falls silent ends otherwise."""

MAX_CRAWL_TIME = 600.0
"""Seconds in turns at the source, without one `RATE_WINDOW` that was fast enough, after which a
fill fails."""


@dataclass(slots=True)
class _Sample:
    time: float
    received: int


class SpeedMeter:
    """The speed of a fill over the last `SPEED_WINDOW` seconds."""

    __slots__ = ("_next_sample", "_samples")

    def __init__(self, now: float) -> None:
        self._samples: deque[_Sample] = deque(maxlen=int(SPEED_WINDOW / SAMPLE_INTERVAL) + 2)
        self._next_sample = now

    def record(self, now: float, received: int) -> None:
        """Record that *received* bytes of the blob are here."""
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_INTERVAL
            self._samples.append(_Sample(now, received))

    def clear(self) -> None:
        """Forget what was recorded."""
        self._samples.clear()

    def speed(self, now: float, received: int) -> float:
        """Bytes per second; *received* bytes are here now."""
        while self._samples and now - self._samples[0].time > SPEED_WINDOW:
            self._samples.popleft()
        if not self._samples:
            return 0.0
        first = self._samples[0]
        return (received - first.received) / max(now - first.time, SAMPLE_INTERVAL)


class Pace:
    """The pace of a fill since the moment *since*.

    *fetched* is the number of bytes received at that moment. *since* moves on by the time that is
    not the source's fault. *slow_for* are the seconds since the fill was last fast enough.
    """

    __slots__ = ("fetched", "since", "slow_for", "turn_since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.fetched = 0
        self.slow_for = 0.0
        self.turn_since: float | None = None
        """When the fill got the turn that it has; None while it has none."""

    def restart(self, now: float, fetched: int) -> None:
        """Judge from this moment on."""
        self.since = now
        self.fetched = fetched

    def judge(self, now: float, fetched: int) -> None:
        """Judge the window that ends now, unless it is too short."""
        seconds = now - self.since
        if seconds < RATE_WINDOW:
            return
        # An engine that was stopped for a while (SIGSTOP) must not blame that on its sources.
        self.slow_for = (
            0.0
            if (fetched - self.fetched) / seconds >= MIN_RATE
            else self.slow_for + min(seconds, 2 * RATE_WINDOW)
        )
        self.restart(now, fetched)

    @property
    def is_crawling(self) -> bool:
        """Whether the source has been too slow for so long that the fill fails."""
        return self.slow_for >= MAX_CRAWL_TIME

    def may_yield(self, now: float) -> bool:
        """Whether the source is too slow, and the fill has had its turn for a whole window."""
        return (
            self.slow_for > 0
            and self.turn_since is not None
            and now - self.turn_since >= RATE_WINDOW
        )
