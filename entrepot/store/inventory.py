"""The inventory of the cache that an eviction is planned on.

It has columns of numbers in place of objects: 100,000 repositories with five blobs each take some
25 MB, and as objects they took ten times as much. A manifest of a repository is a *link*, numbered
in the order in which it was added. The manifest itself, which several repositories may have, is a
*content*, numbered like the blobs by its first appearance.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice, repeat
from math import isnan, nan
from sys import intern

import msgspec

from entrepot.core.reference import Digest, Repository, Tag

Key = tuple[Repository, Digest]
"""A manifest of a repository."""


DIGEST_BYTES = 32
"""Of SHA-256."""


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


class PackedDigests:
    """Digests without repetition, as bytes one after the other."""

    __slots__ = ("_content", "_long")

    def __init__(self) -> None:
        self._content = bytearray()
        """32 bytes of each digest."""
        self._long: dict[int, bytes] = {}
        """The few that are longer: those of SHA-512."""

    def extend(self, texts: Sequence[str]) -> None:
        """Append digests, given as ``algorithm:hex``."""
        joined = "".join(texts)
        if joined.count("sha256:") == len(texts):
            self._content += bytes.fromhex(joined.replace("sha256:", ""))
            return
        for text in texts:
            value = bytes.fromhex(text[text.index(":") + 1 :])
            if len(value) != DIGEST_BYTES:
                self._long[len(self)] = value
            self._content += value[:DIGEST_BYTES]

    def __len__(self) -> int:
        return len(self._content) // DIGEST_BYTES

    def __getitem__(self, number: int) -> str:
        if number in self._long:
            return f"sha512:{self._long[number].hex()}"
        start = number * DIGEST_BYTES
        return f"sha256:{self._content[start : start + DIGEST_BYTES].hex()}"


class PackedTexts:
    """Short texts, one after the other."""

    __slots__ = ("_content", "_ends")

    def __init__(self) -> None:
        self._content = bytearray()
        self._ends = array("Q")

    def extend(self, texts: Iterable[str]) -> None:
        """Append some texts."""
        values = [text.encode() for text in texts]
        # Without the first sum: that is where the first value begins.
        sums = accumulate(map(len, values), initial=len(self._content))
        self._ends.extend(islice(sums, 1, None))
        self._content += b"".join(values)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._content[start : self._ends[number]].decode()


class PackedNames:
    """The repository of each link: a name that follows itself is stored once."""

    __slots__ = ("_names", "_numbers")

    def __init__(self) -> None:
        self._names = PackedTexts()
        self._numbers = array("i")

    def extend(self, names: Iterable[str]) -> None:
        """Append the names of some links."""
        last = self._names[len(self._names) - 1] if len(self._names) else None
        number, new = len(self._names) - 1, list[str]()
        for name in names:
            if name != last:
                new.append(name)
                number, last = number + 1, name
            self._numbers.append(number)
        self._names.extend(new)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, link: int) -> Repository:
        return Repository(self._names[self._numbers[link]])

    def __iter__(self) -> Iterator[Repository]:
        return map(self.__getitem__, range(len(self)))


class Inventory:
    """The cached manifests and blobs."""

    __slots__ = (
        "_blob_counts",
        "_blob_numbers",
        "_blob_starts",
        "_tags",
        "blob_adopted",
        "blob_digests",
        "blob_last_used",
        "blob_sizes",
        "children",
        "content_digests",
        "content_sizes",
        "contents",
        "last_requested",
        "links_are_sorted",
        "locked",
        "platforms",
        "repositories",
    )

    def __init__(
        self,
        manifests: Iterable[InventoryManifest] = (),
        blobs: Mapping[Digest, InventoryBlob] | None = None,
    ) -> None:
        self.blob_digests = PackedDigests()
        self.blob_sizes = array("q")
        self.blob_last_used = array("d")
        self.blob_adopted = array("d")
        """Not a number where a manifest refers to the blob."""
        self.content_digests = PackedDigests()
        self.content_sizes = array("q")
        """Bytes of the manifest itself."""
        self._blob_starts = array("q")
        self._blob_counts = array("i")
        self._blob_numbers = array("i")
        self.repositories = PackedNames()
        """Of each link."""
        self.contents = array("i")
        """Of each link."""
        self.platforms: list[str | None] = []
        self.last_requested = array("d")
        self.locked = bytearray()
        """Of each link: whether it, its repository, or a tag that points at it is locked."""
        self._tags = PackedTexts()
        self.links_are_sorted = False
        """Whether the links were added in the order of their keys."""
        self.children: dict[int, tuple[int, ...]] = {}
        """Of each link that is an index: the contents of those of its manifests that are cached in
        the repository."""
        self._add(manifests, blobs or {})

    def _add(
        self, manifests: Iterable[InventoryManifest], blobs: Mapping[Digest, InventoryBlob]
    ) -> None:
        self.add_blobs(
            [str(digest) for digest in blobs],
            [blob.size for blob in blobs.values()],
            [blob.last_used for blob in blobs.values()],
            [blob.adopted for blob in blobs.values()],
        )
        blob_numbers = {digest: number for number, digest in enumerate(blobs)}
        content_numbers: dict[Digest, dict[tuple[Digest, ...], int]] = {}
        children_of: dict[int, tuple[Digest, ...]] = {}
        for manifest in manifests:
            contents = content_numbers.setdefault(manifest.digest, {})
            content = contents.get(manifest.blobs)
            if content is None:
                content = contents[manifest.blobs] = len(self.content_sizes)
                self.add_contents([str(manifest.digest)], [manifest.size])
                self.set_blobs(content, [blob_numbers[blob] for blob in manifest.blobs])
            link = self.add_link(
                manifest.repository,
                content,
                manifest.platform,
                manifest.last_requested,
                manifest.locked,
                " ".join(manifest.tags),
            )
            children_of[link] = manifest.children
        for link, children in children_of.items():
            if children:
                self.children[link] = tuple(
                    content
                    for child in children
                    for content in content_numbers.get(child, {}).values()
                )

    def add_blobs(
        self,
        digests: Sequence[str],
        sizes: Iterable[int],
        last_used: Iterable[float],
        adopted: Iterable[float | None],
    ) -> None:
        """Add cached blobs; they are numbered in their order."""
        self.blob_digests.extend(digests)
        self.blob_sizes.extend(sizes)
        self.blob_last_used.extend(last_used)
        self.blob_adopted.extend(nan if time is None else time for time in adopted)

    def add_contents(self, digests: Sequence[str], sizes: Iterable[int]) -> None:
        """Add manifests of any repository; they are numbered in their order."""
        self.content_digests.extend(digests)
        self.content_sizes.extend(sizes)
        self._blob_starts.extend(repeat(0, len(digests)))
        self._blob_counts.extend(repeat(0, len(digests)))

    def set_blobs(self, content: int, blobs: Collection[int]) -> None:
        """Set the cached blobs that a manifest refers to."""
        self._blob_starts[content] = len(self._blob_numbers)
        self._blob_counts[content] = len(blobs)
        self._blob_numbers.extend(blobs)

    def add_link(
        self,
        repository: Repository,
        content: int,
        platform: str | None,
        last_requested: float,
        locked: bool,
        tags: str,
    ) -> int:
        """Add a manifest of a repository; return its number."""
        link = len(self)
        self.add_links([repository], [tags])
        self.contents[link] = content
        self.platforms[link] = platform
        self.last_requested[link] = last_requested
        self.locked[link] = locked
        return link

    def add_links(self, repositories: Sequence[str], tags: Iterable[str]) -> None:
        """Add manifests of repositories; their other columns are set afterwards."""
        count = len(repositories)
        self.repositories.extend(repositories)
        self._tags.extend(tags)
        self.contents.extend(repeat(0, count))
        self.platforms.extend(repeat(None, count))
        self.last_requested.extend(repeat(0.0, count))
        self.locked.extend(bytes(count))

    def __len__(self) -> int:
        """The number of links."""
        return len(self.contents)

    def blobs_of(self, content: int) -> Sequence[int]:
        """The cached blobs that a manifest refers to, each once."""
        start = self._blob_starts[content]
        return self._blob_numbers[start : start + self._blob_counts[content]]

    def links_by_key(self) -> Sequence[int]:
        """The links by repository and digest."""
        links = range(len(self))
        if self.links_are_sorted:
            return links
        return sorted(
            links,
            key=lambda link: (
                self.repositories[link],
                self.content_digests[self.contents[link]],
            ),
        )

    def blob_digest(self, blob: int) -> Digest:
        """The digest of a blob."""
        return digest_of_row(self.blob_digests[blob])

    def key(self, link: int) -> Key:
        """Repository and digest of a link."""
        return self.repositories[link], digest_of_row(self.content_digests[self.contents[link]])

    def text_key(self, link: int) -> tuple[str, str]:
        """Repository and digest of a link, the digest as text."""
        return self.repositories[link], self.content_digests[self.contents[link]]

    def tags_of(self, link: int) -> tuple[Tag, ...]:
        """The tags that point at a link, in their order."""
        return tuple(Tag(name) for name in sorted(self._tags[link].split()))

    def manifest(self, link: int, *, with_blobs: bool = True) -> InventoryManifest:
        """All that is known of a link; *with_blobs* says whether its blobs are needed."""
        content = self.contents[link]
        return InventoryManifest(
            repository=self.repositories[link],
            digest=digest_of_row(self.content_digests[content]),
            platform=self.platforms[link],
            last_requested=self.last_requested[link],
            locked=bool(self.locked[link]),
            tags=self.tags_of(link),
            children=tuple(
                digest_of_row(self.content_digests[child]) for child in self.children.get(link, ())
            ),
            blobs=tuple(map(self.blob_digest, self.blobs_of(content))) if with_blobs else (),
            size=self.content_sizes[content],
        )

    @property
    def manifests(self) -> Sequence[InventoryManifest]:
        """All manifests as objects, which takes much memory where there are many."""
        return tuple(map(self.manifest, range(len(self))))

    @property
    def blobs(self) -> Mapping[Digest, InventoryBlob]:
        """All blobs as objects, which takes much memory where there are many."""
        return dict(self._blob_items())

    def _blob_items(self) -> Iterator[tuple[Digest, InventoryBlob]]:
        for blob, (size, last_used, adopted) in enumerate(
            zip(self.blob_sizes, self.blob_last_used, self.blob_adopted, strict=True)
        ):
            yield (
                self.blob_digest(blob),
                InventoryBlob(size, last_used, None if isnan(adopted) else adopted),
            )


def digest_of_row(text: str) -> Digest:
    """A digest that the catalog has: it was checked when it came in."""
    algorithm, _, value = text.partition(":")
    return Digest(intern(algorithm), value)
