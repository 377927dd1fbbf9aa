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

The decision works on the numbers of an `Inventory`; what has names is created when it is read, for
a few images at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import compress
from math import isnan
from typing import NamedTuple

import msgspec

from entrepot.core.reference import Digest, Tag
from entrepot.store.inventory import Inventory as Inventory
from entrepot.store.inventory import InventoryBlob as InventoryBlob
from entrepot.store.inventory import InventoryManifest as InventoryManifest
from entrepot.store.inventory import Key as Key
from entrepot.store.inventory import digest_of_row

RECENT = 60.0
"""Seconds for which a used image is not evicted: its client may still request the rest of it."""

EMPTY_STAYS = 30 * 86_400.0
"""Seconds for which a manifest without any cached blob stays after its last request."""

ADOPTED_STAYS = 86_400.0
"""Seconds for which an adopted blob stays although no manifest refers to it."""


class PlannedImage(msgspec.Struct, frozen=True, gc=False):
    """An image to be evicted; its *manifest* is given without its blobs.

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


class PlannedRow(NamedTuple):
    """An image to be evicted, as a listing shows it; its digest is text."""

    repository: str
    tags: tuple[Tag, ...]
    digest: str
    platform: str | None
    freed: int
    last_used: float


class UsesSincePlan(NamedTuple):
    """What was used since a plan was made, or is about to be used: manifests and blobs."""

    manifests: Set[tuple[str, str]]
    """Repositories and digests, as text."""
    blobs: Set[str]
    """Digests, as text."""


NO_USES = UsesSincePlan(frozenset(), frozenset())


class InventoryUse:
    """An inventory with what is derived from it: the use and the locks of each of its links."""

    __slots__ = (
        "_above",
        "_children",
        "holders",
        "inventory",
        "last_requested",
        "last_used",
        "locked",
        "sharers",
        "users",
    )

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self._children = _child_links(inventory)
        self.last_requested = array("d", inventory.last_requested)
        """When each link or an index above it was last requested."""
        self.locked = bytearray(inventory.locked)
        """Whether each link or an index above it is locked."""
        self._above: dict[int, list[int]] = {}
        """For each link below an index, all indexes above it."""
        for index in self._children:
            requested = inventory.last_requested[index]
            for link in self._with_all_below(index):
                self.last_requested[link] = max(self.last_requested[link], requested)
                self.locked[link] |= inventory.locked[index]
                if link != index:
                    self._above.setdefault(link, []).append(index)
        self.holders = array("i", bytes(4 * len(inventory.content_sizes)))
        """How many links each content has."""
        for content in inventory.contents:
            self.holders[content] += 1
        self.sharers = array("i", bytes(4 * len(inventory.blob_sizes)))
        """How many contents refer to each blob."""
        self.users = array("i", self.sharers)
        """How many links need each blob."""
        for content, count in enumerate(self.holders):
            if count:
                for blob in inventory.blobs_of(content):
                    self.sharers[blob] += 1
                    self.users[blob] += count
        self.last_used = self._last_used()
        """When each link was last used."""

    def _last_used(self) -> array[float]:
        inventory, sharers = self.inventory, self.sharers
        blob_last_used = inventory.blob_last_used
        used = array("d")
        for content in range(len(self.holders)):
            latest, fewest = 0.0, 0
            for blob in inventory.blobs_of(content):
                if not fewest or sharers[blob] < fewest:
                    latest, fewest = blob_last_used[blob], sharers[blob]
                elif sharers[blob] == fewest and blob_last_used[blob] > latest:
                    latest = blob_last_used[blob]
            used.append(latest)
        return array("d", map(max, self.last_requested, map(used.__getitem__, inventory.contents)))

    def has_children(self, link: int) -> bool:
        """Whether a link is an index of which a manifest is cached."""
        return link in self.inventory.children

    def _with_all_below(self, link: int) -> Iterator[int]:
        """A link and all links that it leads to."""
        visited: set[int] = set()
        ahead = [link]
        while ahead:
            current = ahead.pop()
            if current not in visited:
                visited.add(current)
                yield current
                ahead.extend(self._children.get(current, ()))

    def tags_of(self, link: int) -> tuple[Tag, ...]:
        """The tags that point at a link or at an index above it."""
        tags = self.inventory.tags_of(link)
        if above := self._above.get(link):
            above_tags = (tag for index in above for tag in self.inventory.tags_of(index))
            return tuple(dict.fromkeys([*tags, *above_tags]))
        return tags

    def distinctive_blobs(self, content: int) -> tuple[Digest, ...]:
        """Those blobs of a content that the fewest contents refer to.

        A client that gets one of them most likely pulls this image.
        """
        return tuple(map(digest_of_row, self._distinctive_blobs(content)))

    def _distinctive_blobs(self, content: int) -> list[str]:
        blobs = self.inventory.blobs_of(content)
        fewest = min((self.sharers[blob] for blob in blobs), default=0)
        return [self.inventory.blob_digests[blob] for blob in blobs if self.sharers[blob] == fewest]

    def is_below_index(self, link: int) -> bool:
        """Whether an index above a link is cached in its repository."""
        return link in self._above

    def is_used(self, link: int, uses: UsesSincePlan) -> bool:
        """Whether a link, an index above it or one of its distinctive blobs is among some uses."""
        inventory = self.inventory
        if uses.manifests and any(
            inventory.text_key(used) in uses.manifests
            for used in (link, *self._above.get(link, ()))
        ):
            return True
        return bool(uses.blobs) and not uses.blobs.isdisjoint(
            self._distinctive_blobs(inventory.contents[link])
        )


def _child_links(inventory: Inventory) -> dict[int, tuple[int, ...]]:
    """For each link that is an index, the links of its manifests in the same repository."""
    if not inventory.children:
        return {}
    child_contents = {child for children in inventory.children.values() for child in children}
    links = {
        (inventory.repositories[link], content): link
        for link, content in enumerate(inventory.contents)
        if content in child_contents
    }
    return {
        index: tuple(
            links[key]
            for child in children
            if (key := (inventory.repositories[index], child)) in links
        )
        for index, children in inventory.children.items()
    }


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What is to be evicted, and what remains. Sizes are in bytes."""

    use: InventoryUse
    links: array[int]
    """The images, as links of the inventory, in the order of eviction: the least recently used
    first."""
    freed: array[int]
    """What each of them frees."""
    empty_links: array[int]
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
        return not (self.links or self.empty_links or self.adopted)

    @property
    def images(self) -> tuple[PlannedImage, ...]:
        """The images as objects, which takes much memory where there are many."""
        use, inventory = self.use, self.use.inventory
        return tuple(
            PlannedImage(
                manifest=inventory.manifest(link, with_blobs=False),
                tags=use.tags_of(link),
                last_used=use.last_used[link],
                last_requested=use.last_requested[link],
                distinctive_blobs=use.distinctive_blobs(inventory.contents[link]),
                freed=freed,
            )
            for link, freed in zip(self.links, self.freed, strict=True)
        )

    @property
    def empty(self) -> tuple[Key, ...]:
        """The keys of the manifests without cached blobs."""
        return tuple(map(self.use.inventory.key, self.empty_links))

    @property
    def images_size(self) -> int:
        """What all the images free."""
        return sum(self.freed)

    @property
    def oldest_use(self) -> float:
        """When the least recently used image was used; there is one."""
        return min(self.use.last_used[link] for link in self.links)

    @property
    def repositories_count(self) -> int:
        """The number of repositories of the images."""
        repositories = self.use.inventory.repositories
        return len({repositories[link] for link in self.links})

    def rows(self, start: int, end: int) -> Iterator[PlannedRow]:
        """Some of the images, as a listing shows them."""
        use, inventory = self.use, self.use.inventory
        for link, freed in zip(self.links[start:end], self.freed[start:end], strict=True):
            repository, digest = inventory.text_key(link)
            yield PlannedRow(
                repository,
                use.tags_of(link),
                digest,
                inventory.platforms[link],
                freed,
                use.last_used[link],
            )

    def only(self, links: Container[int]) -> EvictionPlan:
        """The same plan with those images that are among some *links*."""
        kept = [link in links for link in self.links]
        if all(kept):
            return self
        return replace(
            self,
            links=array("i", compress(self.links, kept)),
            freed=array("q", compress(self.freed, kept)),
        )

    def parts(self, count: int, after: int = 0) -> Iterator[EvictionPlan]:
        """The plan in parts of *count* images, empty manifests and adopted blobs, *after* some."""
        total = max(1, len(self.links), len(self.empty_links), len(self.adopted))
        for start in range(after, total, count):
            part = slice(start, start + count)
            yield replace(
                self,
                links=self.links[part],
                freed=self.freed[part],
                empty_links=self.empty_links[part],
                adopted=self.adopted[part],
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
    use = InventoryUse(inventory)
    blob_sizes, users, holders = (
        inventory.blob_sizes,
        array("i", use.users),
        array("i", use.holders),
    )
    size = sum(blob_sizes) + catalog_size
    orphans = [blob for blob, count in enumerate(users) if not count]
    staying = [blob for blob in orphans if _stays(inventory.blob_adopted[blob], now)]
    # The other orphans are removed anyway, as soon as they have no reader.
    remaining = (
        size - sum(blob_sizes[blob] for blob in orphans) + sum(blob_sizes[blob] for blob in staying)
    )
    adopted: list[int] = []
    staying.sort(key=lambda blob: (inventory.blob_last_used[blob], inventory.blob_digests[blob]))
    for blob in staying:
        if remaining <= goal:
            break
        adopted.append(blob)
        remaining -= blob_sizes[blob]
    weights = _weights(use, catalog_size)
    used_links = _links_of(inventory, in_use)
    # S14: a use in the future counts as none. After a clock was ahead, all images would be in use
    # until the time that it showed.
    past_use = array("d", (used if used <= now else 0.0 for used in use.last_used))
    ordered = _in_order(use, past_use, with_empty=catalog_size > 0 or goal <= 0)
    candidates, candidates_freed, empty = array("i"), array("q"), array("i")
    for link in ordered:
        if (remaining <= goal and goal > 0) or past_use[link] > now - RECENT:
            break
        if link in used_links:
            continue
        content, freed = inventory.contents[link], 0
        blobs = inventory.blobs_of(content)
        for blob in blobs:
            users[blob] -= 1
            if not users[blob]:
                freed += blob_sizes[blob]
        holders[content] -= 1
        if weights and not holders[content]:
            freed += weights[content]
        remaining -= freed
        if blobs:
            candidates.append(link)
            candidates_freed.append(freed)
        else:
            empty.append(link)
    stays = _Staying(use)
    locked_size = stays.add(link for link, locked in enumerate(use.locked) if locked)
    in_use_size = recent_size = 0
    if remaining > goal:
        in_use_size = stays.add(used_links)
        recent_size = stays.add(link for link in ordered if past_use[link] > now - RECENT)
    links, links_freed = array("i"), array("q")
    for link, freed in zip(candidates, candidates_freed, strict=True):
        content = inventory.contents[link]
        if (weights and not holders[content]) or not all(
            map(users.__getitem__, inventory.blobs_of(content))
        ):
            links.append(link)
            links_freed.append(freed)
    old_empty = (
        link
        for link, content in enumerate(inventory.contents)
        if use.last_requested[link] < now - EMPTY_STAYS
        and not inventory.blobs_of(content)
        and not use.has_children(link)
        and not use.locked[link]
        and link not in used_links
    )
    return EvictionPlan(
        use=use,
        links=links,
        freed=links_freed,
        empty_links=array("i", dict.fromkeys([*empty, *old_empty])),
        empty_since=now - (RECENT if empty else EMPTY_STAYS),
        size=size,
        remaining=remaining,
        goal=goal,
        locked_size=locked_size,
        in_use_size=in_use_size,
        recent_size=recent_size,
        adopted=tuple(map(inventory.blob_digest, adopted)),
        adopted_size=sum(blob_sizes[blob] for blob in adopted),
    )


def _in_order(use: InventoryUse, past_use: array[float], *, with_empty: bool) -> list[int]:
    """The links that may be evicted, the least recently used first.

    Their key makes the order deterministic, also for images that were cached in the same moment.
    """
    inventory = use.inventory
    links = [
        link
        for link in inventory.links_by_key()
        if (with_empty or inventory.blobs_of(inventory.contents[link]))
        and not use.has_children(link)
        and not use.locked[link]
    ]
    links.sort(key=past_use.__getitem__)
    return links


class _Staying:
    """Adds up the blobs that stay; each counts for the first reason that keeps it."""

    def __init__(self, use: InventoryUse) -> None:
        self._inventory = use.inventory
        self._counted = bytearray(len(use.inventory.blob_sizes))

    def add(self, links: Iterable[int]) -> int:
        """The bytes of the blobs that some links need and that were not counted yet."""
        inventory, counted = self._inventory, self._counted
        total = 0
        for link in links:
            for blob in inventory.blobs_of(inventory.contents[link]):
                if not counted[blob]:
                    counted[blob] = True
                    total += inventory.blob_sizes[blob]
        return total


def _links_of(inventory: Inventory, keys: Collection[Key]) -> set[int]:
    """The links with some keys."""
    if not keys:
        return set()
    texts = {(repository, str(digest)) for repository, digest in keys}
    names = {repository for repository, _ in texts}
    return {
        link
        for link, repository in enumerate(inventory.repositories)
        if repository in names
        and (repository, inventory.content_digests[inventory.contents[link]]) in texts
    }


def _stays(adopted: float, now: float) -> bool:
    return not isnan(adopted) and stays_adopted(adopted, now)


def stays_adopted(adopted: float | None, now: float) -> bool:
    """Whether a blob that no manifest refers to stays, because it was adopted recently.

    A time in the future counts as never.
    """
    return adopted is not None and 0 <= now - adopted < ADOPTED_STAYS


def _weights(use: InventoryUse, catalog_size: int) -> array[int]:
    """The bytes of the catalog that each content accounts for, by its own size.

    Empty where the catalog does not count.
    """
    sizes = use.inventory.content_sizes
    total = sum(size for size, count in zip(sizes, use.holders, strict=True) if count)
    if catalog_size <= 0 or total <= 0:
        return array("q")
    return array("q", (size * catalog_size // total for size in sizes))


def confirm(
    plan: EvictionPlan, manifests: Iterable[InventoryManifest], *, uses: UsesSincePlan = NO_USES
) -> set[Key]:
    """The manifests of a plan that may still be evicted, and the emptied indexes.

    *manifests* are all manifests of the plan's repositories now; their blobs do not count. An image
    that was requested or locked since the plan was made stays, and so does one that is among
    *uses*.
    """
    current = {manifest.key: manifest for manifest in manifests}
    locked_keys = _locked_with_all_below(current)
    last_requested = _last_requested(current)
    evicted = {
        key
        for link in plan.links
        if (key := plan.use.inventory.key(link)) in current
        and key not in locked_keys
        and not current[key].children
        and last_requested[key] <= plan.use.last_requested[link]
        and not plan.use.is_used(link, uses)
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
