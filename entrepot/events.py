"""What happened in the engine, for the log and for the clients that follow it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import msgspec

from entrepot.event_kinds import EventKind, Severity
from entrepot.formatting import printable

RECENT_EVENTS = 500
"""Events that are remembered."""

WATCHER_BACKLOG = 200
"""Events that may wait for one slow watcher; beyond it the oldest are dropped for that watcher."""

MESSAGE_LIMIT = 4096
"""Characters of a message that are kept: 500 messages stay in memory, and each is a log line."""

_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
}

_log = logging.getLogger("entrepot")


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was recorded.

    Its JSON is that of the API's `entrepot.api.models.Event`.
    """

    time: float
    """In seconds since the epoch."""
    kind: EventKind
    message: str
    """One printable line for people."""
    subject: str | None = None
    """What it is about: a name, an image, the id of a pull."""
    severity: Severity = Severity.INFO


class EventLog:
    """The last events, and a stream of new ones.

    Each event also becomes a line of the log. *clock* is in seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent: deque[RecordedEvent] = deque(maxlen=RECENT_EVENTS)
        self._watchers: set[_Watcher] = set()

    def record(
        self,
        kind: EventKind,
        message: str,
        subject: str | None = None,
        *,
        severity: Severity = Severity.INFO,
    ) -> None:
        """Record an event.

        *kind* is for programs, *message* for people, *subject* is what the event is about.

        Message and subject may hold text from a source or a client: each becomes one printable line
        (S04).
        """
        event = RecordedEvent(
            time=self._clock(),
            kind=kind,
            message=printable(message, MESSAGE_LIMIT),
            subject=printable(subject, MESSAGE_LIMIT) if subject is not None else None,
            severity=severity,
        )
        self._recent.append(event)
        _log.log(
            _LEVELS[severity],
            "%s",
            event.message,
            extra={"kind": kind.value, "subject": event.subject},
        )
        for watcher in self._watchers:
            watcher.add(event)

    def recent(self) -> list[RecordedEvent]:
        """The last events, oldest first."""
        return list(self._recent)

    @contextmanager
    def watching(self) -> Iterator[AsyncIterator[RecordedEvent]]:
        """The events from now on."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    """The events that one reader has not read yet."""

    def __init__(self) -> None:
        self._events: deque[RecordedEvent] = deque(maxlen=WATCHER_BACKLOG)
        self._arrived = asyncio.Event()

    def add(self, event: RecordedEvent) -> None:
        self._events.append(event)
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        return self

    async def __anext__(self) -> RecordedEvent:
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()
