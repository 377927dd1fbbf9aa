"""Imports: content that comes from an archive and not from its source.

An administrator vouches for an archive. What is imported counts as sent by the source registry of
the rule that covers the repository, with credentials: it is served for that login server alone
until another source proves that it has the bytes (`entrepot.cache.proof`). A copy that is here
already, but not for that login server, has to be sent again: an archive that merely names a digest
gives access to nothing.

Manifests come first, from the top down, then blobs, and the tag last: no client sees a tag whose
image is not whole.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

from entrepot.api.transfer_models import (
    ImportedImage,
    ImportedManifest,
    MissingBlob,
    TransferredTag,
)
from entrepot.cache.blobs import imported_origin
from entrepot.cache.cache import CONFIG_LIMIT, ArtifactCache
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import Route
from entrepot.core.states import TagImport
from entrepot.engine.maintenance import MaintenanceService
from entrepot.engine.routing import Routing
from entrepot.errors import EngineError, Refusal
from entrepot.event_kinds import EventKind
from entrepot.events import EventLog
from entrepot.formatting import counted, printable, size
from entrepot.store.blobs import BlobStore, part_name
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import (
    PLATFORM_PART,
    Descriptor,
    Manifest,
    ManifestUnreadable,
    ReferenceKind,
    config_platform,
    parse_manifest,
)
from entrepot.store.partial_blob import PartialBlob
from entrepot.store.transfer import TagState

PART_SOURCE = "import"
"""The source of the growing files of imports: no fill resumes them."""

WRITE_SIZE = 1024 * 1024
"""Bytes that are gathered before they are hashed and written."""

LEASE = 900.0
"""Seconds for which what was imported last is not evicted: it is about to be used."""

LEASED = 20_000
"""Manifests that are leased at most; the oldest are dropped first."""

MISSING_IN_MESSAGE = 3
"""Missing blobs that a message names."""

_MEDIA_TYPE = re.compile(r"[!-.0-~]+/[!-.0-~]+")


class ImportWithoutRule(Refusal):
    """No cache rule covers a repository of an import, or another rule than the named one."""

    code = "ImportWithoutRule"


class ImportSourceMismatch(Refusal):
    """A repository of an import came from another source than its rule here pulls from."""

    code = "ImportSourceMismatch"
    status = 409


class ImportedContentInvalid(Refusal):
    """A manifest or blob of an import is not what its digest says."""

    code = "ImportedContentInvalid"


class ImportBrokenOff(ImportedContentInvalid):
    """A blob of an import came in part; what came is kept for the next import."""


class ImportOffsetMismatch(Refusal):
    """A blob goes on at another byte than the one that was reached."""

    code = "ImportOffsetMismatch"
    status = 409


class ImportTooLarge(Refusal):
    """What is imported does not fit into the cache."""

    code = "ImportTooLarge"
    status = 507


class ImportIncomplete(Refusal):
    """A blob or manifest of an imported image is missing."""

    code = "ImportIncomplete"
    status = 409


class ImportStorageFailed(EngineError):
    """The disk does not take what is imported."""

    code = "ImportStorageFailed"
    status = 507


class ImportService:
    """The imports of one engine.

    *fills* is the directory of growing files; *clock* is in seconds since the epoch, *monotonic*
    in seconds.
    """

    def __init__(
        self,
        *,
        cache: ArtifactCache,
        catalog: Catalog,
        blobs: BlobStore,
        routing: Routing,
        maintenance: MaintenanceService,
        events: EventLog,
        fills: Path,
        manifest_limit: int,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._catalog = catalog
        self._blobs = blobs
        self._routing = routing
        self._maintenance = maintenance
        self._events = events
        self._fills = fills
        self._manifest_limit = manifest_limit
        self._clock = clock
        self._monotonic = monotonic
        self._leased: dict[tuple[Repository, Digest], float] = {}
        self._uploads: dict[Digest, tuple[asyncio.Lock, int]] = {}
        self._created: dict[Repository, set[Digest]] = {}
        """Repositories that an unfinished import created, and the manifests that it added."""

    def in_use(self) -> set[tuple[Repository, Digest]]:
        """The manifests that were imported a moment ago, which no eviction may take."""
        now = self._monotonic()
        while self._leased:
            oldest = next(iter(self._leased))
            if now - self._leased[oldest] < LEASE and len(self._leased) <= LEASED:
                break
            del self._leased[oldest]
        return set(self._leased)

    def _lease(self, repository: Repository, digest: Digest) -> None:
        self._leased.pop((repository, digest), None)
        self._leased[repository, digest] = self._monotonic()
        self._cache.usage.record_manifest_check(repository, digest)

    def _route(self, repository: Repository, rule: str | None, source: str | None) -> Route:
        """The rule that covers a repository; *source* is where the archive says it came from."""
        route = self._routing.route(repository)
        if route is None:
            raise ImportWithoutRule(
                f"No cache rule covers {repository}"
                + (f", which came from {printable(source, 300)}." if source else "."),
                "Create the rule first (entrepot rule create), or import into another repository "
                "with --repository.",
                field="repository",
            )
        if rule is not None:
            if route.rule.name.casefold() != rule.casefold():
                raise ImportWithoutRule(
                    f"The cache rule {route.rule.name} covers {repository}, and not "
                    f"{printable(rule, 60)}.",
                    "Name that rule, or none.",
                    field="rule",
                )
        elif source and source != route.source:
            raise ImportSourceMismatch(
                f"{repository} came from {printable(source, 300)}, and the cache rule "
                f"{route.rule.name} here pulls it from {route.source}.",
                f"If both have the same content, import it with --rule {route.rule.name}.",
                field="source",
            )
        return route

    # Manifests

    async def add_manifest(
        self,
        repository: Repository,
        digest: Digest,
        content: bytes,
        media_type: str,
        *,
        rule: str | None = None,
        source: str | None = None,
        platform: str | None = None,
    ) -> ImportedManifest:
        """Add a manifest to a repository; an index comes before what it lists.

        Returns which of its blobs are not here. Raises `ImportedContentInvalid`,
        `ImportWithoutRule`, `ImportSourceMismatch` or `ImportTooLarge`.
        """
        route = self._route(repository, rule, source)
        async with self._removing_refused(repository):
            missing = await self._add_manifest(
                repository, route, digest, content, media_type, platform
            )
        return ImportedManifest(rule=route.rule.name, missing=tuple(missing))

    async def _add_manifest(
        self,
        repository: Repository,
        route: Route,
        digest: Digest,
        content: bytes,
        media_type: str,
        platform: str | None,
    ) -> list[MissingBlob]:
        if len(content) > self._manifest_limit:
            raise ImportedContentInvalid(
                f"The manifest {digest} has {len(content):,} bytes, and at most "
                f"{self._manifest_limit:,} are accepted.",
                "Raise manifest_limit in settings.toml if it is right.",
            )
        if not digest.matches(content):
            raise ImportedContentInvalid(
                f"The bytes of the manifest {digest} have another digest: the archive is damaged.",
                "Copy it again, or export it again.",
            )
        if len(media_type) > 255 or not _MEDIA_TYPE.fullmatch(media_type):
            raise ImportedContentInvalid(
                f"{printable(media_type, 100)} is not the media type of a manifest."
            )
        try:
            manifest = await parse_manifest(content, media_type, digest)
            missing = await self._missing(repository, manifest)
            needed = sum(blob.size or 0 for blob in missing)
            if needed > await self._maintenance.limit():
                raise _too_large(digest, needed, await self._maintenance.limit())
            if not await self._catalog.is_cached(repository):
                self._created[repository] = set()
            await self._catalog.add_manifest(
                repository,
                route.source,
                manifest,
                platform=platform if platform and _is_platform(platform) else None,
                now=self._clock(),
            )
        except (ManifestUnreadable, OverflowError, UnicodeError) as error:
            raise ImportedContentInvalid(
                f"{digest} is not a manifest that Entrepot knows: "
                f"{printable(str(error), 200).rstrip('.')}."
            ) from error
        self._cache.index.invalidate(repository)
        if repository in self._created:
            self._created[repository].add(digest)
        self._lease(repository, digest)
        return missing

    @asynccontextmanager
    async def _removing_refused(self, repository: Repository) -> AsyncIterator[None]:
        """Remove a repository that has nothing but manifests of an import that is refused.

        Otherwise the catalog would list a repository that no image came to. An import that broke
        off may go on.
        """
        try:
            yield
        except ImportBrokenOff:
            raise
        except (ImportedContentInvalid, ImportIncomplete, ImportTooLarge):
            imported = self._created.pop(repository, None)
            if imported is not None:
                digests, tags = await self._catalog.names_in(repository)
                if not tags and imported.issuperset(digests):
                    await self._catalog.delete_repository(repository)
                    self._cache.index.invalidate(repository)
                    for digest in digests:
                        self._leased.pop((repository, digest), None)
                    await self._maintenance.collect_contents(digests)
            raise

    async def _missing(self, repository: Repository, manifest: Manifest) -> list[MissingBlob]:
        missing = []
        for blob in manifest.blobs:
            if await self._cache.cached_size(repository, blob) is None:
                missing.append(
                    MissingBlob(
                        digest=str(blob.digest),
                        size=blob.size,
                        offset=0 if blob.size is None else self._resumable(blob.digest, blob.size),
                    )
                )
        return missing

    def _resumable(self, digest: Digest, size: int) -> int:
        """Bytes of a blob that an earlier import left."""
        try:
            return min(os.stat(self._fills / part_name(digest, size, PART_SOURCE)).st_size, size)
        except OSError:
            return 0

    # Blobs

    async def add_blob(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        offset: int,
        chunks: AsyncIterator[bytes],
    ) -> bool:
        """Add a blob of *size* bytes, of which *chunks* are those from *offset* on.

        The blob is visible when its digest is verified. Bytes of a transfer that breaks off are
        kept for the next one. False when the blob was here already. Raises
        `ImportedContentInvalid`, `ImportOffsetMismatch`, `ImportTooLarge` or
        `ImportStorageFailed`.
        """
        route = self._route(repository, None, None)
        blob = await self._cache.index.blob_of(repository, digest)
        if blob is None:
            raise ImportedContentInvalid(
                f"No manifest of {repository} names the blob {digest}.",
                "Send the manifest first.",
            )
        # Where the rest of a blob is refused, the client sends it whole.
        guard = self._removing_refused(repository) if offset == 0 else nullcontext()
        async with guard, self._uploading(digest):
            if await self._cache.cached_size(repository, blob) is not None:
                return False
            await self._make_room(digest, size)
            try:
                await self._receive(digest, size, offset, chunks)
            except OSError as error:
                if isinstance(error, ConnectionError):
                    raise
                raise ImportStorageFailed.of_cause(await self._blobs.cause(error)) from error
            self._blobs.lease(digest)
            if await self._cache.copies.add(digest, size, imported_origin(route)):
                self._cache.copies.on_size_changed(size)
            self._cache.usage.record_blob_use(digest)
        self._maintenance.check_space_soon()
        return True

    @asynccontextmanager
    async def _uploading(self, digest: Digest) -> AsyncIterator[None]:
        """One upload of a blob at a time."""
        lock, users = self._uploads.get(digest, (asyncio.Lock(), 0))
        self._uploads[digest] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._uploads[digest]
            if users == 1:
                del self._uploads[digest]
            else:
                self._uploads[digest] = lock, users - 1

    async def _make_room(self, digest: Digest, count: int) -> None:
        """Evict what was used least recently where a blob of *count* bytes needs the space."""
        limit = await self._maintenance.limit()
        if count > limit:
            raise _too_large(digest, count, limit)
        if self._maintenance.total_size + count <= limit:
            return
        await self._maintenance.evict(target=limit - count)
        limit = await self._maintenance.limit()
        if self._maintenance.total_size + count > limit:
            raise _too_large(digest, count, limit)

    async def _receive(
        self, digest: Digest, size: int, offset: int, chunks: AsyncIterator[bytes]
    ) -> None:
        partial = await self._blobs.begin(digest, size, PART_SOURCE)
        try:
            if offset == 0 and partial.resumable_size:
                os.ftruncate(partial.fileno(), 0)
                partial.resumable_size = 0
            while await self._blobs.hash_resumable(partial):
                pass
            if partial.written != offset:
                raise ImportOffsetMismatch(
                    f"The first {partial.written:,} bytes of {digest} are here, and the transfer "
                    f"goes on at byte {offset:,}.",
                    "Import again to go on.",
                )
            await self._write(partial, size, chunks)
            if partial.written < size:
                # The client left: what came is kept.
                raise ImportBrokenOff(
                    f"{partial.written:,} of the {size:,} bytes of {digest} came.",
                    "Import again to go on.",
                )
            if not partial.digest_matches():
                await self._blobs.discard(partial)
                raise ImportedContentInvalid(
                    f"The bytes of the blob {digest} have another digest: the archive is damaged.",
                    "Copy it again, or export it again.",
                )
            await self._blobs.commit(partial)
        except BaseException:
            if partial.is_linked and not partial.is_committed:
                with suppress(OSError):
                    await self._blobs.keep_for_resume(partial)
            raise
        finally:
            partial.release()

    async def _write(self, partial: PartialBlob, size: int, chunks: AsyncIterator[bytes]) -> None:
        pieces: list[bytes] = []
        gathered = 0
        async for chunk in chunks:
            pieces.append(chunk)
            gathered += len(chunk)
            if partial.written + gathered > size:
                await self._blobs.discard(partial)
                raise ImportedContentInvalid(
                    f"More than the {size:,} bytes of {partial.digest} came: the archive is "
                    "damaged."
                )
            if gathered >= WRITE_SIZE:
                await self._blobs.append(partial, pieces)
                pieces, gathered = [], 0
        if pieces:
            await self._blobs.append(partial, pieces)

    # Images

    async def finish(
        self,
        repository: Repository,
        digest: Digest,
        *,
        tag: Tag | None,
        state: TransferredTag | None,
        manifests: Sequence[Digest],
        rule: str | None = None,
        source: str | None = None,
    ) -> ImportedImage:
        """Point a tag at an imported image whose *manifests* and their blobs are all here.

        Without a tag they are only checked. Raises `ImportIncomplete`.
        """
        route = self._route(repository, rule, source)
        image = f"{repository}:{tag}" if tag is not None else f"{repository}@{digest}"
        async with self._removing_refused(repository):
            images = await self._whole(repository, image, dict.fromkeys([digest, *manifests]))
        self._created.pop(repository, None)
        for manifest in images:
            self._lease(repository, manifest.digest)
            await self._record_platform(repository, manifest)
        outcome: TagImport | None = None
        if tag is not None:
            now = self._clock()
            outcome = await self._catalog.import_tag(
                repository, tag, digest, _tag_state(state, now).not_after(now)
            )
            if outcome is TagImport.WITHOUT_MANIFEST:
                raise ImportIncomplete(f"{image} was deleted while it was imported.")
        self._cache.index.invalidate(repository)
        self._cache.forget_failures()
        if outcome is not TagImport.UNCHANGED:
            self._events.record(
                EventKind.MANIFEST_IMPORTED, _import_event(image, route, outcome), image
            )
        return ImportedImage(
            repository=repository,
            tag=tag,
            digest=str(digest),
            rule=route.rule.name,
            outcome=outcome,
        )

    async def _whole(
        self, repository: Repository, image: str, digests: Iterable[Digest]
    ) -> list[Manifest]:
        """The manifests of an image; raises `ImportIncomplete` where a part is missing."""
        missing: list[Digest] = []
        images: list[Manifest] = []
        for name in digests:
            manifest = await self._cache.index.manifest_of(repository, name)
            if manifest is None:
                missing.append(name)
                continue
            images.append(manifest)
            for blob in manifest.blobs:
                if not blob.optional and await self._cache.cached_size(repository, blob) is None:
                    missing.append(blob.digest)
        if missing:
            names = ", ".join(map(str, missing[:MISSING_IN_MESSAGE]))
            raise ImportIncomplete(
                f"{image} is not whole: {counted(len(missing), 'blob')} of it "
                f"{'is' if len(missing) == 1 else 'are'} neither in the archive nor cached here "
                f"({names}{', …' if len(missing) > MISSING_IN_MESSAGE else ''}).",
                "Export it again with a new inventory of this site, or without --missing-from.",
            )
        if not any(manifest.blobs or not manifest.children for manifest in images):
            await self._check_child(repository, images, image)
        return images

    async def _check_child(
        self, repository: Repository, indexes: Sequence[Manifest], image: str
    ) -> None:
        """Raise `ImportIncomplete` where no image of some indexes is here."""
        for child in [child for index in indexes for child in index.children]:
            manifest = await self._cache.index.manifest_of(repository, child.digest)
            if (
                manifest is not None
                and manifest.blobs
                and not await self._missing(repository, manifest)
            ):
                return
        raise ImportIncomplete(
            f"The archive has an index of {image}, and none of the images that it lists.",
            "Export it again for the platforms that you need.",
        )

    async def _record_platform(self, repository: Repository, manifest: Manifest) -> None:
        """Read the platform of an image that no index names from its config."""
        config = _config(manifest)
        if (
            config is None
            or await self._catalog.platform_of(repository, manifest.digest) is not None
        ):
            return
        count = self._blobs.size(config.digest)
        if count is None or count > CONFIG_LIMIT:
            return
        with suppress(FileNotFoundError):
            content = b"".join([chunk async for chunk in self._blobs.read(config.digest, 0, count)])
            if (platform := config_platform(content)) is not None:
                await self._catalog.set_platform(repository, manifest.digest, platform)


def _import_event(image: str, route: Route, outcome: TagImport | None) -> str:
    if outcome is TagImport.NEWER_HERE:
        why = f"{route.source} was asked later here where the tag points"
    elif outcome is TagImport.INDEX_HERE:
        why = "the tag stays at the index here that lists it"
    else:
        return f"{image} is imported; the cache rule {route.rule.name} answers for it."
    return f"{image} is imported by its digest alone: {why}."


def _config(manifest: Manifest) -> Descriptor | None:
    return next((blob for blob in manifest.blobs if blob.kind is ReferenceKind.CONFIG), None)


def _tag_state(state: TransferredTag | None, now: float) -> TagState:
    """The state of a tag; one from an archive of another program was checked just now."""
    if state is None:
        return TagState(now, now)
    return TagState(state.cached, state.checked, state.last_pull, state.gone, state.locked)


def _is_platform(text: str) -> bool:
    parts = text.split("/")
    return 2 <= len(parts) <= 3 and all(map(PLATFORM_PART.fullmatch, parts))


def _too_large(digest: Digest, count: int, limit: int) -> ImportTooLarge:
    return ImportTooLarge(
        f"{digest} needs {size(count)}, and the cache has no room for it: its limit is "
        f"{size(limit)}, and what else is cached can't be evicted.",
        "Raise size_limit in settings.toml, or give the data directory a larger disk.",
    )
