"""The engine as a whole: status, source registries, events, maintenance."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final
from urllib.parse import quote

from entrepot.api.models import (
    Activity,
    DoctorReport,
    EngineStatus,
    Event,
    EvictionProgress,
    EvictionSnapshot,
    SourceRegistrySnapshot,
    VerificationSnapshot,
)
from entrepot.api.session import ApiSession, decode

EVICTION_TIMEOUT: Final = 600.0
"""Seconds that an eviction may take: removing many large files takes a while on a slow disk."""

DOCTOR_TIMEOUT: Final = 1800.0
"""Seconds that the doctor's checks may take: silent sources take a minute each, and many rules need
many requests."""

STREAM_TIMEOUT: Final = 60.0
"""Seconds that the event stream may be silent; the engine sends a comment every 15."""

EVENT_FIELD: Final = b"data: "
"""What the line of an event begins with (text/event-stream)."""


class SystemClient:
    """``client.system``: the engine as a whole."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def status(self) -> EngineStatus:
        """Figures and notices of the engine."""
        return await self._session.get("/entrepot/v1/status", EngineStatus)

    async def activity(self) -> Activity:
        """What clients got in the last 24 hours, in buckets of five minutes."""
        return await self._session.get("/entrepot/v1/activity", Activity)

    async def source_registries(self) -> list[SourceRegistrySnapshot]:
        """The source registries that rules may pull from."""
        return await self._session.get("/entrepot/v1/upstreams", list[SourceRegistrySnapshot])

    async def stop(self) -> None:
        """Have the engine stop."""
        await self._session.change("POST", "/entrepot/v1/stop")

    async def doctor(self, rule: str | None = None, *, source: str | None = None) -> DoctorReport:
        """Check the engine's machine and what rules need of their sources.

        All rules, or one *rule*, or the rules of one *source* (a login server).
        """
        query = "&".join(
            f"{name}={quote(value, safe='')}"
            for name, value in (("rule", rule), ("source", source))
            if value is not None
        )
        path = "/entrepot/v1/doctor" + (f"?{query}" if query else "")
        return await self._session.send("POST", path, DoctorReport, read_timeout=DOCTOR_TIMEOUT)

    async def recent_events(self, limit: int | None = None) -> list[Event]:
        """The last events, oldest first, at most *limit* of them."""
        return await self._session.get(
            "/entrepot/v1/events?recent=1" + (f"&limit={limit}" if limit is not None else ""),
            list[Event],
        )

    async def events(self) -> AsyncGenerator[Event, None]:
        """Events from now on, until the engine stops."""
        async with aclosing(self._event_lines()) as lines:
            async for line in lines:
                if line.startswith(EVENT_FIELD):
                    yield decode(line.removeprefix(EVENT_FIELD), Event)

    async def follow_events(self, limit: int) -> AsyncGenerator[Event, None]:
        """The last events, at most *limit*, then new ones until the engine stops.

        None is missed. Events that happen while the recent ones are fetched come once.
        """
        async with aclosing(self._event_lines()) as lines:
            # The first line is a comment: the engine has opened the stream.
            await anext(lines, None)
            recent = await self.recent_events()
            for event in recent[-limit:] if limit else ():
                yield event
            async for line in lines:
                if line.startswith(EVENT_FIELD):
                    event = decode(line.removeprefix(EVENT_FIELD), Event)
                    if event in recent:
                        recent.remove(event)
                    else:
                        recent.clear()
                        yield event

    async def evict(self, *, target: int | None = None) -> EvictionSnapshot:
        """Evict the least recently used images until at most *target* bytes are cached.

        None stands for the low-water mark of the settings.
        """
        return await self._session.send(
            "POST",
            "/entrepot/v1/evict",
            EvictionSnapshot,
            {"target": target},
            read_timeout=EVICTION_TIMEOUT,
        )

    async def preview_eviction(self, *, target: int | None = None) -> EvictionSnapshot:
        """Which images `evict` would remove."""
        return await self._session.send(
            "POST",
            "/entrepot/v1/checks/eviction",
            EvictionSnapshot,
            {"target": target},
            read_timeout=EVICTION_TIMEOUT,
        )

    async def eviction(self) -> EvictionProgress:
        """How far the eviction under way has come, or the last one since the engine started."""
        return await self._session.get("/entrepot/v1/evict", EvictionProgress)

    async def cancel_eviction(self) -> EvictionProgress:
        """End the eviction under way after its present step."""
        return await self._session.send("DELETE", "/entrepot/v1/evict", EvictionProgress)

    async def start_verification(self, speed: int | None) -> VerificationSnapshot:
        """Start hashing all cached blobs, at most *speed* bytes per second.

        None: no limit. Damaged blobs are removed.
        """
        return await self._session.send(
            "POST", "/entrepot/v1/verify", VerificationSnapshot, {"speed": speed}
        )

    async def verification(self) -> VerificationSnapshot:
        """The running verification, or the last one since the engine started."""
        return await self._session.get("/entrepot/v1/verify", VerificationSnapshot)

    async def cancel_verification(self) -> VerificationSnapshot:
        """Cancel the running verification."""
        return await self._session.send("DELETE", "/entrepot/v1/verify", VerificationSnapshot)

    def _event_lines(self) -> AsyncGenerator[bytes, None]:
        return self._session.stream_lines("/entrepot/v1/events", STREAM_TIMEOUT)
