"""Sign-ins of a fake registry."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Protocol

from tests.fakes.faults import Answer
from tests.fakes.transport import Request

UNAUTHORIZED = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'


class SignIn(Protocol):
    """Checks each request before the registry does. An answer refuses it."""

    def admit(self, request: Request, url: str) -> Answer | None: ...


def basic_credentials(request: Request) -> tuple[str, str] | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password


class BasicSignIn:
    """Every request requires a user name and a password."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self.users = dict(users)

    def admit(self, request: Request, url: str) -> Answer | None:
        credentials = basic_credentials(request)
        if credentials is not None and self.users.get(credentials[0]) == credentials[1]:
            return None
        return Answer(
            401,
            (("WWW-Authenticate", 'Basic realm="stand-in"'), ("Content-Type", "application/json")),
            UNAUTHORIZED,
        )


@dataclass(frozen=True, slots=True)
class _Token:
    user: str | None
    scopes: tuple[str, ...]


class TokenSignIn:
    """Every request requires a token from ``/token``.

    It knows *users* and, where *anonymous*, gives tokens to every client, but not for *private*
    repositories.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        *,
        anonymous: bool = True,
        private: Collection[str] = (),
        realm: str | None = None,
        service: str = "stand-in",
        expires_in: int | None = 300,
        token_field: str = "token",
        challenge: tuple[str, ...] | None = None,
    ) -> None:
        self.users = dict(users or {})
        self.anonymous = anonymous
        self.private = tuple(private)
        self.realm = realm
        self.service = service
        self.expires_in = expires_in
        self.token_field = token_field
        self.challenge = challenge
        """The values of the WWW-Authenticate headers instead of the usual one; ``{realm}``,
        ``{service}`` and ``{scope}`` are filled in."""
        self._tokens: dict[str, _Token] = {}
        self._numbers = itertools.count(1)

    def revoke_tokens(self) -> None:
        """Make all tokens that were issued invalid."""
        self._tokens.clear()

    def accept(self, value: str, *scopes: str) -> None:
        """Accept a token that was not issued here."""
        self._tokens[value] = _Token(None, scopes)

    def admit(self, request: Request, url: str) -> Answer | None:
        if request.path == "/token":
            return self._issue_token(request)
        repository = request.repository
        needed = f"repository:{repository}:pull" if repository else None
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        token = self._tokens.get(value) if scheme.lower() == "bearer" else None
        if token is not None and (needed is None or needed in token.scopes):
            return None
        realm = self.realm or f"{url}/token"
        values = self.challenge or (
            'Bearer realm="{realm}",service="{service}"' + (',scope="{scope}"' if needed else ""),
        )
        filled = (
            value.replace("{realm}", realm)
            .replace("{service}", self.service)
            .replace("{scope}", needed or "")
            for value in values
        )
        return Answer(
            401,
            (
                ("Content-Type", "application/json"),
                *(("WWW-Authenticate", challenge) for challenge in filled),
            ),
            UNAUTHORIZED,
        )

    def _issue_token(self, request: Request) -> Answer:
        credentials = basic_credentials(request)
        if credentials is None and ("authorization" in request.headers or not self.anonymous):
            return Answer(401, (("Content-Type", "application/json"),), UNAUTHORIZED)
        if credentials is not None and self.users.get(credentials[0]) != credentials[1]:
            return Answer(401, (("Content-Type", "application/json"),), UNAUTHORIZED)
        user = credentials[0] if credentials is not None else None
        scopes = [scope for value in request.query.get("scope", []) for scope in value.split(" ")]
        granted = tuple(
            scope
            for scope in scopes
            if user is not None
            or not any(fnmatch(scope.split(":")[1], name) for name in self.private)
        )
        value = f"token-{next(self._numbers)}"
        self._tokens[value] = _Token(user, granted)
        document: dict[str, object] = {self.token_field: value}
        if self.expires_in is not None:
            document["expires_in"] = self.expires_in
        return Answer(200, (("Content-Type", "application/json"),), json.dumps(document).encode())
