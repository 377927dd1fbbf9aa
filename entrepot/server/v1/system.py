"""``/entrepot/v1/``: status, pulls, source registries and the event stream of a running engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from entrepot.api.models import Event
from entrepot.engine.engine import Engine
from entrepot.engine.verification import DEFAULT_SPEED
from entrepot.formatting import printable
from entrepot.server.access import is_read_only
from entrepot.server.acr.management import read_body
from entrepot.server.paging import parse_count

EVENT_INTERVAL = 0.1
"""Seconds between two messages of the event stream: at most ten a second, however much happens."""

KEEP_ALIVE = 15.0
"""Seconds after which a silent event stream sends a comment, so that a dead connection is noticed."""


class PullRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request for a pull."""

    image: str
    platform: str | None = None
    asked_by: str = "api"


class RefreshRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request to ask the source of a tag."""

    image: str


class EvictionRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request for an eviction, or for a look at it. *target* is in bytes; None stands
    for the low-water mark of the settings."""

    target: Annotated[int, msgspec.Meta(ge=0)] | None = None


class VerificationRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request to hash all cached blobs. *speed* is in bytes per second; None: as fast
    as the disk is."""

    speed: Annotated[int, msgspec.Meta(ge=1)] | None = DEFAULT_SPEED


def routes(engine: Engine) -> list[BaseRoute]:
    """What is to be seen and done live."""
    eviction_hint = 'Send {}, or {"target": BYTES} to go below what the settings say. What would go is told at /entrepot/v1/checks/eviction.'

    async def status(request: Request) -> Response:
        # As it is for the client that asks, which may have bound itself.
        return _json(
            msgspec.structs.replace(
                await engine.status.get(), read_only=is_read_only(engine, request.headers)
            )
        )

    async def activity(_: Request) -> Response:
        return _json(engine.traffic.snapshot())

    async def pulls(request: Request) -> Response:
        if request.query_params.get("running") is not None:
            return _json(engine.pulls.list_running())
        return _json(engine.pulls.list())

    async def start_pull(request: Request) -> Response:
        asked = await read_body(request, PullRequest, hint='Send {"image": "library/nginx:1.27"}.')
        return _json(
            await engine.pulls.start(asked.image, asked.platform, printable(asked.asked_by, 60)),
            status=201,
        )

    async def pull(request: Request) -> Response:
        return _json(await engine.pulls.get(request.path_params["id"]))

    async def cancel_pull(request: Request) -> Response:
        return _json(await engine.pulls.cancel(request.path_params["id"]))

    async def refresh(request: Request) -> Response:
        asked = await read_body(
            request, RefreshRequest, hint='Send {"image": "library/nginx:1.27"}.'
        )
        return _json(await engine.pulls.refresh(asked.image))

    async def evict(request: Request) -> Response:
        asked = await read_body(request, EvictionRequest, hint=eviction_hint)
        return _json(await engine.maintenance.evict(target=asked.target))

    async def check_eviction(request: Request) -> Response:
        asked = await read_body(request, EvictionRequest, hint=eviction_hint)
        return _json(await engine.maintenance.evict(dry_run=True, target=asked.target))

    async def verify(request: Request) -> Response:
        verification = await read_body(
            request,
            VerificationRequest,
            hint='Send {}, or {"speed": BYTES} for so many per second.',
        )
        return _json(engine.verification.start(verification.speed), status=202)

    async def show_verification(_: Request) -> Response:
        return _json(engine.verification.snapshot())

    async def cancel_verification(_: Request) -> Response:
        return _json(await engine.verification.cancel())

    async def check_sign_in(request: Request) -> Response:
        return _json(await engine.credential_sets.verify(request.path_params["name"]))

    async def doctor(request: Request) -> Response:
        return _json(
            await engine.doctor().examine(
                request.query_params.get("rule"), source=request.query_params.get("source")
            )
        )

    async def upstreams(_: Request) -> Response:
        return _json(engine.status.source_registries())

    async def events(request: Request) -> Response:
        if request.query_params.get("recent") is not None:
            limit = parse_count(request.query_params.get("limit"))
            recent = engine.events.recent()
            return _json(recent[-limit:] if limit else recent)
        return StreamingResponse(
            _stream(engine), media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )

    async def stop(_: Request) -> Response:
        engine.stopping.set()
        return Response(status_code=202)

    return [
        Route("/entrepot/v1/status", status),
        Route("/entrepot/v1/activity", activity),
        Route("/entrepot/v1/pulls", pulls, methods=["GET"]),
        Route("/entrepot/v1/pulls", start_pull, methods=["POST"]),
        Route("/entrepot/v1/pulls/{id}", pull, methods=["GET"]),
        Route("/entrepot/v1/pulls/{id}", cancel_pull, methods=["DELETE"]),
        Route("/entrepot/v1/refresh", refresh, methods=["POST"]),
        Route("/entrepot/v1/evict", evict, methods=["POST"]),
        Route("/entrepot/v1/verify", verify, methods=["POST"]),
        Route("/entrepot/v1/verify", show_verification, methods=["GET"]),
        Route("/entrepot/v1/verify", cancel_verification, methods=["DELETE"]),
        Route("/entrepot/v1/checks/eviction", check_eviction, methods=["POST"]),
        Route("/entrepot/v1/credentialSets/{name}/check", check_sign_in, methods=["POST"]),
        Route("/entrepot/v1/doctor", doctor, methods=["POST"]),
        Route("/entrepot/v1/upstreams", upstreams),
        Route("/entrepot/v1/events", events),
        Route("/entrepot/v1/stop", stop, methods=["POST"]),
    ]


def _json(value: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def _stream(engine: Engine) -> AsyncIterator[bytes]:
    yield b": entrepot\n\n"
    with engine.events.watching() as watched:
        coming: asyncio.Task[Event] | None = None
        ending = asyncio.ensure_future(engine.stopping.wait())
        try:
            while not ending.done():
                coming = coming or asyncio.ensure_future(watched.__anext__())
                await asyncio.wait(
                    {coming, ending}, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED
                )
                if coming.done():
                    yield b"data: " + msgspec.json.encode(coming.result()) + b"\n\n"
                    coming = None
                    await asyncio.sleep(EVENT_INTERVAL)
                elif not ending.done():
                    yield b": still here\n\n"
        finally:
            for task in (coming, ending):
                if task is not None:
                    task.cancel()
