"""What an eviction removes when room is needed.

A pure decision on an inventory of the cache. Images are removed, least recently used first, until
the cache is at or below a goal. An image is a manifest of one repository with cached blobs, with
the tags that point at it or at an index above it. Blobs are counted by reference: a blob that a
remaining image needs frees nothing, a blob that several evicted images share frees its bytes once.
An image that would free nothing, because remaining images need all its blobs, stays too.

These stay: what is locked, with everything that it needs (a locked index keeps the cached images
below it); what is being pulled now; what was used within `RECENT` seconds.

An image was used when its manifest was requested by tag or digest, when an index above it was (it
is unknown which of its platforms the client has), or when a client got one of its distinctive
blobs: those that the fewest manifests refer to. A base layer that a popular image shares with an
unused one does not keep the unused one.

An index is removed with the last image below it that the repository has. A manifest without any
cached blob, as a HEAD request leaves it, costs a few kilobytes in the catalog and is removed after
`EMPTY_STAYS`. Where the size of the catalog counts, each manifest weighs its share of it, and the
empty ones are removed in the same order as the images (S11).

Adopted blobs, files that the catalog had no row for, are referred to by no manifest yet. They stay
for `ADOPTED_STAYS`, because after the loss of a catalog the manifests come back one pull after the
other (L02); when room is needed they are removed first.

An inventory of ten thousand repositories has a hundred and fifty thousand objects. None of them is
part of a reference cycle, so the garbage collector ignores them (``gc=False``): scanning them
paused every thread for a tenth of a second, often.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from entrepot.core.reference import Digest, Repository, Tag

RECENT = 60.0
"""Seconds for which a used image is not evicted: its client may still request the rest of it."""

EMPTY_STAYS = 30 * 86_400.0
"""Seconds for which a manifest without any cached blob stays after its last request."""

ADOPTED_STAYS = 86_400.0
"""Seconds for which an adopted blob stays although no manifest refers to it."""

Key = tuple[Repository, Digest]
"""A manifest of a repository."""


class InventoryManifest(msgspec.Struct, frozen=True, gc=False):
    """A manifest of one repository as eviction sees it.

    *last_requested* is when a client last requested it, else when it was cached, in seconds since
    the epoch.
    """

    repository: Repository
    digest: Digest
    platform: str | None
    last_requested: float
    locked: bool
    """Whether it, its repository, or a tag that points at it is locked."""
    tags: tuple[Tag, ...] = ()
    children: tuple[Digest, ...] = ()
    """Of an index: those of its manifests that are cached in the repository."""
    blobs: tuple[Digest, ...] = ()
    """Those that are cached."""
    size: int = 0
    """Bytes of the manifest itself."""

    @property
    def key(self) -> Key:
        """Repository and digest."""
        return self.repository, self.digest


class InventoryBlob(msgspec.Struct, frozen=True, gc=False):
    """A cached blob: its size in bytes, and when a client last got it.

    That is when it was cached, where no client got it.
    """

    size: int
    last_used: float
    adopted: float | None = None
    """When it was adopted, as long as no manifest refers to it."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The cached manifests and blobs."""

    manifests: Sequence[InventoryManifest]
    blobs: Mapping[Digest, InventoryBlob]


class PlannedImage(msgspec.Struct, frozen=True, gc=False):
    """An image to be evicted.

    *freed* is in bytes: a blob that several evicted images share counts for the last of them.
    """

    manifest: InventoryManifest
    tags: tuple[Tag, ...]
    """Tags that point at it or at an index above it."""
    last_used: float
    last_requested: float
    """When it or an index above it was last requested."""
    distinctive_blobs: tuple[Digest, ...]
    """The blobs whose use counts as a use of the image."""
    freed: int


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What is to be evicted, and what remains. Sizes are in bytes."""

    images: tuple[PlannedImage, ...]
    """In the order of eviction, the least recently used first."""
    empty: tuple[Key, ...]
    """Manifests without cached blobs that were not requested for a long time."""
    empty_since: float
    size: int
    """Of all blobs and what counts of the catalog, before."""
    remaining: int
    """Of all blobs and what counts of the catalog, after."""
    goal: int
    locked_size: int
    """Of the blobs that locked images need."""
    in_use_size: int = 0
    """Of the other blobs that images being pulled need; counted only where the goal is missed."""
    recent_size: int = 0
    """Of the other blobs that images used within `RECENT` seconds need; counted only likewise."""
    adopted: tuple[Digest, ...] = ()
    """Adopted blobs that no manifest refers to and whose room is needed."""
    adopted_size: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is evicted."""
        return not (self.images or self.empty or self.adopted)

    def parts(self, count: int) -> Iterator[EvictionPlan]:
        """The same plan in parts of *count* images and as many empty manifests each."""
        for start in range(0, max(1, len(self.images), len(self.empty)), count):
            part = slice(start, start + count)
            yield replace(
                self,
                images=self.images[part],
                empty=self.empty[part],
                adopted=self.adopted if start == 0 else (),
            )


def plan_eviction(
    inventory: Inventory,
    *,
    goal: int,
    now: float,
    in_use: Collection[Key] = (),
    catalog_size: int = 0,
) -> EvictionPlan:
    """Plan an eviction down to *goal* bytes of blobs and of the catalog.

    *catalog_size* are the bytes that count of the catalog. *in_use* are the manifests that are
    being pulled or that have a blob on its way in. With a goal of 0, all manifests without cached
    blobs are removed too.
    """
    manifests = {manifest.key: manifest for manifest in inventory.manifests}
    locked_keys = _locked_with_all_below(manifests)
    last_requested = _last_requested(manifests)
    distinctive_blobs = _distinctive_blobs(inventory)
    users: dict[Digest, int] = {}
    for manifest in inventory.manifests:
        for blob in manifest.blobs:
            users[blob] = users.get(blob, 0) + 1
    size = sum(blob.size for blob in inventory.blobs.values()) + catalog_size
    orphans = {digest: blob for digest, blob in inventory.blobs.items() if digest not in users}
    staying = {digest: blob for digest, blob in orphans.items() if stays_adopted(blob.adopted, now)}
    # The other orphans are removed anyway, as soon as they have no reader.
    remaining = size - sum(blob.size for digest, blob in orphans.items() if digest not in staying)
    adopted: list[Digest] = []
    for digest in sorted(staying, key=lambda digest: (staying[digest].last_used, digest)):
        if remaining <= goal:
            break
        adopted.append(digest)
        remaining -= staying[digest].size
    weight = _weights(inventory, catalog_size)
    holders: dict[Digest, int] = {}
    for manifest in inventory.manifests:
        holders[manifest.digest] = holders.get(manifest.digest, 0) + 1

    def last_used(image: InventoryManifest) -> float:
        return max(
            (
                last_requested[image.key],
                *(inventory.blobs[blob].last_used for blob in distinctive_blobs[image.digest]),
            )
        )

    def past_use(image: InventoryManifest) -> float:
        # S14: a use in the future counts as none. After a clock was ahead, all images would be in
        # use until the time that it showed.
        used = last_used(image)
        return used if used <= now else 0.0

    removes_empty = catalog_size > 0 or goal <= 0
    # The key makes the order deterministic, also for images that were cached in the same moment.
    images = sorted(
        (past_use(manifest), manifest.key)
        for manifest in inventory.manifests
        if (manifest.blobs or removes_empty)
        and not manifest.children
        and manifest.key not in locked_keys
    )
    candidates: list[tuple[InventoryManifest, int]] = []
    empty: list[Key] = []
    for used, key in images:
        if (remaining <= goal and goal > 0) or used > now - RECENT:
            break
        if key in in_use:
            continue
        image, freed = manifests[key], 0
        for blob in image.blobs:
            users[blob] -= 1
            if users[blob] == 0:
                freed += inventory.blobs[blob].size
        holders[image.digest] -= 1
        if holders[image.digest] == 0:
            freed += weight.get(image.digest, 0)
        remaining -= freed
        if image.blobs:
            candidates.append((image, freed))
        else:
            empty.append(key)
    locked = {blob for key in locked_keys for blob in manifests[key].blobs}
    in_use_size = recent_size = 0
    if remaining > goal:
        being_pulled = {
            blob for key in in_use if key in manifests for blob in manifests[key].blobs
        } - locked
        recent = (
            {blob for used, key in images if used > now - RECENT for blob in manifests[key].blobs}
            - locked
            - being_pulled
        )
        in_use_size = sum(inventory.blobs[blob].size for blob in being_pulled)
        recent_size = sum(inventory.blobs[blob].size for blob in recent)
    evicted = [
        (image, freed)
        for image, freed in candidates
        if any(users[blob] == 0 for blob in image.blobs)
        or (image.digest in weight and holders[image.digest] == 0)
    ]
    above = _above(manifests)
    old_empty = (
        key
        for key, manifest in manifests.items()
        if not manifest.blobs
        and not manifest.children
        and key not in locked_keys
        and key not in in_use
        and last_requested[key] < now - EMPTY_STAYS
    )

    def tags_of(image: InventoryManifest) -> tuple[Tag, ...]:
        tags_above = (tag for key in above.get(image.key, ()) for tag in manifests[key].tags)
        return tuple(dict.fromkeys([*image.tags, *tags_above]))

    return EvictionPlan(
        images=tuple(
            PlannedImage(
                manifest=image,
                tags=tags_of(image),
                last_used=last_used(image),
                last_requested=last_requested[image.key],
                distinctive_blobs=distinctive_blobs[image.digest],
                freed=freed,
            )
            for image, freed in evicted
        ),
        empty=tuple(dict.fromkeys([*empty, *old_empty])),
        empty_since=now - (RECENT if empty else EMPTY_STAYS),
        size=size,
        remaining=remaining,
        goal=goal,
        locked_size=sum(inventory.blobs[blob].size for blob in locked),
        in_use_size=in_use_size,
        recent_size=recent_size,
        adopted=tuple(adopted),
        adopted_size=sum(staying[digest].size for digest in adopted),
    )


def stays_adopted(adopted: float | None, now: float) -> bool:
    """Whether a blob that no manifest refers to stays, because it was adopted recently.

    A time in the future counts as never.
    """
    return adopted is not None and 0 <= now - adopted < ADOPTED_STAYS


def _weights(inventory: Inventory, catalog_size: int) -> dict[Digest, int]:
    """The bytes of the catalog that each manifest accounts for, by its own size."""
    sizes = {manifest.digest: manifest.size for manifest in inventory.manifests}
    total = sum(sizes.values())
    if catalog_size <= 0 or total <= 0:
        return {}
    return {digest: size * catalog_size // total for digest, size in sizes.items()}


def confirm(
    plan: EvictionPlan, manifests: Iterable[InventoryManifest], *, used: Collection[Key] = ()
) -> set[Key]:
    """The manifests of a plan that may still be evicted, and the emptied indexes.

    *manifests* are all manifests of the plan's repositories now; their blobs do not count. An image
    that was requested or locked since the plan was made stays, and so does one in *used*.
    """
    current = {manifest.key: manifest for manifest in manifests}
    locked_keys = _locked_with_all_below(current)
    last_requested = _last_requested(current)
    evicted = {
        image.manifest.key
        for image in plan.images
        if (manifest := current.get(image.manifest.key)) is not None
        and manifest.key not in locked_keys
        and not manifest.children
        and last_requested[manifest.key] <= image.last_requested
        and manifest.key not in used
    }
    evicted |= {
        key
        for key in plan.empty
        if key in current
        and key not in locked_keys
        and not current[key].children
        and last_requested[key] < plan.empty_since
    }
    while True:
        # An index may contain another one.
        emptied = {
            key
            for key, manifest in current.items()
            if manifest.children
            and key not in evicted
            and key not in locked_keys
            and all((manifest.repository, child) in evicted for child in manifest.children)
        }
        if not emptied:
            return evicted
        evicted |= emptied


def locked_above(manifests: Iterable[InventoryManifest], key: Key) -> list[InventoryManifest]:
    """The locked manifests that keep a manifest: itself, and indexes that lead to it."""
    by_key = {manifest.key: manifest for manifest in manifests}
    return [
        manifest
        for manifest in by_key.values()
        if manifest.locked and key in _with_all_below(manifest, by_key)
    ]


def _locked_with_all_below(manifests: Mapping[Key, InventoryManifest]) -> set[Key]:
    return {
        key
        for manifest in manifests.values()
        if manifest.locked
        for key in _with_all_below(manifest, manifests)
    }


def _last_requested(manifests: Mapping[Key, InventoryManifest]) -> dict[Key, float]:
    """When each manifest or an index above it was last requested."""
    last_requested = {key: manifest.last_requested for key, manifest in manifests.items()}
    for manifest in manifests.values():
        if manifest.children:
            for key in _with_all_below(manifest, manifests):
                last_requested[key] = max(last_requested[key], manifest.last_requested)
    return last_requested


def _above(manifests: Mapping[Key, InventoryManifest]) -> dict[Key, list[Key]]:
    """For each manifest below an index, all indexes above it."""
    above: dict[Key, list[Key]] = {}
    for manifest in manifests.values():
        if manifest.children:
            for key in _with_all_below(manifest, manifests):
                if key != manifest.key:
                    above.setdefault(key, []).append(manifest.key)
    return above


def _with_all_below(
    manifest: InventoryManifest, manifests: Mapping[Key, InventoryManifest]
) -> Iterator[Key]:
    """A manifest and all manifests of its repository that it leads to."""
    visited: set[Key] = set()
    ahead = [manifest.key]
    while ahead:
        key = ahead.pop()
        if key in visited or key not in manifests:
            continue
        visited.add(key)
        yield key
        ahead.extend((manifest.repository, child) for child in manifests[key].children)


def _distinctive_blobs(inventory: Inventory) -> dict[Digest, tuple[Digest, ...]]:
    """For each manifest those of its blobs that the fewest manifests refer to.

    A client that gets one of them most likely pulls this image.
    """
    blobs_of = {manifest.digest: manifest.blobs for manifest in inventory.manifests}
    sharers: dict[Digest, int] = {}
    for blobs in blobs_of.values():
        for blob in blobs:
            sharers[blob] = sharers.get(blob, 0) + 1
    distinctive_blobs = {}
    for digest, blobs in blobs_of.items():
        fewest = min((sharers[blob] for blob in blobs), default=0)
        distinctive_blobs[digest] = tuple(blob for blob in blobs if sharers[blob] == fewest)
    return distinctive_blobs
