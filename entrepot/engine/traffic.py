"""What clients got in the last 24 hours, in steps of five minutes.

It is kept across restarts. The parts that answer clients only add to integers that grow from the
engine's start on. Every two seconds the difference is added to the current step, so that a request
costs neither a lock nor a write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from entrepot.api.models import Activity, ActivityBucket, ActivityCounts
from entrepot.store.catalog import Catalog

STEP = 300
"""Seconds of a step."""

STEPS = 288
"""Steps that are kept: 24 hours."""

WRITE_INTERVAL = 60.0
"""Seconds between two writes to the catalog: at most so much is lost when the engine is killed."""

COUNTED = tuple(field.name for field in msgspec.structs.fields(ActivityCounts))

Counts = tuple[int, ...]
"""In the order of `COUNTED`."""

_NOTHING: Counts = (0,) * len(COUNTED)


class RequestsSaved(Protocol):
    """The cache's record of what was used."""

    @property
    def requests_saved(self) -> int:
        """Manifests answered without a request that the source would have counted."""


class CacheCounts(Protocol):
    """What the cache counts (`entrepot.cache.cache.ArtifactCache`)."""

    @property
    def hits(self) -> int:
        """Manifests and blobs that were answered from the cache."""

    @property
    def misses(self) -> int:
        """Manifests and blobs that had to be fetched."""

    @property
    def usage(self) -> RequestsSaved:
        """What was used."""


class FillCounts(Protocol):
    """What the fills count (`entrepot.cache.fills.Fills`)."""

    @property
    def fetched(self) -> int:
        """Bytes that came from sources."""


class Traffic:
    """The traffic of one engine. *clock* is in seconds since the epoch."""

    def __init__(
        self, catalog: Catalog, *, cache: CacheCounts, fills: FillCounts, clock: Callable[[], float]
    ) -> None:
        self.bytes_served = 0
        """Bytes of blobs that went to clients since the start."""
        self._catalog = catalog
        self._cache = cache
        self._fills = fills
        self._clock = clock
        self._settled = _NOTHING
        """All counts since the start, as they were added to the steps."""
        self._steps: dict[int, Counts] = {}
        """By their beginning, in seconds since the epoch."""
        self._unwritten: set[int] = set()
        self._written_at = clock()

    def served(self, count: int) -> None:
        """Count bytes of a blob that went to a client."""
        self.bytes_served += count

    async def load(self) -> None:
        """Read what earlier engines wrote."""
        for began, counts in (await self._catalog.traffic()).items():
            self._steps[began] = _sum(self._steps.get(began, _NOTHING), counts)
        self._drop_old()

    def settle(self) -> None:
        """Add what was counted since the last time to the step under way."""
        counts = self._counts()
        new = tuple(now - before for now, before in zip(counts, self._settled, strict=True))
        self._settled = counts
        if any(new):
            began = self._current_step()
            self._steps[began] = _sum(self._steps.get(began, _NOTHING), new)
            self._unwritten.add(began)
            self._drop_old()

    def _counts(self) -> Counts:
        counts = ActivityCounts(
            hits=self._cache.hits,
            misses=self._cache.misses,
            served=self.bytes_served,
            from_source=self._fills.fetched,
            requests_saved=self._cache.usage.requests_saved,
        )
        return tuple(getattr(counts, name) for name in COUNTED)

    async def write_if_due(self) -> None:
        """Write, if the last time was a minute ago."""
        self.settle()
        # A clock that was set back must not delay the write for hours.
        if abs(self._clock() - self._written_at) >= WRITE_INTERVAL:
            await self.write()

    async def write(self) -> None:
        """Write unwritten steps to the catalog, and remove those older than a day."""
        self.settle()
        self._written_at = self._clock()
        unwritten, self._unwritten = self._unwritten, set()
        since = self._oldest_step()
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
        return Activity(
            interval=STEP,
            buckets=tuple(
                ActivityBucket(began=began, **_by_name(self._steps.get(began, _NOTHING)))
                for began in range(self._oldest_step(), self._current_step() + 1, STEP)
            ),
            total=self.total(),
        )

    def total(self) -> ActivityCounts:
        """The sum of the last 24 hours."""
        self.settle()
        now, since = self._current_step(), self._oldest_step()
        total = _NOTHING
        for began, counts in self._steps.items():
            if since <= began <= now:
                total = _sum(total, counts)
        return ActivityCounts(**_by_name(total))

    def _current_step(self) -> int:
        return int(self._clock() // STEP) * STEP

    def _oldest_step(self) -> int:
        return self._current_step() - (STEPS - 1) * STEP

    def _drop_old(self) -> None:
        since = self._oldest_step()
        if len(self._steps) > STEPS:
            self._steps = {began: counts for began, counts in self._steps.items() if began >= since}
        while len(self._steps) > STEPS:
            # From a clock that was ahead of this one.
            del self._steps[max(self._steps)]


def _sum(counts: Counts, others: Counts) -> Counts:
    return tuple(map(sum, zip(counts, others, strict=True)))


def _by_name(counts: Counts) -> dict[str, int]:
    # A manifest whose client left before the end was still requested: in one step more may
    # be asked for than answered.
    return {name: max(0, count) for name, count in zip(COUNTED, counts, strict=True)}
