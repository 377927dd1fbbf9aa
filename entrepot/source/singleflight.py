"""Single flight: one fetch for all clients that need the same at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from entrepot.formatting import duration
from entrepot.source.errors import SourceAvoided, SourceUnreachable
from entrepot.source.loop_detection import is_from_engine

MAX_FETCHES = 2_000
"""Fetches that run at once. Most go on when their clients have left: without a bound, clients that
come and leave would pile them up."""

MAX_FETCHES_OF_GROUP = 1_000
"""Of them, those that one source registry may have."""

FETCH_TIMEOUT = 300.0
"""Seconds that one fetch may take: longer than all attempts and time-outs of a request together.

A source that sends a byte now and then meets no other limit.
"""

Result = TypeVar("Result")


class TooManyFetches(SourceAvoided):
    """The source registry was not asked because too many fetches run already."""


class FetchAbandoned(SourceUnreachable):
    """A fetch took too long, or ended with neither a result nor an error."""


class SingleFlight(Generic[Result]):
    """Runs one fetch for each key at a time, and another one for engines as clients.

    A waiting client that leaves changes nothing for the others. When the last one has left, the
    fetch goes on, or is cancelled where *cancels_unawaited*.
    """

    def __init__(
        self,
        *,
        limit: int = MAX_FETCHES,
        group_limit: int = MAX_FETCHES_OF_GROUP,
        timeout: float = FETCH_TIMEOUT,
        cancels_unawaited: bool = False,
    ) -> None:
        self._limit = limit
        self._group_limit = group_limit
        self._timeout = timeout
        self._cancels_unawaited = cancels_unawaited
        self._flights: dict[Hashable, asyncio.Future[Result]] = {}
        self._running: set[asyncio.Future[Result]] = set()
        """Those, and the cancelled ones that have not ended yet."""
        self._waiting: Counter[asyncio.Future[Result]] = Counter()
        """How many clients wait for a fetch."""
        self._groups: Counter[Hashable] = Counter()
        self._closed = False

    async def join(
        self, key: Hashable, fetch: Callable[[], Awaitable[Result]], *, group: Hashable = None
    ) -> Result:
        """Return the result of the running fetch for *key*, or of a new one.

        *group* names the source registry that the fetch burdens: one registry does not take the
        whole capacity. Raises what the fetch raises, `FetchAbandoned`, and `TooManyFetches` where
        no capacity is left.
        """
        # In a ring, the fetch that an engine asks for may be the one that another engine waits for
        # already: it would join that fetch, and both would wait for each other.
        key = (key, is_from_engine())
        flight = self._flights.get(key)
        if flight is None:
            if len(self._running) >= self._limit or (
                group is not None and self._groups[group] >= self._group_limit
            ):
                raise TooManyFetches(
                    "Too many requests to source registries are under way: this one was not made.",
                    "Try again in a moment.",
                )
            flight = self._flights[key] = asyncio.ensure_future(self._fetch_in_time(fetch))
            self._running.add(flight)
            self._groups[group] += 1
            flight.add_done_callback(lambda ended: self._remove(key, group, ended))
        self._waiting[flight] += 1
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
            # Something inside the fetch was cancelled, and not the task that waits for it.
            raise FetchAbandoned(
                "What was being fetched was given up on the way.", "Try again."
            ) from None
        finally:
            self._waiting[flight] -= 1
            if not self._waiting[flight]:
                del self._waiting[flight]
                if self._cancels_unawaited and not flight.done():
                    del self._flights[key]
                    flight.cancel()
            # An error refers to this frame, which must not refer to it in turn: the error would
            # stay in memory until a garbage collection.
            del flight

    async def _fetch_in_time(self, fetch: Callable[[], Awaitable[Result]]) -> Result:
        time_limit = asyncio.timeout(self._timeout)
        try:
            async with time_limit:
                return await fetch()
        except TimeoutError:
            if not time_limit.expired():
                raise
            raise FetchAbandoned(
                f"The source did not answer to the end within {duration(self._timeout)}.",
                "Try again.",
            ) from None
        finally:
            # It refers to the task, and the task to its error: see `join`.
            del time_limit

    def _remove(self, key: Hashable, group: Hashable, flight: asyncio.Future[Result]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        self._running.discard(flight)
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]
        # All clients may have left: asyncio logs the error of a task that was never looked at.
        if not flight.cancelled():
            flight.exception()

    async def close(self) -> None:
        """Cancel every running fetch and wait for its end."""
        self._closed = True
        flights = list(self._running)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
