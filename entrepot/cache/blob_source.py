"""What a fill reads from: a blob of a repository at a source registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from entrepot.source.blobs import ThreadedBody


class BlobStreamLike(Protocol):
    """A blob as a source sends it: see `entrepot.source.blobs.BlobStream`."""

    @property
    def offset(self) -> int:
        """The position of the stream's first byte in the blob."""

    @property
    def size(self) -> int | None:
        """The size of the whole blob in bytes, if the source states it."""

    @property
    def validator(self) -> str | None:
        """The entity tag to resume with."""

    @property
    def body(self) -> ThreadedBody | None:
        """The same bytes for a thread, where they need no decoding and their length is stated."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class BlobSource(Protocol):
    """A repository of a source registry, which a fill reads from.

    Equal sources send the same bytes.
    """

    def __call__(
        self, *, offset: int, validator: str | None
    ) -> AbstractAsyncContextManager[BlobStreamLike]:
        """Open the blob at *offset*, if it is still the one that *validator* names."""
