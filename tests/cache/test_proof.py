"""Proof that a source has the bytes of a copy (S20)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from entrepot.cache.proof import PROOF_SIZE, WHOLE_SIZE, proves
from entrepot.core.reference import Digest
from entrepot.source.blobs import BlobStream
from entrepot.store.blobs import BlobStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    yield store
    store.close()


class OtherSource:
    """A source that sends *content* from any offset, or ignores ranges; *states* another size."""

    def __init__(self, content: bytes, *, ranges: bool = True, states: int | None = None) -> None:
        self._content = content
        self._ranges = ranges
        self._states = len(content) if states is None else states
        self.sent = 0

    @asynccontextmanager
    async def __call__(self, *, offset: int, validator: str | None) -> AsyncIterator[BlobStream]:
        start = offset if self._ranges else 0
        yield BlobStream(self._chunks(start), offset=start, size=self._states, validator=validator)

    async def _chunks(self, start: int) -> AsyncIterator[bytes]:
        while start < len(self._content):
            chunk = self._content[start : start + 4096]
            start += len(chunk)
            self.sent += len(chunk)
            yield chunk


async def proven(store: BlobStore, content: bytes, source: OtherSource) -> bool:
    """Whether a source proves that it has *content*, of which there is a copy."""
    digest = Digest.of(content)
    partial = await store.begin(digest, len(content), "registry.example.com")
    try:
        await store.append(partial, [content])
        await store.commit(partial)
    finally:
        partial.release()
    return await proves(source, store, digest, len(content))


async def test_a_range_of_64_kib_proves_a_large_blob(store: BlobStore) -> None:
    content = os.urandom(4 * WHOLE_SIZE)
    source = OtherSource(content)
    assert await proven(store, content, source)
    assert PROOF_SIZE <= source.sent < 2 * PROOF_SIZE


async def test_other_bytes_prove_nothing(store: BlobStore) -> None:
    content = os.urandom(4 * PROOF_SIZE)
    assert not await proven(store, content, OtherSource(bytes(len(content))))


async def test_another_size_proves_nothing(store: BlobStore) -> None:
    content = os.urandom(PROOF_SIZE)
    assert not await proven(store, content, OtherSource(content, states=len(content) + 1))


@pytest.mark.parametrize(("size", "expected"), [(WHOLE_SIZE, True), (WHOLE_SIZE + 1, False)])
async def test_without_ranges_only_a_small_blob_is_compared_whole(
    size: int, expected: bool, store: BlobStore
) -> None:
    content = os.urandom(size)
    assert await proven(store, content, OtherSource(content, ranges=False)) is expected


async def test_a_blob_that_is_shorter_than_the_proof_is_compared_whole(store: BlobStore) -> None:
    source = OtherSource(b"short")
    assert await proven(store, b"short", source)
    assert source.sent == 5


async def test_an_empty_blob_needs_no_proof(store: BlobStore) -> None:
    source = OtherSource(b"", states=7)
    assert await proven(store, b"", source)


async def test_a_copy_that_is_gone_can_not_be_compared(store: BlobStore) -> None:
    with pytest.raises(FileNotFoundError):
        await proves(OtherSource(b"x"), store, Digest.of(b"x"), 1)
