"""What a request for a manifest, a blob, tags or referrers of a repository does.

The way of a request: which cache rule answers for the repository; is the requested object cached,
and fresh; if not, the source is asked, once for all clients that wait; if the source fails, what is
cached is still served. A digest alone gives access to nothing: a manifest or blob must belong to
the repository through which it is requested, and the reader must be allowed to read that.

Each kind of object has its resolver: `entrepot.cache.manifests`, `entrepot.cache.blobs` and
`entrepot.cache.listings`. This module counts, records usage and begins pulls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from entrepot.cache.access import AccessCheck, EveryoneReads, ReaderPolicy
from entrepot.cache.blob_copies import BlobCopies
from entrepot.cache.blobs import BlobResolver
from entrepot.cache.failures import SourceFailures
from entrepot.cache.fill import Fill
from entrepot.cache.fills import Fills
from entrepot.cache.index import CacheIndex
from entrepot.cache.kept_referrers import KeptReferrers
from entrepot.cache.listings import ListResolver
from entrepot.cache.manifests import ManifestResolver
from entrepot.cache.pull import Pull, PullOrigin, Pulls, PullSubject
from entrepot.cache.pull_history import PullHistory
from entrepot.cache.referrer_pull import ReferrerPull
from entrepot.cache.results import (
    BlobDescription,
    CachedBlob,
    ListAnswer,
    ManifestAnswer,
    ManifestDescription,
    Origin,
    RefreshResult,
)
from entrepot.cache.usage import UsageTracker
from entrepot.config.settings import Settings
from entrepot.core.platforms import Platform
from entrepot.core.readers import ADMINISTRATOR, ANONYMOUS, Reader
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.core.rules import Route
from entrepot.errors import EntrepotError, NotFound
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceError
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind, config_platform

NESTED_INDEXES = 3
"""Indexes within an index that are followed to the image of a platform."""

PLATFORMS_IN_MESSAGE = 30
"""Platforms that an error names where an image has none for the requested one."""

CONFIG_LIMIT = 8 * 1024 * 1024
"""The largest image config that is read for its platform, in bytes."""


class ArtifactCache:
    """The cache of one engine: manifests, blobs, tags, referrers and pulls.

    *route* gives the rule that answers for a repository, *client* the client of its source, and
    *policy* says who may read what. *clock* is in seconds since the epoch, for what is stored;
    *monotonic*, in seconds, measures what lasts within one run.
    """

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
        policy: ReaderPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._blob_store = blobs
        self._fills = fills
        self._events = events
        self._route = route
        self._clock = clock
        self.hits = 0
        """Manifests and blobs that were answered from the cache since the start, requests with HEAD
        not counted."""
        self.misses = 0
        """Manifests and blobs that had to be fetched, or were on their way already."""
        self.copies = BlobCopies(
            catalog=catalog, blobs=blobs, fills=fills, events=events, now=clock
        )
        self.index = CacheIndex(catalog)
        self.access = AccessCheck(policy or EveryoneReads(), self.index, route)
        self.usage = UsageTracker(catalog, clock)
        self.history = PullHistory(catalog, clock)
        self._failures = SourceFailures(
            index=self.index,
            lifetime=settings.negative_freshness,
            clock=monotonic,
        )
        self._manifests = ManifestResolver(
            catalog=catalog,
            index=self.index,
            usage=self.usage,
            events=events,
            failures=self._failures,
            route=route,
            client=client,
            tag_lifetime=self.tag_lifetime,
            clock=clock,
            monotonic=monotonic,
        )
        self._blobs = BlobResolver(
            blobs=blobs,
            fills=fills,
            copies=self.copies,
            index=self.index,
            failures=self._failures,
            route=route,
            client=client,
            clock=clock,
            monotonic=monotonic,
        )
        self._listings = ListResolver(
            catalog=catalog,
            index=self.index,
            failures=self._failures,
            kept=KeptReferrers(catalog, self.index, clock),
            route=route,
            client=client,
            tag_lifetime=self.tag_lifetime,
            monotonic=monotonic,
        )
        self._referrer_pull = ReferrerPull(
            manifest=partial(self.manifest, reader=ADMINISTRATOR),
            referrers=partial(self.referrers, reader=ADMINISTRATOR),
            obtain=self._blobs.size_or_fill,
        )
        self.pulls = Pulls(
            clock=clock,
            obtain=self._blobs.size_or_fill,
            cancel_fill=fills.cancel,
            on_change=self._pull_changed,
            on_complete=self._pull_completed,
        )

    async def close(self) -> None:
        """Cancel what is being asked of sources, and write what was used to the catalog."""
        await self._manifests.close()
        await self._listings.close()
        await self._blobs.close()
        await self.copies.close()
        await self.index.close()
        await self.usage.write()

    def tag_lifetime(self, route: Route) -> float:
        """The tag lifetime of a rule in seconds: its own, else that of the settings."""
        own = route.rule.freshness
        return self._settings.freshness if own is None else own

    # Manifests

    async def manifest(
        self,
        repository: Repository,
        reference: Tag | Digest,
        *,
        reader: Reader = ANONYMOUS,
        refresh: bool = False,
    ) -> ManifestAnswer:
        """A manifest by tag or digest.

        By digest, a cached manifest is enough. By tag, the source is asked when the tag lifetime is
        over, or always with *refresh*. Raises `RepositoryUnknown`, `ManifestUnknown`, or a
        `SourceError` when nothing is cached that could be served instead.
        """
        await self.access.check(repository, reader)
        answer = await self._manifests.resolve(repository, reference, refresh=refresh)
        if answer.is_fetched:
            self.misses += 1
            self._listings.kept.manifest_cached(repository, answer.manifest.digest)
        else:
            self.hits += 1
        if (route := self._route(repository)) is not None:
            self.usage.record_answer(route.rule.name)
        requests = self.index.requests(repository)
        tag = reference if not isinstance(reference, Digest) else requests.tag_of.get(reference)
        requests.record_request(answer.manifest, tag)
        self.usage.record_manifest_use(repository, answer.manifest, tag)
        return answer

    async def refresh(self, repository: Repository, tag: Tag) -> RefreshResult:
        """Ask the source where a tag points, whatever the tag's age.

        A cached tag costs a HEAD, and a GET of the manifest when the tag moved. Raises
        `RepositoryUnknown`, `ManifestUnknown`, or a `SourceError` when nothing is cached.
        """
        if self._route(repository) is None:
            raise await self._failures.unknown(repository, tag)
        before = await self.index.known_tag(repository, tag)
        answer = await self._manifests.resolve(repository, tag, refresh=True)
        after = await self.index.known_tag(repository, tag)
        return RefreshResult(
            digest=answer.manifest.digest,
            before=before.digest if before is not None else None,
            gone=after is not None and after.gone,
            problem=answer.warning if answer.origin is Origin.STALE else None,
        )

    async def describe_manifest(
        self, repository: Repository, reference: Tag | Digest, *, reader: Reader = ANONYMOUS
    ) -> ManifestDescription:
        """What a HEAD on a manifest returns; nothing is fetched.

        For a manifest that is not cached the source gets a HEAD.
        """
        await self.access.check(repository, reader)
        return await self._manifests.describe(repository, reference)

    def tag_modified(self, repository: Repository, tag: Tag) -> float | None:
        """When this cache first saw a tag point where it points now, in seconds since the epoch.

        None for a tag that is not in memory, and for a time in the future: the clock was wrong then
        or is now.
        """
        entry = self.index.tag_in_memory(repository, tag)
        return entry.cached if entry is not None and entry.cached <= self._clock() else None

    # Blobs

    async def describe_blob(
        self, repository: Repository, digest: Digest, *, reader: Reader = ANONYMOUS
    ) -> BlobDescription:
        """What a HEAD on a blob returns; nothing is fetched.

        Raises `BlobUnknown`, `RepositoryUnknown` or a `SourceError`.
        """
        await self.access.check(repository, reader)
        description = await self._blobs.describe(repository, digest)
        if description.origin is Origin.CACHE:
            self.usage.record_blob_use(digest)
        return description

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        reader: Reader = ANONYMOUS,
        asked_by: str | None = None,
    ) -> CachedBlob | Fill:
        """A blob for a client: its cached copy, or the fill that fetches it.

        A layer that is not cached begins the pull of its image. Raises `BlobUnknown`,
        `RepositoryUnknown` or a `SourceError`.
        """
        await self.access.check(repository, reader)
        descriptor, is_named = await self._blobs.descriptor(repository, digest)
        blob = await self._blobs.resolve(repository, descriptor, is_named=is_named)
        if isinstance(blob, CachedBlob):
            # Its file is opened a moment later, for a range in another thread: until then the copy
            # must not be evicted.
            self._blob_store.lease(digest)
            self.hits += 1
            self.usage.record_blob_use(digest)
            return blob
        self.misses += 1
        if not is_named:
            self._blobs.record_fill(repository, digest, blob)
        if (
            descriptor.kind is ReferenceKind.LAYER
            and is_named
            and self._fills.refusal is None
            and not self.pulls.is_busy
        ):
            # On a full disk, and while many pulls are under way, only what a client waits for is
            # fetched.
            await self._begin_pull(repository, digest, asked_by)
        return blob

    async def cached_size(self, repository: Repository, blob: Descriptor) -> int | None:
        """The size of an intact copy that may be served to a repository; no source is asked.

        None without such a copy.
        """
        size = await self.copies.size(blob.digest, blob.size)
        if size is None or not await self._blobs.is_servable(repository, blob.digest):
            return None
        return size

    def blob_failed(
        self, repository: Repository, digest: Digest, error: SourceError
    ) -> EntrepotError:
        """The error for a client whose blob the source does not send."""
        return self._blobs.failed(repository, digest, error)

    # Tags and referrers

    async def tags(
        self,
        repository: Repository,
        *,
        n: int | None,
        last: str | None,
        reader: Reader = ANONYMOUS,
    ) -> ListAnswer:
        """A page of the tags at the source: see `entrepot.cache.listings.ListResolver.tags`."""
        await self.access.check(repository, reader)
        return await self._listings.tags(repository, n=n, last=last)

    async def referrers(
        self,
        repository: Repository,
        digest: Digest,
        artifact_type: str | None,
        *,
        reader: Reader = ANONYMOUS,
    ) -> ListAnswer:
        """The referrers of a manifest: see `entrepot.cache.listings.ListResolver.referrers`."""
        await self.access.check(repository, reader)
        return await self._listings.referrers(repository, digest, artifact_type)

    # Pulls

    async def pull(
        self,
        image: ImageReference,
        platform: str | Platform,
        *,
        asked_by: str | None,
        referrers: bool = False,
    ) -> Pull:
        """Begin to complete an image for a platform (``linux/amd64``).

        With *referrers* also what refers to it: see `entrepot.cache.referrer_pull`. The source is
        asked where a tag points. Raises `RepositoryUnknown`, and `PlatformInvalid` for a text that
        names no platform.
        """
        requested = platform if isinstance(platform, Platform) else Platform.parse(platform)
        route = self._route(image.repository)
        if route is None:
            raise await self._failures.unknown(image.repository, image.manifest)

        async def look_up() -> PullSubject:
            manifest = (
                await self.manifest(
                    image.repository, image.manifest, reader=ADMINISTRATOR, refresh=True
                )
            ).manifest
            name: str | None = None
            subjects = [manifest.digest]
            for _ in range(NESTED_INDEXES + 1):
                if not manifest.is_index:
                    return PullSubject(manifest, name, tuple(subjects) if referrers else ())
                child = manifest.child_for(requested)
                if child is None:
                    raise _no_image(image, requested, manifest)
                manifest = (
                    await self.manifest(image.repository, child.digest, reader=ADMINISTRATOR)
                ).manifest
                name = child.platform or name
                subjects.append(manifest.digest)
            raise NotFound(
                f"{image} has more than {NESTED_INDEXES} indexes within each other.",
                "Ask the publisher of the image.",
                field="platform",
            )

        return self.pulls.begin(
            image.repository, image.tag, _pull_origin(route), look_up, asked_by=asked_by
        )

    async def _begin_pull(
        self, repository: Repository, layer: Digest, asked_by: str | None
    ) -> None:
        route = self._route(repository)
        requests = self.index.requests(repository)
        try:
            digest = requests.latest_image_with(layer)
            if digest is None:
                digest = await self._catalog.latest_image_with(repository, layer)
            manifest = (
                await self.index.manifest_of(repository, digest) if digest is not None else None
            )
        except CatalogFailed:
            # The client still gets its layer; only the rest of the image is not fetched
            # ahead.
            return
        if route is None or manifest is None:
            return
        self.pulls.begin(
            repository,
            requests.tag_of.get(manifest.digest),
            _pull_origin(route),
            PullSubject(manifest, requests.platform_of.get(manifest.digest)),
            asked_by=asked_by,
        )

    def _pull_changed(self, pull: Pull) -> None:
        progress = pull.progress()
        if progress.state.ended:
            self.history.add(progress)
        name = f"{progress.image} {progress.platform or ''}".rstrip()
        if not progress.state.ended:
            requesters = f", asked by {', '.join(progress.asked_by)}" if progress.asked_by else ""
            self._events.record(
                EventKind.PULL_STARTED,
                f"Pulling {name} from {progress.source_repository}{requesters}.",
                pull.id,
            )
        elif pull.error is not None:
            self._events.record(
                EventKind.PULL_ENDED,
                f"The pull of {name} failed: {pull.error.message}",
                pull.id,
                severity=Severity.WARNING,
            )
        else:
            seconds = max(0.0, (progress.ended or progress.started) - progress.started)
            self._events.record(
                EventKind.PULL_ENDED,
                f"The pull of {name} is {progress.state}: "
                f"{progress.from_source:,} bytes in {seconds:.1f} s.",
                pull.id,
            )

    async def _pull_completed(self, pull: Pull) -> None:
        """Check that all blobs of a pull are cached.

        Reads the platform of an image that no index names from its config. Raises `EntrepotError`
        when a blob was removed meanwhile.
        """
        manifest = pull.manifest
        if manifest is not None:
            await self._check_complete(manifest)
        if pull.referrers_of:
            await self._referrer_pull.complete(pull.repository, pull.referrers_of)
        if pull.platform is not None or manifest is None:
            return
        config = next(
            (
                reference
                for reference in manifest.references
                if reference.kind is ReferenceKind.CONFIG
            ),
            None,
        )
        if config is None:
            return
        size = self._blob_store.size(config.digest)
        if size is None or size > CONFIG_LIMIT:
            return
        try:
            chunks = [chunk async for chunk in self._blob_store.read(config.digest, 0, size)]
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

    # What is remembered

    def drop_expired(self) -> None:
        """Drop what is remembered for a limited time and has expired.

        The engine calls it every few seconds.
        """
        self._failures.drop_expired()
        self._listings.drop_expired()

    def forget_failures(self) -> None:
        """Forget failures and lists, so that the sources are asked again.

        A rule or credential set has changed: what failed may work, and what was listed may be
        another list.
        """
        self._failures.clear()
        self._listings.distrust()


def _pull_origin(route: Route) -> PullOrigin:
    return PullOrigin(route.rule.name, route.registry.login_server, route.source)


def _no_image(image: ImageReference, platform: Platform, index: Manifest) -> NotFound:
    offered = sorted({str(child.runs_on) for child in index.children if child.platform})
    more = len(offered) - PLATFORMS_IN_MESSAGE
    names = ", ".join(offered[:PLATFORMS_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
    return NotFound(
        f"{image} has no image for {platform}.",
        f"It has: {names}." if offered else "It names no platforms at all.",
        field="platform",
    )


def _incomplete(digest: Digest) -> EntrepotError:
    return EntrepotError(
        f"The blob {digest} was removed while its image was pulled: its copy was damaged, or not "
        "on the disk any more.",
        "Pull again.",
    )
