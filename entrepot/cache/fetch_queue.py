"""The queue of fills at a source: how many fetch at once, in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from entrepot.cache.fair_turns import FairTurns, TurnRequest
from entrepot.errors import EntrepotError

FILLS_PER_SOURCE = 500
"""Fills of one source registry that exist at once, those that wait in the queue included. A fill
that waits costs some kilobytes and no file descriptor."""

MAX_WAITING_REQUESTS = 5_000
"""Requests that may wait until a source registry has fewer fills than `FILLS_PER_SOURCE`; more are
refused."""


class TooManyFills(EntrepotError):
    """Too many blobs of one source registry are requested at once."""

    code = "TooManyFills"
    status = oci_status = 503


class FetchQueue:
    """The queue of one source registry: *count* fills fetch at once.

    Turns go round by repository: see `entrepot.cache.fair_turns`.
    """

    def __init__(self, count: int) -> None:
        self._turns = FairTurns(count)
        self._places = FairTurns(FILLS_PER_SOURCE)

    @property
    def waiting(self) -> int:
        """Fills that wait for their turn."""
        return self._turns.waiting

    @asynccontextmanager
    async def turn(self, request: TurnRequest | None = None) -> AsyncIterator[None]:
        """Wait for a turn, and have it for as long as the context lasts."""
        repository = await self._turns.acquire(request or TurnRequest())
        try:
            yield
        finally:
            self._turns.release(repository)

    def add_repository(self, request: TurnRequest, repository: str) -> None:
        """Let the fill with *request* wait for its turn on behalf of *repository* too."""
        self._turns.add_repository(request, repository)

    async def enter(self, repository: str = "") -> None:
        """Wait until a fill of *repository* may begin; raises `TooManyFills`.

        The caller calls `leave` when the fill has ended.
        """
        if not self._places.free and self._places.waiting >= MAX_WAITING_REQUESTS:
            raise TooManyFills(
                f"{FILLS_PER_SOURCE:,} blobs of one source registry are on their way, and "
                f"{self._places.waiting:,} requests wait for more.",
                "Pull again later.",
            )
        await self._places.acquire(TurnRequest(repository))

    def leave(self, repository: str = "") -> None:
        """Free the place of a fill that has ended."""
        self._places.release(repository)
