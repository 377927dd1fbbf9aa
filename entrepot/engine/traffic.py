"""What clients got in the last 24 hours, in steps of five minutes, kept across restarts.

Whoever answers clients only adds to integers that grow from the engine's start on. Every two
seconds the difference goes into the step that is under way, so that a request costs neither a lock
nor a write.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from entrepot.api.models import Activity, ActivityBucket, ActivityCounts
from entrepot.store.catalog import Catalog

INTERVAL = 300
"""Seconds of a step."""

STEPS = 288
"""Steps that are kept: 24 hours."""

WRITING = 60.0
"""Seconds between two writes to the catalog: so much is lost when the engine is killed."""

COUNTED = tuple(each.name for each in msgspec.structs.fields(ActivityCounts))

Counts = tuple[int, ...]
"""In the order of `COUNTED`."""

_NOTHING: Counts = (0,) * len(COUNTED)


class ActivityRecord:
    """The record of one engine. *grown* gives all counts as they grew since its start; *clock* is
    in seconds since the epoch."""

    def __init__(
        self, catalog: Catalog, *, clock: Callable[[], float], grown: Callable[[], ActivityCounts]
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._grown = grown
        self._seen = _NOTHING
        self._steps: dict[int, Counts] = {}
        """By their beginning, in seconds since the epoch."""
        self._unwritten: set[int] = set()
        self._written = clock()

    async def load(self) -> None:
        """Read what earlier engines wrote."""
        for began, counts in (await self._catalog.traffic()).items():
            self._steps[began] = _sum(self._steps.get(began, _NOTHING), counts)
        self._drop_old()

    def settle(self) -> None:
        """Put what came since the last time into the step that is under way."""
        grown = _counts(self._grown())
        more = tuple(new - before for new, before in zip(grown, self._seen, strict=True))
        self._seen = grown
        if any(more):
            began = self._now()
            self._steps[began] = _sum(self._steps.get(began, _NOTHING), more)
            self._unwritten.add(began)
            self._drop_old()

    async def write_if_due(self) -> None:
        """Write, if the last time was a minute ago."""
        self.settle()
        # A clock that was set back must not keep it from being written for hours.
        if abs(self._clock() - self._written) >= WRITING:
            await self.write()

    async def write(self) -> None:
        """Write what is not written yet, and forget in the catalog what is older than a day."""
        self.settle()
        self._written = self._clock()
        unwritten, self._unwritten = self._unwritten, set()
        since = self._since()
        try:
            await self._catalog.record_traffic(
                {
                    began: self._steps[began]
                    for began in unwritten
                    if began >= since and began in self._steps
                },
                since=since,
            )
        except BaseException:
            self._unwritten |= unwritten
            raise

    def snapshot(self) -> Activity:
        """The last 24 hours, this moment included."""
        self.settle()
        now = self._now()
        return Activity(
            interval=INTERVAL,
            buckets=tuple(
                ActivityBucket(began=began, **_told(self._steps.get(began, _NOTHING)))
                for began in range(self._since(), now + 1, INTERVAL)
            ),
            total=self.total(),
        )

    def total(self) -> ActivityCounts:
        """Of the last 24 hours."""
        self.settle()
        now, since = self._now(), self._since()
        total = _NOTHING
        for began, counts in self._steps.items():
            if since <= began <= now:
                total = _sum(total, counts)
        return ActivityCounts(**_told(total))

    def _now(self) -> int:
        return int(self._clock() // INTERVAL) * INTERVAL

    def _since(self) -> int:
        return self._now() - (STEPS - 1) * INTERVAL

    def _drop_old(self) -> None:
        since = self._since()
        if len(self._steps) > STEPS:
            self._steps = {began: counts for began, counts in self._steps.items() if began >= since}
        while len(self._steps) > STEPS:
            # From a clock that was ahead of this one.
            del self._steps[max(self._steps)]


def _counts(counts: ActivityCounts) -> Counts:
    return tuple(getattr(counts, name) for name in COUNTED)


def _sum(one: Counts, other: Counts) -> Counts:
    return tuple(map(sum, zip(one, other, strict=True)))


def _told(counts: Counts) -> dict[str, int]:
    # A manifest that no client waited for to the end was asked for all the same: in one step more
    # may be asked for than answered.
    return {name: max(0, count) for name, count in zip(COUNTED, counts, strict=True)}
