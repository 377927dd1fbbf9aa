"""Pulls, and where a tag points now.

``/entrepot/v1/pulls`` and ``/entrepot/v1/refresh``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.engine.pulls import PullService
from entrepot.formatting import printable
from entrepot.server.request_body import read_body
from entrepot.server.responses import json_response

ASKED_BY_LIMIT = 60
"""Characters of the name that a client gives itself."""

_HINT = 'Send {"image": "library/nginx:1.27"}.'


class PullBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request for a pull."""

    image: str
    platform: str | None = None
    asked_by: str = "api"
    referrers: bool = False


class RefreshBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request to ask the source of a tag."""

    image: str


class PullEndpoints:
    """The pulls of one engine."""

    def __init__(self, pulls: PullService) -> None:
        self._pulls = pulls

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of pulls."""
        return [
            Route("/entrepot/v1/pulls", self.list, methods=["GET"]),
            Route("/entrepot/v1/pulls", self.start, methods=["POST"]),
            Route("/entrepot/v1/pulls/{id}", self.get, methods=["GET"]),
            Route("/entrepot/v1/pulls/{id}", self.cancel, methods=["DELETE"]),
            Route("/entrepot/v1/refresh", self.refresh, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """``GET /entrepot/v1/pulls``, with ``?running`` those under way alone."""
        if request.query_params.get("running") is not None:
            return json_response(self._pulls.list_running())
        return json_response(self._pulls.list())

    async def get(self, request: Request) -> Response:
        """``GET /entrepot/v1/pulls/{id}``"""
        return json_response(await self._pulls.get(request.path_params["id"]))

    async def start(self, request: Request) -> Response:
        """``POST /entrepot/v1/pulls``"""
        body = await read_body(request, PullBody, hint=_HINT)
        pull = await self._pulls.start(
            body.image,
            body.platform,
            printable(body.asked_by, ASKED_BY_LIMIT),
            referrers=body.referrers,
        )
        return json_response(pull, status=201)

    async def cancel(self, request: Request) -> Response:
        """``DELETE /entrepot/v1/pulls/{id}``"""
        return json_response(await self._pulls.cancel(request.path_params["id"]))

    async def refresh(self, request: Request) -> Response:
        """``POST /entrepot/v1/refresh``"""
        body = await read_body(request, RefreshBody, hint=_HINT)
        return json_response(await self._pulls.refresh(body.image))
