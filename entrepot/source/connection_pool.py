"""The open connections of one source registry, in use and idle, in bounded number."""

from __future__ import annotations

import asyncio

from entrepot.source.connection import SourceConnection
from entrepot.source.dialing import Destination
from entrepot.source.sockets import KEEPALIVE_TIMEOUT


class ConnectionPool:
    """At most *most* connections are open at once; idle ones for `KEEPALIVE_TIMEOUT` at the most.

    A request holds a place of it from `reserve` to `release`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._places = asyncio.Semaphore(most)
        self._in_use = 0
        self._idle: dict[SourceConnection, tuple[Destination, asyncio.TimerHandle]] = {}
        """The oldest first."""
        self._is_closed = False

    async def reserve(self) -> None:
        """Wait for a place."""
        await self._places.acquire()
        self._in_use += 1

    def release(self) -> None:
        """Give a place back."""
        self._in_use -= 1
        self._places.release()

    def take(self, destination: Destination) -> SourceConnection | None:
        """An idle connection to *destination*; None: one must be made, for which there is room."""
        for connection, (its_destination, _) in reversed(list(self._idle.items())):
            if its_destination == destination:
                self._remove(connection)
                if connection.is_idle:
                    return connection
                connection.close()
        while self._idle and self._in_use + len(self._idle) > self._most:
            self._close(next(iter(self._idle)))
        return None

    def keep(self, destination: Destination, connection: SourceConnection) -> None:
        """Keep a connection whose response was read, for the next request."""
        if self._is_closed or not connection.is_idle:
            connection.close()
            return
        connection.release_buffers()
        timer = asyncio.get_running_loop().call_later(KEEPALIVE_TIMEOUT, self._close, connection)
        self._idle[connection] = (destination, timer)

    def close(self) -> None:
        """Close the idle connections, and each other one once it becomes idle."""
        self._is_closed = True
        for connection in list(self._idle):
            self._close(connection)

    def _close(self, connection: SourceConnection) -> None:
        self._remove(connection)
        connection.close()

    def _remove(self, connection: SourceConnection) -> None:
        _, timer = self._idle.pop(connection)
        timer.cancel()
