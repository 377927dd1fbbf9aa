"""How the fakes authorize clients: each as its `Profile` says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.e2e.registries.profiles import Profile
from tests.fakes import Request
from tests.fakes.faults import Answer
from tests.fakes.registry import error
from tests.fakes.sign_in import basic_credentials


@dataclass(frozen=True, slots=True)
class _IssuedToken:
    user: str | None
    scopes: frozenset[str]


class TokenService:
    """Issues tokens and checks them; *exists* returns whether there is a repository of a name."""

    def __init__(self, profile: Profile, exists: Callable[[str], bool]) -> None:
        self.profile = profile
        self.realm = profile.realm
        self._exists = exists
        self._tokens: dict[str, _IssuedToken] = {}
        self.given: list[str] = []
        """All tokens ever given."""

    def revoke(self) -> None:
        """No token given so far is good any more."""
        self._tokens.clear()

    def is_asked(self, request: Request) -> bool:
        """Whether a request goes to the realm."""
        realm = urlsplit(self.realm)
        return (request.headers.get("host"), request.path) == (realm.netloc, realm.path)

    def admit(self, request: Request, url: str) -> Answer | None:
        """Answer a request for a token, and whatever comes without one that is good for it."""
        profile = self.profile
        if self.is_asked(request):
            return self.give(request)
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic" and profile.basic_is_bad:
            return error(400, "DENIED")
        token = self._tokens.get(value) if scheme.lower() == "bearer" else None
        needed = profile.scope.format(repository=request.repository) if request.repository else None
        if token is None:
            return self._challenge(needed, 'error="invalid_token"' if value else "")
        if request.repository is None:
            return None
        if needed in token.scopes and self._may_read(token.user, request.repository):
            return None
        return (
            self._challenge(needed, 'error="insufficient_scope"')
            if profile.hides == "registry" or token.user is None
            else error(404, "NAME_UNKNOWN")
        )

    def give(self, request: Request) -> Answer:
        """A token, as long as the real ones are."""
        profile = self.profile
        if request.method != "GET":
            return error(405, "UNSUPPORTED")
        if request.query.get("service", [""]) != [profile.service]:
            return error(400, "UNSUPPORTED")
        credentials = basic_credentials(request)
        if "authorization" in request.headers and credentials != (
            profile.username,
            profile.password,
        ):
            return error(
                profile.denies_with, "DENIED" if profile.denies_with == 403 else "UNAUTHORIZED"
            )
        if credentials is None and not profile.anonymous:
            return error(401, "UNAUTHORIZED")
        user = credentials[0] if credentials else None
        scopes = request.query.get("scope", [])
        if profile.hides == "token" and any(
            not self._may_read(user, each.split(":")[1]) for each in scopes
        ):
            return error(401, "UNAUTHORIZED")
        value = secrets.token_urlsafe(profile.token_size)[: profile.token_size]
        self._tokens[value] = _IssuedToken(user, frozenset(scopes))
        self.given.append(value)
        document: dict[str, object] = dict.fromkeys(profile.token_fields, value)
        if profile.expires_in is not None:
            document |= {"expires_in": profile.expires_in, "issued_at": "2026-08-01T12:00:00Z"}
        return Answer(200, (("Content-Type", "application/json"),), json.dumps(document).encode())

    def _may_read(self, user: str | None, repository: str) -> bool:
        return self._exists(repository) and (user is not None or repository != self.profile.private)

    def _challenge(self, scope: str | None, flaw: str) -> Answer:
        profile = self.profile
        realm = (
            profile.realm_for_bad_tokens
            if flaw == 'error="invalid_token"' and profile.realm_for_bad_tokens
            else self.realm
        )
        service = profile.service if realm == self.realm else "registry"
        parameters = [
            f'realm="{realm}"',
            f'service="{service}"' if service else "",
            f'scope="{scope}"' if scope else "",
            flaw,
        ]
        return error(401, "UNAUTHORIZED").with_headers(
            ("WWW-Authenticate", "Bearer " + ",".join(each for each in parameters if each))
        )
