"""What happens when somebody asks for a manifest, a blob, the tags or the referrers of a
repository.

The way of a request: which rule answers for the repository; is what is asked held, and fresh; if
not, the source is asked, once for everyone who waits; if the source fails, what is held is served
all the same. A digest alone opens nothing: a blob or manifest must belong to the repository through
which it is asked for.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from entrepot.cache.blob_copies import BlobCopies
from entrepot.cache.fill import BlobSource, Fill, Fills
from entrepot.cache.index import CacheIndex, Resolved
from entrepot.cache.lists import ListKey, SourceList, SourceLists, of_artifact_type
from entrepot.cache.proof import proves
from entrepot.cache.pull import Pull, PullOrigin, Pulls, PullSubject
from entrepot.cache.pull_history import PullHistory
from entrepot.cache.recent_failures import Failures
from entrepot.cache.usage import UsageTracker
from entrepot.config.settings import Settings
from entrepot.core.media_types import EMPTY_INDEX, INDEXES
from entrepot.core.platforms import Platform
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.core.rules import Route
from entrepot.errors import (
    BlobUnknown,
    EntrepotError,
    ManifestUnknown,
    NotFound,
    RegistryError,
    RepositoryUnknown,
)
from entrepot.events import EventLog
from entrepot.source.client import BlobStream, ManifestHead, SourceClient
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAnswerInvalid,
    SourceAvoided,
    SourceError,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.source.singleflight import FetchAbandoned, SingleFlight
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import BlobOrigin, Catalog, CatalogFailed, TagEntry
from entrepot.store.manifests import (
    Descriptor,
    Manifest,
    ManifestUnreadable,
    ReferenceKind,
    config_platform,
    parse_manifest,
)

REVALIDATION_TIMEOUT = 2.0
"""Seconds that a client waits for the source's word on a tag of which a copy is held; after that it
gets the copy."""

RESOLVED_TAG_TTL = 300.0
"""Seconds for which it is believed at the most, without asking again, where a tag points that is
not held: a freshness of its rule speaks of what is held."""

STATED_SIZE_TTL = 300.0
"""Seconds for which the size of a blob is trusted that only a HEAD of the source has told."""

STATED_SIZES = 10_000
"""Blobs of which such a size is remembered, those asked for last."""

PROOF_TIMEOUT = 30.0
"""Seconds that a source has to prove that it has the bytes of a copy; after that the blob is
fetched from it whole."""

UNPROVEN_TTL = 600.0
"""Seconds for which a source that gave other bytes than the copy has is not asked for a proof
again."""

UNPROVEN = 10_000
"""Such failures that are remembered."""

NESTED_INDEXES = 3
"""Indexes within an index that are followed to the image of a platform."""

PLATFORMS_NAMED = 30
"""Platforms that are named where an image has none for the wanted one."""

CONFIG_LIMIT = 8 * 1024 * 1024
"""The largest image config that is read for its platform, in bytes."""

_log = logging.getLogger("entrepot.cache")


class Origin(StrEnum):
    """Where an answer came from, as the header ``Entrepot-Origin`` says it."""

    CACHE = "cache"
    UPSTREAM = "upstream"
    STALE = "stale"
    """From the cache, because the source could not be asked."""


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest for a client. *warning* says why it may be stale."""

    manifest: Manifest
    origin: Origin
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """What became of a tag of which the source was asked on purpose. *before* is where it pointed,
    *problem* why the source could not be asked."""

    digest: Digest
    before: Digest | None
    gone: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class ManifestDescription:
    """What a HEAD on a manifest tells. *size* is in bytes."""

    digest: Digest
    media_type: str
    size: int
    origin: Origin
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class CachedBlob:
    """A blob that is held whole. *size* is in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class BlobDescription:
    """What a HEAD on a blob tells. *size* is in bytes."""

    digest: Digest
    size: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """A list of tags, or an index of referrers, for a client. *warning* says why it may be stale."""

    listing: SourceList
    origin: Origin
    warning: str | None = None


@dataclass(slots=True)
class _StatedSize:
    """What the source said of a blob that no manifest names, and the fill that was begun with it."""

    descriptor: Descriptor
    time: float
    fill: Fill | None = None

    @property
    def is_contradicted(self) -> bool:
        return self.fill is not None and self.fill.error is not None


@dataclass(frozen=True, slots=True)
class _RepositoryBlob:
    """A blob of a repository at its source, asked for with a credential set or none: what a fill
    reads from."""

    repository: Repository
    digest: Digest
    credential_set: str | None
    client: SourceClient = field(compare=False)
    size: int | None = field(default=None, compare=False)
    """As far as it is known, in bytes."""

    def __call__(
        self, *, offset: int, validator: str | None
    ) -> AbstractAsyncContextManager[BlobStream]:
        return self.client.blob(
            self.repository, self.digest, offset=offset, validator=validator, size=self.size
        )


class ArtifactCache:
    """The heart of the engine: manifests, blobs, tags and referrers for clients, and pulls for
    everyone. It is told the rules and the clients of sources."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        blobs: BlobStore,
        fills: Fills,
        events: EventLog,
        route: Callable[[str], Route | None],
        client: Callable[[Route], SourceClient],
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """*clock* is in seconds since the epoch, for what is written down; *monotonic*, in seconds,
        measures what lasts within one run."""
        self._settings = settings
        self._catalog = catalog
        self._blobs = blobs
        self._fills = fills
        self._events = events
        self._route = route
        self._client = client
        self._clock = clock
        self._monotonic = monotonic
        self._flights: SingleFlight[ManifestAnswer] = SingleFlight()
        self._size_flights: SingleFlight[int] = SingleFlight()
        self._head_flights: SingleFlight[ManifestHead] = SingleFlight()
        self._list_flights: SingleFlight[SourceList] = SingleFlight()
        self._lists = SourceLists(monotonic)
        self._failures = Failures(lifetime=settings.negative_freshness, clock=monotonic)
        self.hits = 0
        """Manifests and blobs that were answered from what is held, since the start. Who only asks
        whether something is there (HEAD) is not counted."""
        self.misses = 0
        """Those that had to be fetched, or were on their way already."""
        self._stated_sizes: OrderedDict[tuple[Repository, Digest], _StatedSize] = OrderedDict()
        """Blobs that the source says belong to a repository, though no manifest of it names them."""
        self._proofs: SingleFlight[bool] = SingleFlight()
        self._unproven: OrderedDict[tuple[str, Digest], float] = OrderedDict()
        """By source repository and blob: until when it is not asked for a proof again."""
        self.copies = BlobCopies(
            catalog=catalog, blobs=blobs, fills=fills, events=events, now=clock
        )
        self.index = CacheIndex(catalog)
        self.usage = UsageTracker(catalog, clock)
        self.history = PullHistory(catalog, clock)
        self.pulls = Pulls(
            clock=clock,
            obtain=self._obtain,
            give_up=fills.cancel,
            on_change=self._pull_changed,
            on_complete=self._pull_completed,
        )

    async def close(self) -> None:
        """Give up what is being asked of sources, and write down what was used."""
        for flights in (self._flights, self._size_flights, self._head_flights, self._list_flights):
            await flights.close()
        await self._proofs.close()
        await self.copies.close()
        await self.usage.write()

    # Manifests

    async def manifest(
        self,
        repository: Repository,
        reference: Tag | Digest,
        *,
        asked_by: str | None = None,
        refresh: bool = False,
    ) -> ManifestAnswer:
        """A manifest by tag or digest.

        By digest, holding it is enough. By tag, the source is asked when the freshness is over, or
        always with *refresh*. Raises `RepositoryUnknown`, `ManifestUnknown`, or a `SourceError`
        when nothing is held that could be served instead.
        """
        answer = await self._find_manifest(repository, reference, refresh=refresh)
        if answer.origin is Origin.UPSTREAM:
            self.misses += 1
        else:
            self.hits += 1
        if (route := self._route(repository)) is not None:
            self.usage.record_answer(route.rule.name)
        index = await self.index.of(repository)
        tag = reference if not isinstance(reference, Digest) else index.tag_of.get(reference)
        index.record_request(answer.manifest, tag)
        self.usage.record_manifest_use(repository, answer.manifest, tag)
        return answer

    async def refresh(self, repository: Repository, tag: Tag) -> RefreshResult:
        """Ask the source where a tag points, however fresh it is. A held tag costs a HEAD, and a
        GET of the manifest when it moved.

        Raises `RepositoryUnknown`, `ManifestUnknown`, or a `SourceError` when nothing is held.
        """
        if self._route(repository) is None:
            raise await self._unknown(repository, tag)
        before = await self.index.tag(repository, tag)
        answer = await self._find_manifest(repository, tag, refresh=True)
        after = await self.index.tag(repository, tag)
        return RefreshResult(
            digest=answer.manifest.digest,
            before=before.digest if before is not None else None,
            gone=after is not None and after.gone,
            problem=answer.warning if answer.origin is Origin.STALE else None,
        )

    def freshness(self, route: Route) -> float:
        """How long a tag is believed that comes through a rule, in seconds: that of the rule, else
        that of the settings."""
        own = route.rule.freshness
        return self._settings.freshness if own is None else own

    def _is_fresh(self, entry: TagEntry, route: Route) -> bool:
        # A tag that was checked in the future was never checked: the clock was wrong then, or is
        # now (RFC 9111, 4.2.3).
        return 0 <= self._clock() - entry.checked < self.freshness(route)

    def _is_trusted(self, resolved: Resolved, route: Route) -> bool:
        return self._monotonic() - resolved.time < min(self.freshness(route), RESOLVED_TAG_TTL)

    async def describe_manifest(
        self, repository: Repository, reference: Tag | Digest
    ) -> ManifestDescription:
        """What a HEAD tells of a manifest. For one that is not held the source gets a HEAD, which
        Docker Hub does not count, and nothing is fetched."""
        route = self._route(repository)
        if route is not None:
            self._raise_remembered_without_copy(repository, reference)
        index = await self.index.of(repository)
        held = (
            reference in index.manifests
            if isinstance(reference, Digest)
            else await self.index.tag(repository, reference) is not None
        )
        if not held and route is not None:
            resolved = index.resolved.get(reference)
            if resolved is not None and self._is_trusted(resolved, route):
                return ManifestDescription(
                    resolved.digest, resolved.media_type, resolved.size, Origin.UPSTREAM
                )
            self._raise_remembered(repository, _of_manifest(reference))
            head = await self._head_flights.join(
                (repository, _of_manifest(reference)),
                lambda: self._head(repository, route, reference),
                group=route.registry.login_server,
            )
            if head.digest is not None and head.media_type is not None and head.size is not None:
                return ManifestDescription(head.digest, head.media_type, head.size, Origin.UPSTREAM)
        answer = await self._find_manifest(repository, reference)
        manifest = answer.manifest
        self.usage.record_manifest_check(repository, manifest.digest)
        return ManifestDescription(
            manifest.digest,
            manifest.media_type,
            len(manifest.content),
            answer.origin,
            answer.warning,
        )

    async def _head(
        self, repository: Repository, route: Route, reference: Tag | Digest
    ) -> ManifestHead:
        try:
            head = await self._client(route).head_manifest(route.repository, reference)
        except SourceError as error:
            raise self._failed(repository, _of_manifest(reference), error, route) from error
        if (
            not isinstance(reference, Digest)
            and head.digest is not None
            and head.media_type is not None
            and head.size is not None
        ):
            index = await self.index.of(repository)
            index.source_confirmed(
                reference, head.digest, head.media_type, head.size, self._monotonic()
            )
        return head

    async def _find_manifest(
        self, repository: Repository, reference: Tag | Digest, *, refresh: bool = False
    ) -> ManifestAnswer:
        route = self._route(repository)
        if isinstance(reference, Digest):
            return await self._find_by_digest(repository, route, reference)
        if route is not None and not refresh:
            self._raise_remembered_without_copy(repository, reference)
        entry = await self.index.tag(repository, reference)
        if entry is None:
            if route is None:
                raise await self._unknown(repository, reference)
            if not refresh:
                self._raise_remembered(repository, reference)
            resolved = (await self.index.of(repository)).resolved.get(reference)
            if resolved is not None and not refresh and self._is_trusted(resolved, route):
                return await self._find_by_digest(repository, route, resolved.digest)
            # It may have come for another client while the catalog was asked.
            entry = None if refresh else self.index.tag_in_memory(repository, reference)
            if entry is None:
                return await self._ask(repository, route, reference, None)
        if route is None:
            return ManifestAnswer(await self._held_manifest(repository, entry.digest), Origin.CACHE)
        if not refresh and self._is_fresh(entry, route):
            return ManifestAnswer(
                await self._held_manifest(repository, entry.digest),
                Origin.CACHE,
                _gone_warning(route, reference) if entry.gone else None,
            )
        client = self._client(route)
        try:
            if not refresh:
                self._raise_remembered(repository, reference)
            async with asyncio.timeout(None if refresh else self._patience(client)):
                return await self._ask(repository, route, reference, entry)
        except TimeoutError:
            slow = self._too_slow(client, route)
            self._remember(repository, reference, slow, has_copy=True)
            return ManifestAnswer(
                await self._held_manifest(repository, entry.digest), Origin.STALE, slow.what
            )
        except (SourceError, ManifestUnknown, FetchAbandoned) as error:
            return ManifestAnswer(
                await self._held_manifest(repository, entry.digest), Origin.STALE, error.what
            )

    def _patience(self, client: SourceClient) -> float:
        """Seconds that somebody who could have a copy waits for the source. One that kept others
        waiting just now is asked, but not waited for."""
        return 0.0 if client.is_suspected else REVALIDATION_TIMEOUT

    def _too_slow(self, client: SourceClient, route: Route) -> SourceUnreachable:
        client.suspect()
        return SourceUnreachable(
            f"{route.registry.login_server} does not answer within {REVALIDATION_TIMEOUT:g} s. (cache rule {route.rule.name})"
        )

    async def _find_by_digest(
        self, repository: Repository, route: Route | None, digest: Digest
    ) -> ManifestAnswer:
        if route is not None:
            self._raise_remembered_without_copy(repository, digest)
        index = await self.index.of(repository)
        if digest in index.manifests:
            return ManifestAnswer(await self._held_manifest(repository, digest), Origin.CACHE)
        if route is None:
            raise await self._unknown(repository, digest)
        self._raise_remembered(repository, _of_manifest(digest))
        return await self._flights.join(
            (repository, str(digest)),
            lambda: self._fetch(repository, route, digest),
            group=route.registry.login_server,
        )

    async def _ask(
        self, repository: Repository, route: Route, tag: Tag, entry: TagEntry | None
    ) -> ManifestAnswer:
        return await self._flights.join(
            (repository, tag),
            lambda: self._check(repository, route, tag, entry),
            group=route.registry.login_server,
        )

    async def _check(
        self, repository: Repository, route: Route, tag: Tag, entry: TagEntry | None
    ) -> ManifestAnswer:
        """Ask the source where a tag points. With a copy at hand a HEAD does: Docker Hub counts
        GETs of manifests, not HEADs."""
        if entry is None:
            return await self._fetch(repository, route, tag)
        try:
            head = await self._client(route).head_manifest(route.repository, tag)
        except SourceNotFound:
            # Where the catalog fails, that is found out again.
            with suppress(CatalogFailed):
                await self._catalog.mark_tag_gone(repository, tag, now=self._clock())
            self.index.invalidate_tag(repository, tag)
            self._events.record(
                "tag-gone",
                f"{route.source}:{tag} is gone at its source; what is held of it stays and is served.",
                f"{repository}:{tag}",
            )
            return ManifestAnswer(
                await self._held_manifest(repository, entry.digest),
                Origin.CACHE,
                _gone_warning(route, tag),
            )
        except SourceError as error:
            raise self._failed(repository, tag, error, route, has_copy=True) from error
        index = await self.index.of(repository)
        if head.digest is None or head.digest not in index.manifests:
            return await self._fetch(repository, route, tag, has_copy=True)
        if not await self.index.point_tag(repository, tag, head.digest, now=self._clock()):
            return await self._fetch(repository, route, tag, has_copy=True)
        self._failures.forget(repository, tag)
        return ManifestAnswer(await self._held_manifest(repository, head.digest), Origin.CACHE)

    async def _fetch(
        self,
        repository: Repository,
        route: Route,
        reference: Tag | Digest,
        *,
        has_copy: bool = False,
    ) -> ManifestAnswer:
        """Fetch a manifest and keep it. With *has_copy* another one is cached, which is served when
        this fails."""
        try:
            try:
                fetched = await self._client(route).manifest(route.repository, reference)
            except (SourceUnreachable, SourceRateLimited):
                # Nothing was counted that did not arrive or was refused for the count.
                raise
            except SourceError:
                self.usage.record_fetch(route.rule.name)
                raise
            self.usage.record_fetch(route.rule.name)
            manifest = await parse_manifest(fetched.content, fetched.media_type, fetched.digest)
        except ManifestUnreadable as error:
            raise self._invalid(repository, reference, error, route, has_copy=has_copy) from error
        except SourceError as error:
            raise self._failed(
                repository, _of_manifest(reference), error, route, has_copy=has_copy
            ) from error
        index = await self.index.of(repository)
        tags = (
            index.tags_resolved_to(manifest.digest)
            if isinstance(reference, Digest)
            else [reference]
        )
        try:
            await self.index.add_manifest(
                repository, route.source, manifest, tags=tags, now=self._clock()
            )
        except (OverflowError, UnicodeError) as error:
            # A number or a text that no database takes: nothing of it was written.
            raise self._invalid(repository, reference, error, route, has_copy=has_copy) from error
        self._failures.forget(repository, _of_manifest(manifest.digest))
        for tag in tags:
            self._failures.forget(repository, tag)
        return ManifestAnswer(manifest, Origin.UPSTREAM)

    def _invalid(
        self,
        repository: Repository,
        reference: Tag | Digest,
        error: Exception,
        route: Route,
        *,
        has_copy: bool,
    ) -> EntrepotError:
        """A manifest that can't be read or stored. It is remembered as every failure is: not one
        GET at the source for each request (F67)."""
        reason = (
            str(error)
            if isinstance(error, ManifestUnreadable)
            else "it has a number, a text or a depth beyond all bounds"
        )
        sign = "@" if isinstance(reference, Digest) else ":"
        invalid = SourceAnswerInvalid(
            f"{route.source}{sign}{reference} is not a manifest that Entrepot knows: {reason.rstrip('.')}.",
            "Ask whoever publishes the image.",
        )
        return self._failed(repository, _of_manifest(reference), invalid, route, has_copy=has_copy)

    async def _held_manifest(self, repository: Repository, digest: Digest) -> Manifest:
        route = self._route(repository)
        # The catalog may have got it just now, and what is remembered of the repository not yet:
        # the second look reads it anew.
        for _ in range(2):
            try:
                manifest = await self.index.manifest_of(repository, digest)
            except CatalogFailed:
                # Its source may have it yet.
                if route is None:
                    raise
                manifest = None
            if manifest is not None:
                return manifest
            self.index.invalidate(repository)
        # It was evicted or deleted since somebody looked.
        if route is None:
            raise ManifestUnknown(f"{repository} holds no manifest {digest}.")
        fetched = self._flights.join(
            (repository, str(digest)),
            lambda: self._fetch(repository, route, digest),
            group=route.registry.login_server,
        )
        return (await fetched).manifest

    async def _unknown(self, repository: Repository, reference: Tag | Digest) -> EntrepotError:
        if await self._catalog.is_cached(repository):
            return ManifestUnknown(
                f"{repository} holds no {reference}, and no cache rule answers for it any more.",
                "Make a cache rule for it to pull more.",
            )
        return RepositoryUnknown(
            f"No cache rule answers for {repository}.",
            "Make one in the dashboard or with: entrepot rule create",
        )

    # Blobs

    async def describe_blob(self, repository: Repository, digest: Digest) -> BlobDescription:
        """What a HEAD tells of a blob; nothing is fetched. Raises `BlobUnknown`,
        `RepositoryUnknown` or a `SourceError`."""
        descriptor, is_named = await self._descriptor(repository, digest)
        route = self._route(repository)
        size = await self.copies.size(digest, descriptor.size if is_named else None)
        # Without a proof a copy of another source's credentials is none: the answer is what this
        # repository's source says.
        if size is not None and await self._is_open(repository, route, digest):
            self.usage.record_blob_use(digest)
            return BlobDescription(digest, size, Origin.CACHE)
        if route is None:
            raise self._not_held(repository, digest)
        return BlobDescription(
            digest, await self._size_to_fetch(repository, route, descriptor), Origin.UPSTREAM
        )

    async def blob(
        self, repository: Repository, digest: Digest, *, asked_by: str | None = None
    ) -> CachedBlob | Fill:
        """A blob for a client: held whole, or the fill that brings it. A layer that is not held
        begins the pull of its image.

        Raises `BlobUnknown`, `RepositoryUnknown` or a `SourceError`.
        """
        descriptor, is_named = await self._descriptor(repository, digest)
        blob = await self._cached_or_fill(repository, descriptor, is_named=is_named)
        if isinstance(blob, CachedBlob):
            # Whoever answers opens the file a moment later, for a range in another thread: until
            # then it must not be evicted.
            self._blobs.hand_out(digest)
            self.hits += 1
            self.usage.record_blob_use(digest)
            return blob
        self.misses += 1
        if not is_named:
            self._note_fill(repository, digest, blob)
        if (
            descriptor.kind is ReferenceKind.LAYER
            and is_named
            and self._fills.refusal is None
            and not self.pulls.is_busy
        ):
            # On a full disk, and while many pulls are under way, only what a client waits for is
            # fetched: it is all that somebody has something of.
            await self._begin_pull(repository, digest, asked_by)
        return blob

    async def _descriptor(self, repository: Repository, digest: Digest) -> tuple[Descriptor, bool]:
        """A blob of the repository, and whether a manifest that we hold names it; otherwise only
        the source's word links it."""
        index = await self.index.of(repository)
        descriptor = index.blobs.get(digest)
        if descriptor is not None:
            return descriptor, True
        if self._size_stated_lately(repository, digest) is not None:
            return self._stated_sizes[repository, digest].descriptor, False
        route = self._route(repository)
        if route is None:
            if not index.manifests:
                raise await self._unknown(repository, digest)
            raise self._not_held(repository, digest)
        self._raise_remembered(repository, str(digest))
        size = await self._size_flights.join(
            (repository, digest), lambda: self._size_at_source(repository, route, digest)
        )
        return self._state_size(repository, digest, size).descriptor, False

    def _state_size(self, repository: Repository, digest: Digest, size: int) -> _StatedSize:
        descriptor = Descriptor(digest, ReferenceKind.LAYER, "application/octet-stream", size)
        stated = self._stated_sizes[repository, digest] = _StatedSize(descriptor, self._clock())
        self._stated_sizes.move_to_end((repository, digest))
        while len(self._stated_sizes) > STATED_SIZES:
            self._stated_sizes.popitem(last=False)
        return stated

    def _note_fill(self, repository: Repository, digest: Digest, fill: Fill) -> None:
        stated = self._stated_sizes.get((repository, digest))
        if stated is not None:
            stated.fill = fill

    async def _size_at_source(self, repository: Repository, route: Route, digest: Digest) -> int:
        try:
            return await self._client(route).head_blob(route.repository, digest)
        except SourceNotFound as error:
            unknown = BlobUnknown(f"{route.source} has no blob {digest}.")
            self._remember(repository, str(digest), unknown)
            raise unknown from error
        except SourceError as error:
            raise self._failed(repository, str(digest), error, route, BlobUnknown) from error

    def blob_failed(self, repository: Repository, error: SourceError) -> EntrepotError:
        """What a client is told whose blob the source does not give."""
        route = self._route(repository)
        return error if route is None else self._for_client(error, route, BlobUnknown)

    def _not_held(self, repository: Repository, digest: Digest) -> BlobUnknown:
        if self.copies.was_damaged(digest):
            return BlobUnknown(
                f"The cached copy of blob {digest} was damaged and is removed, and no cache rule answers for {repository} any more.",
                "Make a cache rule for it to pull the blob again, and look at the disk.",
            )
        return BlobUnknown(
            f"{repository} holds no blob {digest}, and no cache rule answers for it any more.",
            "Make a cache rule for it to pull more.",
        )

    async def _obtain(self, repository: Repository, descriptor: Descriptor) -> Fill | int:
        """The fill of a blob that a manifest names, or its size in bytes when it is held."""
        blob = await self._cached_or_fill(repository, descriptor)
        return blob.size if isinstance(blob, CachedBlob) else blob

    async def _cached_or_fill(
        self, repository: Repository, descriptor: Descriptor, *, is_named: bool = True
    ) -> CachedBlob | Fill:
        """A right copy that opens for the repository, else the fill that brings the blob from the
        repository's own source."""
        digest = descriptor.digest
        stated_size = descriptor.size if is_named else None
        route = self._route(repository)
        size = await self.copies.size(digest, stated_size)
        while size is not None and await self._opens(repository, route, digest, size):
            # It may have been evicted, or found damaged, while its source was asked.
            if self._blobs.size(digest) == size:
                return CachedBlob(digest, size)
            size = await self.copies.size(digest, stated_size)
        if route is None:
            # Its rule was deleted while it comes in.
            login_server = await self._login_server_of(repository)
            fill = (
                self._fills.of_source(digest, login_server, descriptor.size)
                if login_server is not None
                else None
            )
            if fill is None:
                raise self._not_held(repository, digest)
            return fill
        size = await self._size_to_fetch(repository, route, descriptor)
        self.copies.record_fetch(digest, _blob_origin(route))
        return await self._fills.join(
            digest, size, self._blob_source(route, digest, size), origin=route.registry.login_server
        )

    async def _size_to_fetch(
        self, repository: Repository, route: Route, descriptor: Descriptor
    ) -> int:
        """What the manifest states as the size of a blob, else what the source says (F82): no
        answer to a client goes without a length.

        Raises `BlobUnknown` or a `SourceError`, also where the source does not say how large the
        blob is.
        """
        if descriptor.size is not None:
            return descriptor.size
        digest = descriptor.digest
        stated_size = self._size_stated_lately(repository, digest)
        if stated_size is None:
            self._raise_remembered(repository, str(digest))
            stated_size = await self._size_flights.join(
                (repository, digest), lambda: self._size_at_source(repository, route, digest)
            )
            self._state_size(repository, digest, stated_size)
        return stated_size

    def _size_stated_lately(self, repository: Repository, digest: Digest) -> int | None:
        stated = self._stated_sizes.get((repository, digest))
        is_valid = (
            stated is not None
            and not stated.is_contradicted
            and 0 <= self._clock() - stated.time < STATED_SIZE_TTL
        )
        return stated.descriptor.size if stated is not None and is_valid else None

    async def _login_server_of(self, repository: Repository) -> str | None:
        """From which source registry a repository was cached."""
        source = await self._catalog.source_of(repository)
        return source.partition("/")[0] if source is not None else None

    async def _is_open(self, repository: Repository, route: Route | None, digest: Digest) -> bool:
        """Whether it is known that a copy may be served through the repository; no source is asked.

        Who gave the copy must be the source of the repository's rule. A repository without a rule
        keeps what it cached.
        """
        if route is not None:
            return await self.copies.opens_for(digest, {route.registry.login_server})
        login_server = await self._login_server_of(repository)
        return await self.copies.opens_for(
            digest, {login_server} if login_server is not None else ()
        )

    async def _opens(
        self, repository: Repository, route: Route | None, digest: Digest, size: int
    ) -> bool:
        """Whether a copy may be served through the repository; its source is asked for a proof
        where that is not known.

        Raises what the source answers when it can't give one.
        """
        if await self._is_open(repository, route, digest):
            return True
        if route is None or self._unproven.get((route.source, digest), 0.0) > time.monotonic():
            return False
        self._raise_remembered(repository, str(digest))
        return await self._proofs.join(
            (repository, route.source, digest), lambda: self._prove(repository, route, digest, size)
        )

    async def _prove(self, repository: Repository, route: Route, digest: Digest, size: int) -> bool:
        try:
            async with asyncio.timeout(PROOF_TIMEOUT):
                is_proven = await proves(
                    self._blob_source(route, digest, size), self._blobs, digest, size
                )
        except (TimeoutError, FileNotFoundError):
            return False
        except SourceError as error:
            raise self._failed(repository, str(digest), error, route, BlobUnknown) from error
        if not is_proven:
            # A second try might meet bytes that it has by chance: only the whole blob proves it
            # now.
            self._unproven[route.source, digest] = time.monotonic() + UNPROVEN_TTL
            while len(self._unproven) > UNPROVEN:
                self._unproven.popitem(last=False)
            return False
        try:
            await self.copies.add_origin(digest, size, _blob_origin(route))
        except CatalogFailed as error:
            _log.warning(
                "That %s has %s can't be written down: %s", route.source, digest, error.message
            )
        return True

    def _blob_source(self, route: Route, digest: Digest, size: int | None = None) -> BlobSource:
        return _RepositoryBlob(
            route.repository, digest, route.rule.credential_set, self._client(route), size
        )

    # Pulls

    async def pull(
        self, image: ImageReference, platform: str | Platform, *, asked_by: str | None
    ) -> Pull:
        """Begin to make an image complete for a platform (``linux/amd64``). A tag is looked up at
        the source anew.

        Raises `RepositoryUnknown`, and `PlatformInvalid` for a text that names no platform.
        """
        wanted = platform if isinstance(platform, Platform) else Platform.parse(platform)
        route = self._route(image.repository)
        if route is None:
            raise await self._unknown(image.repository, image.manifest)

        async def look_up() -> PullSubject:
            manifest = (
                await self.manifest(image.repository, image.manifest, refresh=True)
            ).manifest
            name: str | None = None
            for _ in range(NESTED_INDEXES + 1):
                if not manifest.is_index:
                    return PullSubject(manifest, name)
                child = manifest.child_for(wanted)
                if child is None:
                    raise _no_image(image, wanted, manifest)
                manifest = (await self.manifest(image.repository, child.digest)).manifest
                name = child.platform or name
            raise NotFound(
                f"{image} has more than {NESTED_INDEXES} indexes within each other.",
                "Ask whoever publishes the image.",
                field="platform",
            )

        return self.pulls.begin(
            image.repository, image.tag, _pull_origin(route), look_up, asked_by=asked_by
        )

    async def _begin_pull(
        self, repository: Repository, layer: Digest, asked_by: str | None
    ) -> None:
        route = self._route(repository)
        index = await self.index.of(repository)
        try:
            digest = index.latest_image_with(layer)
            if digest is None:
                digest = next(iter(await self._catalog.images_with(repository, layer)), None)
            manifest = (
                await self.index.manifest_of(repository, digest) if digest is not None else None
            )
        except CatalogFailed:
            # The client gets its layer all the same; only the rest of the image is not fetched
            # ahead.
            return
        if route is None or manifest is None:
            return
        subject = PullSubject(manifest, index.platform_of.get(manifest.digest))
        self.pulls.begin(
            repository,
            index.tag_of.get(manifest.digest),
            _pull_origin(route),
            subject,
            asked_by=asked_by,
        )

    def _pull_changed(self, pull: Pull) -> None:
        progress = pull.progress()
        if progress.state.ended:
            self.history.add(progress)
        name = f"{progress.image} {progress.platform or ''}".rstrip()
        if not progress.state.ended:
            asked = f", asked by {', '.join(progress.asked_by)}" if progress.asked_by else ""
            self._events.record(
                "pull-started", f"Pulling {name} from {progress.source_repository}{asked}.", pull.id
            )
        elif pull.error is not None:
            self._events.record(
                "pull-ended",
                f"The pull of {name} failed: {pull.error.message}",
                pull.id,
                level=logging.WARNING,
            )
        else:
            seconds = max(0.0, (progress.ended or progress.started) - progress.started)
            self._events.record(
                "pull-ended",
                f"The pull of {name} is {progress.state}: {progress.from_source:,} bytes in {seconds:.1f} s.",
                pull.id,
            )

    async def _pull_completed(self, pull: Pull) -> None:
        """Make sure that all blobs are here. The platform of an image that no index names stands in
        its config.

        Raises `EntrepotError` when a blob has gone meanwhile.
        """
        manifest = pull.manifest
        if manifest is not None:
            await self._check_complete(manifest)
        if pull.platform is not None or manifest is None:
            return
        config = next(
            (each for each in manifest.references if each.kind is ReferenceKind.CONFIG), None
        )
        if config is None:
            return
        size = self._blobs.size(config.digest)
        if size is None or size > CONFIG_LIMIT:
            return
        try:
            chunks = [chunk async for chunk in self._blobs.read(config.digest, 0, size)]
        except FileNotFoundError:
            raise _incomplete(config.digest) from None
        content = b"".join(chunks)
        if not config.digest.matches(content):
            await self.copies.check(config.digest)
            raise _incomplete(config.digest)
        pull.platform = config_platform(content)
        if pull.platform is not None:
            with suppress(CatalogFailed):
                await self._catalog.set_platform(pull.repository, manifest.digest, pull.platform)

    async def _check_complete(self, manifest: Manifest) -> None:
        for descriptor in manifest.blobs:
            if (
                not descriptor.optional
                and await self.copies.size(descriptor.digest, descriptor.size) is None
            ):
                raise _incomplete(descriptor.digest)

    # Tags and referrers

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> ListAnswer:
        """A page of the tags at the source, in its order: *n* of them, those after *last*. Raises
        `RepositoryUnknown` or a `SourceError`.

        All clients share one request, and its answer for a minute at the most. Where there is no
        source or it can't be asked, the last list that is known, else the cached tags.
        """
        route = self._route(repository)
        if n == 0:
            # One tag is asked for all the same: a repository that is not there has no empty list.
            return replace(
                await self.tags(repository, n=1, last=last), listing=_tag_list(repository, ())
            )
        if route is None:
            return await self._cached_tags(repository, n, last, _without_rule(repository))
        key = ListKey(route.source, repository, "tags/list", f"n={n} last={last}")

        async def fetch() -> SourceList:
            page = await self._client(route).tags(route.repository, n=n, last=last)
            return _tag_list(repository, page.tags, page.next_last)

        has_copy = self._lists.last_known(key) is not None or await self._is_cached(repository)
        try:
            return await self._list(route, key, fetch, has_copy=has_copy, unknown=RepositoryUnknown)
        except (SourceError, RepositoryUnknown, FetchAbandoned) as error:
            if not has_copy:
                raise
            return await self._cached_tags(repository, n, last, error.what)

    async def _is_cached(self, repository: Repository) -> bool:
        """Whether the repository holds anything, as far as the catalog can tell: where it fails,
        its source is asked all the same."""
        try:
            return await self._catalog.is_cached(repository)
        except CatalogFailed:
            return False

    async def _cached_tags(
        self, repository: Repository, n: int | None, last: str | None, warning: str
    ) -> ListAnswer:
        names = await self._catalog.tag_names(
            repository, after=last, limit=None if n is None else n + 1
        )
        if not names and last is None:
            raise await self._unknown(repository, Tag("latest"))
        page = names if n is None else names[:n]
        return ListAnswer(
            _tag_list(repository, page, page[-1] if page and len(page) < len(names) else None),
            Origin.STALE,
            warning,
        )

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ListAnswer:
        """The referrers of a manifest as the source lists them, an index; only those of
        *artifact_type* where one is given.

        Shared and kept as `tags` are. Where the source can't be asked, the last answer that is
        known; where none is, its failure: an empty index would say that there are none. Raises
        `RepositoryUnknown` or a `SourceError`.
        """
        route = self._route(repository)
        if route is None:
            return await self._cached_referrers(repository, digest, artifact_type)
        whole = ListKey(route.source, repository, f"referrers/{digest}")
        key = whole._replace(selection=artifact_type)
        if artifact_type is not None:
            self._lists.derive(key, whole, lambda listing: of_artifact_type(listing, artifact_type))

        async def fetch() -> SourceList:
            index = await self._client(route).referrers(route.repository, digest, artifact_type)
            return _selected(SourceList(index.content, filtered=index.filtered), artifact_type)

        return await self._list(
            route, key, fetch, has_copy=self._lists.last_known(key) is not None, unknown=None
        )

    async def _cached_referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ListAnswer:
        """Without a rule there is only what was cached: the index behind the fallback tag
        (distribution specification 1.1, "Referrers Tag Schema")."""
        if not await self._catalog.is_cached(repository):
            raise await self._unknown(repository, digest)
        entry = await self.index.tag(repository, Tag(f"{digest.algorithm}-{digest.hex}"[:128]))
        manifest = (
            await self.index.manifest_of(repository, entry.digest) if entry is not None else None
        )
        is_index = manifest is not None and manifest.media_type in INDEXES
        index = SourceList(manifest.content if manifest is not None and is_index else EMPTY_INDEX)
        return ListAnswer(_selected(index, artifact_type), Origin.STALE, _without_rule(repository))

    async def _list(
        self,
        route: Route,
        key: ListKey,
        fetch: Callable[[], Awaitable[SourceList]],
        *,
        has_copy: bool,
        unknown: type[RegistryError] | None,
    ) -> ListAnswer:
        """A list that is fresh, else that of the source, else the last that is known; raises what a
        client is told when there is none of them.

        With *has_copy* something can be served in its place, and the source is not waited for
        longer than that is worth.
        """
        listing = self._lists.fresh(key, self.freshness(route))
        if listing is not None:
            return ListAnswer(listing, Origin.CACHE)
        client = self._client(route)
        try:
            self._raise_remembered(key.repository, key.what)
            async with asyncio.timeout(self._patience(client) if has_copy else None):
                fetched = self._list_flights.join(
                    key,
                    lambda: self._fetch_list(route, key, fetch, unknown),
                    group=route.registry.login_server,
                )
                return ListAnswer(await fetched, Origin.UPSTREAM)
        except TimeoutError:
            slow = self._too_slow(client, route)
            self._remember(key.repository, key.what, slow, has_copy=True)
            listing = self._lists.last_known(key)
            if listing is None:
                raise slow from None
            return ListAnswer(listing, Origin.STALE, slow.what)
        except (SourceError, RegistryError, FetchAbandoned) as error:
            listing = self._lists.last_known(key)
            if listing is None:
                raise
            return ListAnswer(listing, Origin.STALE, error.what)

    async def _fetch_list(
        self,
        route: Route,
        key: ListKey,
        fetch: Callable[[], Awaitable[SourceList]],
        unknown: type[RegistryError] | None,
    ) -> SourceList:
        try:
            listing = await fetch()
        except SourceError as error:
            if isinstance(error, SourceNotFound):
                self._lists.discard(key)
            raise self._failed(key.repository, key.what, error, route, unknown) from error
        self._lists.keep(key, listing)
        self._failures.forget(key.repository, key.what)
        return listing

    # Failures

    def _failed(
        self,
        repository: Repository,
        reference: str,
        error: SourceError,
        route: Route,
        unknown: type[RegistryError] | None = ManifestUnknown,
        *,
        has_copy: bool = False,
    ) -> EntrepotError:
        """What a client is told of a source's failure; remembered for seconds, so that a storm of
        requests does not become a storm upstream."""
        told = self._for_client(error, route, unknown)
        # A source that was not even asked costs nothing, and may be back at any moment.
        if not isinstance(error, SourceAvoided):
            self._remember(repository, reference, told, has_copy=has_copy)
        return told

    def _for_client(
        self,
        error: SourceError,
        route: Route,
        unknown: type[RegistryError] | None = ManifestUnknown,
    ) -> EntrepotError:
        """The same failure with the name of the rule; *unknown* is what it becomes where the source
        does not have what was asked for.

        With None it stays what it is: where "there is none" must not be said of what could not be
        seen.
        """
        # Docker Hub and GHCR answer 401 or 403 for a repository that does not exist. To a client
        # without credentials "unknown" is the answer that lets it go on to its next registry; with
        # a credential set it is a refusal, and must not look like a missing image.
        named = f"{error.what} (cache rule {route.rule.name})"
        is_refusal = isinstance(error, SourceRefused) and not isinstance(error, SignInUnsafe)
        if unknown is not None and (
            isinstance(error, SourceNotFound) or (is_refusal and route.rule.credential_set is None)
        ):
            unknown_error = unknown(named, error.hint)
            unknown_error.cause = error.cause
            unknown_error.source_message = error.source_message
            return unknown_error
        told = copy.copy(error)
        told.what = named
        return told

    def _remember(
        self,
        repository: Repository,
        reference: str,
        error: EntrepotError,
        *,
        has_copy: bool = False,
    ) -> None:
        self._failures.remember(repository, reference, error, has_copy=has_copy)

    def _raise_remembered(self, repository: Repository, reference: str) -> None:
        self._failures.check(repository, reference)

    def _raise_remembered_without_copy(
        self, repository: Repository, reference: Tag | Digest
    ) -> None:
        """The same for a manifest of which nothing is cached: that is known without a question to
        the catalog, which costs ten times as much."""
        if isinstance(reference, Digest) or self.index.tag_in_memory(repository, reference) is None:
            self._failures.check(repository, _of_manifest(reference), without_copy=True)

    def drop_expired(self) -> None:
        """Let go of what is remembered for some time only, and whose time is over. The engine calls
        it every few seconds."""
        self._failures.drop_expired()
        self._lists.drop_expired()

    def forget_failures(self) -> None:
        """A rule or credential set has changed: what failed before may work now, and what was
        listed before may be another list."""
        self._failures.clear()
        self._lists.distrust()


def _pull_origin(route: Route) -> PullOrigin:
    return PullOrigin(route.rule.name, route.registry.login_server, route.source)


def _of_manifest(reference: Tag | Digest) -> str:
    """Under which name a failure of a manifest is remembered. A blob of the same digest is
    something else: a client may ask for either."""
    return f"manifests/{reference}" if isinstance(reference, Digest) else reference


def _tag_list(
    repository: Repository, tags: Sequence[str], next_last: str | None = None
) -> SourceList:
    return SourceList(msgspec.json.encode({"name": repository, "tags": tags}), next_last)


def _selected(index: SourceList, artifact_type: str | None) -> SourceList:
    """What a source did not filter is filtered here: clients then know that they need not do it."""
    if artifact_type is None or index.filtered:
        return replace(index, filtered=artifact_type is not None)
    return of_artifact_type(index, artifact_type) or index


def _without_rule(repository: Repository) -> str:
    return f"No cache rule answers for {repository} any more: its source was not asked."


def _blob_origin(route: Route) -> BlobOrigin:
    return BlobOrigin(route.registry.login_server, route.rule.credential_set is not None)


def _no_image(image: ImageReference, wanted: Platform, index: Manifest) -> NotFound:
    offered = sorted({str(child.runs_on) for child in index.children if child.platform})
    names = ", ".join(offered[:PLATFORMS_NAMED]) + (
        f" and {len(offered) - PLATFORMS_NAMED} more" if len(offered) > PLATFORMS_NAMED else ""
    )
    return NotFound(
        f"{image} has no image for {wanted}.",
        f"It has: {names}." if offered else "It names no platforms at all.",
        field="platform",
    )


def _incomplete(digest: Digest) -> EntrepotError:
    return EntrepotError(
        f"The blob {digest} was removed while its image was pulled: its copy was damaged, or not on the disk any more.",
        "Pull again.",
    )


def _gone_warning(route: Route, tag: Tag) -> str:
    return f"{route.source}:{tag} is gone at its source"
