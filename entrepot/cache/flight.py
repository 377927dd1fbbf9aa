"""One flight for many passengers: whoever asks for what is being fetched already waits for that one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from entrepot.source.errors import SourceUnreachable
from entrepot.words import duration

Answer = TypeVar("Answer")


FETCH_TIMEOUT = 300.0
"""Seconds that one fetch may take: longer than all attempts and time-outs of a request together.

A source that sends a byte now and then meets no other limit.
"""


class FetchAbandoned(SourceUnreachable):
    """A fetch took too long, or ended without an answer and without an error."""


class SingleFlight(Generic[Answer]):
    """Runs one fetch for each key at a time. A passenger who leaves changes nothing for the others, nor for the fetch."""

    def __init__(self, *, timeout: float = FETCH_TIMEOUT) -> None:
        self._timeout = timeout
        self._flights: dict[Hashable, asyncio.Future[Answer]] = {}
        self._closed = False

    async def join(self, key: Hashable, fetch: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of the fetch under way for *key*, or of a new one; raises what the fetch raises, and `FetchAbandoned`."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(self._bounded(fetch))
            flight.add_done_callback(lambda done: self._landed(key, done))
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            if not flight.cancelled() or self._closed or (task := asyncio.current_task()) is None or task.cancelling():
                raise
            # Something within the fetch was cancelled, and not who waits for it.
            raise FetchAbandoned("What was being fetched was given up on the way.", "Try again.") from None

    async def _bounded(self, fetch: Callable[[], Awaitable[Answer]]) -> Answer:
        bound = asyncio.timeout(self._timeout)
        try:
            async with bound:
                return await fetch()
        except TimeoutError:
            if not bound.expired():
                raise
            raise FetchAbandoned(f"The source did not answer to the end within {duration(self._timeout)}.", "Try again.") from None

    def _landed(self, key: Hashable, flight: asyncio.Future[Answer]) -> None:
        del self._flights[key]
        # Its passengers may all have left: then nobody else would look at the error, and asyncio would complain.
        if not flight.cancelled():
            flight.exception()

    async def close(self) -> None:
        """Cancel every fetch under way and wait for their end."""
        self._closed = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
