"""Speaking to a source registry: manifests, blobs, tags and referrers (OCI distribution specification 1.1, pull side).

`Sources` owns the connections, the tokens and the limits of all source registries; a `SourceClient` is one of them seen with one credential set, or none.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import msgspec
import truststore

from entrepot.errors import DigestInvalid
from entrepot.reference import Digest, Repository, Tag
from entrepot.secrets import read_credential
from entrepot.source.allowance import Allowances, read_retry_after
from entrepot.source.breaker import Breaker, Breakers
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceOverAllowance,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.source.exchange import ATTEMPTS, Answer, Exchange
from entrepot.source.tokens import Authorization, Login, Tokens

if TYPE_CHECKING:
    from entrepot.credentials import CredentialSet
    from entrepot.settings import Settings
    from entrepot.source.transport import SourceTransport
    from entrepot.upstreams import SourceRegistry

MANIFEST_LIMIT = 8 * 1024 * 1024
"""The largest manifest that is read, in bytes. Registries accept 4 MiB at a push (distribution specification, "Pushing Manifests")."""

LIST_LIMIT = 16 * 1024 * 1024
"""The largest list of tags that is read, in bytes."""

TAGS_AT_ONCE = 1000
"""The most tags that a source is asked for at once: the reference implementation answers 400 to more."""

OTHER_CONNECTIONS = 20
"""Connections to a source registry besides those of its blobs, for what is small."""

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_ACCEPT = ", ".join((*MANIFEST_TYPES, "*/*;q=0.1"))
"""All four media types of images; anything else only where the source has nothing better: an artifact's own type."""

EMPTY_INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
"""What the specification wants answered for a manifest without referrers."""

_HTML = frozenset({"text/html", "application/xhtml+xml"})
_UNTYPED = frozenset({"application/json", "application/octet-stream", "text/plain", "binary/octet-stream"})
_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes\s+\*/(\d+)")
_NEXT_PAGE = re.compile(r"<([^>]*)>\s*;[^,]*\brel\s*=\s*\"?next\"?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a source tells of a manifest without sending it. Each part is None when it does not say. *size* is in bytes."""

    digest: Digest | None
    media_type: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest, its bytes as they came. They have this digest."""

    content: bytes
    media_type: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagPage:
    """Some of the tags of a repository. *next_last* is what to ask on from; None: there are no more."""

    tags: tuple[str, ...]
    next_last: str | None


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """What is known of a source registry from its last answers. *allowance_resets* is in seconds since the epoch."""

    reachable: bool | None = None
    """None before anything was asked of it."""
    problem: str | None = None
    allowance_remaining: int | None = None
    allowance_limit: int | None = None
    allowance_resets: float | None = None
    allowance_window: float | None = None
    """Seconds in which the limit is counted."""
    unreachable_since: float | None = None
    """Since when it is not asked because it could not be reached; None: it is asked as usual."""
    next_try: float | None = None


class BlobStream:
    """A blob as a source sends it, to iterate over once. Its bytes are not decoded, and their digest is not checked."""

    def __init__(self, chunks: AsyncIterator[bytes], *, offset: int, size: int | None, validator: str | None) -> None:
        self.offset = offset
        """Where in the blob the first byte of the stream belongs; 0 when the source ignored the range that was asked for."""
        self.size = size
        """Of the whole blob in bytes, if the source says it."""
        self.validator = validator
        """The entity tag to resume with; None when the source gives none that is strong."""
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


class _TagList(msgspec.Struct):
    tags: list[str] | None = None


class _ManifestHint(msgspec.Struct, rename="camel"):
    media_type: str | None = None


class _ErrorEntry(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct):
    errors: list[_ErrorEntry] = []


class _Upstream:
    """What is shared by all clients of one login server."""

    def __init__(self) -> None:
        self.reachable: bool | None = None
        self.problem: str | None = None


def trusting(settings: Settings) -> ssl.SSLContext:
    """TLS that trusts the certificate authorities of the system, and those that the settings add."""
    tls = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file is not None:
        tls.load_verify_locations(settings.ca_file)
    return tls


class Sources:
    """The connections, tokens and limits of all source registries. Use it as ``async with``.

    *transport* takes the place of the network, *pause* that of waiting between attempts. *clock* is monotonic, *wall_clock* since the epoch, both in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._given_transport = transport
        self._timeout = httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None)
        self._pause = pause
        self.wall_clock = wall_clock
        self.tokens = Tokens(read_credential, clock=clock, wall_clock=wall_clock)
        self.allowances = Allowances(wall_clock)
        self.breakers = Breakers(clock, wall_clock)
        self.breakers.on_change = self._reachability_changed
        self.on_reachability: Callable[[Breaker], None] = lambda _: None
        """Told when a host of a source is given up, and when it answers again."""
        self._transports: dict[str, SourceTransport] = {}
        self._upstreams: dict[str, _Upstream] = {}
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Sources:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.breakers.close()
        transports, self._transports = list(self._transports.values()), {}
        for each in transports:
            await each.aclose()

    def client(self, registry: SourceRegistry, credential_set: CredentialSet | None) -> SourceClient:
        """A source registry, seen with a credential set or none. The secrets are read when a challenge asks for them."""
        transport = self._transport_to(registry.endpoint)
        exchange = Exchange(transport, registry.login_server, timeout=self._timeout, clock=self.wall_clock, pause=self._pause, breakers=self.breakers)
        return SourceClient(self, Login(registry, credential_set), exchange)

    def state(self, login_server: str) -> UpstreamState:
        """What is known of a source registry."""
        upstream = self._upstreams.get(login_server)
        allowance = self.allowances.get(login_server)
        broken = self.breakers.open_of(login_server)
        return UpstreamState(
            reachable=upstream.reachable if upstream else None,
            problem=upstream.problem if upstream else None,
            allowance_remaining=allowance.remaining,
            allowance_limit=allowance.limit,
            allowance_resets=allowance.resets,
            allowance_window=allowance.window,
            unreachable_since=broken.since if broken else None,
            next_try=broken.next_try if broken else None,
        )

    def _reachability_changed(self, breaker: Breaker) -> None:
        if breaker.since is None:
            upstream = self.upstream(breaker.login_server)
            upstream.reachable, upstream.problem = True, None
        self.on_reachability(breaker)

    def upstream(self, login_server: str) -> _Upstream:
        """What all clients of a login server share."""
        found = self._upstreams.get(login_server)
        if found is None:
            found = self._upstreams[login_server] = _Upstream()
        return found

    def _transport_to(self, endpoint: str) -> httpx.AsyncBaseTransport:
        if self._given_transport is not None:
            return self._given_transport
        found = self._transports.get(endpoint)
        if found is None:
            transport, tls = self._parts()
            connections = self._settings.parallel_per_source + OTHER_CONNECTIONS
            found = self._transports[endpoint] = transport(tls, connections=connections)
        return found

    async def prepare(self) -> None:
        """Make ready, in a thread, what the first request to a source would have to wait for. What is held can be served before."""
        if self._given_transport is None:
            await asyncio.to_thread(self._parts)

    def _parts(self) -> tuple[type[SourceTransport], ssl.SSLContext]:
        # aiohttp takes 200 ms to import.
        from entrepot.source.transport import SourceTransport

        if self._tls is None:
            self._tls = trusting(self._settings)
        return SourceTransport, self._tls


class SourceClient:
    """One source registry, seen with one credential set or none. `Sources.client` makes it; it is light, and holds nothing of its own.

    Every method raises a `SourceError` of the kind that fits.
    """

    def __init__(self, sources: Sources, login: Login, exchange: Exchange) -> None:
        self._sources = sources
        self._login = login
        self._exchange = exchange
        self._server = login.registry.login_server
        self._upstream = sources.upstream(self._server)

    def suspect(self) -> None:
        """The source keeps a client waiting that could have had a copy."""
        self._exchange.suspect(httpx.URL(self._login.registry.endpoint))

    @property
    def is_suspected(self) -> bool:
        """Whether the source kept somebody waiting lately and has not answered anybody since: whoever has a copy should not wait for it."""
        return self._exchange.is_suspected(httpx.URL(self._login.registry.endpoint))

    # Manifests

    async def head_manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestHead:
        """What the source tells of a manifest. Docker Hub does not count it as a pull."""
        about = self._about(repository, reference)
        headers = {"Accept": MANIFEST_ACCEPT}
        async with self._ask("HEAD", f"{repository}/manifests/{reference}", repository, headers, about=about, accepted={200, 405, 501}) as answer:
            if answer.status != 200:
                return ManifestHead(None, None, None)
            self._refuse_page(answer, about)
            digest = _digest_header(answer.headers)
            if isinstance(reference, Digest):
                if digest is not None and digest.algorithm == reference.algorithm and digest != reference:
                    raise SourceAnswerInvalid(f"{self._server} answers with another digest for {about}: {digest}.", "Nothing of it was kept.")
                digest = reference
            media_type = None if answer.media_type in _UNTYPED else answer.media_type
            # Some registries put "Content-Length: 0" on every HEAD; no manifest is empty.
            return ManifestHead(digest, media_type, answer.length or None)

    async def manifest(self, repository: Repository, reference: Tag | Digest) -> FetchedManifest:
        """A manifest, its digest checked: against the one that was asked for, or for a tag against what the source says."""
        about = self._about(repository, reference)
        path = f"{repository}/manifests/{reference}"
        answer, content = await self._read(path, repository, {"Accept": MANIFEST_ACCEPT}, about=about, limit=MANIFEST_LIMIT)
        return self._checked_manifest(answer, content, reference if isinstance(reference, Digest) else _digest_header(answer.headers), about)

    def _checked_manifest(self, answer: Answer, content: bytes, digest: Digest | None, about: str) -> FetchedManifest:
        self._refuse_page(answer, about)
        try:
            hint = msgspec.json.decode(content, type=_ManifestHint)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SourceAnswerInvalid(f"{self._server} answers with something that is no manifest for {about}.", _NOT_A_REGISTRY) from None
        if digest is not None and not digest.matches(content):
            raise SourceAnswerInvalid(
                f"{self._server} sent wrong bytes for {about}: their digest is not {digest}.",
                "Nothing was kept. Pull again; if it happens again, something between here and the source changes what passes.",
            )
        media_type = answer.media_type
        if media_type is None or media_type in _UNTYPED:
            media_type = hint.media_type or media_type or "application/octet-stream"
        return FetchedManifest(content, media_type, digest if digest is not None else Digest.of(content))

    # Blobs

    @asynccontextmanager
    async def blob(self, repository: Repository, digest: Digest, *, offset: int = 0, validator: str | None = None) -> AsyncGenerator[BlobStream, None]:
        """A blob from *offset* on, as a stream; *validator* is that of an earlier stream of it.

        How many blobs come from one source registry at once is for its caller to bound: see `entrepot.cache.turns`.
        """
        about = self._about(repository, digest)
        headers = {"Accept": "application/octet-stream, */*;q=0.5"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator is not None and not validator.startswith("W/"):
                headers["If-Range"] = validator
        accepted = {200, 206, 416} if offset else {200}
        async with self._ask("GET", f"{repository}/blobs/{digest}", repository, headers, about=about, accepted=accepted) as answer:
            if answer.status != 416:
                self._refuse_page(answer, about, unless=digest)
            start, size = self._placed(answer, offset, about)
            etag = answer.headers.get("etag")
            strong = etag if etag is not None and etag.startswith('"') else None
            # The body of a 416 is not the blob: nothing was left to come.
            async with aclosing(answer.chunks() if answer.status != 416 else _nothing()) as chunks:
                try:
                    yield BlobStream(chunks, offset=start, size=size, validator=strong)
                except SourceBrokeOff as error:
                    self._upstream.problem = error.what
                    raise

    def _placed(self, answer: Answer, offset: int, about: str) -> tuple[int, int | None]:
        """Where the body of a blob's answer belongs, and the size of the whole blob."""
        told = answer.headers.get("content-range", "")
        if answer.status == 200:
            return 0, answer.length
        if answer.status == 416:
            beyond = _UNSATISFIED_RANGE.fullmatch(told.strip())
            if beyond is not None and int(beyond[1]) == offset:
                return offset, offset
            raise SourceAnswerInvalid(f"{self._server} has no byte {offset:,} of {about}.", "It is another blob than before, or cut short there: pull again.")
        part = _CONTENT_RANGE.fullmatch(told.strip())
        size = None if part is None or part[3] == "*" else int(part[3])
        if part is None or int(part[1]) != offset or int(part[2]) < offset or (size is not None and int(part[2]) >= size):
            raise SourceAnswerInvalid(
                f"{self._server} sent another part of {about} than the one from byte {offset:,} on.", "Nothing of it was kept; pull again."
            )
        return offset, size

    async def head_blob(self, repository: Repository, digest: Digest) -> int:
        """The size of a blob in bytes."""
        about = self._about(repository, digest)
        path = f"{repository}/blobs/{digest}"
        # A presigned URL may be good for GET only, and some registries know no HEAD: then the first byte of a GET tells the size.
        async with self._ask("HEAD", path, repository, {}, about=about, accepted={200, 400, 403, 405, 501}) as answer:
            if answer.status == 200:
                self._refuse_page(answer, about, unless=digest)
                # Some registries put "Content-Length: 0" on every HEAD.
                if answer.length or (answer.length == 0 and digest.matches(b"")):
                    return answer.length
            elif answer.status == 403 and not answer.redirected:
                raise await self._error(answer, about)
        async with self._ask("GET", path, repository, {"Range": "bytes=0-0"}, about=about, accepted={200, 206}) as answer:
            self._refuse_page(answer, about, unless=digest)
            part = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
            if answer.status == 206 and part is not None and part[3] != "*":
                return int(part[3])
            if answer.status == 200 and answer.length is not None:
                return answer.length
        raise SourceAnswerInvalid(f"{self._server} does not say how large {about} is.", "Nothing can be done here: the fault is at the source.")

    # Lists

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> TagPage:
        """The tags of a repository in the source's order: at most *n*, those after *last*."""
        about = f"{self._server}/{repository} (tags)"
        asked = [f"n={min(n, TAGS_AT_ONCE)}"] if n is not None else []
        asked += [f"last={quote(last, safe='')}"] if last is not None else []
        path = f"{repository}/tags/list" + ("?" + "&".join(asked) if asked else "")
        answer, content = await self._read(path, repository, {"Accept": "application/json"}, about=about, limit=LIST_LIMIT)
        self._refuse_page(answer, about)
        try:
            tags = msgspec.json.decode(content, type=_TagList).tags or []
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SourceAnswerInvalid(f"{self._server} answers with something that is no list for {about}.", _NOT_A_REGISTRY) from None
        if last is not None and last in tags:
            # It knows no pages and lists all each time.
            tags = tags[tags.index(last) + 1 :]
        if n is not None and len(tags) > n:
            return TagPage(tuple(tags[:n]), tags[n - 1] if n else None)
        link = _NEXT_PAGE.search(answer.headers.get("link", ""))
        if link is None or not tags:
            return TagPage(tuple(tags), None)
        try:
            following = httpx.URL(link[1]).params.get("last")
        except httpx.InvalidURL:
            following = None
        return TagPage(tuple(tags), following or tags[-1])

    async def referrers(self, repository: Repository, digest: Digest, artifact_type: str | None) -> FetchedManifest:
        """What refers to a manifest, as an index. Where the source has no such API, the index behind the fallback tag; where it has neither, an empty one."""
        about = f"{self._about(repository, digest)} (referrers)"
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type is not None else ""
        try:
            answer, content = await self._read(
                f"{repository}/referrers/{digest}{query}", repository, {"Accept": INDEX_TYPE}, about=about, limit=MANIFEST_LIMIT, unsupported=True
            )
            return self._checked_manifest(answer, content, None, about)
        except SourceNotFound:
            pass
        try:
            # Distribution specification 1.1, "Referrers Tag Schema".
            return await self.manifest(repository, Tag(f"{digest.algorithm}-{digest.hex}"[:128]))
        except SourceNotFound:
            return FetchedManifest(EMPTY_INDEX, INDEX_TYPE, Digest.of(EMPTY_INDEX))

    async def check_sign_in(self) -> None:
        """Sign in anew; raises `SourceRefused` when the source does not accept the credentials, or what else keeps it from answering.

        Secrets that can't be read are told even of a source that lets everybody in and would not have asked for them.
        """
        if self._login.credential_set is not None:
            await read_credential(self._login.credential_set)
        self._sources.tokens.forget(self._login)
        async with self._ask("GET", "", Repository(""), {}, about="the sign-in", accepted={200, 404}) as answer:
            self._refuse_page(answer, "the sign-in")
            if answer.status == 404:
                raise SourceAnswerInvalid(f"{self._server} does not answer as a registry: it has no /v2/.", _NOT_A_REGISTRY)

    # Requests

    async def _read(
        self, path: str, repository: Repository, headers: Mapping[str, str], *, about: str, limit: int, unsupported: bool = False
    ) -> tuple[Answer, bytes]:
        """GET something small, in several attempts when the answer breaks off. *unsupported*: a source that does not know such a request has no such thing."""
        attempt = 1
        while True:
            try:
                async with self._ask("GET", path, repository, headers, about=about, accepted={200}, unsupported=unsupported) as answer:
                    return answer, await answer.read(limit)
            except SourceBrokeOff as error:
                if attempt >= ATTEMPTS:
                    self._upstream.problem = error.what
                    raise
            attempt += 1

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        repository: Repository,
        headers: Mapping[str, str],
        *,
        about: str,
        accepted: set[int],
        unsupported: bool = False,
    ) -> AsyncGenerator[Answer, None]:
        """Make a request, signing in where it is asked for. Every other answer than those *accepted* becomes an error."""
        kind = "blobs" if "/blobs/" in path else "manifests"
        pause = (self._server, self._login.identity, kind)
        left = self._sources.allowances.pause_left(pause)
        if left is not None:
            raise self._over_allowance(about, "", left)
        url = httpx.URL(f"{self._login.registry.endpoint}/v2/{path}")
        try:
            answer = await self._signed_in(method, url, headers, repository, about)
        except SourceError as error:
            self._upstream.problem = error.what
            if isinstance(error, SourceUnreachable):
                self._upstream.reachable = False
            if isinstance(error, SourceOverAllowance):
                self._sources.allowances.exceeded(self._server, pause, error.retry_after)
            raise
        async with answer:
            self._upstream.reachable = True
            if not answer.redirected:
                self._sources.allowances.note(self._server, answer.headers)
            if answer.status in accepted:
                self._upstream.problem = None
                yield answer
                return
            if unsupported and answer.status in {400, 405, 406, 501}:
                raise SourceNotFound(f"{self._server} does not know {about}.")
            refused = await self._error(answer, about)
            if isinstance(refused, SourceOverAllowance):
                self._sources.allowances.exceeded(self._server, pause, refused.retry_after)
            self._upstream.problem = None if isinstance(refused, SourceNotFound) else refused.what
            raise refused

    async def _signed_in(self, method: str, url: httpx.URL, headers: Mapping[str, str], repository: Repository, about: str) -> Answer:
        tokens = self._sources.tokens
        authorization = await tokens.known(self._login, repository, self._exchange)
        # At most three requests: without a token, with one that has just been revoked, and with a new one.
        for renewed in (False, True):
            answer = await self._exchange.open(method, url, _with(headers, authorization), about=about)
            challenges = answer.headers.get_list("www-authenticate")
            if answer.status != 401 or answer.redirected or not challenges:
                return answer
            await answer.close()
            authorization = await tokens.answer(challenges, self._login, repository, self._exchange, used=authorization, renewed=renewed)
        return await self._exchange.open(method, url, _with(headers, authorization), about=about)

    def _about(self, repository: Repository, reference: Tag | Digest) -> str:
        return f"{self._server}/{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"

    def _refuse_page(self, answer: Answer, about: str, *, unless: Digest | None = None) -> None:
        """A page for people is no answer of a registry: a captive portal or a web gallery sent it. A blob may be a page if the source says its digest."""
        if answer.media_type in _HTML and (unless is None or _digest_header(answer.headers) != unless):
            self._upstream.problem = f"{self._server} answers with a web page for {about}."
            raise SourceAnswerInvalid(self._upstream.problem, _NOT_A_REGISTRY)

    async def _error(self, answer: Answer, about: str) -> SourceError:
        status = answer.status
        said = await _said(answer)
        if status == 404:
            return SourceNotFound(f"{self._server} has no {about.removeprefix(self._server + '/')}{said}.")
        if status == 429:
            return self._over_allowance(about, said, read_retry_after(answer.headers, self._sources.wall_clock()))
        if status in {401, 403} and answer.redirected:
            return SourceFailed(
                f"{answer.host}, to which {self._server} sends us for {about}, refuses it with status {status}.", "The fault is there; try again."
            )
        if status in {401, 403}:
            anonymous = self._login.credential_set is None
            hint = (
                "It does not exist there, or needs a credential set that may read it."
                if anonymous
                else "Check that its user may read the repository, and that the repository exists."
            )
            return SourceRefused(f"{self._server} refuses {about} {self._login.name}{said}.", hint)
        if status >= 500:
            return SourceFailed(f"{self._server} fails with status {status} for {about}{said}.", "The fault is at the source registry; try again later.")
        return SourceAnswerInvalid(f"{self._server} answers {about} with status {status}, which was not expected{said}.", _NOT_A_REGISTRY)

    def _over_allowance(self, about: str, said: str, retry_after: float | None) -> SourceOverAllowance:
        when = f"again in {retry_after:.0f} s" if retry_after is not None else "again later"
        more = " A credential set may have a larger allowance." if self._login.credential_set is None else ""
        return SourceOverAllowance(
            f"Too many requests to {self._server}: it gives us no more for now, and {about} was asked for{said}.", f"Try {when}.{more}", retry_after=retry_after
        )


_NOT_A_REGISTRY = "A sign-in page of the network, a proxy, or a wrong endpoint can cause this. Nothing of it was kept."


def _with(headers: Mapping[str, str], authorization: Authorization | None) -> dict[str, str]:
    return {**headers, "Authorization": authorization.value} if authorization is not None else dict(headers)


def _digest_header(headers: Mapping[str, str]) -> Digest | None:
    value = headers.get("docker-content-digest")
    if value is None:
        return None
    try:
        return Digest.parse(value.strip())
    except DigestInvalid:
        return None


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""


async def _said(answer: Answer) -> str:
    """What the source itself says about an error, for a person: the first of its OCI errors, cut short."""
    if answer.media_type not in {"application/json", "application/vnd.oci.error.v1+json"} or answer.redirected:
        return ""
    try:
        first = msgspec.json.decode(await answer.read(64 * 1024), type=_ErrorBody).errors[0]
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError, SourceError):
        return ""
    text = "".join(each for each in " ".join(f"{first.code} {first.message}".split()) if each.isprintable())[:200]
    return f" ({text})" if text else ""
