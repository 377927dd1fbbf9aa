"""Signing in at a source registry: tokens and basic credentials.

Credentials and challenges become an Authorization header. A registry answers 401 with one or more
challenges (`entrepot.source.challenges`; RFC 9110, section 11.6.1). A bearer challenge names a
realm (`entrepot.source.realms`) that gives a token for a service and a scope, with or without
credentials (distribution specification, "Token Authentication"). A token is reused until shortly
before it expires; requests that need the same token at the same time wait for one fetch.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import msgspec

from entrepot.core.hosts import is_loopback
from entrepot.errors import EntrepotError
from entrepot.formatting import printable
from entrepot.source.challenges import Challenge, parse_challenges
from entrepot.source.decoding import Undecodable, decode
from entrepot.source.errors import (
    CredentialUnavailable,
    SignInUnsafe,
    SourceAnswerInvalid,
    SourceError,
    SourceFailed,
    SourceRateLimited,
    SourceRefused,
)
from entrepot.source.http import SourceHttp
from entrepot.source.rate_limit import read_retry_after
from entrepot.source.realms import check_realm, read_realm, rule_elsewhere
from entrepot.source.singleflight import SingleFlight

if TYPE_CHECKING:
    from entrepot.core.credentials import CredentialSet
    from entrepot.core.registries import SourceRegistry
    from entrepot.secrets import Credential

DEFAULT_LIFETIME = 60.0
"""Seconds that a token lives when its response names no lifetime that can be read, and the minimum
("Token Response Fields" of the token specification).

The clients in Go also raise a shorter lifetime to this one (minimumTokenLifetimeSeconds).
"""

MAX_LIFETIME = 24 * 3600.0
"""Seconds for which a token is cached at the most, whatever its response says."""

RENEWAL_MARGIN = 30.0
"""Seconds before its end at which a token is no longer used, or a tenth of its life where that is
shorter: a request must arrive while its token is valid."""

TOKEN_RESPONSE_LIMIT = 1024 * 1024
"""The largest response of a token endpoint that is read, in bytes. Tokens that list many rights
reach some 10 KB."""

TOKEN_LENGTH = 64 * 1024
"""The longest token, in characters: what any server accepts as a header is far below it."""

PARAMETER_LENGTH = 2 * 1024
"""The longest realm, service or scope, in characters. They are keys of the token cache."""

MAX_CACHED = 10_000
"""Tokens that are cached, and repositories whose challenge is remembered."""

CREDENTIALS_CURE = (
    "Check the user name and the password or token behind it, and that neither has expired."
)
_NO_TOKEN_SERVER = "A sign-in page of the network, or a proxy, can cause this. No token was kept."

_TOKEN = re.compile(r"[\x21-\x7e]+")
_SECONDS = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")


def parse_token_response(content: bytes) -> tuple[str, float]:
    """The token of a response and its lifetime in seconds.

    Raises `Undecodable`, whose text ends a sentence that says that there is no token.

    It reads what the clients in Go read (distribution, internal/client/auth/session.go):
    ``access_token`` comes before ``token``, the case of names does not matter, and a lifetime below
    the default is the default. It also accepts a byte order mark, UTF-16, white space around the
    token, and a lifetime that is not a number. ``issued_at`` is of another clock and is ignored.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    try:
        fields = {
            name.lower(): value for name, value in decode(content, dict[str, msgspec.Raw]).items()
        }
    except Undecodable:
        raise Undecodable(": what it sends is no JSON object") from None
    lifetime = DEFAULT_LIFETIME
    seconds = (
        bytes(fields.get("expires_in", b""))[:100].decode("ascii", "replace").strip('" \t\r\n')
    )
    if _SECONDS.fullmatch(seconds):
        lifetime = min(max(float(seconds), DEFAULT_LIFETIME), MAX_LIFETIME)
    reason = ""
    for name in ("access_token", "token"):
        try:
            token = decode(bytes(fields.get(name, b"null")), str).strip()
        except Undecodable:
            continue
        if token and len(token) <= TOKEN_LENGTH and _TOKEN.fullmatch(token):
            return token, lifetime
        if token:
            reason = (
                f" that can be used: it has {len(token):,} characters, or some that no header "
                "may have"
            )
    raise Undecodable(reason)


@dataclass(frozen=True, slots=True)
class Login:
    """A source registry and the credential set to sign in with; anonymous without one."""

    registry: SourceRegistry
    credential_set: CredentialSet | None
    redirected_by: str = ""
    """The login server whose redirects lead to this registry; its credentials are never sent
    here."""

    @property
    def identity(self) -> str:
        """Tells one login from another, without a secret.

        A credential set that was deleted and created again is another one.
        """
        credential_set = self.credential_set
        if credential_set is None:
            return f"sent by {self.redirected_by}" if self.redirected_by else ""
        return (
            f"{credential_set.name} {credential_set.username} {credential_set.password} "
            f"{credential_set.created.isoformat()}"
        )

    @property
    def name(self) -> str:
        """``without credentials`` or ``with credential set NAME``, for messages."""
        return (
            "without credentials"
            if self.credential_set is None
            else f"with credential set {self.credential_set.name}"
        )


@dataclass(frozen=True, slots=True)
class _TokenKey:
    """What a token is for. *realm* is empty for basic credentials."""

    login_server: str
    identity: str
    realm: str
    service: str
    scope: str


_ChallengeKey = tuple[str, str, str]
"""Login server, identity and repository of which a challenge is remembered."""


@dataclass(frozen=True, slots=True, repr=False)
class Authorization:
    """The value of an Authorization header.

    *expires* is on the clock of `Authorizer`, in seconds; None: never.
    """

    value: str
    expires: float | None


class Authorizer:
    """Signs in at all source registries, and caches their tokens.

    *clock* is monotonic, *wall_clock* since the epoch, both in seconds.
    """

    def __init__(
        self,
        read_credential: Callable[[CredentialSet], Awaitable[Credential]],
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._read_credential = read_credential
        self._clock = clock
        self._wall_clock = wall_clock
        self._authorizations: dict[_TokenKey, Authorization] = {}
        self._challenges: dict[_ChallengeKey, _TokenKey] = {}
        """What earlier challenges asked for: a request that has it at once saves a 401."""
        self._fetches: SingleFlight[Authorization] = SingleFlight(cancels_unawaited=True)

    async def close(self) -> None:
        """Cancel the token requests that run."""
        await self._fetches.close()

    async def authorization(
        self, login: Login, repository: str, http: SourceHttp
    ) -> Authorization | None:
        """What an earlier challenge for a repository asked for, renewed if it expired.

        None when there was no challenge.
        """
        challenge_key = (login.registry.login_server, login.identity, repository)
        key = self._challenges.get(challenge_key)
        return None if key is None else await self._authorize(challenge_key, key, login, http)

    async def answer_challenges(
        self,
        values: Iterable[str],
        login: Login,
        repository: str,
        http: SourceHttp,
        *,
        used: Authorization | None,
        renewed: bool = False,
    ) -> Authorization:
        """What the challenges of a 401 ask for; *values* are its WWW-Authenticate headers.

        *used* is what the refused request carried: it is not tried again. *renewed*: it was new.
        Raises `SourceRefused`, and what keeps a token endpoint from answering.
        """
        challenges = parse_challenges(values)
        server = login.registry.login_server
        bearer = next(
            (
                challenge
                for challenge in challenges
                if challenge.scheme == "bearer" and challenge.parameters.get("realm")
            ),
            None,
        )
        if bearer is not None:
            key = _token_key(bearer, login, repository)
        elif any(challenge.scheme == "basic" for challenge in challenges):
            if login.credential_set is None:
                raise SourceRefused(
                    f"{server} requires a user name and a password.",
                    "Give the cache rule a credential set.",
                )
            key = _TokenKey(server, login.identity, "", "", "")
        else:
            raise _unusable_challenges(server, challenges)
        challenge_key = (server, login.identity, repository)
        earlier = self._challenges.get(challenge_key)
        if (
            bearer is not None
            and used is not None
            and earlier is not None
            and not renewed
            and bearer.parameters.get("error") == "invalid_token"
        ):
            # The token alone is bad (RFC 6750, section 3.1), so another one from the same realm
            # will do. NVIDIA NGC names a realm here that accepts users only.
            key = earlier
        if used is not None and self._authorizations.get(key) is used:
            del self._authorizations[key]
        self._challenges[challenge_key] = key
        while len(self._challenges) > MAX_CACHED:
            del self._challenges[next(iter(self._challenges))]
        return await self._authorize(challenge_key, key, login, http)

    def invalidate(self, login: Login) -> None:
        """Sign in again the next time.

        Once the challenge of the sign-in itself is known, the tokens of repositories stay.
        """
        key = self._challenges.get((login.registry.login_server, login.identity, ""))
        if key is not None:
            self._authorizations.pop(key, None)
            return
        owner = (login.registry.login_server, login.identity)
        self._authorizations = {
            key: authorization
            for key, authorization in self._authorizations.items()
            if (key.login_server, key.identity) != owner
        }

    async def _authorize(
        self, challenge_key: _ChallengeKey, key: _TokenKey, login: Login, http: SourceHttp
    ) -> Authorization:
        authorization = self._authorizations.get(key)
        if authorization is not None and self._is_valid(authorization):
            return authorization
        try:
            return await self._fetches.join(key, lambda: self._fetch_token_once(key, login, http))
        except SourceError:
            # The next request meets the registry's challenge again: it may name another realm then.
            if self._challenges.get(challenge_key) == key:
                del self._challenges[challenge_key]
            raise

    async def _fetch_token_once(
        self, key: _TokenKey, login: Login, http: SourceHttp
    ) -> Authorization:
        authorization = (
            await self._fetch_token(key, login, http)
            if key.realm
            else Authorization(await self._basic(login, httpx.URL(login.registry.endpoint)), None)
        )
        self._store(key, authorization)
        return authorization

    def _is_valid(self, authorization: Authorization) -> bool:
        return authorization.expires is None or self._clock() < authorization.expires

    def _store(self, key: _TokenKey, authorization: Authorization) -> None:
        if len(self._authorizations) >= MAX_CACHED:
            valid = {
                key: authorization
                for key, authorization in self._authorizations.items()
                if self._is_valid(authorization)
            }
            self._authorizations = valid if len(valid) < MAX_CACHED else {}
        self._authorizations[key] = authorization

    async def _fetch_token(self, key: _TokenKey, login: Login, http: SourceHttp) -> Authorization:
        try:
            realm, is_own = read_realm(key.realm, login.registry)
            if not is_own and login.credential_set is not None:
                check_realm(key.realm, login.registry)
        except SourceRefused as refusal:
            raise SignInUnsafe(refusal.what, refusal.hint) from None
        parameters = [("service", key.service)] if key.service else []
        parameters += [("scope", scope) for scope in key.scope.split(" ") if scope]
        headers = {"Accept": "application/json"}
        if login.credential_set is not None:
            headers["Authorization"] = await self._basic(login, realm)
        requested_at = self._clock()
        url = realm.copy_with(params=[*realm.params.multi_items(), *parameters])
        # A redirect would lose the credentials and end in an anonymous token: it is no answer. What
        # another owner's realm answers goes to the registry as a token: nothing of a private
        # network may.
        way = http if is_own else http.public
        async with await way.request("GET", url, headers, about="a token", redirects=0) as response:
            if not 200 <= response.status < 300:
                raise self._refusal(
                    response.status, response.headers, login, realm.host, is_own=is_own
                )
            content = await response.read(TOKEN_RESPONSE_LIMIT)
        try:
            token, lifetime = parse_token_response(content)
        except Undecodable as error:
            where = f"{realm.host}, where {key.login_server} signs clients in,"
            if response.is_page:
                raise SourceAnswerInvalid(
                    f"{where} answers without a token: it sends a web page.", _NO_TOKEN_SERVER
                ) from None
            raise SourceAnswerInvalid(
                f"{where} answers without a token{error}.", "The fault is there; try again later."
            ) from None
        return Authorization(
            f"Bearer {token}", requested_at + lifetime - min(RENEWAL_MARGIN, lifetime / 10)
        )

    async def _basic(self, login: Login, destination: httpx.URL) -> str:
        assert login.credential_set is not None  # the callers have checked it
        if destination.scheme != "https" and not is_loopback(destination.host):
            raise SourceRefused(
                f"{login.registry.login_server} asks for the password over http, "
                "where it could be read on the way.",
                "Give it an https endpoint.",
            )
        try:
            credential = await self._read_credential(login.credential_set)
        except SourceError:
            raise
        except EntrepotError as error:
            unavailable = CredentialUnavailable(
                f"Credential set {login.credential_set.name} can't be used for "
                f"{login.registry.login_server}: {error.what}",
                error.hint,
            )
            unavailable.cause = error.cause
            raise unavailable from error
        pair = f"{credential.username.reveal()}:{credential.password.reveal()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _refusal(
        self, status: int, headers: Mapping[str, str], login: Login, host: str, *, is_own: bool
    ) -> SourceError:
        server = login.registry.login_server
        where = f"{host}, where {server} signs clients in,"
        if status == 429:
            return SourceRateLimited(
                f"{where} gives no more tokens for now.",
                "Try again later.",
                retry_after=read_retry_after(headers, self._wall_clock()),
            )
        if status >= 500:
            return SourceFailed(
                f"{where} fails with status {status}.", "The fault is there; try again later."
            )
        if status < 400:
            return SourceAnswerInvalid(
                f"{where} answers with status {status} instead of a token.",
                "No credential was sent on.",
            )
        if login.credential_set is None:
            hint = "Give the cache rule a credential set." if is_own else rule_elsewhere(host)
            return SourceRefused(f"{server} requires credentials ({host} answers {status}).", hint)
        return SourceRefused(
            f"{server} does not accept the credentials of credential set "
            f"{login.credential_set.name} ({host} answers {status}).",
            CREDENTIALS_CURE,
        )


def _token_key(bearer: Challenge, login: Login, repository: str) -> _TokenKey:
    server = login.registry.login_server
    scope = bearer.parameters.get("scope") or (
        f"repository:{repository}:pull" if repository else ""
    )
    key = _TokenKey(
        server,
        login.identity,
        bearer.parameters["realm"],
        bearer.parameters.get("service", ""),
        scope,
    )
    if max(map(len, (key.realm, key.service, key.scope))) > PARAMETER_LENGTH:
        raise SourceAnswerInvalid(
            f"{server} asks for a sign-in that is too long to be one.", "Nothing was sent."
        )
    return key


def _unusable_challenges(server: str, challenges: list[Challenge]) -> SourceRefused:
    if any(challenge.scheme == "bearer" for challenge in challenges):
        return SourceRefused(
            f"{server} asks for a sign-in and does not say where: its challenge has no realm.",
            "The fault is there; no credential was sent.",
        )
    offered = printable(", ".join(challenge.scheme for challenge in challenges), 100) or "none"
    return SourceRefused(
        f"{server} refuses the request and offers no sign-in that Entrepot supports "
        f"(offered: {offered}).",
        "It must offer Bearer or Basic.",
    )
