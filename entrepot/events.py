"""What happened in the engine, for the log and for whoever watches."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from entrepot.api.models import Event
from entrepot.formatting import printable

RECENT = 500
"""Events that are remembered."""

WAITING = 200
"""Events that may wait for one slow watcher; beyond it the oldest are dropped for that watcher."""

LINE = 4096
"""Characters of a message that are kept: 500 of them stay in memory, and each is a line of the log."""

_log = logging.getLogger("entrepot")


class EventLog:
    """The last events, and a stream of those to come. Each also becomes a line of the log."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._watchers: set[_Watcher] = set()

    def record(
        self, kind: str, message: str, subject: str | None = None, *, level: int = logging.INFO
    ) -> None:
        """Something happened: *kind* for programs (``pull-ended``), *message* for people, *subject*
        what it is about.

        Both may hold what a source or a client said: they become one printable line each (S04).
        """
        message = printable(message, LINE)
        subject = printable(subject, LINE) if subject is not None else None
        event = Event(time=self._clock(), kind=kind, message=message, subject=subject)
        self._recent.append(event)
        _log.log(level, "%s", message, extra={"kind": kind, "subject": subject})
        for watcher in self._watchers:
            watcher.see(event)

    def recent(self) -> list[Event]:
        """The last events, oldest first."""
        return list(self._recent)

    @contextmanager
    def watching(self) -> Iterator[AsyncIterator[Event]]:
        """The events from now on."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=WAITING)
        self._came = asyncio.Event()

    def see(self, event: Event) -> None:
        self._events.append(event)
        self._came.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            self._came.clear()
            await self._came.wait()
        return self._events.popleft()
