"""Manifests: whether one is served from the cache or fetched from its source.

By digest, a cached manifest is enough. By tag, the source is asked when the tag lifetime is over,
once for all clients that wait; when it fails, the cached manifest is served and called stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from entrepot.cache.failures import SourceFailures, manifest_key
from entrepot.cache.index import CacheIndex
from entrepot.cache.recent_requests import ResolvedTag
from entrepot.cache.results import ManifestAnswer, ManifestDescription, Origin
from entrepot.cache.usage import UsageTracker
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import Route
from entrepot.errors import EntrepotError, ManifestUnknown
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRateLimited,
    SourceUnreachable,
)
from entrepot.source.manifests import ManifestHead
from entrepot.source.singleflight import SingleFlight
from entrepot.source.warnings import SourceNote
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Manifest, ManifestUnreadable, parse_manifest
from entrepot.store.records import TagEntry

RESOLVED_TAG_TTL = 300.0
"""How long the digest of an uncached tag, learnt from a HEAD, is trusted, in seconds; a shorter tag
lifetime of its rule wins."""


class ManifestResolver:
    """Finds manifests in the cache or at their source.

    See `entrepot.cache.cache.ArtifactCache` for *route*, *client*, *clock* and *monotonic*;
    *tag_lifetime* gives that of a rule in seconds.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        index: CacheIndex,
        usage: UsageTracker,
        events: EventLog,
        failures: SourceFailures,
        route: Callable[[str], Route | None],
        client: Callable[[Route], SourceClient],
        tag_lifetime: Callable[[Route], float],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._index = index
        self._usage = usage
        self._events = events
        self._failures = failures
        self._route = route
        self._client = client
        self._tag_lifetime = tag_lifetime
        self._clock = clock
        self._monotonic = monotonic
        self._fetches: SingleFlight[ManifestAnswer] = SingleFlight()
        self._heads: SingleFlight[ManifestHead] = SingleFlight()

    async def close(self) -> None:
        """Cancel what is being fetched."""
        await self._fetches.close()
        await self._heads.close()

    async def resolve(
        self, repository: Repository, reference: Tag | Digest, *, refresh: bool = False
    ) -> ManifestAnswer:
        """Find a manifest by tag or digest.

        With *refresh* the source is asked for a tag whatever its age. Raises `RepositoryUnknown`,
        `ManifestUnknown`, or a `SourceError` when nothing is cached that could be served instead.
        """
        route = self._route(repository)
        if isinstance(reference, Digest):
            return await self._resolve_digest(repository, route, reference)
        if route is not None and not refresh:
            self._failures.check_without_copy(repository, reference)
        try:
            entry = await self._index.tag(repository, reference)
        except CatalogFailed:
            # Its source may still have it.
            if route is None:
                raise
            entry = None
        if entry is None:
            if route is None:
                raise await self._failures.unknown(repository, reference)
            if not refresh:
                self._failures.check(repository, reference)
            resolved = self._resolved(repository, route, reference)
            if resolved is not None and not refresh:
                return await self._resolve_digest(repository, route, resolved.digest)
            # Another client may have fetched it while the catalog was asked.
            entry = None if refresh else self._index.tag_in_memory(repository, reference)
            if entry is None:
                return await self._revalidate_once(repository, route, reference, None)
        if route is None:
            return await self._cached(repository, entry.digest, Origin.CACHE)
        if not refresh and self._is_fresh(entry, route):
            return await self._cached(
                repository,
                entry.digest,
                Origin.CACHE,
                _gone_warning(route, reference) if entry.gone else None,
            )
        client = self._client(route)
        try:
            if not refresh:
                self._failures.check(repository, reference)
            async with asyncio.timeout(None if refresh else self._failures.timeout(client)):
                return await self._revalidate_once(repository, route, reference, entry)
        except TimeoutError:
            slow = self._failures.too_slow(client, route)
            self._failures.remember(repository, reference, slow, has_copy=True)
            return await self._cached(repository, entry.digest, Origin.STALE, slow.what)
        except (SourceError, ManifestUnknown) as error:
            return await self._cached(repository, entry.digest, Origin.STALE, error.what)

    async def describe(
        self, repository: Repository, reference: Tag | Digest
    ) -> ManifestDescription:
        """What a HEAD on a manifest returns.

        For one that is not cached the source gets a HEAD, which Docker Hub does not count, and
        nothing is fetched.
        """
        route = self._route(repository)
        if route is not None:
            self._failures.check_without_copy(repository, reference)
        is_cached = (
            await self._index.has_manifest(repository, reference)
            if isinstance(reference, Digest)
            else self._index.tag_in_memory(repository, reference) is not None
            or await self._index.known_tag(repository, reference) is not None
        )
        if not is_cached and route is not None:
            resolved = self._resolved(repository, route, reference)
            if resolved is not None:
                return ManifestDescription(
                    resolved.digest, resolved.media_type, resolved.size, Origin.UPSTREAM
                )
            self._failures.check(repository, manifest_key(reference))
            head = await self._heads.join(
                (repository, manifest_key(reference)),
                lambda: self._head(repository, route, reference),
                group=route.registry.login_server,
            )
            if head.digest is not None and head.media_type is not None and head.size is not None:
                return ManifestDescription(
                    head.digest,
                    head.media_type,
                    head.size,
                    _origin_of(head.note),
                    head.note.warning,
                )
        answer = await self.resolve(repository, reference)
        manifest = answer.manifest
        self._usage.record_manifest_check(repository, manifest.digest)
        return ManifestDescription(
            manifest.digest,
            manifest.media_type,
            len(manifest.content),
            answer.origin,
            answer.warning,
        )

    def _is_fresh(self, entry: TagEntry, route: Route) -> bool:
        # A tag that was checked in the future was never checked: the clock was wrong then, or is
        # now (RFC 9111, 4.2.3).
        return 0 <= self._clock() - entry.checked < self._tag_lifetime(route)

    def _resolved(
        self, repository: Repository, route: Route, reference: Tag | Digest
    ) -> ResolvedTag | None:
        """The answer of the source to a HEAD, while it is trusted."""
        requests = self._index.known_requests(repository)
        resolved = requests.resolved.get(reference) if requests is not None else None
        if resolved is None:
            return None
        age = self._monotonic() - resolved.time
        return resolved if age < min(self._tag_lifetime(route), RESOLVED_TAG_TTL) else None

    async def _head(
        self, repository: Repository, route: Route, reference: Tag | Digest
    ) -> ManifestHead:
        try:
            head = await self._client(route).head_manifest(route.repository, reference)
        except SourceError as error:
            raise self._failures.failed(
                repository, manifest_key(reference), error, route
            ) from error
        if (
            not isinstance(reference, Digest)
            and head.digest is not None
            and head.media_type is not None
            and head.size is not None
        ):
            self._index.requests(repository).source_confirmed(
                reference, head.digest, head.media_type, head.size, self._monotonic()
            )
        return head

    async def _resolve_digest(
        self, repository: Repository, route: Route | None, digest: Digest
    ) -> ManifestAnswer:
        if route is not None:
            self._failures.check_without_copy(repository, digest)
        manifest = await self._known_manifest(repository, route, digest)
        if manifest is not None:
            return ManifestAnswer(manifest, Origin.CACHE)
        if route is None:
            raise await self._failures.unknown(repository, digest)
        self._failures.check(repository, manifest_key(digest))
        return await self._fetch_once(repository, route, digest)

    async def _fetch_once(
        self, repository: Repository, route: Route, digest: Digest
    ) -> ManifestAnswer:
        return await self._fetches.join(
            (repository, str(digest)),
            lambda: self._fetch_from_source(repository, route, digest),
            group=route.registry.login_server,
        )

    async def _revalidate_once(
        self, repository: Repository, route: Route, tag: Tag, entry: TagEntry | None
    ) -> ManifestAnswer:
        return await self._fetches.join(
            (repository, tag),
            lambda: self._revalidate(repository, route, tag, entry),
            group=route.registry.login_server,
        )

    async def _revalidate(
        self, repository: Repository, route: Route, tag: Tag, entry: TagEntry | None
    ) -> ManifestAnswer:
        """Ask the source where a tag points.

        With a cached manifest a HEAD is enough: Docker Hub counts GETs of manifests, not HEADs.
        """
        if entry is None:
            return await self._fetch_from_source(repository, route, tag)
        try:
            head = await self._client(route).head_manifest(route.repository, tag)
        except SourceNotFound:
            # A catalog that fails learns it at the next revalidation.
            with suppress(CatalogFailed):
                await self._catalog.mark_tag_gone(repository, tag, now=self._clock())
            self._index.invalidate_tag(repository, tag)
            self._events.record(
                EventKind.TAG_GONE,
                f"{route.source}:{tag} is gone at its source; what is cached of it stays and is "
                "served.",
                f"{repository}:{tag}",
                severity=Severity.WARNING,
            )
            return await self._cached(
                repository, entry.digest, Origin.CACHE, _gone_warning(route, tag)
            )
        except SourceError as error:
            raise self._failures.failed(repository, tag, error, route, has_copy=True) from error
        if head.note.is_stale and head.digest == entry.digest:
            # The source is a cache that could not ask its own source: that confirms nothing.
            stale = SourceFailed(head.note.warning or "")
            self._failures.remember(repository, tag, stale, has_copy=True)
            raise stale
        if head.digest is None or not await self._index.has_manifest(repository, head.digest):
            return await self._fetch_from_source(repository, route, tag, has_copy=True)
        if not await self._index.point_tag(repository, tag, head.digest, now=self._clock()):
            return await self._fetch_from_source(repository, route, tag, has_copy=True)
        self._failures.forget(repository, tag)
        if head.note.is_stale:
            self._index.distrust_tag(repository, tag)
        origin = Origin.STALE if head.note.is_stale else Origin.CACHE
        return await self._cached(repository, head.digest, origin, head.note.warning)

    async def _fetch_from_source(
        self,
        repository: Repository,
        route: Route,
        reference: Tag | Digest,
        *,
        has_copy: bool = False,
    ) -> ManifestAnswer:
        """Fetch a manifest and store it.

        With *has_copy* another one is cached, which is served when this fails.
        """
        try:
            try:
                response = await self._client(route).manifest(route.repository, reference)
            except (SourceUnreachable, SourceRateLimited):
                # Docker Hub counted nothing that did not arrive or was refused for the count.
                raise
            except SourceError:
                self._usage.record_fetch(route.rule.name)
                raise
            self._usage.record_fetch(route.rule.name)
            manifest = await parse_manifest(response.content, response.media_type, response.digest)
        except ManifestUnreadable as error:
            raise self._invalid(repository, reference, error, route, has_copy=has_copy) from error
        except SourceError as error:
            raise self._failures.failed(
                repository, manifest_key(reference), error, route, has_copy=has_copy
            ) from error
        tags = (
            self._index.requests(repository).tags_resolved_to(manifest.digest)
            if isinstance(reference, Digest)
            else [reference]
        )
        try:
            await self._index.add_manifest(
                repository, route.source, manifest, tags=tags, now=self._clock()
            )
        except (OverflowError, UnicodeError) as error:
            # A number or a text that no database takes: nothing of it was written.
            raise self._invalid(repository, reference, error, route, has_copy=has_copy) from error
        self._failures.forget(repository, manifest_key(manifest.digest))
        for tag in tags:
            self._failures.forget(repository, tag)
            if response.note.is_stale:
                self._index.distrust_tag(repository, tag)
        note = response.note
        return ManifestAnswer(manifest, _origin_of(note), note.warning, is_fetched=True)

    def _invalid(
        self,
        repository: Repository,
        reference: Tag | Digest,
        error: Exception,
        route: Route,
        *,
        has_copy: bool,
    ) -> EntrepotError:
        """The error for a manifest that can't be read or stored.

        It is remembered as every failure is: not one GET at the source for each request (F67).
        """
        reason = (
            str(error)
            if isinstance(error, ManifestUnreadable)
            else "it has a number, a text or a depth beyond all bounds"
        )
        sign = "@" if isinstance(reference, Digest) else ":"
        invalid = SourceAnswerInvalid(
            f"{route.source}{sign}{reference} is not a manifest that Entrepot knows: "
            f"{reason.rstrip('.')}.",
            "Ask the publisher of the image.",
        )
        return self._failures.failed(
            repository, manifest_key(reference), invalid, route, has_copy=has_copy
        )

    async def _cached(
        self, repository: Repository, digest: Digest, origin: Origin, warning: str | None = None
    ) -> ManifestAnswer:
        manifest = await self._cached_manifest(repository, digest)
        return ManifestAnswer(manifest, origin, warning)

    async def _known_manifest(
        self, repository: Repository, route: Route | None, digest: Digest
    ) -> Manifest | None:
        """A manifest that the index names; None where it names none.

        Also where the catalog fails and there is a source, which may still have it. Raises
        `CatalogFailed` where there is none.
        """
        try:
            return await self._index.manifest_of(repository, digest)
        except CatalogFailed:
            if route is None:
                raise
            return None

    async def _cached_manifest(self, repository: Repository, digest: Digest) -> Manifest:
        """A manifest that the index names; one that was evicted since is fetched again."""
        route = self._route(repository)
        # The catalog may have got the manifest a moment ago, and the index in memory not yet: the
        # second try reads it again.
        for _ in range(2):
            manifest = await self._known_manifest(repository, route, digest)
            if manifest is not None:
                return manifest
            self._index.invalidate_manifest(repository, digest)
        if route is None:
            raise ManifestUnknown(f"The manifest {digest} of {repository} is not cached.")
        return (await self._fetch_once(repository, route, digest)).manifest


def _origin_of(note: SourceNote) -> Origin:
    return Origin.STALE if note.is_stale else Origin.UPSTREAM


def _gone_warning(route: Route, tag: Tag) -> str:
    return f"{route.source}:{tag} is gone at its source"
