"""FetchQueue at a source registry: how many blobs come from it at once, and in which order the others
follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from entrepot.errors import EntrepotError

FILLS_PER_SOURCE = 500
"""Fills of one source registry that are under way, those that wait for their turn included. A fill
that waits costs some kilobytes and no file descriptor."""

MAX_WAITING_REQUESTS = 5_000
"""Requests that may wait until a source registry has fewer fills than `FILLS_PER_SOURCE`; more than
that are refused."""


class TooManyFills(EntrepotError):
    """More blobs of one source registry are requested at once than can reasonably wait."""

    code = "TooManyFills"
    status = oci_status = 503


class FetchQueue:
    """The turns of one source registry: *count* blobs come from it at once. First come, first
    served (`asyncio.Semaphore` is fair)."""

    def __init__(self, count: int) -> None:
        self.waiting = 0
        """Fills that wait for a turn."""
        self._turns = asyncio.Semaphore(count)
        self._places = asyncio.Semaphore(FILLS_PER_SOURCE)
        self._waiting_for_place = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Within it the fill may fetch; it is entered when those who came before have had their
        turn."""
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def take_place(self) -> None:
        """Wait until a fill may be begun; raises `TooManyFills`. The caller calls `leave_place`
        when the fill has ended."""
        if self._places.locked() and self._waiting_for_place >= MAX_WAITING_REQUESTS:
            raise TooManyFills(
                f"{FILLS_PER_SOURCE:,} blobs of one source registry are on their way and {self._waiting_for_place:,} more are waited for.",
                "Pull again later.",
            )
        self._waiting_for_place += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting_for_place -= 1

    def leave_place(self) -> None:
        """A fill has ended."""
        self._places.release()
