"""Signing in at a source registry: challenges, realms, tokens.

A registry answers 401 with one or more challenges (RFC 9110, 11.6.1). A bearer challenge names a
realm, where a token for a service and a scope is given, with or without credentials (distribution
specification, "Token Authentication"). A token is kept until shortly before it expires; whoever
needs the same one meanwhile waits for the same request.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import msgspec

from entrepot.core.registries import LoginServerInvalid, parse_login_server
from entrepot.errors import EntrepotError
from entrepot.formatting import printable
from entrepot.source.addresses import Reach, is_loopback, literal_address, parse_address
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
from entrepot.source.http import SourceHttp, origin_of, same_origin
from entrepot.source.rate_limit import read_retry_after

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

    from entrepot.core.credentials import CredentialSet
    from entrepot.core.registries import SourceRegistry
    from entrepot.secrets import Credential

DEFAULT_LIFETIME = 60.0
"""Seconds that a token lives when its answer says nothing that can be read, and at least ("Token
Response Fields" of the token specification).

The clients in Go take a shorter lifetime for this one too (minimumTokenLifetimeSeconds).
"""

RENEWED_BEFORE = 30.0
"""Seconds before its end at which a token is no longer used, or a tenth of its life where that is
shorter: a request must get there while it is good."""

TOKEN_ANSWER_LIMIT = 1024 * 1024
"""The largest answer of a token endpoint that is read, in bytes. Tokens that list many rights reach
some 10 KB."""

REMEMBERED = 10_000
"""Tokens, and repositories of which it is remembered how their registry lets us in."""

LONGEST_LIFETIME = 24 * 3600.0
"""Seconds that a token is kept at the most, whatever its answer says."""

TOKEN_LENGTH = 64 * 1024
"""The longest token, in characters: what any server takes as a header is far below it."""

CHALLENGES_LENGTH = 16 * 1024
"""Characters of all challenges of an answer that are looked at; those with a scope for many
repositories reach 1 kB."""

PARAMETER_LENGTH = 2 * 1024
"""The longest realm, service or scope, in characters. Tokens are remembered by them."""

SHARED_DOMAINS = frozenset(
    {
        # Registries of which each customer has a name: no neighbour's credentials go there.
        "azurecr.cn",
        "azurecr.io",
        "azurecr.us",
        "cloudsmith.io",
        "container-registry.com",
        "jfrog.info",
        "jfrog.io",
        "myhuaweicloud.com",
        "ocir.io",
        "pkg.dev",
        "tencentcloudcr.com",
        "vultrcr.com",
        # Clouds of which the public suffix list has some services only; ECR is not one of them.
        "aliyuncs.com",
        "amazonaws.com",
        "amazonaws.com.cn",
        "azure.com",
        "container-registry.ovh.net",
        "myqcloud.com",
        "scw.cloud",
        "windows.net",
        # Platforms and tunnels that the list does not have.
        "app.github.dev",
        "azurecontainerapps.io",
        "devtunnels.ms",
        "gitpod.io",
        "koyeb.app",
        "lhr.life",
        "loca.lt",
        "localhost.run",
        "railway.app",
        "serveo.net",
        # Names for any address.
        "nip.io",
        "sslip.io",
    }
)
"""Domains under which anybody can have a name, besides those of the public suffix list: a neighbour
there is a stranger."""

_SCHEMES = frozenset(
    {
        "basic",
        "bearer",
        "digest",
        "hoba",
        "mutual",
        "negotiate",
        "ntlm",
        "oauth",
        "scram-sha-1",
        "scram-sha-256",
        "vapid",
    }
)
_TOKEN = re.compile(r"[\x21-\x7e]+")
_SECONDS = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ALIYUN = re.compile(r"[a-z0-9-]+\.([a-z0-9-]+)(?:\.cr)?\.aliyuncs\.com")
_ALIYUN_SIGN_IN = re.compile(r"dockerauth(?:-[a-z]+)*\.([a-z0-9-]+)\.aliyuncs\.com")
_PARAMETER = re.compile(r"\s*=\s*(?:\"((?:[^\"\\]|\\.)*)(?:\"|$)|([^\s,]*))", re.DOTALL)


CREDENTIALS_CURE = (
    "Check the user name and the password or token behind it, and that neither has expired."
)
_NOT_SENT = "No credential was sent."
_NO_TOKEN_SERVER = "A sign-in page of the network, or a proxy, can cause this. No token was kept."


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header: its scheme and the names of its parameters in
    lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Read all challenges of all WWW-Authenticate headers, several in one header too, forgiving
    what registries and proxies get wrong: commas left out or doubled, values unquoted or in single
    quotes, a quote that is never closed. No more than `CHALLENGES_LENGTH` is looked at.
    """
    challenges: list[Challenge] = []
    left = CHALLENGES_LENGTH
    for value in values:
        value = value[:left]
        left -= len(value)
        at = 0
        parameters: dict[str, str] | None = None
        last_unquoted: str | None = None
        while at < len(value):
            word = _WORD.match(value, at)
            if word is None:
                at += 1
                continue
            found = _PARAMETER.match(value, word.end()) if parameters is not None else None
            name = word[0].lower()
            if found is not None and parameters is not None:
                quoted, bare = found[1], found[2]
                # Of one that comes twice the last counts, as in Go.
                parameters[name] = (
                    re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare.strip("'")
                )
                last_unquoted = name if quoted is None else None
                at = found.end()
            elif name in _SCHEMES or parameters is None or last_unquoted is None:
                parameters = {}
                last_unquoted = None
                challenges.append(Challenge(name, parameters))
                at = word.end()
            else:
                # The comma stood inside an unquoted value: scope=repository:a:pull,push
                parameters[last_unquoted] += f",{word[0]}"
                at = word.end()
    return challenges


def asks_for_sign_in(values: Iterable[str], *, basic: bool) -> bool:
    """Whether challenges are those of a registry, and not of storage whose presigned address has
    expired. *basic*: those for Basic are too."""
    return any(
        (each.scheme == "bearer" and each.parameters.get("realm"))
        or (basic and each.scheme == "basic")
        for each in parse_challenges(values)
    )


def parse_token_answer(content: bytes) -> tuple[str, float]:
    """The token of an answer and the seconds that it lives; raises `Undecodable`, whose text ends a
    sentence that says there is none.

    It is read as the clients in Go read it (distribution, internal/client/auth/session.go):
    ``access_token`` comes before ``token``, the case of names does not matter, and a lifetime below
    the default is the default. More than these read is a byte order mark, UTF-16, white space
    around the token, and a lifetime of any other kind than a number. ``issued_at`` is of another
    clock, and not looked at.
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
        lifetime = min(max(float(seconds), DEFAULT_LIFETIME), LONGEST_LIFETIME)
    unusable = ""
    for name in ("access_token", "token"):
        try:
            token = decode(bytes(fields.get(name, b"null")), str).strip()
        except Undecodable:
            continue
        if token and len(token) <= TOKEN_LENGTH and _TOKEN.fullmatch(token):
            return token, lifetime
        if token:
            unusable = f" that can be used: it has {len(token):,} characters, or some that no header may have"
    raise Undecodable(unusable)


def check_realm(realm: str, registry: SourceRegistry) -> httpx.URL:
    """The address of a realm to which credentials for *registry* may go; raises `SourceRefused`.

    It must be of the registry's own host or domain, or one of its realms in the table and the
    settings, and https unless the registry's endpoint itself is http (GHSA-3p65-76g6-3w7r tells
    what happens otherwise).
    """
    url, is_own = read_realm(realm, registry)
    if is_own:
        return url
    host = printable(url.host, 253)
    raise SourceRefused(
        f"{registry.login_server} wants us to sign in at {host}, which is not its own.",
        f"{_NOT_SENT} Make a cache rule with {host} as its source, where the image is; or, if the registry really signs in there, "
        f'declare it in settings.toml: realms = ["{origin_of(url)}"] below [upstreams."{registry.login_server}"].',
    )


def read_realm(realm: str, registry: SourceRegistry) -> tuple[httpx.URL, bool]:
    """The address of a realm, and whether it is the registry's own; raises `SourceRefused`.

    At a realm that is not, a registry that hands requests on to another one has its clients get
    their tokens: without credentials that does no harm.
    """
    endpoint = httpx.URL(registry.endpoint)
    url = parse_address(realm)
    if url is None or url.scheme not in {"http", "https"} or url.userinfo:
        raise SourceRefused(
            f"{registry.login_server} wants us to sign in at an address that can't be used.",
            _NOT_SENT,
        )
    host = printable(url.host, 253)
    if url.scheme == "http" and endpoint.scheme == "https":
        raise SourceRefused(
            f"{registry.login_server} wants us to sign in at {host} over http, where anybody could read the password.",
            _NOT_SENT,
        )
    return url, _is_own(url, endpoint, registry) or any(
        same_origin(url, httpx.URL(each)) for each in registry.realms
    )


def rule_elsewhere(host: str) -> str:
    """What to do where a registry hands requests on to *host*, which wants credentials."""
    try:
        name = parse_login_server(host)
    except LoginServerInvalid:
        name = printable(host, 253)
    return f"Make a cache rule with {name} as its source, and give it a credential set for {name}: those of another registry are never sent there."


def _is_own(realm: httpx.URL, endpoint: httpx.URL, registry: SourceRegistry) -> bool:
    own = {endpoint.host, httpx.URL(f"//{registry.login_server}").host}
    if realm.host in own:
        return True
    if is_loopback(realm.host):
        return Reach.of(registry).loopback
    if registrable_domain(realm.host) in {registrable_domain(each) for each in own}:
        return True
    # Alibaba's registries sign in at another host of their region, which no customer can have.
    sign_in = _ALIYUN_SIGN_IN.fullmatch(realm.host)
    return sign_in is not None and any(
        (found := _ALIYUN.fullmatch(each)) and found[1] == sign_in[1] for each in own
    )


def registrable_domain(host: str) -> str:
    """The part of a host name that one owner registered; the host itself below a shared domain, and
    where it is an address.

    By the public suffix list, its private section too (https://publicsuffix.org):
    ``example.co.uk``, ``acme.gitlab.io``. Names are ASCII or decoded IDNA.
    """
    name = host.lower().rstrip(".")
    labels = name.split(".")
    if literal_address(host) is not None:
        return host
    if any(".".join(labels[at:]) in SHARED_DOMAINS for at in range(len(labels))):
        return name
    return _private_suffix(name) or name


def _private_suffix(name: str) -> str | None:
    domain = _public_suffixes().privatesuffix(name)
    return domain if isinstance(domain, str) else None


@functools.cache
def _public_suffixes() -> PublicSuffixList:
    # 40 ms to load, and only needed once a realm has another host than its registry.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


@dataclass(frozen=True, slots=True)
class Login:
    """Who signs in where. Without a credential set, nobody in particular."""

    registry: SourceRegistry
    credential_set: CredentialSet | None
    handed_on_by: str = ""
    """The login server whose redirects lead to this registry; its credentials are never sent here."""

    @property
    def identity(self) -> str:
        """Tells one login from another, without a secret: a set that was deleted and made anew is
        another one."""
        each = self.credential_set
        if each is None:
            return f"sent by {self.handed_on_by}" if self.handed_on_by else ""
        return f"{each.name} {each.username} {each.password} {each.created.isoformat()}"

    @property
    def name(self) -> str:
        """For messages."""
        return (
            "without credentials"
            if self.credential_set is None
            else f"with credential set {self.credential_set.name}"
        )


@dataclass(frozen=True, slots=True)
class _Key:
    """What a token is for. *realm* is empty for basic credentials."""

    login_server: str
    identity: str
    realm: str
    service: str
    scope: str


@dataclass(frozen=True, slots=True, repr=False)
class Authorization:
    """The value of an Authorization header. *expires* is on the clock of `Authorizer`; None: never."""

    value: str
    expires: float | None


class Authorizer:
    """What lets us in at all source registries. *clock* is monotonic, in seconds; *wall_clock* is
    since the epoch."""

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
        self._authorizations: dict[_Key, Authorization] = {}
        self._ways_in: dict[tuple[str, str, str], _Key] = {}
        """How a login gets to a repository, learned from an earlier challenge: it saves the 401."""
        self._flights: dict[_Key, asyncio.Future[Authorization]] = {}

    async def known(
        self, login: Login, repository: str, exchange: SourceHttp
    ) -> Authorization | None:
        """What an earlier challenge for this repository asked for, renewed if it has expired; None
        when there was none."""
        way = (login.registry.login_server, login.identity, repository)
        key = self._ways_in.get(way)
        return None if key is None else await self._enter(way, key, login, exchange)

    async def answer(
        self,
        values: Iterable[str],
        login: Login,
        repository: str,
        exchange: SourceHttp,
        *,
        used: Authorization | None,
        renewed: bool = False,
    ) -> Authorization:
        """What the challenges of a 401 ask for. *used* is what the refused request carried: it is
        not tried again. *renewed*: it was new.

        Raises `SourceRefused`, and whatever keeps a token endpoint from answering.
        """
        challenges = parse_challenges(values)
        server = login.registry.login_server
        bearer = next(
            (
                each
                for each in challenges
                if each.scheme == "bearer" and each.parameters.get("realm")
            ),
            None,
        )
        if bearer is not None:
            scope = bearer.parameters.get("scope") or (
                f"repository:{repository}:pull" if repository else ""
            )
            key = _Key(
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
        elif any(each.scheme == "basic" for each in challenges):
            if login.credential_set is None:
                raise SourceRefused(
                    f"{server} lets nobody in without a user name and a password.",
                    "Give the cache rule a credential set.",
                )
            key = _Key(server, login.identity, "", "", "")
        else:
            if any(each.scheme == "bearer" for each in challenges):
                raise SourceRefused(
                    f"{server} wants us to sign in and does not say where: its challenge has no realm.",
                    "The fault is there; no credential was sent.",
                )
            offered = printable(", ".join(each.scheme for each in challenges), 100) or "none"
            raise SourceRefused(
                f"{server} refuses us and offers no way to sign in that Entrepot knows (offered: {offered}).",
                "It must offer Bearer or Basic.",
            )
        way = (server, login.identity, repository)
        earlier = self._ways_in.get(way)
        if (
            bearer is not None
            and used is not None
            and earlier is not None
            and not renewed
            and bearer.parameters.get("error") == "invalid_token"
        ):
            # The token alone is bad (RFC 6750, 3.1), so another one from where it came from will
            # do. NVIDIA NGC names a realm here that lets in users only.
            key = earlier
        if used is not None and self._authorizations.get(key) is used:
            del self._authorizations[key]
        self._ways_in[way] = key
        while len(self._ways_in) > REMEMBERED:
            del self._ways_in[next(iter(self._ways_in))]
        return await self._enter(way, key, login, exchange)

    def forget(self, login: Login) -> None:
        """Sign in anew the next time. As soon as it is known how the sign-in itself is asked for,
        what was given for repositories stays."""
        key = self._ways_in.get((login.registry.login_server, login.identity, ""))
        if key is not None:
            self._authorizations.pop(key, None)
            return
        mine = (login.registry.login_server, login.identity)
        self._authorizations = {
            key: each
            for key, each in self._authorizations.items()
            if (key.login_server, key.identity) != mine
        }

    async def _enter(
        self, way: tuple[str, str, str], key: _Key, login: Login, exchange: SourceHttp
    ) -> Authorization:
        try:
            return await self._get(key, login, exchange)
        except SourceError:
            # The next request asks the registry again how it lets us in: it may name another realm
            # by then.
            if self._ways_in.get(way) == key:
                del self._ways_in[way]
            raise

    async def _get(self, key: _Key, login: Login, exchange: SourceHttp) -> Authorization:
        while True:
            held = self._authorizations.get(key)
            if held is not None and (held.expires is None or self._clock() < held.expires):
                return held
            flight = self._flights.get(key)
            if flight is None:
                return await self._fly(key, login, exchange)
            try:
                return await asyncio.shield(flight)
            except asyncio.CancelledError:
                # The one that we waited for left before it had its token: one of those who still
                # wait goes instead.
                task = asyncio.current_task()
                if not flight.cancelled() or (task is not None and task.cancelling()):
                    raise
            except EntrepotError as error:
                raise error.with_traceback(None)  # noqa: B904 - it is one error for all who waited, not one that followed from another

    async def _fly(self, key: _Key, login: Login, exchange: SourceHttp) -> Authorization:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            authorization = await self._fetch(key, login, exchange)
        except EntrepotError as error:
            flight.set_exception(error)
            flight.exception()  # looked at: it is no fault when nobody else waits
            raise
        else:
            self._keep(key, authorization)
            flight.set_result(authorization)
            return authorization
        finally:
            flight.cancel()
            del self._flights[key]

    def _keep(self, key: _Key, authorization: Authorization) -> None:
        if len(self._authorizations) >= REMEMBERED:
            now = self._clock()
            good = {
                each: held
                for each, held in self._authorizations.items()
                if held.expires is None or now < held.expires
            }
            self._authorizations = good if len(good) < REMEMBERED else {}
        self._authorizations[key] = authorization

    async def _fetch(self, key: _Key, login: Login, exchange: SourceHttp) -> Authorization:
        if not key.realm:
            return Authorization(await self._basic(login, httpx.URL(login.registry.endpoint)), None)
        try:
            realm, is_own = read_realm(key.realm, login.registry)
            if not is_own and login.credential_set is not None:
                check_realm(key.realm, login.registry)
        except SourceRefused as refusal:
            raise SignInUnsafe(refusal.what, refusal.hint) from None
        parameters = [("service", key.service)] if key.service else []
        parameters += [("scope", each) for each in key.scope.split(" ") if each]
        headers = {"Accept": "application/json"}
        if login.credential_set is not None:
            headers["Authorization"] = await self._basic(login, realm)
        asked = self._clock()
        url = realm.copy_with(params=[*realm.params.multi_items(), *parameters])
        # A redirect would lose the credentials and end in a token for nobody: it is no answer. What
        # a realm of a stranger answers goes to the registry as a token: nothing of a private
        # network may.
        way = exchange if is_own else exchange.public
        async with await way.open("GET", url, headers, about="a token", redirects=0) as answer:
            if not 200 <= answer.status < 300:
                raise self._refusal(answer.status, answer.headers, login, realm.host, is_own=is_own)
            content = await answer.read(TOKEN_ANSWER_LIMIT)
        try:
            token, lifetime = parse_token_answer(content)
        except Undecodable as error:
            where = f"{realm.host}, where {key.login_server} signs us in,"
            if answer.is_page:
                raise SourceAnswerInvalid(
                    f"{where} answers without a token: it sends a web page.", _NO_TOKEN_SERVER
                ) from None
            raise SourceAnswerInvalid(
                f"{where} answers without a token{error}.", "The fault is there; try again later."
            ) from None
        return Authorization(
            f"Bearer {token}", asked + lifetime - min(RENEWED_BEFORE, lifetime / 10)
        )

    async def _basic(self, login: Login, to: httpx.URL) -> str:
        assert login.credential_set is not None  # every caller has looked
        if to.scheme != "https" and not is_loopback(to.host):
            raise SourceRefused(
                f"{login.registry.login_server} wants the password over http, where anybody could read it.",
                "Give it an https endpoint.",
            )
        try:
            credential = await self._read_credential(login.credential_set)
        except SourceError:
            raise
        except EntrepotError as error:
            unavailable = CredentialUnavailable(
                f"Credential set {login.credential_set.name} can't be used for {login.registry.login_server}: {error.what}",
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
        if status == 429:
            return SourceRateLimited(
                f"{host}, where {server} signs us in, gives no more tokens for now.",
                "Try again later.",
                retry_after=read_retry_after(headers, self._wall_clock()),
            )
        if status >= 500:
            return SourceFailed(
                f"{host}, where {server} signs us in, fails with status {status}.",
                "The fault is there; try again later.",
            )
        if status < 400:
            return SourceAnswerInvalid(
                f"{host}, where {server} signs us in, answers with status {status} instead of a token.",
                "No credential was sent on.",
            )
        if login.credential_set is None:
            hint = "Give the cache rule a credential set." if is_own else rule_elsewhere(host)
            return SourceRefused(
                f"{server} lets us in only with credentials ({host} answers {status}).", hint
            )
        return SourceRefused(
            f"{server} does not accept the credentials of credential set {login.credential_set.name} ({host} answers {status}).",
            CREDENTIALS_CURE,
        )
