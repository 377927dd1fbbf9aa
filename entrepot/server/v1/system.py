"""Status, source registries, doctor, maintenance, events and stop.

Below ``/entrepot/v1/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from entrepot.config.settings import Settings
from entrepot.engine.eviction import Eviction
from entrepot.engine.maintenance import MaintenanceService
from entrepot.engine.status import StatusService
from entrepot.engine.traffic import Traffic
from entrepot.engine.verification import DEFAULT_SPEED, Verification
from entrepot.events import EventLog, RecordedEvent
from entrepot.server.access import is_read_only
from entrepot.server.paging import parse_count
from entrepot.server.request_body import read_body
from entrepot.server.responses import json_response
from entrepot.server.routes import QuestionRoute

if TYPE_CHECKING:
    from entrepot.engine.doctor import Doctor

EVENT_INTERVAL = 0.1
"""Seconds between two messages of the event stream: at most ten a second, however much happens."""

KEEP_ALIVE = 15.0
"""Seconds after which a silent event stream sends a comment, to notice a dead connection."""

IMAGES_PER_PIECE = 1000
"""Images of an eviction that are encoded and sent at a time."""

_EVICTION_HINT = (
    'Send {}, or {"target": BYTES} to go below what the settings say. What would go is shown at '
    "/entrepot/v1/checks/eviction."
)


class EvictionBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request for an eviction, or for its preview.

    *target* is in bytes; None stands for the low-water mark of the settings.
    """

    target: Annotated[int, msgspec.Meta(ge=0)] | None = None


class VerificationBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request to hash all cached blobs.

    *speed* is in bytes per second; None: as fast as the disk is.
    """

    speed: Annotated[int, msgspec.Meta(ge=1)] | None = DEFAULT_SPEED


class SystemEndpoints:
    """The engine as a whole."""

    def __init__(
        self,
        *,
        settings: Settings,
        status: StatusService,
        traffic: Traffic,
        maintenance: MaintenanceService,
        verification: Verification,
        events: EventLog,
        doctor: Callable[[], Doctor],
        stopping: asyncio.Event,
    ) -> None:
        """Take the services that the routes use.

        *doctor* makes a doctor for each examination; *stopping* is set to end the engine.
        """
        self._settings = settings
        self._status = status
        self._traffic = traffic
        self._maintenance = maintenance
        self._verification = verification
        self._events = events
        self._doctor = doctor
        self._stopping = stopping

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of the engine as a whole."""
        return [
            Route("/entrepot/v1/status", self.status),
            Route("/entrepot/v1/activity", self.activity),
            Route("/entrepot/v1/upstreams", self.source_registries),
            QuestionRoute("/entrepot/v1/doctor", self.examine),
            Route("/entrepot/v1/evict", self.evict, methods=["POST"]),
            Route("/entrepot/v1/evict", self.get_eviction, methods=["GET"]),
            Route("/entrepot/v1/evict", self.cancel_eviction, methods=["DELETE"]),
            QuestionRoute("/entrepot/v1/checks/eviction", self.preview_eviction),
            Route("/entrepot/v1/verify", self.start_verification, methods=["POST"]),
            Route("/entrepot/v1/verify", self.get_verification, methods=["GET"]),
            Route("/entrepot/v1/verify", self.cancel_verification, methods=["DELETE"]),
            Route("/entrepot/v1/events", self.events),
            Route("/entrepot/v1/stop", self.stop, methods=["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        """``GET /entrepot/v1/status``, as it is for this client.

        The client may have bound itself to be read-only.
        """
        return json_response(
            msgspec.structs.replace(
                await self._status.get(), read_only=is_read_only(self._settings, request.headers)
            )
        )

    async def activity(self, _: Request) -> Response:
        """``GET /entrepot/v1/activity``"""
        return json_response(self._traffic.snapshot())

    async def source_registries(self, _: Request) -> Response:
        """``GET /entrepot/v1/upstreams``"""
        return json_response(self._status.source_registries())

    async def examine(self, request: Request) -> Response:
        """``POST /entrepot/v1/doctor``: run the checks of the doctor.

        Of one rule with ``?rule``, of one login server with ``?source``.
        """
        query = request.query_params
        examination = await self._doctor().examine(query.get("rule"), source=query.get("source"))
        return json_response(examination)

    async def evict(self, request: Request) -> Response:
        """``POST /entrepot/v1/evict``"""
        body = await read_body(request, EvictionBody, hint=_EVICTION_HINT)
        return eviction_response(await self._maintenance.evict(target=body.target))

    async def get_eviction(self, _: Request) -> Response:
        """``GET /entrepot/v1/evict``"""
        return json_response(self._maintenance.eviction_progress())

    async def cancel_eviction(self, _: Request) -> Response:
        """``DELETE /entrepot/v1/evict``"""
        return json_response(self._maintenance.cancel_eviction())

    async def preview_eviction(self, request: Request) -> Response:
        """``POST /entrepot/v1/checks/eviction``"""
        body = await read_body(request, EvictionBody, hint=_EVICTION_HINT)
        return eviction_response(await self._maintenance.evict(dry_run=True, target=body.target))

    async def start_verification(self, request: Request) -> Response:
        """``POST /entrepot/v1/verify``"""
        body = await read_body(
            request, VerificationBody, hint='Send {}, or {"speed": BYTES} for a limit per second.'
        )
        return json_response(self._verification.start(body.speed), status=202)

    async def get_verification(self, _: Request) -> Response:
        """``GET /entrepot/v1/verify``"""
        return json_response(self._verification.snapshot())

    async def cancel_verification(self, _: Request) -> Response:
        """``DELETE /entrepot/v1/verify``"""
        return json_response(await self._verification.cancel())

    async def events(self, request: Request) -> Response:
        """``GET /entrepot/v1/events``: server-sent events until the engine ends.

        With ``?recent``, the last events as a list.
        """
        if request.query_params.get("recent") is not None:
            limit = parse_count(request.query_params.get("limit"))
            recent = self._events.recent()
            return json_response(recent[-limit:] if limit else recent)
        return StreamingResponse(
            event_stream(self._events, self._stopping),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )

    async def stop(self, _: Request) -> Response:
        """``POST /entrepot/v1/stop``"""
        self._stopping.set()
        return Response(status_code=202)


def eviction_response(eviction: Eviction) -> Response:
    """An eviction as a JSON document, which is sent in pieces where it has many images."""
    if eviction.count <= IMAGES_PER_PIECE:
        return json_response(
            msgspec.structs.replace(eviction.summary(), images=eviction.images),
        )
    return StreamingResponse(eviction_pieces(eviction), media_type="application/json")


async def eviction_pieces(eviction: Eviction) -> AsyncGenerator[bytes, None]:
    """The JSON document of an eviction in pieces, each of which is encoded in a thread."""
    before, images, after = msgspec.json.encode(eviction.summary()).partition(b'"images":[]')
    yield before + images[:-1]

    def encode(start: int) -> bytes:
        images = eviction.images_in(start, start + IMAGES_PER_PIECE)
        return msgspec.json.encode(images)[1:-1]

    for start in range(0, eviction.count, IMAGES_PER_PIECE):
        yield (b"," if start else b"") + await asyncio.to_thread(encode, start)
    yield b"]" + after


async def event_stream(events: EventLog, stopping: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """The events from now on as server-sent events, until *stopping* is set."""
    with events.watching() as watcher:
        # A client that reads this gets all events from now on.
        yield b": entrepot\n\n"
        next_event: asyncio.Task[RecordedEvent] | None = None
        ending = asyncio.ensure_future(stopping.wait())
        try:
            while not ending.done():
                next_event = next_event or asyncio.ensure_future(watcher.__anext__())
                await asyncio.wait(
                    {next_event, ending}, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED
                )
                if next_event.done():
                    yield b"data: " + msgspec.json.encode(next_event.result()) + b"\n\n"
                    next_event = None
                    await asyncio.sleep(EVENT_INTERVAL)
                elif not ending.done():
                    yield b": still here\n\n"
        finally:
            for task in (next_event, ending):
                if task is not None:
                    task.cancel()
