"""What goes when room is needed: a pure decision on a inventory of what is held.

Images go, least recently used first, until what is held is at or below a goal. An image is a
manifest of one repository whose blobs are held, with the tags that point at it or at an index above
it. Blobs are counted by reference: one that an image needs which stays frees nothing, one that
several evicted images share frees its bytes once. An image that would free nothing, because others
that stay need all its blobs, stays as well.

These stay: what is locked, with all that it needs (a locked index keeps the images below it that
are held); what is being pulled now; what was used within `RECENT` seconds.

An image was used when its manifest was asked for by tag or digest, when an index above it was
(nobody can tell which of its platforms the client already has), or when a client got one of those
of its blobs that tell it from other images: the ones that the fewest manifests refer to. A base
layer that a popular image shares with a forgotten one does not keep the forgotten one.

An index goes with the last image below it that the repository holds. A manifest without anything
held, left by a client that only looked, costs a few kilobytes in the catalog and goes after
`EMPTY_STAYS`. Where the catalog itself takes room that counts, each manifest weighs its share of
it, and the empty ones go in the same order as the images (S11).

Blobs that were adopted, files of which the catalog knew nothing, are needed by no manifest yet.
They stay for `ADOPTED_STAYS`, for after the loss of a catalog the manifests come back one pull
after the other (L02); when room is needed they go first.

A inventory of ten thousand repositories is a hundred and fifty thousand objects. None of them leads
back to itself, and the garbage collector is told so (``gc=False``): while it looked at all of them
it held up every thread for a tenth of a second, and often.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from entrepot.core.reference import Digest, Repository, Tag

RECENT = 60.0
"""Seconds for which what was used is not evicted: its client may yet ask for the rest of the image."""

EMPTY_STAYS = 30 * 86_400.0
"""Seconds for which a manifest without any held blob is kept after it was last asked for."""

ADOPTED_STAYS = 86_400.0
"""Seconds for which an adopted blob is kept although no manifest refers to it."""

Key = tuple[Repository, Digest]
"""A manifest of a repository."""


class InventoryManifest(msgspec.Struct, frozen=True, gc=False):
    """A manifest of one repository as eviction sees it. *asked* is when a client last got or saw
    it, else when it came, in seconds since the epoch."""

    repository: Repository
    digest: Digest
    platform: str | None
    last_requested: float
    locked: bool
    """It, its repository, or a tag that points at it is."""
    tags: tuple[Tag, ...] = ()
    children: tuple[Digest, ...] = ()
    """Of an index: those of its manifests that the repository holds."""
    blobs: tuple[Digest, ...] = ()
    """Those that are held."""
    size: int = 0
    """Bytes of its content."""

    @property
    def key(self) -> Key:
        """Its repository and digest."""
        return self.repository, self.digest


class InventoryBlob(msgspec.Struct, frozen=True, gc=False):
    """The size of a held blob in bytes, and when a client last got it (or when it came)."""

    size: int
    last_used: float
    adopted: float | None = None
    """When it was adopted, for as long as no manifest refers to it."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is held."""

    manifests: Sequence[InventoryManifest]
    blobs: Mapping[Digest, InventoryBlob]


class PlannedImage(msgspec.Struct, frozen=True, gc=False):
    """An image that shall go. *freed* is in bytes: a blob that several evicted images share is
    counted for the one that goes last."""

    manifest: InventoryManifest
    tags: tuple[Tag, ...]
    """Those that point at it or at an index above it."""
    last_used: float
    last_requested: float
    """When it or an index above it was last asked for."""
    distinctive_blobs: tuple[Digest, ...]
    """The blobs whose use is its use."""
    freed: int


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What shall go, and what that leaves. Sizes are in bytes."""

    images: tuple[PlannedImage, ...]
    """In the order in which they go, the one used least recently first."""
    empty: tuple[Key, ...]
    """Manifests without anything held that nobody asked for in a long time."""
    empty_since: float
    size: int
    """Of all blobs and what counts of the catalog, before."""
    remaining: int
    """Of all blobs and what counts of the catalog, after."""
    goal: int
    locked_size: int
    """Of the blobs that locked images need."""
    in_use_size: int = 0
    """Of the other blobs, those of images that are being pulled. Counted only where the goal is
    missed."""
    recent_size: int = 0
    """Of the other blobs, those of images that were used within `RECENT` seconds. Counted only
    where the goal is missed."""
    adopted: tuple[Digest, ...] = ()
    """Adopted blobs that no manifest refers to, and whose room is needed."""
    adopted_size: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether nothing goes."""
        return not (self.images or self.empty or self.adopted)

    def parts(self, count: int) -> Iterator[EvictionPlan]:
        """The same plan in steps of *count* images and as many empty manifests, to be carried out
        one after the other."""
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
    """Decide what goes until at most *goal* bytes are held, blobs and the *catalog_size* bytes that
    count of the catalog together.

    *in_use* are the manifests that are being pulled or of which a blob is on its way in. With a
    goal of 0 all manifests without anything held go too.
    """
    known = {each.key: each for each in inventory.manifests}
    kept = _locked_with_all_below(known)
    last_requested = _last_asked(known)
    distinctive_blobs = _distinctive_blobs(inventory)
    users: dict[Digest, int] = {}
    for each in inventory.manifests:
        for blob in each.blobs:
            users[blob] = users.get(blob, 0) + 1
    size = sum(blob.size for blob in inventory.blobs.values()) + catalog_size
    orphans = {digest: blob for digest, blob in inventory.blobs.items() if digest not in users}
    staying = {digest: blob for digest, blob in orphans.items() if stays_adopted(blob.adopted, now)}
    # What no manifest refers to any more goes by itself as soon as nobody reads it.
    remaining = size - sum(blob.size for digest, blob in orphans.items() if digest not in staying)
    adopted: list[Digest] = []
    for digest in sorted(staying, key=lambda each: (staying[each].last_used, each)):
        if remaining <= goal:
            break
        adopted.append(digest)
        remaining -= staying[digest].size
    weight = _weights(inventory, catalog_size)
    holders: dict[Digest, int] = {}
    for each in inventory.manifests:
        holders[each.digest] = holders.get(each.digest, 0) + 1

    def last_used(image: InventoryManifest) -> float:
        return max(
            (
                last_requested[image.key],
                *(inventory.blobs[blob].last_used for blob in distinctive_blobs[image.digest]),
            )
        )

    def known_use(image: InventoryManifest) -> float:
        # S14: a use in the future counts as none. With a clock that was ahead, all would be in use
        # until the time that it had.
        used = last_used(image)
        return used if used <= now else 0.0

    empties_go = catalog_size > 0 or goal <= 0
    # The key makes the order the same each time, also for images that came in the same moment.
    images = sorted(
        (known_use(each), each.key)
        for each in inventory.manifests
        if (each.blobs or empties_go) and not each.children and each.key not in kept
    )
    chosen: list[tuple[InventoryManifest, float, int]] = []
    empty: list[Key] = []
    for used, key in images:
        if (remaining <= goal and goal > 0) or used > now - RECENT:
            break
        if key in in_use:
            continue
        image, freed = known[key], 0
        for blob in image.blobs:
            users[blob] -= 1
            if users[blob] == 0:
                freed += inventory.blobs[blob].size
        holders[image.digest] -= 1
        if holders[image.digest] == 0:
            freed += weight.get(image.digest, 0)
        remaining -= freed
        if image.blobs:
            chosen.append((image, used, freed))
        else:
            empty.append(key)
    locked = {blob for key in kept for blob in known[key].blobs}
    in_use_size = recent_size = 0
    if remaining > goal:
        being_pulled = {
            blob for key in in_use if key in known for blob in known[key].blobs
        } - locked
        recent = (
            {blob for used, key in images if used > now - RECENT for blob in known[key].blobs}
            - locked
            - being_pulled
        )
        in_use_size = sum(inventory.blobs[blob].size for blob in being_pulled)
        recent_size = sum(inventory.blobs[blob].size for blob in recent)
    going = [
        each
        for each in chosen
        if any(users[blob] == 0 for blob in each[0].blobs)
        or (each[0].digest in weight and holders[each[0].digest] == 0)
    ]
    above = _above(known)
    since = now - (RECENT if empty else EMPTY_STAYS)
    return EvictionPlan(
        images=tuple(
            PlannedImage(
                manifest=image,
                tags=tuple(
                    dict.fromkeys(
                        [
                            *image.tags,
                            *(tag for key in above.get(image.key, ()) for tag in known[key].tags),
                        ]
                    )
                ),
                last_used=last_used(image),
                last_requested=last_requested[image.key],
                distinctive_blobs=distinctive_blobs[image.digest],
                freed=freed,
            )
            for image, _, freed in going
        ),
        empty=tuple(
            dict.fromkeys(
                [
                    *empty,
                    *(
                        key
                        for key, each in known.items()
                        if not each.blobs
                        and not each.children
                        and key not in kept
                        and key not in in_use
                        and last_requested[key] < now - EMPTY_STAYS
                    ),
                ]
            )
        ),
        empty_since=since,
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
    """Whether a blob that no manifest refers to stays, because it was adopted lately. A time in the
    future counts as never."""
    return adopted is not None and 0 <= now - adopted < ADOPTED_STAYS


def _weights(inventory: Inventory, catalog_size: int) -> dict[Digest, int]:
    """The bytes of the catalog that each manifest stands for: its share of them, by the size of its
    content."""
    sizes = {each.digest: each.size for each in inventory.manifests}
    total = sum(sizes.values())
    if catalog_size <= 0 or total <= 0:
        return {}
    return {digest: size * catalog_size // total for digest, size in sizes.items()}


def confirm(
    made: EvictionPlan, manifests: Iterable[InventoryManifest], *, used: Collection[Key] = ()
) -> set[Key]:
    """What of a plan may still go, judged by *manifests*, all that the repositories of the plan
    hold now (their blobs are not looked at).

    An image that was asked for or locked since the plan was made stays, and so do those in *used*.
    The indexes below which nothing is left are among what goes.
    """
    known = {each.key: each for each in manifests}
    kept = _locked_with_all_below(known)
    last_requested = _last_asked(known)
    going = {
        each.manifest.key
        for each in made.images
        if (now := known.get(each.manifest.key)) is not None
        and now.key not in kept
        and not now.children
        and last_requested[now.key] <= each.last_requested
        and now.key not in used
    }
    going |= {
        key
        for key in made.empty
        if key in known
        and key not in kept
        and not known[key].children
        and last_requested[key] < made.empty_since
    }
    while True:
        # An index may stand in another one.
        emptied = {
            key
            for key, each in known.items()
            if each.children
            and key not in going
            and key not in kept
            and all((each.repository, child) in going for child in each.children)
        }
        if not emptied:
            return going
        going |= emptied


def locked_above(manifests: Iterable[InventoryManifest], key: Key) -> list[InventoryManifest]:
    """The locked manifests because of which one may not go: itself, and the indexes that lead to
    it."""
    known = {each.key: each for each in manifests}
    return [each for each in known.values() if each.locked and key in _below(each, known)]


def _locked_with_all_below(known: Mapping[Key, InventoryManifest]) -> set[Key]:
    return {key for each in known.values() if each.locked for key in _below(each, known)}


def _last_asked(known: Mapping[Key, InventoryManifest]) -> dict[Key, float]:
    last_requested = {key: each.last_requested for key, each in known.items()}
    for each in known.values():
        if each.children:
            for key in _below(each, known):
                last_requested[key] = max(last_requested[key], each.last_requested)
    return last_requested


def _above(known: Mapping[Key, InventoryManifest]) -> dict[Key, list[Key]]:
    above: dict[Key, list[Key]] = {}
    for each in known.values():
        if each.children:
            for key in _below(each, known):
                if key != each.key:
                    above.setdefault(key, []).append(each.key)
    return above


def _below(manifest: InventoryManifest, known: Mapping[Key, InventoryManifest]) -> Iterator[Key]:
    """Itself and all manifests of its repository that it leads to."""
    seen: set[Key] = set()
    ahead = [manifest.key]
    while ahead:
        key = ahead.pop()
        if key in seen or key not in known:
            continue
        seen.add(key)
        yield key
        ahead.extend((manifest.repository, child) for child in known[key].children)


def _distinctive_blobs(inventory: Inventory) -> dict[Digest, tuple[Digest, ...]]:
    """For each manifest those of its blobs that the fewest manifests refer to: a client that gets
    one of them most likely wants this image."""
    blobs_of = {each.digest: each.blobs for each in inventory.manifests}
    sharers: dict[Digest, int] = {}
    for blobs in blobs_of.values():
        for blob in blobs:
            sharers[blob] = sharers.get(blob, 0) + 1
    distinctive_blobs = {}
    for digest, blobs in blobs_of.items():
        fewest = min((sharers[blob] for blob in blobs), default=0)
        distinctive_blobs[digest] = tuple(blob for blob in blobs if sharers[blob] == fewest)
    return distinctive_blobs
