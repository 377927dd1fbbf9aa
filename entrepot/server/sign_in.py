"""Sign-in at the registry: Basic, personal tokens, and the Docker token flow.

A request without credentials, or with unknown ones, is that of a reader who did not sign in: docker
sends what it has for Docker Hub to every mirror (F48). Only where such a reader may not read, the
answer is 401, and the same whether something is there or not. It is 429 where credentials were sent
that could not be checked, because too many wrong ones came from their address.

There is one challenge, ``Bearer``, with an end point for tokens at ``/v2/token``: after a challenge
``Basic`` docker refuses to pull without credentials, also what everyone may read. Credentials that
are sent without being asked for may be Basic too. Sources: distribution's "Token Authentication
Specification" and "OAuth2 Token Authentication"; RFC 7617 and 6750.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from entrepot.core.readers import ANONYMOUS
from entrepot.core.reference import REPOSITORY_LENGTH
from entrepot.engine.passwords import TooManyGuesses
from entrepot.engine.readers import ReaderService, SignedIn
from entrepot.engine.signed_tokens import CATALOG, SCOPES_LIMIT, Claims
from entrepot.errors import EntrepotError, PushRefused, RequestInvalid, SignInRequired
from entrepot.formatting import printable
from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.server.registry_response import Headers, RegistryResponse
from entrepot.server.request_scope import READER

TOKEN_PATH: Final = "/v2/token"

FORM_LENGTH: Final = 64 * 1024
"""The longest body of a request for a token, in bytes."""

_REPOSITORY_PATH = re.compile(
    r"/v2/(?P<name>.+)/(?:(?:manifests|blobs|referrers)/[^/]++|tags/list)"
)
_NAME = re.compile(rf"[a-z0-9][a-z0-9._/-]{{0,{REPOSITORY_LENGTH - 1}}}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")

_log = logging.getLogger("entrepot.registry")


@dataclass(frozen=True, slots=True)
class _Credentials:
    """What a client sent: a name and a password, or a bearer token."""

    name: str = ""
    password: str = ""
    bearer: str = ""


class ReaderSignIn:
    """Says in the scope of each request who reads; passes the request on to *app*."""

    def __init__(self, app: Application, readers: ReaderService) -> None:
        self._app = app
        self._readers = readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if (
            scope["type"] != "http"
            or not scope["path"].startswith("/v2")
            or not self._readers.can_sign_in
        ):
            await self._app(scope, receive, send)
            return
        if scope["path"] == TOKEN_PATH:
            await _TokenRequest(scope, receive, send, self._readers).answer()
            return
        throttled: TooManyGuesses | None = None
        signed_in: SignedIn | None = None
        credentials = _credentials(scope)
        if credentials is not None:
            try:
                signed_in = await _sign_in(self._readers, credentials, scope)
            except TooManyGuesses as error:
                throttled = error
        if signed_in is not None and signed_in.reader.is_anonymous:
            throttled = self._readers.throttle_of(signed_in.claims)
        if throttled is not None:
            send = _with_throttle(scope, receive, send, throttled)
        refusal = self._refusal(scope["path"], signed_in)
        is_refused = credentials is not None
        sending = _with_challenge(send, lambda: _challenge(scope, is_refused=is_refused))
        if refusal is not None:
            await RegistryResponse(scope, receive, sending).error(refusal)
            return
        reader = signed_in.reader if signed_in is not None else ANONYMOUS
        await self._app(
            {**scope, READER: reader}, receive, sending if reader.is_anonymous else send
        )

    def _refusal(self, path: str, signed_in: SignedIn | None) -> EntrepotError | None:
        """Why a request is not passed on; None if it is."""
        if path in {"/v2", "/v2/"} and (signed_in is None or signed_in.reader.is_anonymous):
            # docker takes challenges from this answer alone, also where everyone may read.
            return SignInRequired(
                "This registry has readers who sign in.",
                "Sign in: docker login, podman login, or a token of: entrepot token create",
            )
        scope = _scope_of(path)
        if (
            signed_in is None
            or signed_in.reader.is_anonymous
            or signed_in.scopes is None
            or scope is None
            or scope in signed_in.scopes
        ):
            return None
        return SignInRequired(
            f"The token of this request is not for {printable(scope, 100)}.",
            "Ask for a token for it.",
        )


class TokenMethodRefused(PushRefused):
    """The end point for tokens was asked with a method that it does not have."""

    code = "TokenMethodRefused"
    allow = "GET, HEAD, POST"


class _TokenRequest:
    """A request to the end point for tokens."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, readers: ReaderService) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._readers = readers
        self._response = RegistryResponse(
            scope, receive, _with_challenge(send, lambda: _BASIC_CHALLENGE)
        )

    async def answer(self) -> None:
        """Answer it."""
        try:
            if self._scope["method"] == "POST":
                form = await self._form()
                credentials = _form_credentials(form)
            elif self._scope["method"] not in {"GET", "HEAD"}:
                raise TokenMethodRefused(
                    f"{TOKEN_PATH} gives no tokens for {self._scope['method']}.",
                    "Send GET, or POST with a form.",
                )
            else:
                form = self._response.query
                credentials = _credentials(self._scope)
            await self._issue(credentials, _scopes(form.get("scope", [])))
        except EntrepotError as error:
            await self._response.error(error)

    async def _issue(self, credentials: _Credentials | None, scopes: list[str]) -> None:
        throttled: TooManyGuesses | None = None
        signed_in: SignedIn | None = None
        if credentials is not None:
            try:
                signed_in = await _sign_in(self._readers, credentials, self._scope)
            except TooManyGuesses as error:
                throttled = error
        if signed_in is not None:
            claims = signed_in.claims
        elif self._readers.anonymous_may_read_something and (credentials is None or scopes):
            # Without a scope it is a client that tries credentials: docker login.
            claims = (
                Claims("", 0.0) if throttled is None else self._readers.throttled_claims(throttled)
            )
        elif throttled is not None:
            raise throttled
        else:
            # A password that is wrong is logged where it is checked.
            if credentials is not None and (
                credentials.bearer or self._readers.password_file is None
            ):
                client = self._response.client
                name = printable(credentials.name, 64) or "a token"
                _log.warning("The sign-in of %s from %s is refused", name, client)
            raise SignInRequired(
                "The name or the password is wrong."
                if credentials is not None
                else "This registry has no reader who does not sign in.",
                "Sign in: docker login, podman login, or a token of: entrepot token create",
            )
        token, lifetime = self._readers.sign(claims, scopes)
        document = {
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": lifetime,
            "issued_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        headers: Headers = [(b"cache-control", b"no-store")]
        await self._response.json(msgspec.json.encode(document), headers)

    async def _form(self) -> dict[str, list[str]]:
        content = b""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                break
            content += message.get("body", b"")
            if len(content) > FORM_LENGTH:
                raise RequestInvalid(
                    "The request for a token is too long.", "Send a form with user and password."
                )
            if not message.get("more_body"):
                break
        return parse_qs(content.decode("utf-8", "replace"), max_num_fields=100)


async def _sign_in(
    readers: ReaderService, credentials: _Credentials, scope: Scope
) -> SignedIn | None:
    if credentials.bearer:
        return readers.of_bearer(credentials.bearer)
    client = scope.get("client")
    return await readers.of_credentials(
        credentials.name, credentials.password, client[0] if client else None
    )


def _credentials(scope: Scope) -> _Credentials | None:
    """What the header ``Authorization`` has; None where there is none that says anything."""
    header = next(
        (value for name, value in scope.get("headers", ()) if name == b"authorization"), b""
    ).decode("latin-1")
    scheme, _, rest = header.partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return _Credentials(bearer=rest)
    if scheme.lower() != "basic" or not rest:
        return None
    try:
        decoded = base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        return _Credentials(name="?")
    name, _, password = decoded.decode("utf-8", "replace").partition(":")
    # podman and skopeo may send an empty name and password for none.
    return _Credentials(name, password) if name or password else None


def _form_credentials(form: dict[str, list[str]]) -> _Credentials | None:
    """What a form of OAuth2 has; raises `RequestInvalid` for another way to sign in."""
    grant = form.get("grant_type", [""])[0]
    if grant == "password":
        name, password = form.get("username", [""])[0], form.get("password", [""])[0]
        return _Credentials(name, password) if name or password else None
    if grant == "refresh_token":
        # A personal token in place of docker's identity token.
        return _Credentials(bearer=form.get("refresh_token", ["?"])[0])
    raise RequestInvalid(
        f"grant_type {printable(grant, 40)!r} is not supported.", "Use password or refresh_token."
    )


def _scopes(texts: list[str]) -> list[str]:
    """The repositories that a client wants to pull, and `CATALOG`, without what is not granted."""
    scopes: dict[str, None] = {}
    for text in " ".join(texts).split():
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        if f"{kind}:{name}" == CATALOG:
            scopes[CATALOG] = None
        elif (
            kind.partition("(")[0] == "repository"
            and "pull" in actions.split(",")
            and _NAME.fullmatch(name) is not None
        ):
            scopes[name] = None
    return list(scopes)[:SCOPES_LIMIT]


def _scope_of(path: str) -> str | None:
    """The scope that a token for *path* needs."""
    if path == "/v2/_catalog":
        return CATALOG
    match = _REPOSITORY_PATH.fullmatch(path)
    return match["name"] if match is not None else None


def _challenge(scope: Scope, *, is_refused: bool) -> bytes:
    """The value of ``WWW-Authenticate``, for the address by which the client came.

    Behind a proxy that speaks TLS, its ``X-Forwarded-Proto`` says so. ``X-Forwarded-Host`` does not
    count: any client can send it, and a cache might keep the answer for others.
    """
    headers = {
        name: value.decode("latin-1").partition(",")[0].strip()
        for name, value in scope.get("headers", ())
        if name in {b"host", b"x-forwarded-proto"}
    }
    protocol = headers.get(b"x-forwarded-proto", "").lower()
    if protocol not in {"http", "https"}:
        protocol = scope.get("scheme") or "http"
    host = headers.get(b"host", "")
    if _HOST.fullmatch(host) is None:
        server = scope.get("server") or ("localhost", None)
        name = f"[{server[0]}]" if ":" in server[0] else server[0]
        host = f"{name}:{server[1]}" if server[1] else name
    challenge = f'Bearer realm="{protocol}://{host}{TOKEN_PATH}",service="{host}"'
    requested = _scope_of(scope["path"])
    if requested == CATALOG:
        challenge += f',scope="{CATALOG}:*"'
    elif requested is not None and _NAME.fullmatch(requested) is not None:
        challenge += f',scope="repository:{requested}:pull"'
    if is_refused:
        challenge += ',error="invalid_token"'
    return challenge.encode()


_BASIC_CHALLENGE: Final = b'Basic realm="entrepot"'


def _with_challenge(send: Send, challenge: Callable[[], bytes]) -> Send:
    """*send* that adds a challenge to a 401."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] == 401:
            headers = [*message["headers"], (b"www-authenticate", challenge())]
            message = {**message, "headers": headers}
        await send(message)

    return sending


def _with_throttle(scope: Scope, receive: Receive, send: Send, throttled: TooManyGuesses) -> Send:
    """*send* that answers *throttled* in place of a 401.

    The answer is the same for every name, so it says nothing about what exists.
    """
    is_replaced = False

    async def sending(message: Any) -> None:
        nonlocal is_replaced
        if message["type"] == "http.response.start" and message["status"] == 401:
            is_replaced = True
            await RegistryResponse(scope, receive, send).error(throttled)
        elif not is_replaced:
            await send(message)

    return sending
