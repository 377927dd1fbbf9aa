"""Manifests that are in memory only, because the catalog has not taken them yet (S19, L02)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.store.records import TagEntry

MAX_UNWRITTEN_BYTES = 32 * 1024 * 1024
"""Bytes of manifests that are in memory only, because the catalog fails."""

MAX_UNWRITTEN_MANIFESTS = 2_000
"""Such manifests."""


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A manifest that the catalog has not taken yet, with the tags that point at it.

    *time* is when it came.
    """

    repository: Repository
    source: str
    manifest: Manifest
    tags: tuple[Tag, ...]
    time: float


class UnwrittenManifests:
    """The manifests that are in memory only.

    The latest ones, within `MAX_UNWRITTEN_BYTES` and `MAX_UNWRITTEN_MANIFESTS`.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Repository, Digest], Unwritten] = OrderedDict()
        self._bytes = 0

    def add(self, unwritten: Unwritten) -> Unwritten:
        """Add a manifest; return what has to be written.

        That includes the tags that pointed at it before.
        """
        key = (unwritten.repository, unwritten.manifest.digest)
        before = self._entries.pop(key, None)
        if before is not None:
            self._bytes -= len(before.manifest.content)
            unwritten = replace(
                unwritten, tags=tuple(dict.fromkeys((*before.tags, *unwritten.tags)))
            )
        for other_key, other in list(self._entries.items()) if unwritten.tags else ():
            if other.repository == unwritten.repository and set(other.tags) & set(unwritten.tags):
                # A tag points at one manifest only.
                self._entries[other_key] = replace(
                    other, tags=tuple(tag for tag in other.tags if tag not in unwritten.tags)
                )
        self._entries[key] = unwritten
        self._bytes += len(unwritten.manifest.content)
        while self._bytes > MAX_UNWRITTEN_BYTES or len(self._entries) > MAX_UNWRITTEN_MANIFESTS:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= len(oldest.manifest.content)
        return unwritten

    def remove(self, written: Unwritten) -> None:
        """Remove a manifest that the catalog has taken."""
        entry = self._entries.pop((written.repository, written.manifest.digest), None)
        if entry is not None:
            self._bytes -= len(entry.manifest.content)

    def first(self) -> Unwritten | None:
        """The manifest that came first."""
        return next(iter(self._entries.values()), None)

    def of(self, repository: Repository) -> list[Unwritten]:
        """The manifests of a repository."""
        return [entry for entry in self._entries.values() if entry.repository == repository]

    def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest of any repository."""
        manifests = (entry.manifest for entry in self._entries.values())
        return next((manifest for manifest in manifests if manifest.digest == digest), None)

    def manifest_of(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A manifest of one repository."""
        entry = self._entries.get((repository, digest))
        return entry.manifest if entry is not None else None

    def blob_of(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """A blob that a manifest of a repository names."""
        blobs = (blob for entry in self.of(repository) for blob in entry.manifest.blobs)
        return next((blob for blob in blobs if blob.digest == digest), None)

    def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points."""
        return next(
            (
                TagEntry(entry.manifest.digest, entry.time, entry.time)
                for entry in self.of(repository)
                if tag in entry.tags
            ),
            None,
        )

    def point_tag(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Point a tag at a manifest; False when the manifest is not among these."""
        entry = self._entries.get((repository, digest))
        if entry is None:
            return False
        self.add(replace(entry, tags=(tag,)))
        return True
