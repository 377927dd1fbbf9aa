"""Readers and their personal tokens, below ``/entrepot/v1/``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from entrepot.core.tokens import TokenNotFound
from entrepot.engine.etags import Revisions
from entrepot.engine.readers import ReaderService
from entrepot.server.request_body import read_body
from entrepot.server.responses import deletion_response, json_response, listing_response
from entrepot.server.routes import resource_route


class TokenBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A personal token to be created."""

    name: str
    expires: str | None = None
    """``90d``, ``12h``, ``30min`` or ``never``."""
    groups: tuple[str, ...] = ()


class ReaderEndpoints:
    """Who may read at the registry."""

    def __init__(self, readers: ReaderService, revisions: Revisions) -> None:
        self._readers = readers
        self._revisions = revisions

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of readers and tokens."""
        return [
            Route("/entrepot/v1/readers", self.list),
            resource_route("/entrepot/v1/tokens", GET=self.list_tokens, POST=self.create_token),
            Route("/entrepot/v1/tokens/{name}", self.revoke_token, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        """``GET /entrepot/v1/readers``"""
        return await listing_response(request, self._revisions.readers, self._readers.list)

    async def list_tokens(self, _: Request) -> Response:
        """``GET /entrepot/v1/tokens``"""
        return json_response(self._readers.tokens())

    async def create_token(self, request: Request) -> Response:
        """``POST /entrepot/v1/tokens``"""
        body = await read_body(request, TokenBody, hint='Send {"name": "ci", "expires": "90d"}.')
        created = await self._readers.create_token(
            body.name, lifetime=body.expires, groups=body.groups
        )
        return json_response(created, status=201, headers={"Cache-Control": "no-store"})

    async def revoke_token(self, request: Request) -> Response:
        """``DELETE /entrepot/v1/tokens/{name}``"""
        try:
            await self._readers.revoke_token(request.path_params["name"])
        except TokenNotFound:
            return deletion_response(was_there=False)
        return deletion_response(was_there=True)
