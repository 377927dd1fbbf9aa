"""Whether a listing would show something else than a moment ago, told without making it: a
dashboard asks every two seconds, and most often nothing changed.

What counts as a change is what somebody did to rules, credential sets, repositories or tags. How
often something was pulled changes with every pull; a listing of ten thousand repositories is not
sent again for that more often than every `USAGE_TOLD` seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable

USAGE_TOLD = 30.0
"""Seconds by which counts and times of pulls may be late for a client that has the listing already."""


class Revisions:
    """The revisions of one engine's listings. They mean nothing to another engine, nor to this one
    after a restart."""

    def __init__(
        self,
        *,
        documents: Callable[[], int],
        health: Callable[[], Hashable],
        held: Callable[[], int],
        usage: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """*documents*, *held* and *usage* count the changes of rules and credential sets, of
        repositories and tags, and of how often something was pulled.

        *health* is that of all credential sets; *clock* is monotonic, in seconds.
        """
        self._documents = documents
        self._health = health
        self._held = held
        self._usage = usage
        self._clock = clock
        # Small enough for a double, as some readers of JSON have it.
        self._start = random.getrandbits(48)
        self._health_seen = health()
        self._usage_seen = usage()
        self._usage_told: float | None = None
        self._counts = {"health": 0, "usage": 0}

    @property
    def rules(self) -> str:
        """Of the listing of cache rules."""
        return self._of(self._documents(), self._look("usage"), self._held())

    @property
    def credential_sets(self) -> str:
        """Of the listing of credential sets."""
        return self._of(self._documents(), self._look("health"))

    @property
    def repositories(self) -> str:
        """Of the listing of cached repositories."""
        return self._of(self._documents(), self._look("usage"), self._held())

    @property
    def whole(self) -> int:
        """Another number whenever one of the others is another."""
        return (
            self._start
            + self._documents()
            + self._look("health")
            + self._look("usage")
            + self._held()
        )

    def _of(self, *counts: int) -> str:
        return "-".join(f"{each:x}" for each in (self._start, *counts))

    def _look(self, name: str) -> int:
        health, usage = self._health(), self._usage()
        if health != self._health_seen:
            self._health_seen = health
            self._counts["health"] += 1
        if usage != self._usage_seen and (
            self._usage_told is None or self._clock() >= self._usage_told + USAGE_TOLD
        ):
            self._usage_seen, self._usage_told = usage, self._clock()
            self._counts["usage"] += 1
        return self._counts[name]
