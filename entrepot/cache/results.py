"""What the cache returns to the code that answers clients."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from io import FileIO

from entrepot.cache.blob_copies import BlobCopies
from entrepot.cache.source_lists import SourceList
from entrepot.core.reference import Digest
from entrepot.store.blobs import BlobStore
from entrepot.store.manifests import Manifest


class Origin(StrEnum):
    """Where an answer came from, as the header ``Entrepot-Origin`` says it."""

    CACHE = "cache"
    UPSTREAM = "upstream"
    STALE = "stale"
    """From the cache, because the source gave no answer."""


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest for a client. *warning* says why it may be stale."""

    manifest: Manifest
    origin: Origin
    warning: str | None = None
    is_fetched: bool = False
    """It came from the source now, which may call it stale itself."""


@dataclass(frozen=True, slots=True)
class ManifestDescription:
    """What a HEAD on a manifest returns. *size* is in bytes."""

    digest: Digest
    media_type: str
    size: int
    origin: Origin
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """Where a tag points after its source was asked on request.

    *before* is where it pointed before, *gone* whether the source has no such tag any more,
    *problem* why the source gave no answer.
    """

    digest: Digest
    before: Digest | None
    gone: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class CachedBlob:
    """A blob whose right copy is in the cache. *size* is in bytes."""

    digest: Digest
    size: int
    _blobs: BlobStore = field(compare=False, repr=False)
    _copies: BlobCopies = field(compare=False, repr=False)

    def open(self) -> AbstractAsyncContextManager[FileIO]:
        """Its file, open: a reader keeps it also when the copy is evicted meanwhile.

        Raises FileNotFoundError when the copy was removed or damaged before it was opened: then
        `ArtifactCache.blob` fetches it. Raises OSError where it can't be read.
        """
        return self._blobs.opened(self.digest, self.size)

    def record_request(self, client: str | None) -> None:
        """Record that a client requests the whole blob, before it is sent.

        A client that requests it again at once may have got wrong bytes
        (`entrepot.cache.blob_copies`).
        """
        self._copies.record_request(client, self.digest)

    def record_delivery(self, client: str | None) -> None:
        """Record that a client got the whole blob."""
        self._copies.record_delivery(client, self.digest)

    def check_in_background(self) -> None:
        """Hash the copy in the background, because its file could not be read."""
        self._copies.check_in_background(self.digest)


@dataclass(frozen=True, slots=True)
class BlobDescription:
    """What a HEAD on a blob returns. *size* is in bytes."""

    digest: Digest
    size: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """A list of tags, or an index of referrers, for a client.

    *warning* says why it may be stale.
    """

    listing: SourceList
    origin: Origin
    warning: str | None = None
