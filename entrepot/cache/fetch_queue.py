"""The queue of fills at a source: how many fetch at once, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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

    First come, first served (`asyncio.Semaphore` is fair).
    """

    def __init__(self, count: int) -> None:
        self.waiting = 0
        """Fills that wait for their turn."""
        self._turns = asyncio.Semaphore(count)
        self._places = asyncio.Semaphore(FILLS_PER_SOURCE)
        self._waiting_requests = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for as long as the context lasts."""
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def enter(self) -> None:
        """Wait until a fill may begin; raises `TooManyFills`.

        The caller calls `release` when the fill has ended.
        """
        if self._places.locked() and self._waiting_requests >= MAX_WAITING_REQUESTS:
            raise TooManyFills(
                f"{FILLS_PER_SOURCE:,} blobs of one source registry are on their way, and "
                f"{self._waiting_requests:,} requests wait for more.",
                "Pull again later.",
            )
        self._waiting_requests += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting_requests -= 1

    def release(self) -> None:
        """Free the place of a fill that has ended."""
        self._places.release()
