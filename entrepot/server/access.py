"""Who may do what at the management API, decided before a request reaches what answers it: one
place for all routes, those that are yet to come included.

`ReadOnly` goes by the method, and by a short list of questions that are asked with POST. What is
not known to read is taken to change something.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from entrepot.engine.engine import Engine
from entrepot.errors import EngineReadOnly, TokenInvalid
from entrepot.server.acr.management import error_response
from entrepot.server.acr.registries import METADATA_PATHS

READ_ONLY_HEADER: Final = "entrepot-read-only"
"""A client that sends it with a 1 binds itself: nothing that it asks for may change anything."""

READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110, 9.2.1: what is asked with them changes nothing."""

QUESTIONS: Final = (
    r"/entrepot/v1/checks/[^/]+",
    r"/entrepot/v1/credentialSets/[^/]+/check",
    r"/entrepot/v1/doctor",
)
"""What is asked with POST, because it has a body or takes long, and changes nothing but what the
engine knows."""

_QUESTION = re.compile("|".join(f"(?:{each})" for each in QUESTIONS))


def only_reads(method: str, path: str) -> bool:
    """Whether a request changes nothing."""
    return method in READING_METHODS or (method == "POST" and _QUESTION.fullmatch(path) is not None)


def is_read_only(engine: Engine, headers: Headers) -> bool:
    """Whether who sends *headers* may change nothing: because of the engine, or because the client
    bound itself."""
    return engine.settings.read_only or headers.get(READ_ONLY_HEADER, "0").strip() not in {"", "0"}


class ReadOnly:
    """Refuses with `EngineReadOnly` whatever changes something, where the engine or the client is
    read-only."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if (
            scope["type"] != "http"
            or only_reads(scope["method"], scope["path"])
            or not is_read_only(self._engine, Headers(scope=scope))
        ):
            await self._app(scope, receive, send)
            return
        await error_response(self._refusal(), scope["path"])(scope, receive, send)

    def _refusal(self) -> EngineReadOnly:
        if self._engine.settings.read_only:
            return EngineReadOnly(
                "Nothing was changed: this engine is read-only.",
                "Its administrator can start it without --read-only, and without read_only in settings.toml. Container clients pull all the same.",
            )
        return EngineReadOnly(
            "Nothing was changed: this client bound itself to reading.",
            "Start it without --read-only to change something.",
        )


def _is_open(scope: Scope) -> bool:
    return scope["method"] in READING_METHODS and scope["path"] in METADATA_PATHS


class TokenRequired:
    """Refuses with `TokenInvalid` whoever does not send *token* as a bearer token (RFC 6750).

    Only the endpoints of the cloud are told to everyone: az asks for them before it has a token.
    They say nothing but the address that was asked.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        authorization = Headers(scope=scope).get("authorization", "")
        if scope["type"] != "http" or self._knows(authorization) or _is_open(scope):
            await self._app(scope, receive, send)
            return
        what = (
            "The token that was sent is not that of this engine."
            if authorization
            else "The management API answers only who sends its token."
        )
        refusal = TokenInvalid(
            what, "Give its token with --token-file, or in the environment variable ENTREPOT_TOKEN."
        )
        response = error_response(refusal, scope["path"])
        response.headers["www-authenticate"] = 'Bearer realm="entrepot"'
        await response(scope, receive, send)

    def _knows(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        # Headers are latin-1, and compare_digest takes text only of ASCII.
        return (
            hmac.compare_digest(given.strip().encode("latin-1"), self._token)
            and scheme.lower() == "bearer"
        )
