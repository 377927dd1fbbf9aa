"""Exports: what belongs to an image, and its bytes.

``entrepot export`` asks for the plan of one image after the other and then for its blobs, so that
neither the engine nor the command has a whole export in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from entrepot.api.transfer_models import (
    ExportPlan,
    InventoryLine,
    PlannedBlob,
    PlannedManifest,
    TransferredTag,
)
from entrepot.cache.cache import NESTED_INDEXES, PLATFORMS_IN_MESSAGE, ArtifactCache
from entrepot.cache.cached_referrers import CachedReferrers
from entrepot.cache.fill import Fill
from entrepot.cache.results import CachedBlob
from entrepot.cache.source_lists import listed_digests
from entrepot.core.platforms import Platform
from entrepot.core.readers import ADMINISTRATOR
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.engine.pulls import own_platform
from entrepot.engine.routing import Routing
from entrepot.errors import BlobUnknown, EntrepotError, NotFound, Refusal
from entrepot.source.errors import SourceError
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Descriptor, Manifest, artifact_type_of, attestations
from entrepot.store.transfer import TagState

SIGNATURE_SUFFIXES = (".sig", ".att", ".sbom")
"""Ends of the tags ``sha256-<hex>.sig`` that cosign gives to signatures, attestations and SBOMs."""

REFERRERS_OF_REFERRERS = 2
"""Levels of referrers that come along: the signature of an SBOM is about a referrer."""

MANIFESTS_LIMIT = 1_000
"""Manifests of one image that are exported at most."""

CONTENT_LIMIT = 64 * 1024 * 1024
"""Bytes of the manifests of one image that are exported at most."""

INVENTORY_PAGE = 500
"""Blobs of an inventory that are read at a time."""


class ImageTooLarge(Refusal):
    """An image has more manifests than an export takes."""

    code = "ImageTooLarge"


@dataclass(slots=True)
class _Selection:
    """The manifests of one export, from the top down."""

    manifests: dict[Digest, PlannedManifest] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    left_out: dict[str, None] = field(default_factory=dict)
    size: int = 0

    def add(
        self, manifest: Manifest, platform: str | None = None, *, is_referrer: bool = False
    ) -> None:
        if manifest.digest in self.manifests:
            return
        self.size += len(manifest.content)
        if len(self.manifests) >= MANIFESTS_LIMIT or self.size > CONTENT_LIMIT:
            raise ImageTooLarge(
                f"The image has more than {MANIFESTS_LIMIT:,} manifests, or more than "
                f"{CONTENT_LIMIT:,} bytes of them.",
                "Name the platforms that you need with --platform.",
            )
        self.manifests[manifest.digest] = PlannedManifest(
            digest=str(manifest.digest),
            media_type=manifest.media_type,
            content=manifest.content,
            platform=platform,
            is_referrer=is_referrer,
            artifact_type=artifact_type_of(manifest.content) if is_referrer else None,
        )
        for blob in manifest.blobs:
            self.blobs.setdefault(blob.digest, blob)


class ExportService:
    """The exports of one engine."""

    def __init__(self, *, cache: ArtifactCache, catalog: Catalog, routing: Routing) -> None:
        self._cache = cache
        self._catalog = catalog
        self._routing = routing
        self._referrers = CachedReferrers(catalog)

    async def plan(
        self,
        image: str,
        *,
        platforms: Sequence[str] = (),
        cached_only: bool = False,
        everything: bool = False,
    ) -> ExportPlan:
        """All that belongs to an image.

        Of an index: the images for *platforms*, without any those that are cached, with
        *everything* all. What is not cached is fetched, or with *cached_only* left out. Raises
        `NotFound`, `PlatformInvalid` and what `ArtifactCache.manifest` raises.
        """
        requested = [Platform.parse(platform) for platform in platforms]
        reference = ImageReference.parse(image)
        repository = reference.repository
        manifest, state = await self._root(repository, reference.manifest, cached_only)
        selection = _Selection()
        await self._select(
            repository,
            manifest,
            selection,
            requested,
            cached_only=cached_only,
            everything=everything,
            platform=await self._catalog.platform_of(repository, manifest.digest),
        )
        if len(selection.manifests) == int(manifest.is_index) and selection.left_out:
            raise _no_image(reference, requested, selection, cached_only)
        subjects = list(selection.manifests)
        for _ in range(REFERRERS_OF_REFERRERS):
            subjects = [
                digest
                for subject in subjects
                for digest in await self._add_referrers(repository, subject, selection, cached_only)
            ]
        source = await self._source(repository)
        blobs = [
            planned
            for descriptor in selection.blobs.values()
            if (planned := await self._planned(repository, descriptor, cached_only)) is not None
        ]
        return ExportPlan(
            repository=repository,
            tag=reference.tag if reference.digest is None else None,
            digest=str(manifest.digest),
            source=source,
            state=None if state is None else _transferred(state),
            manifests=tuple(selection.manifests.values()),
            blobs=tuple(blobs),
            related_tags=await self._related_tags(
                # Nobody signs a signature: no source is asked for that.
                repository,
                manifest.digest,
                list(selection.manifests),
                cached_only or everything,
            ),
            left_out=tuple(selection.left_out),
        )

    async def _root(
        self, repository: Repository, reference: Tag | Digest, cached_only: bool
    ) -> tuple[Manifest, TagState | None]:
        """The manifest that an image names, and the state of its tag."""
        for is_last in (False, True):
            entry = None
            if isinstance(reference, Digest):
                digest, state = reference, None
            elif (entry := await self._catalog.tag_state(repository, reference)) is not None:
                digest, state = entry
            if isinstance(reference, Digest) or entry is not None:
                manifest = await self._cache.index.manifest_of(repository, digest)
                if manifest is not None:
                    return manifest, state
            if cached_only or is_last:
                break
            await self._cache.manifest(repository, reference, reader=ADMINISTRATOR)
        sign = "@" if isinstance(reference, Digest) else ":"
        raise NotFound(
            f"{repository}{sign}{reference} is not cached.",
            "See what is with: entrepot repository list"
            if cached_only
            else "The catalog may not be writable: see entrepot doctor.",
            field="image",
        )

    async def _select(
        self,
        repository: Repository,
        manifest: Manifest,
        selection: _Selection,
        platforms: Sequence[Platform],
        *,
        cached_only: bool,
        everything: bool,
        platform: str | None = None,
        depth: int = 0,
    ) -> None:
        """Add a manifest, and of an index the children that are exported."""
        if not manifest.is_index:
            if cached_only and not await self._is_whole(repository, manifest):
                selection.left_out[platform or str(manifest.digest)] = None
            else:
                selection.add(manifest, platform)
            return
        selection.add(manifest)
        if depth >= NESTED_INDEXES:
            return
        children = await self._children(repository, manifest, platforms, cached_only, everything)
        about = attestations(manifest.content)
        for child in manifest.children:
            subject = about.get(str(child.digest))
            if child.digest not in children:
                if subject is None:
                    selection.left_out[child.platform or str(child.digest)] = None
                continue
            content = await self._manifest(repository, child.digest, cached_only)
            if content is not None:
                await self._select(
                    repository,
                    content,
                    selection,
                    platforms,
                    cached_only=cached_only,
                    everything=everything,
                    platform=child.platform,
                    depth=depth + 1,
                )

    async def _children(
        self,
        repository: Repository,
        index: Manifest,
        platforms: Sequence[Platform],
        cached_only: bool,
        everything: bool,
    ) -> set[Digest]:
        """The children of an index that are exported, with the attestations about them."""
        about = attestations(index.content)
        if everything:
            return {child.digest for child in index.children}
        if platforms:
            best = [index.child_for(platform) for platform in platforms]
            chosen = {child.digest for child in best if child is not None}
        else:
            chosen = {
                child.digest
                for child in index.children
                if str(child.digest) not in about and await self._is_begun(repository, child.digest)
            }
            if not chosen and not cached_only:
                own = index.child_for(own_platform())
                chosen = {own.digest} if own is not None else set()
        names = {str(digest) for digest in chosen}
        return chosen | {
            child.digest for child in index.children if about.get(str(child.digest)) in names
        }

    async def _is_begun(self, repository: Repository, digest: Digest) -> bool:
        """Whether a manifest and one of its blobs, or of its children, are cached."""
        manifest = await self._cache.index.manifest_of(repository, digest)
        if manifest is None:
            return False
        if manifest.is_index:
            return True
        for blob in manifest.blobs:
            if await self._cache.cached_size(repository, blob) is not None:
                return True
        return not manifest.blobs

    async def _is_whole(self, repository: Repository, manifest: Manifest) -> bool:
        for blob in manifest.blobs:
            if not blob.optional and await self._cache.cached_size(repository, blob) is None:
                return False
        return True

    async def _manifest(
        self, repository: Repository, digest: Digest, cached_only: bool
    ) -> Manifest | None:
        manifest = await self._cache.index.manifest_of(repository, digest)
        if manifest is None and not cached_only:
            answer = await self._cache.manifest(repository, digest, reader=ADMINISTRATOR)
            manifest = answer.manifest
        return manifest

    async def _add_referrers(
        self, repository: Repository, subject: Digest, selection: _Selection, cached_only: bool
    ) -> list[Digest]:
        """Add the referrers of a manifest, and return those that are new."""
        digests = dict.fromkeys(await self._referrers.of(repository, subject))
        if not cached_only and self._routing.route(repository) is not None:
            # Without an answer of the source, what is cached has to do.
            with suppress(EntrepotError):
                answer = await self._cache.referrers(
                    repository, subject, None, reader=ADMINISTRATOR
                )
                digests |= dict.fromkeys(listed_digests(answer.listing.body)[:MANIFESTS_LIMIT])
        added = []
        for digest in digests:
            if digest in selection.manifests:
                continue
            manifest = None
            with suppress(EntrepotError):
                manifest = await self._manifest(repository, digest, cached_only)
            if manifest is None or (cached_only and not await self._is_whole(repository, manifest)):
                continue
            selection.add(manifest, is_referrer=True)
            added.append(digest)
        return added

    async def _related_tags(
        self,
        repository: Repository,
        root: Digest,
        digests: Sequence[Digest],
        cached_only: bool,
    ) -> tuple[str, ...]:
        """Tags that name an image's signatures: of cosign, and of the referrers tag schema."""
        tags = []
        for digest in digests:
            for suffix in ("", *SIGNATURE_SUFFIXES):
                tag = Tag(f"{digest.algorithm}-{digest.hex}{suffix}"[:128])
                is_there = await self._catalog.tag_state(repository, tag) is not None
                if (
                    not is_there
                    and suffix
                    and digest == root
                    and not cached_only
                    and self._routing.route(repository) is not None
                ):
                    with suppress(EntrepotError):
                        await self._cache.describe_manifest(repository, tag, reader=ADMINISTRATOR)
                        is_there = True
                if is_there:
                    tags.append(tag)
        return tuple(tags)

    async def _planned(
        self, repository: Repository, blob: Descriptor, cached_only: bool
    ) -> PlannedBlob | None:
        size = await self._cache.cached_size(repository, blob)
        is_cached = size is not None
        if size is None:
            if cached_only or blob.optional:
                return None
            size = blob.size
        if size is None:
            description = await self._cache.describe_blob(
                repository, blob.digest, reader=ADMINISTRATOR
            )
            size = description.size
        return PlannedBlob(
            digest=str(blob.digest), size=size, media_type=blob.media_type, cached=is_cached
        )

    async def _source(self, repository: Repository) -> str:
        route = self._routing.route(repository)
        if route is not None:
            return route.source
        return await self._cache.index.source_of(repository) or ""

    async def blob(
        self, repository: Repository, digest: Digest, *, cached_only: bool = False
    ) -> CachedBlob | Fill:
        """A blob of an export: its cached copy, else its fill.

        Raises what `ArtifactCache.blob` raises; with *cached_only* `BlobUnknown` for a blob that
        was evicted since it was planned.
        """
        if cached_only:
            descriptor = await self._cache.index.blob_of(repository, digest)
            if descriptor is None or await self._cache.cached_size(repository, descriptor) is None:
                raise BlobUnknown(
                    f"The blob {digest} of {repository} was evicted, or its copy was damaged, "
                    "while it was exported.",
                    "Export the image again; without --cached-only it is fetched again.",
                )
        return await self._cache.blob(
            repository, digest, reader=ADMINISTRATOR, asked_by="entrepot export"
        )

    def blob_failed(
        self, repository: Repository, digest: Digest, error: SourceError
    ) -> EntrepotError:
        """The error for an export whose blob the source does not send."""
        return self._cache.blob_failed(repository, digest, error)

    async def inventory(self) -> AsyncGenerator[Sequence[InventoryLine]]:
        """All cached blobs, by digest, a page at a time."""
        last: Digest | None = None
        while page := await self._catalog.inventory_after(last, INVENTORY_PAGE):
            yield [
                InventoryLine(
                    str(entry.digest),
                    entry.size,
                    None
                    if any(not origin.with_credentials for origin in entry.origins)
                    else tuple(sorted(origin.login_server for origin in entry.origins)),
                )
                for entry in page
            ]
            last = page[-1].digest


def _no_image(
    image: ImageReference,
    platforms: Sequence[Platform],
    selection: _Selection,
    cached_only: bool,
) -> NotFound:
    wanted = f" for {', '.join(map(str, platforms))}" if platforms else ""
    others = list(selection.left_out)[:PLATFORMS_IN_MESSAGE]
    return NotFound(
        f"No image of {image}{wanted} is cached whole."
        if cached_only
        else f"{image} has no image{wanted}.",
        f"It has: {', '.join(others)}." if others else "",
        field="platform",
    )


def _transferred(state: TagState) -> TransferredTag:
    return TransferredTag(
        cached=state.cached,
        checked=state.checked,
        last_pull=state.last_pull,
        gone=state.gone,
        locked=state.locked,
    )
