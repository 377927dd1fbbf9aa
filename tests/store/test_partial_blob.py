"""A growing file whose bytes go to the disk before the last flush."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from entrepot.core.reference import Digest
from entrepot.store import partial_blob
from entrepot.store.blobs import BlobStore

SIZE = 1000


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BlobStore]:
    monkeypatch.setattr(partial_blob, "WRITE_BACK_SIZE", SIZE)
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    yield store
    store.close()


class WriteBack:
    """What the kernel is told, once the disk has let it go on; it answers *answer*."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: bool | OSError = True) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.may_go_on = threading.Event()
        self._answer = answer
        monkeypatch.setattr(partial_blob, "start_write_back", self._start)

    def _start(self, descriptor: int, offset: int, length: int) -> bool:
        assert os.fstat(descriptor).st_size >= offset + length
        self.ranges.append((offset, length))
        self.may_go_on.wait()
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer


async def test_the_disk_gets_bytes_before_the_blob_is_whole(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_back = WriteBack(monkeypatch)
    write_back.may_go_on.set()
    content = os.urandom(2 * SIZE + SIZE // 2)
    partial = await store.begin(Digest.of(content), len(content))
    await store.append(partial, [content[:SIZE]])
    assert partial._write_back is not None
    partial._write_back.result()
    await store.append(partial, [content[SIZE : SIZE + 1]])
    await store.append(partial, [content[SIZE + 1 :]])
    # Otherwise the last flush makes one that has not begun superfluous.
    partial._write_back.result()
    await store.commit(partial)
    partial.release()
    assert write_back.ranges == [(0, SIZE), (SIZE, SIZE + SIZE // 2)]
    assert store.path(partial.digest).read_bytes() == content


async def test_a_slow_disk_has_no_append_wait(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_back = WriteBack(monkeypatch)
    content = os.urandom(5 * SIZE)
    partial = await store.begin(Digest.of(content), len(content))
    for start in range(0, len(content), SIZE):
        await store.append(partial, [content[start : start + SIZE]])
    write_back.may_go_on.set()
    await store.commit(partial)
    partial.release()
    assert len(write_back.ranges) <= 1
    assert store.path(partial.digest).read_bytes() == content


async def test_a_blob_whose_bytes_the_disk_refused_early_is_not_stored(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_back = WriteBack(monkeypatch, OSError(errno.EIO, "of the disk"))
    write_back.may_go_on.set()
    content = os.urandom(SIZE)
    partial = await store.begin(Digest.of(content), len(content))
    await store.append(partial, [content])
    assert partial._write_back is not None
    assert isinstance(partial._write_back.exception(), OSError)
    with pytest.raises(OSError, match="of the disk"):
        await store.commit(partial)
    await store.discard(partial)
    partial.release()
    assert store.size(partial.digest) is None


async def test_a_file_system_without_early_writes_is_asked_once(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_back = WriteBack(monkeypatch, answer=False)
    write_back.may_go_on.set()
    content = os.urandom(3 * SIZE)
    partial = await store.begin(Digest.of(content), len(content))
    await store.append(partial, [content[:SIZE]])
    assert partial._write_back is not None
    partial._write_back.result()
    await store.append(partial, [content[SIZE:]])
    await store.commit(partial)
    partial.release()
    assert write_back.ranges == [(0, SIZE)]
    assert store.path(partial.digest).read_bytes() == content


async def test_early_writes_leave_no_descriptor_open(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(8 * SIZE)
    partial = await store.begin(Digest.of(content), len(content))
    for start in range(0, len(content), SIZE):
        await store.append(partial, [content[start : start + SIZE]])
    assert partial.digest.hex in " ".join(open_files())
    await store.commit(partial)
    partial.release()
    store.close()
    assert partial.digest.hex not in " ".join(open_files())


def open_files() -> list[str]:
    """The names of the files that this process has open."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return names
