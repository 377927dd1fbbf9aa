"""Authorization of management API requests.

It is decided before a request reaches its route: in one place for all routes, including future
ones.

`ReadOnly` goes by the method, and by the mark of the route (`entrepot.server.routes`). A request
that is not known to only read is treated as one that changes something.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from entrepot.config.settings import Settings
from entrepot.errors import EngineReadOnly, TokenInvalid
from entrepot.server.acr.registries import METADATA_PATHS
from entrepot.server.responses import error_response
from entrepot.server.routes import READING_METHODS, only_reads

READ_ONLY_HEADER: Final = "entrepot-read-only"
"""A client that sends it with a 1 binds itself: none of its requests may change anything."""


def is_read_only(settings: Settings, headers: Headers) -> bool:
    """Whether the sender of *headers* may change nothing.

    The engine is read-only, or the client has bound itself with `READ_ONLY_HEADER`.
    """
    return settings.read_only or headers.get(READ_ONLY_HEADER, "0").strip() not in {"", "0"}


class ReadOnly:
    """Middleware that refuses changes where the engine or the client is read-only.

    Refuses with `EngineReadOnly`. *routes* are those of the application.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._settings = settings
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if (
            scope["type"] != "http"
            or not is_read_only(self._settings, Headers(scope=scope))
            or only_reads(scope, self._routes)
        ):
            await self._app(scope, receive, send)
            return
        await error_response(self._refusal(), scope["path"])(scope, receive, send)

    def _refusal(self) -> EngineReadOnly:
        if self._settings.read_only:
            return EngineReadOnly(
                "Nothing was changed: this engine is read-only.",
                "Its administrator can start it without --read-only, and without read_only in "
                "settings.toml. Container clients can still pull.",
            )
        return EngineReadOnly(
            "Nothing was changed: this client is read-only.",
            "Start it without --read-only to change something.",
        )


def _is_open(scope: Scope) -> bool:
    return scope["method"] in READING_METHODS and scope["path"] in METADATA_PATHS


class TokenRequired:
    """Middleware that refuses every request without *token* as a bearer token.

    Refuses with `TokenInvalid` (bearer token: RFC 6750).

    Only the endpoints of the cloud are open to everyone: az requests them before it has a token.
    They disclose nothing but the address of the request.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        authorization = Headers(scope=scope).get("authorization", "")
        if scope["type"] != "http" or self._is_valid(authorization) or _is_open(scope):
            await self._app(scope, receive, send)
            return
        what = (
            "The token that was sent is not that of this engine."
            if authorization
            else "The management API needs a token."
        )
        refusal = TokenInvalid(
            what,
            "Give the engine's token with --token-file, or in the environment variable "
            "ENTREPOT_TOKEN.",
        )
        response = error_response(refusal, scope["path"])
        response.headers["www-authenticate"] = 'Bearer realm="entrepot"'
        await response(scope, receive, send)

    def _is_valid(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        # Headers are latin-1, and compare_digest takes text only of ASCII.
        return (
            hmac.compare_digest(token.strip().encode("latin-1"), self._token)
            and scheme.lower() == "bearer"
        )
