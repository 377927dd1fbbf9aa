"""Blobs on the disk: nothing is visible before its digest is right."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entrepot.reference import Digest
from entrepot.store.blobs import LEASE_LINGERS, READ_SIZE, BlobStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills", clock=clock)
    await store.open()
    yield store
    store.close()


async def keep(store: BlobStore, content: bytes) -> Digest:
    digest = Digest.of(content)
    partial = await store.begin(digest)
    await store.append(partial, content)
    await store.commit(partial)
    partial.release()
    return digest


async def read_all(store: BlobStore, digest: Digest, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in store.read(digest, start, end)])


async def test_a_committed_blob_is_held_with_its_size_and_bytes(store: BlobStore) -> None:
    content = os.urandom(READ_SIZE * 2 + 17)
    digest = await keep(store, content)
    assert store.size(digest) == len(content)
    assert store.path(digest).read_bytes() == content
    assert await read_all(store, digest, 5, len(content) - 3) == content[5:-3]


async def test_a_blob_on_its_way_in_is_not_held(store: BlobStore) -> None:
    content = b"half of it and the other half"
    digest = Digest.of(content)
    partial = await store.begin(digest)
    await store.append(partial, content[:10])
    assert store.size(digest) is None
    assert await store.held() == {}
    with partial.reading():
        assert await store.read_partial(partial, 2, 100) == content[2:10]
    await store.discard(partial)
    partial.release()


async def test_wrong_bytes_are_not_right(store: BlobStore) -> None:
    partial = await store.begin(Digest.of(b"what was asked for"))
    await store.append(partial, b"what came instead")
    assert not partial.is_right()
    with pytest.raises(AssertionError):
        await store.commit(partial)
    await store.discard(partial)
    partial.release()
    assert store.size(partial.digest) is None
    assert not partial.path.exists()


async def test_a_reader_of_the_growing_file_reads_on_after_it_was_renamed_and_removed(store: BlobStore) -> None:
    content = b"x" * 1000
    digest = Digest.of(content)
    partial = await store.begin(digest)
    await store.append(partial, content)
    with partial.reading():
        await store.commit(partial)
        partial.release()
        assert store.take_away(digest)
        await store.sweep()
        assert store.size(digest) is None
        assert await store.read_partial(partial, 0, 2000) == content


async def test_the_last_user_closes_the_file(store: BlobStore) -> None:
    content = b"y" * 10
    partial = await store.begin(Digest.of(content))
    descriptor = partial._descriptor
    with partial.reading():
        partial.release()
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_a_blob_handed_out_lately_can_not_be_taken_away(store: BlobStore, clock: Clock) -> None:
    digest = await keep(store, b"being sent")
    store.hand_out(digest)
    assert not store.take_away(digest)
    assert store.size(digest) is not None
    clock.now += LEASE_LINGERS
    assert store.take_away(digest)
    assert store.size(digest) is None


async def test_sweeping_frees_what_was_taken_away_and_nothing_else(store: BlobStore, tmp_path: Path) -> None:
    digest = await keep(store, b"old")
    partial = await store.begin(Digest.of(b"new"))
    assert store.take_away(digest)
    await store.sweep()
    assert [entry.name for entry in (tmp_path / "fills").iterdir()] == [partial.path.name]
    partial.release()


async def test_opening_removes_what_a_killed_engine_left_and_keeps_whole_blobs(store: BlobStore, tmp_path: Path) -> None:
    digest = await keep(store, b"whole")
    left_over = await store.begin(Digest.of(b"cut off"))
    await store.append(left_over, b"cut")
    left_over.release()
    again = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await again.open()
    assert list((tmp_path / "fills").iterdir()) == []
    assert await again.held() == {digest: 5}
    again.close()


async def test_handing_out_remembers_only_what_still_matters(store: BlobStore, clock: Clock) -> None:
    for number in range(100):
        store.hand_out(Digest.of(str(number).encode()))
        clock.now += 10
    assert len(store._handed_out) <= LEASE_LINGERS / 10 + 1
