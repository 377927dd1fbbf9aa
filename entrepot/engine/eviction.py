"""Evictions as the engine reports them: their result, and how far one has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.api.models import EvictedImage, EvictionProgress, EvictionSnapshot
from entrepot.core.states import EvictionState
from entrepot.errors import NotFound
from entrepot.store.eviction import EvictionPlan


@dataclass(frozen=True, slots=True)
class Eviction:
    """An eviction, or the preview of one. Sizes are in bytes.

    There may be a hundred thousand images: they are read in slices.
    """

    plan: EvictionPlan
    """With the images that were evicted, or would be."""
    dry_run: bool
    freed: int
    limit: int
    """The most that may be cached."""
    cancelled: bool = False

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.plan.links)

    @property
    def images(self) -> tuple[EvictedImage, ...]:
        """All images, the least recently used first."""
        return tuple(self.images_in(0, self.count))

    @property
    def cached(self) -> int:
        """What was cached before."""
        return self.plan.size

    @property
    def goal(self) -> int:
        """What may stay."""
        return self.plan.goal

    @property
    def shortfall(self) -> int:
        """By how much the goal is missed."""
        return max(0, self.plan.remaining - self.plan.goal)

    def images_in(self, start: int, end: int) -> Sequence[EvictedImage]:
        """Some of the images, as the API has them."""
        return [
            EvictedImage(
                repository=row.repository,
                tags=row.tags,
                digest=row.digest,
                platform=row.platform,
                freed=row.freed,
                last_used=row.last_used,
            )
            for row in self.plan.rows(start, end)
        ]

    def summary(self) -> EvictionSnapshot:
        """The eviction as the API has it, without its images."""
        return EvictionSnapshot(
            dry_run=self.dry_run,
            images=(),
            freed=self.freed,
            cached=self.cached,
            goal=self.goal,
            limit=self.limit,
            shortfall=self.shortfall,
            locked=self.plan.locked_size,
            in_use=self.plan.in_use_size,
            recent=self.plan.recent_size,
            cancelled=self.cancelled,
        )


class EvictionRun:
    """An eviction that is under way, or has ended."""

    def __init__(self, started: float, total: int) -> None:
        self.state = EvictionState.RUNNING
        self.is_cancelled = False
        """Whether it is to end after the step that is under way."""
        self._started = started
        self._ended: float | None = None
        self._total = total
        self._evicted = 0
        self._freed = 0

    def add(self, evicted: int, freed: int) -> None:
        """Count what a step has evicted and freed."""
        self._evicted += evicted
        self._freed += freed

    def end(self, state: EvictionState, now: float) -> None:
        """Record how it ended."""
        self.state, self._ended = state, now

    def snapshot(self) -> EvictionProgress:
        """How far it has come."""
        return EvictionProgress(
            state=self.state,
            started=self._started,
            ended=self._ended,
            total=self._total,
            evicted=self._evicted,
            freed=self._freed,
        )


def no_eviction() -> NotFound:
    """No eviction has run."""
    return NotFound(
        "No eviction has run since the engine started.", "Start one with: entrepot evict"
    )
