"""Records of the catalog: repositories, tags, manifests, images and blobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from entrepot.core.artifact_kinds import AN_IMAGE, ArtifactKind
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.states import CachedState


@dataclass(frozen=True, slots=True)
class TagEntry:
    """Where a tag points.

    *cached* is when it was first pointed there, *checked* when the source last confirmed it, in
    seconds since the epoch. *gone*: the source no longer has the tag.
    """

    digest: Digest
    cached: float
    checked: float
    gone: bool = False


class BlobOrigin(NamedTuple):
    """A source registry that gave the bytes of a blob.

    *with_credentials* says whether a credential set was used. Where a rule for some readers only
    fetched them, *login_server* is the whole source of that rule (``docker.io/acme/*``), and
    *with_credentials* is true: no other rule serves them without a proof.
    """

    login_server: str
    with_credentials: bool


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A cached blob: its verified size in bytes, and the source registries that gave it."""

    size: int
    origins: frozenset[BlobOrigin] = frozenset()

    @property
    def is_public(self) -> bool:
        """Whether the source gave the blob without credentials.

        Then every client can fetch it there.
        """
        return any(not origin.with_credentials for origin in self.origins)

    def may_be_served_for(self, login_servers: Collection[str]) -> bool:
        """Whether the copy may be served in the name of one of some source registries."""
        return self.is_public or any(
            origin.login_server in login_servers for origin in self.origins
        )


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
    """A cached repository, as a listing shows it.

    *size* is in bytes, and counts each blob and manifest once, those shared with other repositories
    too. A listing has ten thousand of them: a msgspec struct is created in half a microsecond, and
    the garbage collector does not scan it.
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


class UsageTotals(msgspec.Struct, frozen=True):
    """The use of some repositories, added up.

    *size* is in bytes, *last_pull* in seconds since the epoch.
    """

    repositories: int = 0
    size: int = 0
    pulls: int = 0
    last_pull: float | None = None

    @classmethod
    def total(cls, parts: Iterable[UsageTotals]) -> UsageTotals:
        """The totals of several disjoint sets of repositories."""
        repositories = size = pulls = 0
        last_pull = None
        for part in parts:
            repositories += part.repositories
            size += part.size
            pulls += part.pulls
            if part.last_pull is not None:
                last_pull = max(last_pull or 0.0, part.last_pull)
        return cls(repositories, size, pulls, last_pull)


@dataclass(frozen=True, slots=True)
class ListedTag:
    """A tag of one repository, without what is behind it."""

    name: Tag
    entry: TagEntry
    locked: bool = False


@dataclass(frozen=True, slots=True)
class CachedTag:
    """A tag of one repository, as a listing shows it.

    *size* (in bytes) and *platforms* are those of the cached images behind it.
    """

    name: Tag
    entry: TagEntry
    last_pull: float | None
    platforms: tuple[str, ...]
    size: int
    locked: bool = False
    kind: ArtifactKind = AN_IMAGE


@dataclass(frozen=True, slots=True)
class ImageBlobRecord:
    """A layer or the config of an image, and what else needs it.

    *size* is in bytes: that of the cached copy, else what the manifest states; None where neither
    is known. *shared_images* counts images of other repositories, and of this one behind other
    tags; images behind the same tag are not among them. *shared_repositories* counts other
    repositories. *shared_with* names one or two of those images as examples:
    ``library/nginx:1.27``, or ``library/nginx`` where no tag points there.
    """

    digest: str
    media_type: str
    size: int | None
    cached: bool
    shared_images: int = 0
    shared_repositories: int = 0
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A manifest behind a tag: one image of one platform, or an attestation about one.

    *size* is in bytes, of the manifest and all that it needs; None while the manifest itself is not
    cached. *last_used* is None when the image was not requested since it came in. *attests* is the
    digest of the image that an attestation is about; None: it is an image.
    """

    digest: str
    media_type: str
    platform: str | None
    size: int | None
    cached_size: int
    cached_state: CachedState
    last_used: float | None
    locked: bool = False
    attests: str | None = None
    config: ImageBlobRecord | None = None
    layers: tuple[ImageBlobRecord, ...] = ()
