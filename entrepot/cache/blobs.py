"""Blobs: whether one is served from its cached copy or fetched by a fill.

A digest alone gives access to nothing: a blob must belong to the repository through which it is
requested, and a copy is served only for the source registries that are known to have its bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from entrepot.cache.blob_copies import BlobCopies
from entrepot.cache.blob_source import BlobSource
from entrepot.cache.failures import SourceFailures
from entrepot.cache.fill import Fill
from entrepot.cache.fills import Fills
from entrepot.cache.index import CacheIndex
from entrepot.cache.proof import proves
from entrepot.cache.results import BlobDescription, CachedBlob, Origin
from entrepot.core.reference import Digest, Repository
from entrepot.core.rules import Route
from entrepot.errors import BlobUnknown, EntrepotError
from entrepot.source.blobs import BlobStream
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceError, SourceNotFound
from entrepot.source.singleflight import SingleFlight
from entrepot.store.blobs import BlobStore
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Descriptor, ReferenceKind
from entrepot.store.records import BlobOrigin

STATED_SIZE_TTL = 300.0
"""Seconds for which the size of a blob is trusted that only a HEAD of the source states."""

STATED_SIZES = 10_000
"""Blobs of which such a size is remembered, those requested last."""

PROOF_TIMEOUT = 30.0
"""Seconds that a source has to prove that it has the bytes of a copy; after that the blob is
fetched from it whole."""

UNPROVEN_TTL = 600.0
"""Seconds for which a source that sent other bytes than the copy has is not asked for a proof
again."""

UNPROVEN = 10_000
"""Such failures that are remembered."""

_log = logging.getLogger("entrepot.cache")


@dataclass(slots=True)
class _StatedSize:
    """The size that the source states for a blob that no manifest names.

    *fill* is the fill that began with this size.
    """

    descriptor: Descriptor
    time: float
    fill: Fill | None = None

    @property
    def is_contradicted(self) -> bool:
        return self.fill is not None and self.fill.error is not None


@dataclass(frozen=True, slots=True)
class _RepositoryBlob:
    """A blob of a repository at its source, which a fill reads.

    It is requested with a credential set or none.
    """

    repository: Repository
    digest: Digest
    credential_set: str | None
    client: SourceClient = field(compare=False)
    size: int | None = field(default=None, compare=False)
    """In bytes, where it is known."""

    def __call__(
        self, *, offset: int, validator: str | None
    ) -> AbstractAsyncContextManager[BlobStream]:
        return self.client.blob(
            self.repository, self.digest, offset=offset, validator=validator, size=self.size
        )


class BlobResolver:
    """Finds blobs in the cache or begins their fills.

    See `entrepot.cache.cache.ArtifactCache` for *route*, *client*, *clock* and *monotonic*.
    """

    def __init__(
        self,
        *,
        blobs: BlobStore,
        fills: Fills,
        copies: BlobCopies,
        index: CacheIndex,
        failures: SourceFailures,
        route: Callable[[str], Route | None],
        client: Callable[[Route], SourceClient],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._blobs = blobs
        self._fills = fills
        self._copies = copies
        self._index = index
        self._failures = failures
        self._route = route
        self._client = client
        self._clock = clock
        self._monotonic = monotonic
        self._size_requests: SingleFlight[int] = SingleFlight()
        self._proofs: SingleFlight[bool] = SingleFlight()
        self._stated_sizes: OrderedDict[tuple[Repository, Digest], _StatedSize] = OrderedDict()
        """Blobs that belong to a repository by what its source says, though no manifest names
        them."""
        self._unproven: OrderedDict[tuple[str, Digest], float] = OrderedDict()
        """By source repository and blob: until when the source is not asked for a proof again."""

    async def close(self) -> None:
        """Cancel what is being asked of sources."""
        await self._size_requests.close()
        await self._proofs.close()

    async def describe(self, repository: Repository, digest: Digest) -> BlobDescription:
        """What a HEAD on a blob returns; nothing is fetched.

        Raises `BlobUnknown`, `RepositoryUnknown` or a `SourceError`.
        """
        descriptor, is_named = await self.descriptor(repository, digest)
        route = self._route(repository)
        size = await self._copies.size(digest, descriptor.size if is_named else None)
        # Without a proof a copy of another source's credentials does not count: the answer is what
        # this repository's source says.
        if size is not None and await self._is_servable(repository, route, digest):
            return BlobDescription(digest, size, Origin.CACHE)
        if route is None:
            raise self._not_cached(repository, digest)
        self._failures.check(repository, str(digest))
        return BlobDescription(
            digest, await self._size_to_fetch(repository, route, descriptor), Origin.UPSTREAM
        )

    async def descriptor(self, repository: Repository, digest: Digest) -> tuple[Descriptor, bool]:
        """A blob of the repository, and whether a cached manifest names it.

        Otherwise only the source says that the blob belongs to the repository.
        """
        try:
            descriptor = await self._index.blob_of(repository, digest)
        except CatalogFailed:
            # Its source may still have it.
            if self._route(repository) is None:
                raise
            descriptor = None
        if descriptor is not None:
            return descriptor, True
        if self._recently_stated_size(repository, digest) is not None:
            return self._stated_sizes[repository, digest].descriptor, False
        route = self._route(repository)
        if route is None:
            if await self._index.is_cached(repository):
                raise self._not_cached(repository, digest)
            raise await self._failures.unknown(repository, digest)
        self._failures.check(repository, str(digest))
        size = await self._size_requests.join(
            (repository, digest), lambda: self._size_at_source(repository, route, digest)
        )
        return self._record_stated_size(repository, digest, size).descriptor, False

    async def resolve(
        self, repository: Repository, descriptor: Descriptor, *, is_named: bool = True
    ) -> CachedBlob | Fill:
        """An intact copy that may be served to the repository, else the blob's fill.

        The fill fetches the blob from the repository's own source. *is_named* says whether a cached
        manifest names the blob. Raises `BlobUnknown` or a `SourceError`.
        """
        digest = descriptor.digest
        stated_size = descriptor.size if is_named else None
        route = self._route(repository)
        size = await self._copies.size(digest, stated_size)
        while size is not None and await self._may_serve(repository, route, digest, size):
            # The copy may have been evicted, or found damaged, while the source was asked.
            if self._blobs.size(digest) == size:
                return CachedBlob(digest, size, self._blobs, self._copies)
            size = await self._copies.size(digest, stated_size)
        if route is None:
            # The rule was deleted while a fill fetches the blob.
            for provenance in await self._provenances(repository, None):
                fill = self._fills.of_source(digest, provenance, descriptor.size)
                if fill is not None:
                    return fill
            raise self._not_cached(repository, digest)
        size = await self._size_to_fetch(repository, route, descriptor)
        # The source is asked again, and may have the blob by now.
        self._failures.forget(repository, str(digest))
        self._copies.record_fetch(digest, _blob_origin(route))
        return await self._fills.join(
            digest,
            size,
            self._source(route, digest, size),
            origin=route.registry.login_server,
            provenance=_blob_origin(route).login_server,
            repository=str(route.repository),
        )

    async def size_or_fill(self, repository: Repository, descriptor: Descriptor) -> Fill | int:
        """The size in bytes of a cached blob that a manifest names, else its fill."""
        blob = await self.resolve(repository, descriptor)
        return blob.size if isinstance(blob, CachedBlob) else blob

    def record_fill(self, repository: Repository, digest: Digest, fill: Fill) -> None:
        """Record the fill of a blob that no manifest names.

        If the fill fails, the stated size was wrong.
        """
        stated = self._stated_sizes.get((repository, digest))
        if stated is not None:
            stated.fill = fill

    def failed(self, repository: Repository, digest: Digest, error: SourceError) -> EntrepotError:
        """The error for a client whose blob the source does not send.

        That the source does not have it is remembered: a manifest that names the blob must not have
        a HEAD say otherwise.
        """
        route = self._route(repository)
        if route is None:
            return error
        client_error = self._failures.for_client(error, route, BlobUnknown)
        if isinstance(client_error, BlobUnknown):
            self._failures.remember(repository, str(digest), client_error)
        return client_error

    def _not_cached(self, repository: Repository, digest: Digest) -> BlobUnknown:
        if self._copies.was_damaged(digest):
            return BlobUnknown(
                f"The cached copy of blob {digest} was damaged and is removed, and no cache rule "
                f"answers for {repository} any more.",
                "Create a cache rule for it to pull the blob again, and look at the disk.",
            )
        return BlobUnknown(
            f"The blob {digest} of {repository} is not cached, and no cache rule answers for the "
            "repository any more.",
            "Create a cache rule for it to pull more.",
        )

    # The size of a blob

    async def _size_to_fetch(
        self, repository: Repository, route: Route, descriptor: Descriptor
    ) -> int:
        """The size that the manifest states, else the size that the source states (F82).

        No response to a client goes without a length. Raises `BlobUnknown` or a `SourceError`, also
        where the source does not say how large the blob is.
        """
        if descriptor.size is not None:
            return descriptor.size
        digest = descriptor.digest
        stated_size = self._recently_stated_size(repository, digest)
        if stated_size is None:
            self._failures.check(repository, str(digest))
            stated_size = await self._size_requests.join(
                (repository, digest), lambda: self._size_at_source(repository, route, digest)
            )
            self._record_stated_size(repository, digest, stated_size)
        return stated_size

    async def _size_at_source(self, repository: Repository, route: Route, digest: Digest) -> int:
        try:
            return await self._client(route).head_blob(route.repository, digest)
        except SourceNotFound as error:
            unknown = BlobUnknown(f"{route.source} has no blob {digest}.")
            self._failures.remember(repository, str(digest), unknown)
            raise unknown from error
        except SourceError as error:
            raise self._failures.failed(
                repository, str(digest), error, route, BlobUnknown
            ) from error

    def _record_stated_size(self, repository: Repository, digest: Digest, size: int) -> _StatedSize:
        descriptor = Descriptor(digest, ReferenceKind.LAYER, "application/octet-stream", size)
        stated = self._stated_sizes[repository, digest] = _StatedSize(descriptor, self._clock())
        self._stated_sizes.move_to_end((repository, digest))
        while len(self._stated_sizes) > STATED_SIZES:
            self._stated_sizes.popitem(last=False)
        return stated

    def _recently_stated_size(self, repository: Repository, digest: Digest) -> int | None:
        stated = self._stated_sizes.get((repository, digest))
        is_valid = (
            stated is not None
            and not stated.is_contradicted
            and 0 <= self._clock() - stated.time < STATED_SIZE_TTL
        )
        return stated.descriptor.size if stated is not None and is_valid else None

    # Whether a copy may be served to a repository

    async def _provenances(self, repository: Repository, route: Route | None) -> set[str]:
        """The origins whose bytes a repository is served without a proof.

        They are the login server, and the sources of rules for some readers that a rule of the
        repository has, or had before it was deleted.
        """
        if route is not None:
            return {route.registry.login_server, str(route.rule.source)}
        source = await self._index.source_of(repository)
        if source is None:
            return set()
        parts = source.split("/")
        wildcards = {f"{'/'.join(parts[:end])}/*" for end in range(1, len(parts))}
        return {parts[0], source, *wildcards}

    async def is_servable(self, repository: Repository, digest: Digest) -> bool:
        """Whether a copy may be served to a repository, as far as no source has to be asked."""
        return await self._is_servable(repository, self._route(repository), digest)

    async def _is_servable(
        self, repository: Repository, route: Route | None, digest: Digest
    ) -> bool:
        """Whether it is known that a copy may be served; no source is asked.

        The copy must have come from the source of the repository's rule. A repository without a
        rule keeps what it cached.
        """
        return await self._copies.may_be_served_for(
            digest, await self._provenances(repository, route)
        )

    async def _may_serve(
        self, repository: Repository, route: Route | None, digest: Digest, size: int
    ) -> bool:
        """Whether a copy may be served to a repository.

        Where that is not known, the repository's source is asked for a proof. Raises what the
        source answers when it can't give one.
        """
        if await self._is_servable(repository, route, digest):
            return True
        if route is None or self._unproven.get((route.source, digest), 0.0) > self._monotonic():
            return False
        self._failures.check(repository, str(digest))
        return await self._proofs.join(
            (repository, route.source, digest), lambda: self._prove(repository, route, digest, size)
        )

    async def _prove(self, repository: Repository, route: Route, digest: Digest, size: int) -> bool:
        try:
            async with asyncio.timeout(PROOF_TIMEOUT):
                is_proven = await proves(
                    self._source(route, digest, size), self._blobs, digest, size
                )
        except (TimeoutError, FileNotFoundError):
            return False
        except SourceError as error:
            raise self._failures.failed(
                repository, str(digest), error, route, BlobUnknown
            ) from error
        if not is_proven:
            # A second try might meet bytes that the source has by chance: from now on only the
            # whole blob proves it.
            self._unproven[route.source, digest] = self._monotonic() + UNPROVEN_TTL
            while len(self._unproven) > UNPROVEN:
                self._unproven.popitem(last=False)
            return False
        try:
            await self._copies.add_origin(digest, size, _blob_origin(route))
        except CatalogFailed as error:
            _log.warning(
                "That %s has %s can't be written to the catalog: %s",
                route.source,
                digest,
                error.message,
            )
        return True

    def _source(self, route: Route, digest: Digest, size: int | None = None) -> BlobSource:
        return _RepositoryBlob(
            route.repository, digest, route.rule.credential_set, self._client(route), size
        )


def _blob_origin(route: Route) -> BlobOrigin:
    rule = route.rule
    if rule.access.is_restricted:
        return BlobOrigin(str(rule.source), with_credentials=True)
    return BlobOrigin(route.registry.login_server, rule.credential_set is not None)


def imported_origin(route: Route) -> BlobOrigin:
    """The origin of a blob that an administrator imports into a repository of a rule.

    Whether its source gives it to everyone is unknown.
    """
    return _blob_origin(route)._replace(with_credentials=True)
