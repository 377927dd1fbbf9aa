"""What the catalog tells of repositories, tags and manifests."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from entrepot.reference import Digest, Repository, Tag


@dataclass(frozen=True, slots=True)
class TagEntry:
    """Where a tag points, and since when we believe it. Times are seconds since the epoch."""

    digest: Digest
    cached: float
    checked: float
    gone: bool = False


@dataclass(frozen=True, slots=True)
class CachedManifest:
    """A manifest of one repository, as a listing shows it."""

    digest: Digest
    media_type: str
    size: int
    platform: str | None
    tags: tuple[Tag, ...]
    cached: float
    last_pull: float | None
    locked: bool = False


class CachedRepository(msgspec.Struct, frozen=True):
    """A cached repository, as a listing shows it. *size* counts each blob and manifest once, those shared with other repositories too.

    There are ten thousand in one listing: this kind of object is made in half a microsecond, and the garbage collector does not look at it.
    """

    name: Repository
    source: str
    created: float
    last_pull: float | None
    pulls: int
    tags: int
    manifests: int
    size: int
    locked: bool = False


@dataclass(frozen=True, slots=True)
class CachedTag:
    """A tag of one repository, as a listing shows it. *size* and *platforms* speak of what is held behind it."""

    name: Tag
    entry: TagEntry
    last_pull: float | None
    platforms: tuple[str, ...]
    size: int
    locked: bool = False
