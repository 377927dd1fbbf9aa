"""Speaking to a source registry: manifests, blobs, tags and referrers (OCI distribution
specification 1.1, pull side).

`Sources` owns the connections, the tokens and the limits of all source registries; a `SourceClient`
is one of them seen with one credential set, or none.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import msgspec
import truststore

from entrepot.causes import CauseCode
from entrepot.certificates import trust_certificates
from entrepot.core.media_types import EMPTY_INDEX, INDEXES, MANIFEST_TYPES, OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag, parse_tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.states import SignIn
from entrepot.encoding import first_json_value
from entrepot.errors import DigestInvalid, ReferenceInvalid
from entrepot.formatting import counted, duration, printable
from entrepot.secrets import read_credential
from entrepot.source.addresses import Reach, parse_address
from entrepot.source.auth import (
    CREDENTIALS_CURE,
    Authorization,
    Authorizer,
    Login,
)
from entrepot.source.challenges import asks_for_sign_in
from entrepot.source.circuit_breaker import CircuitBreaker, CircuitBreakers
from entrepot.source.content_encoding import (
    DECODED,
    NotDecodable,
    decode_stream,
    is_json,
    peek,
    seems_encoded,
)
from entrepot.source.decoding import (
    Undecodable,
    decode,
    next_link,
    parse_content_range,
    parse_media_type,
    parse_unsatisfied_range,
)
from entrepot.source.diagnosis import WEB_PAGE_CURE, Diagnosis, web_page_cause
from entrepot.source.environment import ClockEvidence
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceBusy,
    SourceError,
    SourceFailed,
    SourceLoop,
    SourceMisread,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.source.http import ATTEMPTS, COMPRESSED_HINT, SourceHttp, SourceResponse, origin_of
from entrepot.source.loop_detection import Via
from entrepot.source.proxies import environment_problems
from entrepot.source.rate_limit import RateLimit, RateLimits, read_retry_after
from entrepot.source.realms import rule_elsewhere

if TYPE_CHECKING:
    from entrepot.config.settings import Settings
    from entrepot.core.credentials import CredentialSet
    from entrepot.source.transport import SourceTransport

LIST_LIMIT = 16 * 1024 * 1024
"""The largest list of tags that is read, in bytes."""

TAGS_AT_ONCE = 1000
"""The most tags that a source is asked for at once: the reference implementation answers 400 to
more."""

REFERRER_PAGES = 100
"""The most pages of a list of referrers that are followed."""

READ_IN_THREAD = 256 * 1024
"""Bytes from which an answer is read in a thread: megabytes of JSON and their digest take a tenth
of a second, in which nobody else would be served."""

CURSOR_LENGTH = 2 * 1024
"""The longest text that a source may give to ask on with, in characters."""

CAUSE_LENGTH = 200
"""Characters of what a source says of its failure that are quoted, at the most."""

OTHER_CONNECTIONS = 20
"""Connections to a source registry besides those of its blobs, for what is small."""

MISREAD = 1000
"""Blobs of which it is remembered that the first reading of their compressed body was wrong."""

HANDED_ON = 2
"""Further registries to which one registry may hand a request on, each with a sign-in of its own."""

ON_THE_INTERNET = Reach(public=True)
"""Where tokens are asked for that a registry does not give itself. One transport for all: without
credentials there is nothing to keep apart."""

_SIGN_IN = "the sign-in"
"""What a sign-in without a repository is called in messages."""

MANIFEST_ACCEPT = ", ".join((*MANIFEST_TYPES, "*/*;q=0.1"))
"""All four media types of images; anything else only where the source has nothing better: an
artifact's own type."""

_UNTYPED = frozenset(
    {"application/json", "application/octet-stream", "text/plain", "binary/octet-stream"}
)
_IMAGE_TYPES = frozenset(MANIFEST_TYPES)
_EMPTY = frozenset({b"", b"null", b"[]", b"{}"})
"""JSON, without white space, that says nothing."""

_log = logging.getLogger("entrepot.source")


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a source tells of a manifest without sending it. Each part is None when it does not say.
    *size* is in bytes."""

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
class ReferrersIndex:
    """The index of what refers to a manifest, all pages in one. *filtered*: the source lists only
    the artifact type that was asked for."""

    content: bytes
    filtered: bool

    @property
    def media_type(self) -> str:
        """Always that of an index."""
        return OCI_INDEX

    @property
    def digest(self) -> Digest:
        """Of the content."""
        return Digest.of(self.content)


@dataclass(frozen=True, slots=True)
class TagPage:
    """Some of the tags of a repository; what a source lists that is no tag is left out. *next_last*
    is what to ask on from; None: there are no more."""

    tags: tuple[str, ...]
    next_last: str | None


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the last requests to a source registry showed."""

    reachable: bool | None = None
    """None before anything was asked of it."""
    problem: str | None = None
    advice: str | None = None
    """What to do about the problem."""
    cause: CauseCode | None = None
    """The fault that is behind it, where one is recognised."""
    rate_limit: RateLimit = field(default_factory=RateLimit)
    unreachable_since: float | None = None
    """Since when it is not asked because it could not be reached; None: it is asked as usual."""
    next_try: float | None = None


class BlobStream:
    """A blob as a source sends it, to iterate over once. Its bytes are not decoded, and their
    digest is not checked."""

    def __init__(
        self, chunks: AsyncIterator[bytes], *, offset: int, size: int | None, validator: str | None
    ) -> None:
        self.offset = offset
        """Where in the blob the first byte of the stream belongs; 0 when the source ignored the
        range that was asked for."""
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
    config: msgspec.Raw = msgspec.Raw(b"")
    layers: msgspec.Raw = msgspec.Raw(b"")
    manifests: msgspec.Raw = msgspec.Raw(b"")

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests."""
        return not _is_empty(self.manifests)

    @property
    def is_image(self) -> bool:
        """Whether it has a config or layers."""
        return not (_is_empty(self.config) and _is_empty(self.layers))


class _ReferrersPage(msgspec.Struct):
    manifests: list[msgspec.Raw] | None = None


class _ErrorDetail(msgspec.Struct, rename="camel"):
    source_message: str = ""
    """Only from an engine: what its own source said."""


class _ErrorEntry(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: msgspec.Raw = msgspec.Raw(b"")

    @property
    def sentence(self) -> str:
        """What went wrong, as whoever met it first said it."""
        try:
            quoted = decode(bytes(self.detail), _ErrorDetail).source_message if self.detail else ""
        except Undecodable:
            quoted = ""
        code = "" if self.code == "UNKNOWN" and self.message else self.code
        return quoted or f"{code} {self.message}"


class _ErrorBody(msgspec.Struct):
    errors: list[_ErrorEntry] = []


@dataclass(frozen=True, slots=True)
class _Tags:
    """A list of tags as a source sent it. *names* are those that are tags; *last_sent* is the last
    entry, whatever it is."""

    names: list[str]
    dropped: int
    last_sent: str | None

    @classmethod
    def read(cls, content: bytes, after: str | None) -> _Tags:
        """The tags of an answer, raises `Undecodable`. Where it lists all each time, because it
        knows no pages, those that come after one."""
        listed = decode(content, _TagList).tags or []
        if after is not None and after in listed:
            listed = listed[listed.index(after) + 1 :]
        names = [each for each in listed if _is_tag(each)]
        return cls(names, len(listed) - len(names), listed[-1] if listed else None)


class _Upstream:
    """What is shared by all clients of one login server."""

    def __init__(self) -> None:
        self.reachable: bool | None = None
        self.problem: SourceError | None = None
        """The last failure, without its traceback."""
        self.has_odd_tags = False
        """Whether the log says already that some of its tags are none."""

    def note(self, error: SourceError | None) -> None:
        """Remember how the last request failed; None: it did not."""
        if error is not None:
            noted = SourceError(error.what, error.hint)
            noted.cause = error.cause
            error = noted
        self.problem = error


def tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS that trusts the certificate authorities of the system, and those that the settings add."""
    tls = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file is not None:
        trust_certificates(tls, settings.ca_file)
    return tls


class Sources:
    """The connections, tokens and limits of all source registries. Use it as ``async with``.

    *transport* takes the place of the network, *pause* that of waiting between attempts. *clock* is
    monotonic, *wall_clock* since the epoch, both in seconds.
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
        self._timeout = httpx.Timeout(
            settings.read_timeout, connect=settings.connect_timeout, pool=None
        )
        self._pause = pause
        self.wall_clock = wall_clock
        self.authorizer = Authorizer(read_credential, clock=clock, wall_clock=wall_clock)
        self.rate_limits = RateLimits(clock, wall_clock)
        self.breakers = CircuitBreakers(clock, wall_clock)
        self.breakers.on_change = self._reachability_changed
        self.via = Via()
        """By which an engine knows its own requests."""
        self.on_reachability: Callable[[CircuitBreaker], None] = lambda _: None
        """Told when a host of a source is given up, and when it answers again."""
        self.misread: dict[tuple[str, Digest], bool] = {}
        """By login server and digest: blobs labelled as compressed, and whether they were wrongly
        decoded, or wrongly not."""
        self._transports: dict[tuple[str, Reach], SourceTransport] = {}
        self._upstreams: dict[str, _Upstream] = {}
        self._tls: ssl.SSLContext | None = None
        self.diagnosis = Diagnosis(
            ClockEvidence(clock=clock, wall_clock=wall_clock), looks=transport is None
        )

    async def __aenter__(self) -> Sources:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.authorizer.close()
        await self.breakers.close()
        transports, self._transports = list(self._transports.values()), {}
        for each in transports:
            await each.aclose()

    def client(
        self, registry: SourceRegistry, credential_set: CredentialSet | None
    ) -> SourceClient:
        """A source registry, seen with a credential set or none. The secrets are read when a
        challenge asks for them."""
        reach = Reach.of(registry)
        transport = self._transport_to(registry.endpoint, reach)
        exchange = self._exchange(registry, transport, reach)
        exchange.public = self._exchange(
            registry, self._transport_to("", ON_THE_INTERNET), ON_THE_INTERNET
        )
        return SourceClient(self, Login(registry, credential_set), exchange)

    def _exchange(
        self, registry: SourceRegistry, transport: httpx.AsyncBaseTransport, reach: Reach
    ) -> SourceHttp:
        return SourceHttp(
            transport,
            registry.login_server,
            timeout=self._timeout,
            clock=self.wall_clock,
            pause=self._pause,
            breakers=self.breakers,
            reach=reach,
            diagnosis=self.diagnosis,
            via=self.via,
        )

    @property
    def contacted(self) -> list[str]:
        """The login servers of which something was asked since the start."""
        return sorted(self._upstreams)

    def state(self, login_server: str) -> SourceState:
        """What is known of a source registry."""
        upstream = self._upstreams.get(login_server)
        broken = self.breakers.opened_first(login_server)
        # Why it is not asked counts more than what was tried since.
        problem = (
            broken.error
            if broken is not None and broken.error is not None
            else upstream.problem
            if upstream
            else None
        )
        return SourceState(
            reachable=upstream.reachable if upstream else None,
            problem=problem.what if problem else None,
            advice=problem.hint or None if problem else None,
            cause=problem.cause if problem else None,
            rate_limit=self.rate_limits.get(login_server),
            unreachable_since=broken.since if broken else None,
            next_try=broken.next_try if broken else None,
        )

    def _reachability_changed(self, breaker: CircuitBreaker) -> None:
        if breaker.since is None:
            upstream = self.upstream(breaker.login_server)
            upstream.reachable, upstream.problem = True, None
        self.on_reachability(breaker)

    @property
    def manifest_limit(self) -> int:
        """The largest manifest that is read, in bytes."""
        return self._settings.manifest_limit

    def upstream(self, login_server: str) -> _Upstream:
        """What all clients of a login server share."""
        found = self._upstreams.get(login_server)
        if found is None:
            found = self._upstreams[login_server] = _Upstream()
        return found

    def _transport_to(self, endpoint: str, reach: Reach) -> httpx.AsyncBaseTransport:
        if self._given_transport is not None:
            return self._given_transport
        transport = self._transports.get((endpoint, reach))
        if transport is None:
            kind, tls = self._parts()
            transport = self._transports[endpoint, reach] = kind(
                tls,
                connections=self._settings.parallel_per_source + OTHER_CONNECTIONS,
                reach=reach,
                lookup_timeout=self._settings.connect_timeout,
            )
        return transport

    async def prepare(self) -> None:
        """Make ready, in a thread, what the first request to a source would have to wait for. What
        is held can be served before."""
        for problem in environment_problems():
            _log.warning("%s", problem.message)
        if self._given_transport is None:
            await asyncio.to_thread(self._parts)

    def _parts(self) -> tuple[type[SourceTransport], ssl.SSLContext]:
        # aiohttp takes 200 ms to import.
        from entrepot.source.transport import SourceTransport

        if self._tls is None:
            self._tls = tls_context(self._settings)
        return SourceTransport, self._tls


class SourceClient:
    """One source registry, seen with one credential set or none. `Sources.client` makes it; it is
    light, and holds nothing of its own.

    Every method raises a `SourceError` of the kind that fits.
    """

    def __init__(self, sources: Sources, login: Login, exchange: SourceHttp) -> None:
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
        """Whether the source kept somebody waiting lately and has not answered anybody since:
        whoever has a copy should not wait for it."""
        return self._exchange.is_suspected(httpx.URL(self._login.registry.endpoint))

    # Manifests

    async def head_manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestHead:
        """What the source tells of a manifest. Docker Hub does not count it as a pull."""
        about = self._about(repository, reference)
        headers = {"Accept": MANIFEST_ACCEPT}
        async with self._ask(
            "HEAD",
            f"{repository}/manifests/{reference}",
            repository,
            headers,
            about=about,
            accepted={200, 405, 501},
        ) as answer:
            if answer.status != 200:
                return ManifestHead(None, None, None)
            self._refuse_page(answer, about)
            digest = _digest_header(answer.headers)
            if isinstance(reference, Digest):
                if (
                    digest is not None
                    and digest.algorithm == reference.algorithm
                    and digest != reference
                ):
                    raise SourceAnswerInvalid(
                        f"{self._server} answers with another digest for {about}: {digest}.",
                        "Nothing of it was kept.",
                    )
                digest = reference
            self._refuse_media_type(answer, about)
            # Of another type the document may say something else, and only a GET shows that.
            media_type = answer.media_type if answer.media_type in _IMAGE_TYPES else None
            # Some registries put "Content-Length: 0" on every HEAD; no manifest is empty.
            # Nor is the length of one that is compressed on the way its size.
            return ManifestHead(
                digest,
                media_type,
                answer.length if answer.length and answer.coding is None else None,
            )

    async def manifest(self, repository: Repository, reference: Tag | Digest) -> FetchedManifest:
        """A manifest, its digest checked: against the one that was asked for, or for a tag against
        what the source says."""
        about = self._about(repository, reference)
        path = f"{repository}/manifests/{reference}"
        answer, content = await self._read(
            path,
            repository,
            {"Accept": MANIFEST_ACCEPT},
            about=about,
            limit=self._sources.manifest_limit,
        )
        return await self._checked_manifest(
            answer,
            content,
            reference if isinstance(reference, Digest) else _digest_header(answer.headers),
            about,
        )

    async def _checked_manifest(
        self, answer: SourceResponse, content: bytes, digest: Digest | None, about: str
    ) -> FetchedManifest:
        self._refuse_page(answer, about)
        self._refuse_media_type(answer, about)
        if len(content) < READ_IN_THREAD:
            return self._read_manifest(answer.media_type, content, digest, about)
        return await asyncio.to_thread(
            self._read_manifest, answer.media_type, content, digest, about
        )

    def _read_manifest(
        self, media_type: str | None, content: bytes, digest: Digest | None, about: str
    ) -> FetchedManifest:
        try:
            hint = decode(first_json_value(content), _ManifestHint)
        except Undecodable:
            raise SourceAnswerInvalid(
                f"{self._server} answers with something that is no manifest for {about}.",
                _ASK_PUBLISHER if is_json(content) else _NOT_A_REGISTRY,
            ) from None
        if digest is not None and not digest.matches(content):
            raise SourceAnswerInvalid(
                f"{self._server} sent wrong bytes for {about}: their digest is not {digest}.",
                "Nothing was kept. Pull again; if it happens again, something between here and the source changes what passes.",
            )
        media_type = self._media_type(media_type, hint, about)
        return FetchedManifest(
            content, media_type, digest if digest is not None else Digest.of(content)
        )

    def _media_type(self, sent: str | None, hint: _ManifestHint, about: str) -> str:
        """What a manifest is, by its header and by itself (OCI image specification, "mediaType";
        CVE-2021-41190).

        Nobody may take for an index what another takes for an image: where the two name different
        types of images, or the document is both, it is refused. A document that names a type of
        images under a header of none is what it says itself: its digest covers that, and not the
        header.
        """
        own = None
        if hint.media_type:
            own = parse_media_type(hint.media_type)
            if own is None:
                raise SourceAnswerInvalid(
                    f"{self._server} sent a manifest with a mediaType that is none for {about}.",
                    _ASK_PUBLISHER,
                )
        typed = sent is not None and sent not in _UNTYPED
        if own in _IMAGE_TYPES and sent in _IMAGE_TYPES and own != sent:
            raise SourceAnswerInvalid(
                f"{self._server} sent {about} as {sent}, and the manifest says that it is {own}.",
                _ASK_PUBLISHER,
            )
        media_type = own if own is not None and (not typed or own in _IMAGE_TYPES) else sent
        if media_type in _IMAGE_TYPES and (hint.is_index and hint.is_image):
            raise SourceAnswerInvalid(
                f"{self._server} sent a manifest that is an index and an image at once for {about}.",
                _ASK_PUBLISHER,
            )
        if media_type in _IMAGE_TYPES and (
            hint.is_image if media_type in INDEXES else hint.is_index
        ):
            kind, other = (
                ("an index", "an image") if media_type in INDEXES else ("an image", "an index")
            )
            raise SourceAnswerInvalid(
                f"{self._server} sent {about} as {kind}, and it is {other}.", _ASK_PUBLISHER
            )
        return media_type or "application/octet-stream"

    # Blobs

    @asynccontextmanager
    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        offset: int = 0,
        validator: str | None = None,
        size: int | None = None,
    ) -> AsyncGenerator[BlobStream, None]:
        """A blob from *offset* on, as a stream; *validator* is that of an earlier stream of it,
        *size* what its manifest states, in bytes.

        Where something on the way compressed it, it comes decoded, and from its first byte on: see
        `entrepot.source.content_encoding`. How many blobs come from one source registry at once is
        for its caller to bound: see `entrepot.cache.fetch_queue`.
        """
        about = self._about(repository, digest)
        headers = {"Accept": "application/octet-stream, */*;q=0.5"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator is not None and not validator.startswith("W/"):
                headers["If-Range"] = validator
        accepted = {200, 206, 416} if offset else {200}
        async with self._ask(
            "GET",
            f"{repository}/blobs/{digest}",
            repository,
            headers,
            about=about,
            accepted=accepted,
        ) as answer:
            if answer.status != 416:
                self._refuse_page(answer, about, unless=digest)
            start, stated_size = self._placed(answer, offset, about)
            is_part_of_coding = (
                answer.status == 206
                and answer.coding is not None
                and (size is None or stated_size != size)
            )
            if not is_part_of_coding:
                etag = answer.headers.get("etag")
                strong = (
                    etag
                    if etag is not None
                    and etag.startswith('"')
                    and len(etag) < 256
                    and etag.isascii()
                    and etag.isprintable()
                    else None
                )
                if answer.status == 200 and answer.coding is not None:
                    async with self._read_encoded(answer, digest, size, about) as stream:
                        yield stream
                    return
                # The body of a 416 is not the blob: nothing was left to come.
                async with aclosing(
                    answer.chunks() if answer.status != 416 else _nothing()
                ) as chunks:
                    try:
                        yield BlobStream(chunks, offset=start, size=stated_size, validator=strong)
                    except SourceBrokeOff as error:
                        self._upstream.note(error)
                        raise
                return
        # A part of what is compressed says nothing about a part of the blob.
        async with self.blob(repository, digest, size=size) as stream:
            yield stream

    @asynccontextmanager
    async def _read_encoded(
        self, answer: SourceResponse, digest: Digest, size: int | None, about: str
    ) -> AsyncGenerator[BlobStream, None]:
        """A whole blob that is labelled as compressed, as it came or decoded: as its digest had it
        the last time, else as it seems to be (F85)."""
        coding = answer.coding or ""
        misread = self._sources.misread
        key = (self._server, digest)
        async with aclosing(answer.chunks()) as chunks:
            first = await peek(chunks)
            decodes = (
                not misread[key]
                if key in misread
                else seems_encoded(first, coding, length=answer.length, size=size)
            )
            body = _following(first, chunks)
            content = self._verified(
                decode_stream(body, coding) if decodes else body,
                digest,
                size,
                coding,
                about,
                decodes=decodes,
            )
            try:
                async with aclosing(content):
                    # A length that is not the blob's own says nothing about its size.
                    yield BlobStream(
                        content,
                        offset=0,
                        size=size if not decodes and answer.length == size else None,
                        validator=None,
                    )
            except SourceBrokeOff as error:
                self._upstream.note(error)
                raise

    async def _verified(
        self,
        chunks: AsyncGenerator[bytes, None],
        digest: Digest,
        size: int | None,
        coding: str,
        about: str,
        *,
        decodes: bool,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob; at their end they have its digest, or it is remembered that the
        other reading may be right, and `SourceMisread` raised."""
        hasher, received = digest.hasher(), 0
        # The reader bounds what comes as it is, for it may be the manifest that states a wrong
        # size.
        limit = size if decodes else None
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    received += len(chunk)
                    if limit is not None and received > limit:
                        break
                    await asyncio.to_thread(hasher.update, chunk)
                    yield chunk
                else:
                    if hasher.hexdigest() == digest.hex:
                        return
        except NotDecodable as error:
            _log.info("%s: %s", about, error)
        misread = self._sources.misread
        key = (self._server, digest)
        is_last = key in misread or coding not in DECODED
        if is_last:
            misread.pop(key, None)
            raise SourceAnswerInvalid(
                f"{self._server} sends {about} labelled as compressed ({printable(coding, 32)}), which Entrepot did not ask for, "
                "and neither what came nor what can be made of it has its digest.",
                COMPRESSED_HINT,
            )
        misread[key] = decodes
        while len(misread) > MISREAD:
            del misread[next(iter(misread))]
        raise SourceMisread(
            f"{self._server} sends {about} labelled as compressed ({printable(coding, 32)}), which Entrepot did not ask for, "
            f"and {'decoded' if decodes else 'as it came'} it has another digest.",
            f"Pull again: it is read {'as it comes' if decodes else 'decoded'} then. {COMPRESSED_HINT}",
        )

    def _placed(self, answer: SourceResponse, offset: int, about: str) -> tuple[int, int | None]:
        """Where the body of a blob's answer belongs, and the size of the whole blob."""
        told = answer.headers.get("content-range", "")
        if answer.status == 200:
            return 0, answer.length
        if answer.status == 416:
            if parse_unsatisfied_range(told) == offset:
                return offset, offset
            raise SourceAnswerInvalid(
                f"{self._server} has no byte {offset:,} of {about}.",
                "It is another blob than before, or cut short there: pull again.",
            )
        part = parse_content_range(told)
        first, last, size = part if part is not None else (None, -1, None)
        if first != offset or last < offset or (size is not None and last >= size):
            raise SourceAnswerInvalid(
                f"{self._server} sent another part of {about} than the one from byte {offset:,} on.",
                "Nothing of it was kept; pull again.",
            )
        return offset, size

    async def head_blob(self, repository: Repository, digest: Digest) -> int:
        """The size of a blob in bytes."""
        about = self._about(repository, digest)
        path = f"{repository}/blobs/{digest}"
        # A presigned URL may be good for GET only, and some registries know no HEAD: then the first
        # byte of a GET tells the size.
        async with self._ask(
            "HEAD", path, repository, {}, about=about, accepted={200, 400, 403, 405, 501}
        ) as answer:
            if answer.status == 200:
                self._refuse_page(answer, about, unless=digest)
                # Some registries put "Content-Length: 0" on every HEAD.
                if answer.coding is None and (
                    answer.length or (answer.length == 0 and digest.matches(b""))
                ):
                    return answer.length
            elif answer.status == 403 and not answer.redirected:
                raise await self._error(answer, about)
        async with self._ask(
            "GET", path, repository, {"Range": "bytes=0-0"}, about=about, accepted={200, 206}
        ) as answer:
            self._refuse_page(answer, about, unless=digest)
            part = parse_content_range(answer.headers.get("content-range", ""))
            if answer.status == 206 and part is not None and part[2] is not None:
                return part[2]
            if answer.status == 200 and answer.length is not None and answer.coding is None:
                return answer.length
        raise SourceAnswerInvalid(
            f"{self._server} does not say how large {about} is.",
            "Nothing can be done here: the fault is at the source.",
        )

    # Lists

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> TagPage:
        """The tags of a repository in the source's order: at most *n*, those after *last*."""
        about = f"{self._server}/{repository} (tags)"
        asked = [f"n={min(n, TAGS_AT_ONCE)}"] if n is not None else []
        asked += [f"last={quote(last, safe='')}"] if last is not None else []
        path = f"{repository}/tags/list" + ("?" + "&".join(asked) if asked else "")
        answer, content = await self._read(
            path, repository, {"Accept": "application/json"}, about=about, limit=LIST_LIMIT
        )
        self._refuse_page(answer, about)
        try:
            tags = (
                _Tags.read(content, last)
                if len(content) < READ_IN_THREAD
                else await asyncio.to_thread(_Tags.read, content, last)
            )
        except Undecodable:
            raise SourceAnswerInvalid(
                f"{self._server} answers with something that is no list for {about}.",
                _NOT_A_REGISTRY,
            ) from None
        if tags.dropped and not self._upstream.has_odd_tags:
            self._upstream.has_odd_tags = True
            _log.warning(
                "%s lists %s that are no tags, in %s at first: they are left out",
                self._server,
                counted(tags.dropped, "name"),
                repository,
            )
        if n is not None and len(tags.names) > n:
            return TagPage(tuple(tags.names[:n]), tags.names[n - 1] if n else None)
        link = next_link(answer.headers.get("link", ""))
        if link is None or tags.last_sent is None:
            return TagPage(tuple(tags.names), None)
        target = parse_address(link, httpx.URL(self._login.registry.endpoint))
        following = _cursor(target.params.get("last") if target is not None else None) or _cursor(
            tags.last_sent
        )
        return TagPage(tuple(tags.names), following or (tags.names[-1] if tags.names else None))

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ReferrersIndex:
        """What refers to a manifest, as one index; where there is a single page, its bytes as they
        came.

        Where the source has no such API, the index behind the fallback tag; where it has neither,
        an empty one.
        """
        about = f"{self._about(repository, digest)} (referrers)"
        query = f"artifactType={quote(artifact_type, safe='')}" if artifact_type is not None else ""
        try:
            return await self._listed_referrers(repository, digest, query, about)
        except SourceNotFound:
            pass
        try:
            # Distribution specification 1.1, "Referrers Tag Schema".
            fallback = await self.manifest(
                repository, Tag(f"{digest.algorithm}-{digest.hex}"[:128])
            )
            return ReferrersIndex(fallback.content, False)
        except SourceNotFound:
            return ReferrersIndex(EMPTY_INDEX, False)

    async def _listed_referrers(
        self, repository: Repository, digest: Digest, query: str, about: str
    ) -> ReferrersIndex:
        pages: list[bytes] = []
        filtered = bool(query)
        left = self._sources.manifest_limit
        queries: set[str] = set()
        following: str | None = query
        while following is not None:
            queries.add(following)
            path = f"{repository}/referrers/{digest}" + (f"?{following}" if following else "")
            try:
                answer, content = await self._read(
                    path,
                    repository,
                    {"Accept": OCI_INDEX},
                    about=about,
                    limit=left,
                    unsupported=not pages,
                )
            except SourceNotFound:
                if not pages:
                    raise
                raise SourceAnswerInvalid(
                    f"{self._server} has no further page of {about}, to which it sent us.",
                    "Nothing was kept.",
                ) from None
            await self._checked_manifest(answer, content, None, about)
            pages.append(content)
            left -= len(content)
            applied = answer.headers.get("oci-filters-applied", "")[:256].lower().split(",")
            filtered = filtered and "artifacttype" in (each.strip() for each in applied)
            following = self._next_query(answer)
            if following is not None and (len(pages) >= REFERRER_PAGES or following in queries):
                raise SourceAnswerInvalid(
                    f"{self._server} lists {about} in pages without an end.",
                    f"At most {REFERRER_PAGES} pages are followed; a part would look like all of it.",
                )
        try:
            return ReferrersIndex(
                await asyncio.to_thread(_joined, pages) if len(pages) > 1 else pages[0], filtered
            )
        except Undecodable:
            raise SourceAnswerInvalid(
                f"{self._server} answers with something that is no index for {about}.",
                _NOT_A_REGISTRY,
            ) from None

    def _next_query(self, answer: SourceResponse) -> str | None:
        """The query of the next page. Only that is taken from the link: host and path stay the
        registry's own."""
        link = next_link(answer.headers.get("link", ""))
        if link is None:
            return None
        target = parse_address(link, httpx.URL(self._login.registry.endpoint))
        if target is None or not target.query or len(target.query) > CURSOR_LENGTH:
            raise SourceAnswerInvalid(
                f"{self._server} names a next page that can't be read.",
                "Nothing was kept: a part would look like all of it.",
            )
        return target.query.decode("ascii")

    async def verify_credentials(self) -> None:
        """Sign in anew; raises `SourceRefused` when the source does not accept the credentials, or
        what else keeps it from answering.

        Secrets that can't be read are told even of a source that lets everybody in and would not
        have asked for them.
        """
        if self._login.credential_set is not None:
            await read_credential(self._login.credential_set)
        self._sources.authorizer.invalidate(self._login)
        async with self._ask(
            "GET", "", Repository(""), {}, about=_SIGN_IN, accepted={200, 404}
        ) as answer:
            self._refuse_page(answer, _SIGN_IN)
            if answer.status == 404:
                raise SourceAnswerInvalid(
                    f"{self._server} does not answer as a registry: it has no /v2/.",
                    _NOT_A_REGISTRY,
                )

    # Requests

    async def _read(
        self,
        path: str,
        repository: Repository,
        headers: Mapping[str, str],
        *,
        about: str,
        limit: int,
        unsupported: bool = False,
    ) -> tuple[SourceResponse, bytes]:
        """GET something small, in several attempts when the answer breaks off. *unsupported*: a
        source that does not know such a request has no such thing."""
        attempt = 1
        while True:
            try:
                async with self._ask(
                    "GET",
                    path,
                    repository,
                    headers,
                    about=about,
                    accepted={200},
                    unsupported=unsupported,
                ) as answer:
                    return answer, await answer.read(limit)
            except SourceBrokeOff as error:
                if attempt >= ATTEMPTS:
                    self._upstream.note(error)
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
    ) -> AsyncGenerator[SourceResponse, None]:
        """Make a request, signing in where it is asked for. Every other answer than those
        *accepted* becomes an error."""
        kind = "blobs" if "/blobs/" in path else "manifests"
        pause = (self._server, self._login.identity, kind)
        left = self._sources.rate_limits.remaining_pause(pause)
        if left is not None:
            raise self._over_allowance(about, "", left)
        url = httpx.URL(f"{self._login.registry.endpoint}/v2/{path}")
        try:
            answer = await self._signed_in(method, url, headers, repository, about)
        except SourceError as error:
            self._upstream.note(error)
            if isinstance(error, SourceUnreachable):
                self._upstream.reachable = False
            if isinstance(error, SourceRateLimited):
                self._sources.rate_limits.record_exceeded(self._server, pause, error.retry_after)
            raise
        async with answer:
            self._upstream.reachable = True
            if not answer.redirected:
                self._sources.rate_limits.record(self._server, answer.headers)
            if answer.status in accepted:
                self._upstream.problem = None
                yield answer
                return
            if unsupported and answer.status in {400, 405, 406, 501}:
                raise SourceNotFound(f"{self._server} does not know {about}.")
            refused = await self._error(answer, about)
            if isinstance(refused, SourceRateLimited):
                self._sources.rate_limits.record_exceeded(self._server, pause, refused.retry_after)
            self._upstream.note(None if isinstance(refused, SourceNotFound) else refused)
            raise refused

    async def _signed_in(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        repository: Repository,
        about: str,
    ) -> SourceResponse:
        """Make a request with what its registry asks for, and with what a registry asks for that it
        hands requests on to (F80).

        No registry is asked more than three times: without a token, with one that has just been
        revoked, and with a new one.
        """
        authorizer = self._sources.authorizer
        authorization = await authorizer.authorization(self._login, repository, self._exchange)
        sent: dict[str, Authorization] = {}
        challenged: dict[str, int] = {}

        async def authorize(target: httpx.URL) -> str | None:
            origin = origin_of(target)
            try:
                token = await authorizer.authorization(
                    self._handed_on(origin), repository, self._exchange
                )
            except SourceRefused:
                # It says so itself when it is asked without a token.
                return None
            if token is not None:
                sent[origin] = token
            return token.value if token is not None else None

        while True:
            sent.clear()
            answer = await self._exchange.request(
                method, url, _with(headers, authorization), about=about, authorize=authorize
            )
            challenges = answer.headers.get_list("www-authenticate")
            origin = answer.origin
            if answer.redirected:
                answer.refuses_registry_client = origin in sent or (
                    answer.status == 401
                    and asks_for_sign_in(challenges, basic=answer.is_of_registry)
                )
            if answer.status != 401 or not challenges or challenged.get(origin, 0) == 2:
                return answer
            if answer.redirected and (
                not answer.refuses_registry_client or len(challenged) > HANDED_ON
            ):
                return answer
            await answer.close()
            renewed = challenged.get(origin, 0) > 0
            challenged[origin] = challenged.get(origin, 0) + 1
            if not answer.redirected:
                authorization = await authorizer.answer_challenges(
                    challenges,
                    self._login,
                    repository,
                    self._exchange,
                    used=authorization,
                    renewed=renewed,
                )
                continue
            try:
                await authorizer.answer_challenges(
                    challenges,
                    self._handed_on(origin),
                    repository,
                    self._exchange,
                    used=sent.get(origin),
                    renewed=renewed,
                )
            except SignInUnsafe:
                raise
            except SourceRefused:
                raise self._refused_elsewhere(answer.origin, about) from None

    def _handed_on(self, origin: str) -> Login:
        """Nobody in particular at another registry, to which the redirects of this one lead."""
        host = origin.partition("://")[2]
        return Login(
            SourceRegistry(host, host, SignIn.OPTIONAL, origin), None, redirected_by=self._server
        )

    def _refused_elsewhere(self, origin: str, about: str) -> SourceRefused:
        # With its port, where it has one: that is the login server to which a rule can be made.
        host = origin.partition("://")[2]
        return SourceRefused(
            f"{self._server} hands us on to {printable(host, 253)} for {about}, which lets us in only with credentials of its own, or has no such image.",
            rule_elsewhere(host),
        )

    def _about(self, repository: Repository, reference: Tag | Digest) -> str:
        return (
            f"{self._server}/{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"
        )

    def _refuse_page(
        self, answer: SourceResponse, about: str, *, unless: Digest | None = None
    ) -> None:
        """A page for people is no answer of a registry: a captive portal or a web gallery sent it.
        A blob may be a page if the source says its digest."""
        if answer.is_page and (unless is None or _digest_header(answer.headers) != unless):
            page = SourceAnswerInvalid.of_cause(web_page_cause(self._server, about))
            self._upstream.note(page)
            raise page

    def _refuse_media_type(self, answer: SourceResponse, about: str) -> None:
        """What is no media type is kept nowhere: it would become a header of an answer of ours."""
        if not answer.media_type_is_valid:
            raise SourceAnswerInvalid(
                f"{self._server} sends {about} with a Content-Type that is none.", _ASK_PUBLISHER
            )

    async def _error(self, answer: SourceResponse, about: str) -> SourceError:
        message = await _said(answer)
        error = self._judge(answer, about, f" ({message})" if message else "")
        error.source_message = message
        return error

    def _judge(self, answer: SourceResponse, about: str, said: str) -> SourceError:
        status = answer.status
        if status == 404:
            return SourceNotFound(
                f"{self._server} has no {about.removeprefix(self._server + '/')}{said}."
            )
        if status == 429:
            return self._over_allowance(
                about, said, read_retry_after(answer.headers, self._sources.wall_clock())
            )
        if status in {401, 403} and answer.refuses_registry_client:
            return self._refused_elsewhere(answer.origin, about)
        if status in {401, 403} and answer.redirected:
            return SourceFailed(
                f"{answer.host}, to which {self._server} sends us for {about}, refuses it with status {status}.",
                "The fault is there; try again.",
            )
        if status in {401, 403} and about == _SIGN_IN:
            return self._refused_sign_in(status, said)
        if status in {401, 403}:
            anonymous = self._login.credential_set is None
            hint = (
                "It does not exist there, or needs a credential set that may read it."
                if anonymous
                else "Check that its user may read the repository, and that the repository exists."
            )
            return SourceRefused(f"{self._server} refuses {about} {self._login.name}{said}.", hint)
        if status == 508:
            return SourceLoop(
                f"{self._server} leads {about} in a circle{said or ' (an engine on the way is its own source)'}.",
                "Let the endpoint of the source, or the cache rule, lead to the registry itself.",
            )
        retry_after = read_retry_after(answer.headers, self._sources.wall_clock())
        if status in {503, 504} and retry_after is not None:
            return SourceBusy(
                f"{self._server} fails with status {status} for {about}{said}.",
                f"It asks to try again in {duration(retry_after)}.",
                retry_after=retry_after,
            )
        if status >= 500:
            return SourceFailed(
                f"{self._server} fails with status {status} for {about}{said}.",
                "The fault is at the source registry; try again later.",
            )
        return SourceAnswerInvalid(
            f"{self._server} answers {about} with status {status}, which was not expected{said}.",
            _NOT_A_REGISTRY,
        )

    def _refused_sign_in(self, status: int, said: str) -> SourceRefused:
        """A sign-in names no repository, so it says nothing about the rights to one."""
        why = said or f" (status {status})"
        if self._login.credential_set is None:
            return SourceRefused(
                f"{self._server} requires credentials{why}.",
                "Give the cache rule a credential set.",
            )
        name = self._login.credential_set.name
        return SourceRefused(
            f"{self._server} refuses the credentials of credential set {name}{why}.",
            CREDENTIALS_CURE,
        )

    def _over_allowance(
        self, about: str, said: str, retry_after: float | None
    ) -> SourceRateLimited:
        when = f"again in {retry_after:.0f} s" if retry_after is not None else "again later"
        more = (
            " A credential set may have a larger allowance."
            if self._login.credential_set is None
            else ""
        )
        return SourceRateLimited(
            f"Too many requests to {self._server}: it gives us no more for now, and {about} was asked for{said}.",
            f"Try {when}.{more}",
            retry_after=retry_after,
        )


_ASK_PUBLISHER = "Nothing of it was kept. Ask whoever publishes the image, or runs the registry."
_NOT_A_REGISTRY = WEB_PAGE_CURE


def _with(headers: Mapping[str, str], authorization: Authorization | None) -> dict[str, str]:
    return (
        {**headers, "Authorization": authorization.value}
        if authorization is not None
        else dict(headers)
    )


def _digest_header(headers: Mapping[str, str]) -> Digest | None:
    value = headers.get("docker-content-digest")
    if value is None:
        return None
    try:
        return Digest.parse(value.strip())
    except DigestInvalid:
        return None


async def _following(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for chunk in chunks:
        yield chunk


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""


async def _said(answer: SourceResponse) -> str:
    """What the source itself says about an error, for a person: the first of its OCI errors, at
    most `CAUSE_LENGTH` characters."""
    if (
        answer.media_type not in {"application/json", "application/vnd.oci.error.v1+json"}
        or answer.redirected
    ):
        return ""
    try:
        first = decode(await answer.read(64 * 1024), _ErrorBody).errors[0]
    except (Undecodable, IndexError, SourceError):
        return ""
    text = printable(first.sentence).rstrip(".")
    if len(text) <= CAUSE_LENGTH:
        return text
    cut = text[: CAUSE_LENGTH - 1]
    words = cut.rpartition(" ")[0].rstrip(".,;:(")
    # What is longer than any word may be cut in its middle.
    return f"{words if len(words) > CAUSE_LENGTH / 2 else cut}…"


def _is_empty(value: msgspec.Raw) -> bool:
    content = memoryview(value)
    return len(content) < 64 and b"".join(bytes(content).split()) in _EMPTY


def _is_tag(text: str) -> bool:
    try:
        parse_tag(text)
    except ReferenceInvalid:
        return False
    return True


def _cursor(text: str | None) -> str | None:
    """What a source gives to ask on with, when it can be handed to a client and back."""
    return text if text and len(text) <= CURSOR_LENGTH and text.isprintable() else None


def _joined(pages: list[bytes]) -> bytes:
    """One index of the entries of all pages, each as it came, with everything else of the first;
    raises `Undecodable`."""
    pages = [first_json_value(page) for page in pages]
    entries = [
        bytes(entry) for page in pages for entry in decode(page, _ReferrersPage).manifests or ()
    ]
    document = decode(pages[0], dict[str, msgspec.Raw])
    document["manifests"] = msgspec.Raw(b"[" + b",".join(entries) + b"]")
    return msgspec.json.encode(document)
