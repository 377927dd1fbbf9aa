"""Turns at something scarce, which go round by repository.

`asyncio.Semaphore` is first come, first served: one repository's fifty requests keep the only one
of another repository waiting until all of them have had their turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter

MAX_REPOSITORIES = 100
"""Repositories on whose behalf one request waits."""


class TurnRequest:
    """A request for a turn, on behalf of *repositories*.

    It gets a turn as soon as one of them does: a base layer that a small repository needs must not
    wait behind all other blobs of the large repository that requested it first.
    """

    __slots__ = ("granted", "repositories")

    def __init__(self, repository: str = "") -> None:
        self.repositories = [repository]
        self.granted: asyncio.Future[str] | None = None
        """While it waits: the repository that its turn will count for."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a turn."""
        return self.granted is not None and not self.granted.done()


class FairTurns:
    """*count* turns at once.

    The next turn goes to the repository that has the fewest; among those with equally many they go
    round. So a repository that has none gets the next one that ends. Within a repository, first
    come, first served.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        """Turns that can be had at once."""
        self.waiting = 0
        """Requests that wait for a turn."""
        self._taken: Counter[str] = Counter()
        """Turns that each repository has now."""
        self._queues: dict[str, dict[TurnRequest, None]] = {}
        """By repository, the requests that wait, in order."""
        self._last_turns: dict[str, int] = {}
        """The number of the last turn of each repository that has one or waits for one."""
        self._granted = 0

    async def acquire(self, request: TurnRequest) -> str:
        """Wait for a turn; returns the repository for which it counts, for `release`."""
        granted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        request.granted = granted
        self.waiting += 1
        try:
            for repository in request.repositories:
                self._queues.setdefault(repository, {})[request] = None
            self._grant()
            return await granted
        except asyncio.CancelledError:
            self._withdraw(request)
            if granted.done() and not granted.cancelled():
                self.release(granted.result())
            raise
        finally:
            request.granted = None
            self.waiting -= 1

    def add_repository(self, request: TurnRequest, repository: str) -> None:
        """Let *request* wait on behalf of *repository* too."""
        if repository in request.repositories or len(request.repositories) >= MAX_REPOSITORIES:
            return
        request.repositories.append(repository)
        if request.is_waiting:
            self._queues.setdefault(repository, {})[request] = None

    def release(self, repository: str) -> None:
        """End a turn that counts for *repository*."""
        self.free += 1
        self._taken[repository] -= 1
        self._forget_idle(repository)
        self._grant()

    def _grant(self) -> None:
        while self.free and self._queues:
            repository = min(self._queues, key=self._order)
            request = next(iter(self._queues[repository]))
            if request.granted is not None and not request.granted.done():
                self.free -= 1
                self._taken[repository] += 1
                self._granted += 1
                self._last_turns[repository] = self._granted
                request.granted.set_result(repository)
            self._withdraw(request)

    def _order(self, repository: str) -> tuple[int, int]:
        return self._taken[repository], self._last_turns.get(repository, 0)

    def _forget_idle(self, repository: str) -> None:
        if not self._taken[repository]:
            del self._taken[repository]
            if repository not in self._queues:
                self._last_turns.pop(repository, None)

    def _withdraw(self, request: TurnRequest) -> None:
        for repository in request.repositories:
            queue = self._queues.get(repository)
            if queue is not None:
                queue.pop(request, None)
                if not queue:
                    del self._queues[repository]
                    self._forget_idle(repository)
