"""What happens when somebody asks for a manifest, a blob, the tags or the referrers of a repository.

The way of a request: which rule answers for the repository; is what is asked held, and fresh; if not, the source is asked, once for everyone who waits; if
the source fails, what is held is served all the same. A digest alone opens nothing: a blob or manifest must belong to the repository through which it is asked
for.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from entrepot.cache.fill import BlobSource, Fill, Fills
from entrepot.cache.flight import SingleFlight
from entrepot.cache.history import PullHistory
from entrepot.cache.holdings import Holdings, Ledger
from entrepot.cache.pull import Pull, PullOrigin, Pulls, PullSubject
from entrepot.errors import BlobUnknown, EntrepotError, ManifestUnknown, NotFound, RegistryError, RepositoryUnknown
from entrepot.events import EventLog
from entrepot.reference import Digest, ImageReference, Repository, Tag
from entrepot.rules import Route
from entrepot.settings import Settings
from entrepot.source.client import SourceClient, TagPage
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAnswerInvalid,
    SourceAvoided,
    SourceError,
    SourceNotFound,
    SourceOverAllowance,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog, CatalogFailed, TagEntry
from entrepot.store.manifests import Descriptor, Manifest, ManifestUnreadable, ReferenceKind, config_platform

PATIENCE_WITH_COPY = 2.0
"""Seconds that a client waits for the source's word on a tag of which a copy is held; after that it gets the copy."""

RESOLVED_BELIEVED = 300.0
"""Seconds for which it is believed at the most, without asking again, where a tag points that is not held: a freshness of its rule speaks of what is held."""

REMEMBERED_FAILURES = 10_000
"""Repositories and tags of which it is remembered for a few seconds that their source failed or did not have them."""

CONFIG_LIMIT = 8 * 1024 * 1024
"""The largest image config that is read for its platform, in bytes."""


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
class Refreshed:
    """What became of a tag of which the source was asked on purpose. *before* is where it pointed, *problem* why the source could not be asked."""

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
class HeldBlob:
    """A blob that is held whole. *size* is in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class BlobDescription:
    """What a HEAD on a blob tells. *size* is in bytes."""

    digest: Digest
    size: int
    origin: Origin


class ArtifactCache:
    """The heart of the engine: manifests, blobs, tags and referrers for clients, and pulls for everyone. It is told the rules and the clients of sources."""

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
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._blobs = blobs
        self._fills = fills
        self._events = events
        self._route = route
        self._client = client
        self._clock = clock
        self._flights: SingleFlight[ManifestAnswer] = SingleFlight()
        self._size_flights: SingleFlight[int] = SingleFlight()
        self._failures: OrderedDict[tuple[Repository, str], tuple[float, EntrepotError]] = OrderedDict()
        self.hits = 0
        """Manifests and blobs that were answered from what is held, since the start. Who only asks whether something is there (HEAD) is not counted."""
        self.misses = 0
        """Those that had to be fetched, or were on their way already."""
        self.holdings = Holdings(catalog)
        self.ledger = Ledger(catalog, clock)
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
        await self._flights.close()
        await self._size_flights.close()
        await self.ledger.write()

    # Manifests

    async def manifest(self, repository: Repository, reference: Tag | Digest, *, asked_by: str | None = None, refresh: bool = False) -> ManifestAnswer:
        """A manifest by tag or digest.

        By digest, holding it is enough. By tag, the source is asked when the freshness is over, or always with *refresh*. Raises `RepositoryUnknown`,
        `ManifestUnknown`, or a `SourceError` when nothing is held that could be served instead.
        """
        answer = await self._find_manifest(repository, reference, refresh=refresh)
        if answer.origin is Origin.UPSTREAM:
            self.misses += 1
        else:
            self.hits += 1
        if (route := self._route(repository)) is not None:
            self.ledger.manifest_answered(route.rule.name)
        holding = await self.holdings.of(repository)
        tag = reference if not isinstance(reference, Digest) else holding.tag_of.get(reference)
        holding.was_asked(answer.manifest, tag)
        self.ledger.manifest_used(repository, answer.manifest, tag)
        return answer

    async def refresh(self, repository: Repository, tag: Tag) -> Refreshed:
        """Ask the source where a tag points, however fresh it is. A held tag costs a HEAD, and a GET of the manifest when it moved.

        Raises `RepositoryUnknown`, `ManifestUnknown`, or a `SourceError` when nothing is held.
        """
        if self._route(repository) is None:
            raise await self._unknown(repository, tag)
        before = await self.holdings.tag(repository, tag)
        answer = await self._find_manifest(repository, tag, refresh=True)
        after = await self.holdings.tag(repository, tag)
        return Refreshed(
            digest=answer.manifest.digest,
            before=before.digest if before is not None else None,
            gone=after is not None and after.gone,
            problem=answer.warning if answer.origin is Origin.STALE else None,
        )

    def freshness(self, route: Route) -> float:
        """How long a tag is believed that comes through a rule, in seconds: that of the rule, else that of the settings."""
        own = route.rule.freshness
        return self._settings.freshness if own is None else own

    async def describe_manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestDescription:
        """What a HEAD tells of a manifest. For one that is not held the source gets a HEAD, which Docker Hub does not count, and nothing is fetched."""
        holding = await self.holdings.of(repository)
        route = self._route(repository)
        held = reference in holding.manifests if isinstance(reference, Digest) else await self.holdings.tag(repository, reference) is not None
        if not held and route is not None:
            resolved = holding.resolved.get(reference)
            if resolved is not None and self._clock() - resolved.time < min(self.freshness(route), RESOLVED_BELIEVED):
                return ManifestDescription(resolved.digest, resolved.media_type, resolved.size, Origin.UPSTREAM)
            self._raise_remembered(repository, str(reference))
            try:
                head = await self._client(route).head_manifest(route.repository, reference)
            except SourceError as error:
                raise self._failed(repository, str(reference), error, route) from error
            if head.digest is not None and head.media_type is not None and head.size is not None:
                if not isinstance(reference, Digest):
                    holding.resolves(reference, head.digest, head.media_type, head.size, self._clock())
                return ManifestDescription(head.digest, head.media_type, head.size, Origin.UPSTREAM)
        answer = await self._find_manifest(repository, reference)
        manifest = answer.manifest
        self.ledger.manifest_seen(repository, manifest.digest)
        return ManifestDescription(manifest.digest, manifest.media_type, len(manifest.content), answer.origin, answer.warning)

    async def _find_manifest(self, repository: Repository, reference: Tag | Digest, *, refresh: bool = False) -> ManifestAnswer:
        route = self._route(repository)
        if isinstance(reference, Digest):
            return await self._find_by_digest(repository, route, reference)
        entry = await self.holdings.tag(repository, reference)
        if entry is None:
            if route is None:
                raise await self._unknown(repository, reference)
            if not refresh:
                self._raise_remembered(repository, reference)
            resolved = (await self.holdings.of(repository)).resolved.get(reference)
            if resolved is not None and not refresh and self._clock() - resolved.time < min(self.freshness(route), RESOLVED_BELIEVED):
                return await self._find_by_digest(repository, route, resolved.digest)
            return await self._ask(repository, route, reference, None)
        if route is None:
            return ManifestAnswer(await self._held_manifest(repository, entry.digest), Origin.CACHE)
        if not refresh and self._clock() - entry.checked < self.freshness(route):
            return ManifestAnswer(await self._held_manifest(repository, entry.digest), Origin.CACHE, _gone_warning(route, reference) if entry.gone else None)
        client = self._client(route)
        try:
            if not refresh:
                self._raise_remembered(repository, reference)
            async with asyncio.timeout(None if refresh else self._patience(client)):
                return await self._ask(repository, route, reference, entry)
        except TimeoutError:
            slow = self._too_slow(client, route)
            self._remember(repository, reference, slow)
            return ManifestAnswer(await self._held_manifest(repository, entry.digest), Origin.STALE, slow.what)
        except (SourceError, ManifestUnknown) as error:
            return ManifestAnswer(await self._held_manifest(repository, entry.digest), Origin.STALE, error.what)

    def _patience(self, client: SourceClient) -> float:
        """Seconds that somebody who could have a copy waits for the source. One that kept others waiting just now is asked, but not waited for."""
        return 0.0 if client.is_suspected else PATIENCE_WITH_COPY

    def _too_slow(self, client: SourceClient, route: Route) -> SourceUnreachable:
        client.suspect()
        return SourceUnreachable(f"{route.registry.login_server} does not answer within {PATIENCE_WITH_COPY:g} s. (cache rule {route.rule.name})")

    async def _find_by_digest(self, repository: Repository, route: Route | None, digest: Digest) -> ManifestAnswer:
        holding = await self.holdings.of(repository)
        if digest in holding.manifests:
            return ManifestAnswer(await self._held_manifest(repository, digest), Origin.CACHE)
        if route is None:
            raise await self._unknown(repository, digest)
        self._raise_remembered(repository, str(digest))
        return await self._flights.join((repository, str(digest)), lambda: self._fetch(repository, route, digest))

    async def _ask(self, repository: Repository, route: Route, tag: Tag, entry: TagEntry | None) -> ManifestAnswer:
        return await self._flights.join((repository, tag), lambda: self._check(repository, route, tag, entry))

    async def _check(self, repository: Repository, route: Route, tag: Tag, entry: TagEntry | None) -> ManifestAnswer:
        """Ask the source where a tag points. With a copy at hand a HEAD does: Docker Hub counts GETs of manifests, not HEADs."""
        if entry is None:
            return await self._fetch(repository, route, tag)
        try:
            head = await self._client(route).head_manifest(route.repository, tag)
        except SourceNotFound:
            # Where the catalog fails, that is found out again.
            with suppress(CatalogFailed):
                await self._catalog.mark_tag_gone(repository, tag, now=self._clock())
            self.holdings.forget_tag(repository, tag)
            self._events.record("tag-gone", f"{route.source}:{tag} is gone at its source; what is held of it stays and is served.", f"{repository}:{tag}")
            return ManifestAnswer(await self._held_manifest(repository, entry.digest), Origin.CACHE, _gone_warning(route, tag))
        except SourceError as error:
            raise self._failed(repository, tag, error, route) from error
        holding = await self.holdings.of(repository)
        if head.digest is None or head.digest not in holding.manifests:
            return await self._fetch(repository, route, tag)
        if not await self.holdings.point_tag(repository, tag, head.digest, now=self._clock()):
            return await self._fetch(repository, route, tag)
        return ManifestAnswer(await self._held_manifest(repository, head.digest), Origin.CACHE)

    async def _fetch(self, repository: Repository, route: Route, reference: Tag | Digest) -> ManifestAnswer:
        try:
            try:
                fetched = await self._client(route).manifest(route.repository, reference)
            except (SourceUnreachable, SourceOverAllowance):
                # Nothing was counted that did not arrive or was refused for the count.
                raise
            except SourceError:
                self.ledger.manifest_fetched(route.rule.name)
                raise
            self.ledger.manifest_fetched(route.rule.name)
            manifest = Manifest.of(fetched.content, fetched.media_type, fetched.digest)
        except ManifestUnreadable as error:
            invalid = SourceAnswerInvalid(f"{route.source}:{reference} is not a manifest that Entrepot knows: {error}.", "Ask whoever publishes the image.")
            raise self._failed(repository, str(reference), invalid, route) from error
        except SourceError as error:
            raise self._failed(repository, str(reference), error, route) from error
        holding = await self.holdings.of(repository)
        tags = holding.resolved_to(manifest.digest) if isinstance(reference, Digest) else [reference]
        await self.holdings.add_manifest(repository, route.source, manifest, tags=tags, now=self._clock())
        return ManifestAnswer(manifest, Origin.UPSTREAM)

    async def _held_manifest(self, repository: Repository, digest: Digest) -> Manifest:
        route = self._route(repository)
        try:
            manifest = await self.holdings.manifest(digest)
        except CatalogFailed:
            # Its source may have it yet.
            if route is None:
                raise
            manifest = None
        if manifest is not None:
            return manifest
        # It was evicted or deleted since somebody looked.
        self.holdings.forget(repository)
        if route is None:
            raise ManifestUnknown(f"{repository} holds no manifest {digest}.")
        return (await self._flights.join((repository, str(digest)), lambda: self._fetch(repository, route, digest))).manifest

    async def _unknown(self, repository: Repository, reference: Tag | Digest) -> EntrepotError:
        if await self._catalog.is_cached(repository):
            return ManifestUnknown(f"{repository} holds no {reference}, and no cache rule answers for it any more.", "Make a cache rule for it to pull more.")
        return RepositoryUnknown(f"No cache rule answers for {repository}.", "Make one in the dashboard or with: entrepot rule create")

    # Blobs

    async def describe_blob(self, repository: Repository, digest: Digest) -> BlobDescription:
        """What a HEAD tells of a blob; nothing is fetched. Raises `BlobUnknown`, `RepositoryUnknown` or a `SourceError`."""
        descriptor, _ = await self._descriptor(repository, digest)
        held = self._blobs.size(digest)
        if held is not None:
            self.ledger.blob_used(digest)
            return BlobDescription(digest, held, Origin.CACHE)
        if self._route(repository) is None:
            raise self._not_held(repository, digest)
        return BlobDescription(digest, descriptor.size, Origin.UPSTREAM)

    async def blob(self, repository: Repository, digest: Digest, *, asked_by: str | None = None) -> HeldBlob | Fill:
        """A blob for a client: held whole, or the fill that brings it. A layer that is not held begins the pull of its image.

        Raises `BlobUnknown`, `RepositoryUnknown` or a `SourceError`.
        """
        descriptor, source_knows = await self._descriptor(repository, digest)
        found = await self._obtain(repository, descriptor)
        if found is None:
            self.hits += 1
            self.ledger.blob_used(digest)
            # Whoever answers opens the file a moment later, for a range in another thread: until then it must not be evicted.
            self._blobs.hand_out(digest)
            held = self._blobs.size(digest)
            return HeldBlob(digest, descriptor.size if held is None else held)
        self.misses += 1
        if descriptor.kind is ReferenceKind.LAYER and not source_knows and self._fills.refusal is None:
            # On a full disk only what a client waits for is fetched: it is all that somebody has something of.
            await self._begin_pull(repository, digest, asked_by)
        return found

    async def _descriptor(self, repository: Repository, digest: Digest) -> tuple[Descriptor, bool]:
        """A blob of the repository, and whether only the source's word links it: no manifest that we hold does."""
        holding = await self.holdings.of(repository)
        descriptor = holding.blobs.get(digest)
        if descriptor is not None:
            return descriptor, False
        linked = holding.vouched.get(digest)
        if linked is not None:
            return linked, True
        route = self._route(repository)
        if route is None:
            if not holding.manifests:
                raise await self._unknown(repository, digest)
            raise self._not_held(repository, digest)
        self._raise_remembered(repository, str(digest))
        size = await self._size_flights.join((repository, digest), lambda: self._size_at_source(repository, route, digest))
        linked = holding.vouched[digest] = Descriptor(digest, ReferenceKind.LAYER, "application/octet-stream", size)
        return linked, True

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
        return BlobUnknown(f"{repository} holds no blob {digest}, and no cache rule answers for it any more.", "Make a cache rule for it to pull more.")

    async def _obtain(self, repository: Repository, descriptor: Descriptor) -> Fill | None:
        """The fill of a blob, or None when it is held."""
        if self._blobs.size(descriptor.digest) is not None:
            return None
        fill = self._fills.get(descriptor.digest)
        if fill is not None:
            return fill
        route = self._route(repository)
        if route is None:
            raise self._not_held(repository, descriptor.digest)
        return await self._fills.join(descriptor.digest, descriptor.size, self._blob_source(route, descriptor.digest))

    def _blob_source(self, route: Route, digest: Digest) -> BlobSource:
        client = self._client(route)
        return lambda *, offset, validator: client.blob(route.repository, digest, offset=offset, validator=validator)

    # Pulls

    async def pull(self, image: ImageReference, platform: str, *, asked_by: str | None) -> Pull:
        """Begin to make an image complete for a platform (``linux/amd64``). A tag is looked up at the source anew. Raises `RepositoryUnknown`."""
        route = self._route(image.repository)
        if route is None:
            raise await self._unknown(image.repository, image.manifest)

        async def look_up() -> PullSubject:
            answer = await self.manifest(image.repository, image.manifest, refresh=True)
            if not answer.manifest.is_index:
                return PullSubject(answer.manifest, None)
            child = answer.manifest.child_for(platform)
            if child is None:
                offered = ", ".join(sorted({each.platform for each in answer.manifest.children if each.platform}))
                raise NotFound(f"{image} has no image for {platform}.", f"It has: {offered}." if offered else "It names no platforms at all.", field="platform")
            found = await self.manifest(image.repository, child.digest)
            return PullSubject(found.manifest, child.platform)

        return self.pulls.begin(image.repository, image.tag, _pull_origin(route), look_up, asked_by=asked_by)

    async def _begin_pull(self, repository: Repository, layer: Digest, asked_by: str | None) -> None:
        route = self._route(repository)
        holding = await self.holdings.of(repository)
        manifest = holding.last_asked_with(layer)
        if manifest is None:
            try:
                images = await self._catalog.images_with(repository, layer)
                manifest = await self.holdings.manifest(images[0]) if images else None
            except CatalogFailed:
                # The client gets its layer all the same; only the rest of the image is not fetched ahead.
                return
        if route is None or manifest is None:
            return
        subject = PullSubject(manifest, holding.platform_of.get(manifest.digest))
        self.pulls.begin(repository, holding.tag_of.get(manifest.digest), _pull_origin(route), subject, asked_by=asked_by)

    def _pull_changed(self, pull: Pull) -> None:
        snapshot = pull.snapshot()
        if snapshot.state.ended:
            self.history.add(snapshot)
        name = f"{snapshot.image} {snapshot.platform or ''}".rstrip()
        if not snapshot.state.ended:
            asked = f", asked by {', '.join(snapshot.asked_by)}" if snapshot.asked_by else ""
            self._events.record("pull-started", f"Pulling {name} from {snapshot.source_repository}{asked}.", pull.id)
        elif pull.error is not None:
            self._events.record("pull-ended", f"The pull of {name} failed: {pull.error.message}", pull.id, level=logging.WARNING)
        else:
            seconds = (snapshot.ended or snapshot.started) - snapshot.started
            self._events.record("pull-ended", f"The pull of {name} is {snapshot.state}: {snapshot.from_source:,} bytes in {seconds:.1f} s.", pull.id)

    async def _pull_completed(self, pull: Pull) -> None:
        """The platform of an image that no index names stands in its config, which is here now."""
        manifest = pull.manifest
        if pull.platform is not None or manifest is None:
            return
        config = next((each for each in manifest.references if each.kind is ReferenceKind.CONFIG), None)
        if config is None or config.size > CONFIG_LIMIT:
            return
        content = b"".join([chunk async for chunk in self._blobs.read(config.digest, 0, config.size)])
        pull.platform = config_platform(content)
        if pull.platform is not None:
            with suppress(CatalogFailed):
                await self._catalog.set_platform(pull.repository, manifest.digest, pull.platform)

    # Tags and referrers

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> TagPage:
        """A page of the tags at the source, in its order; those that are held when there is no source or it can't be asked."""
        route = self._route(repository)
        if route is not None:
            client = self._client(route)
            has_copy = await self._catalog.is_cached(repository)
            try:
                async with asyncio.timeout(self._patience(client) if has_copy else None):
                    return await client.tags(route.repository, n=n, last=last)
            except TimeoutError:
                self._too_slow(client, route)
            except SourceError as error:
                if not has_copy:
                    raise self._for_client(error, route, RepositoryUnknown) from error
        held = [each.name for each in await self._catalog.tags(repository) if last is None or each.name > last]
        if not held and last is None:
            raise await self._unknown(repository, Tag("latest"))
        page = tuple(held if n is None else held[:n])
        return TagPage(page, page[-1] if page and len(page) < len(held) else None)

    async def referrers(self, repository: Repository, digest: Digest, artifact_type: str | None) -> bytes | None:
        """The referrers of a manifest as the source lists them, an index; None when there is no source that could be asked."""
        route = self._route(repository)
        if route is None:
            if not await self._catalog.is_cached(repository):
                raise await self._unknown(repository, digest)
            return None
        client = self._client(route)
        has_copy = digest in (await self.holdings.of(repository)).manifests
        try:
            async with asyncio.timeout(self._patience(client) if has_copy else None):
                return (await client.referrers(route.repository, digest, artifact_type)).content
        except TimeoutError:
            self._too_slow(client, route)
            return None
        except SourceNotFound:
            return None
        except SourceError as error:
            if has_copy:
                return None
            raise self._for_client(error, route) from error

    # Failures

    def _failed(
        self, repository: Repository, reference: str, error: SourceError, route: Route, unknown: type[RegistryError] = ManifestUnknown
    ) -> EntrepotError:
        """What a client is told of a source's failure; remembered for seconds, so that a storm of requests does not become a storm upstream."""
        told = self._for_client(error, route, unknown)
        # A source that was not even asked costs nothing, and may be back at any moment.
        if not isinstance(error, SourceAvoided):
            self._remember(repository, reference, told)
        return told

    def _for_client(self, error: SourceError, route: Route, unknown: type[RegistryError] = ManifestUnknown) -> EntrepotError:
        """The same failure with the name of the rule; *unknown* is what it becomes where the source does not have what was asked for."""
        # Docker Hub and GHCR answer 401 or 403 for a repository that does not exist. To a client without credentials "unknown" is the answer that lets it
        # go on to its next registry; with a credential set it is a refusal, and must not look like a missing image.
        named = f"{error.what} (cache rule {route.rule.name})"
        is_refusal = isinstance(error, SourceRefused) and not isinstance(error, SignInUnsafe)
        if isinstance(error, SourceNotFound) or (is_refusal and route.rule.credential_set is None):
            return unknown(named, error.hint)
        told = copy.copy(error)
        told.what = named
        return told

    def _remember(self, repository: Repository, reference: str, error: EntrepotError) -> None:
        self._failures[repository, reference] = (self._clock() + self._settings.negative_freshness, error)
        while len(self._failures) > REMEMBERED_FAILURES:
            self._failures.popitem(last=False)

    def _raise_remembered(self, repository: Repository, reference: str) -> None:
        remembered = self._failures.get((repository, reference))
        if remembered is None:
            return
        until, error = remembered
        if self._clock() < until:
            raise error.with_traceback(None)
        del self._failures[repository, reference]

    def forget_failures(self) -> None:
        """A rule or credential set has changed: what failed before may work now."""
        self._failures.clear()


def _pull_origin(route: Route) -> PullOrigin:
    return PullOrigin(route.rule.name, route.registry.login_server, route.source)


def _gone_warning(route: Route, tag: Tag) -> str:
    return f"{route.source}:{tag} is gone at its source"
