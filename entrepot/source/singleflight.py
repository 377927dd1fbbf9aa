"""One flight for many passengers: whoever asks for what is being fetched already waits for that one
answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from entrepot.formatting import duration
from entrepot.source.errors import SourceAvoided, SourceUnreachable
from entrepot.source.loop_detection import is_from_engine

FETCHES = 2_000
"""Fetches under way at once. They go on when those who waited for them have left: without a bound,
clients that come and leave would pile them up."""

FETCHES_OF_GROUP = 1_000
"""Of them, those that one source registry may have."""

FETCH_TIMEOUT = 300.0
"""Seconds that one fetch may take: longer than all attempts and time-outs of a request together.

A source that sends a byte now and then meets no other limit.
"""

Result = TypeVar("Result")


class TooManyFetches(SourceAvoided):
    """The source registry was not asked because too much is under way already."""


class FetchAbandoned(SourceUnreachable):
    """A fetch took too long, or ended without an answer and without an error."""


class SingleFlight(Generic[Result]):
    """Runs one fetch for each key at a time, and another one for clients that are engines.

    A passenger who leaves changes nothing for the others, nor for the fetch.
    """

    def __init__(
        self,
        *,
        limit: int = FETCHES,
        group_limit: int = FETCHES_OF_GROUP,
        timeout: float = FETCH_TIMEOUT,
    ) -> None:
        self._limit = limit
        self._group_limit = group_limit
        self._timeout = timeout
        self._flights: dict[Hashable, asyncio.Future[Result]] = {}
        self._groups: Counter[Hashable] = Counter()
        self._closed = False

    async def join(
        self, key: Hashable, fetch: Callable[[], Awaitable[Result]], *, group: Hashable = None
    ) -> Result:
        """The answer of the fetch under way for *key*, or of a new one; raises what the fetch
        raises, and `FetchAbandoned`.

        *group* is what the fetch burdens, a source registry: one of them does not take all the
        room. Raises `TooManyFetches` where there is none.
        """
        # In a ring, what an engine asks for may be what another engine waits for already: it would
        # join that fetch, and both would wait for each other.
        key = (key, is_from_engine())
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= self._limit or (
                group is not None and self._groups[group] >= self._group_limit
            ):
                raise TooManyFetches(
                    "So many requests to source registries are under way that this one was not made.",
                    "Try again in a moment.",
                )
            flight = self._flights[key] = asyncio.ensure_future(self._bounded(fetch))
            self._groups[group] += 1
            flight.add_done_callback(lambda done: self._landed(key, group, done))
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            if (
                not flight.cancelled()
                or self._closed
                or (task := asyncio.current_task()) is None
                or task.cancelling()
            ):
                raise
            # Something within the fetch was cancelled, and not who waits for it.
            raise FetchAbandoned(
                "What was being fetched was given up on the way.", "Try again."
            ) from None
        finally:
            # An error refers to this frame, which must not refer to it in turn: what failed would
            # stay until a collection of garbage.
            del flight

    async def _bounded(self, fetch: Callable[[], Awaitable[Result]]) -> Result:
        bound = asyncio.timeout(self._timeout)
        try:
            async with bound:
                return await fetch()
        except TimeoutError:
            if not bound.expired():
                raise
            raise FetchAbandoned(
                f"The source did not answer to the end within {duration(self._timeout)}.",
                "Try again.",
            ) from None
        finally:
            # It refers to the task, and the task to its error: see above.
            del bound

    def _landed(self, key: Hashable, group: Hashable, flight: asyncio.Future[Result]) -> None:
        del self._flights[key]
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]
        # Its passengers may all have left: then nobody else would look at the error, and asyncio
        # would complain.
        if not flight.cancelled():
            flight.exception()

    async def close(self) -> None:
        """Cancel every fetch under way and wait for their end."""
        self._closed = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
