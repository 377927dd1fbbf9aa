"""Blobs on the disk: nothing is visible before its digest is right."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from entrepot.core.reference import Digest
from entrepot.store import blobs as blobs_module
from entrepot.store.blob_walk import MAX_FOREIGN_EXAMPLES
from entrepot.store.blobs import (
    CHECK_SIZE,
    LEASE_DURATION,
    MIN_RESUMABLE_SIZE,
    READ_SIZE,
    RESUMABLE_CLEANUP_INTERVAL,
    RESUMABLE_SHARE,
    RESUMABLE_TTL,
    UNLINKED_AT_ONCE,
    BlobStore,
    part_name,
)
from entrepot.store.partial_blob import NotWritten, PartialBlob
from tests.store.full_disk import no_file_above


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
    partial = await store.begin(digest, len(content))
    await store.append(partial, [content])
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
    partial = await store.begin(digest, len(content))
    await store.append(partial, [content[:10]])
    assert store.size(digest) is None
    assert await store.sizes() == {}
    with partial.reading():
        assert await store.read_partial(partial, 2, 100) == content[2:10]
    await store.discard(partial)
    partial.release()


async def test_wrong_bytes_are_not_right(store: BlobStore) -> None:
    partial = await store.begin(Digest.of(b"what was asked for"), 18)
    await store.append(partial, [b"what came instead"])
    assert not partial.digest_matches()
    with pytest.raises(AssertionError):
        await store.commit(partial)
    await store.discard(partial)
    partial.release()
    assert store.size(partial.digest) is None
    assert not partial.path.exists()


async def test_a_reader_of_the_growing_file_reads_on_after_it_was_renamed_and_removed(
    store: BlobStore,
) -> None:
    content = b"x" * 1000
    digest = Digest.of(content)
    partial = await store.begin(digest, len(content))
    await store.append(partial, [content])
    with partial.reading():
        await store.commit(partial)
        partial.release()
        assert store.remove(digest)
        await store.sweep()
        assert store.size(digest) is None
        assert await store.read_partial(partial, 0, 2000) == content


async def test_the_last_user_closes_the_file(store: BlobStore) -> None:
    content = b"y" * 10
    partial = await store.begin(Digest.of(content), len(content))
    descriptor = partial._descriptor
    with partial.reading():
        partial.release()
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_a_blob_handed_out_lately_can_not_be_taken_away(
    store: BlobStore, clock: Clock
) -> None:
    digest = await keep(store, b"being sent")
    store.lease(digest)
    assert not store.remove(digest)
    assert store.size(digest) is not None
    clock.now += LEASE_DURATION
    assert store.remove(digest)
    assert store.size(digest) is None


async def test_many_blobs_are_removed_at_once_except_those_that_a_reader_may_open(
    store: BlobStore,
) -> None:
    digests = [await keep(store, b"%d" % number) for number in range(5)]
    store.lease(digests[3])
    removed = await store.remove_all(digests)
    assert set(removed) == set(digests) - {digests[3]}
    assert [store.size(digest) for digest in digests] == [None, None, None, 1, None]
    await store.sweep()
    assert list(await store.sizes()) == [digests[3]]


async def test_a_blob_that_is_about_to_be_moved_away_counts_as_gone_and_may_come_again(
    store: BlobStore,
) -> None:
    digest = await keep(store, b"content")
    again = await store.begin(digest, 7)
    await store.append(again, [b"content"])
    # The thread that moves files away, and the one that commits, wait for each other.
    with store._renaming:
        removing = asyncio.create_task(store.remove_all([digest]))
        while not store._removing:
            await asyncio.sleep(0)
        assert store.size(digest) is None
        committing = asyncio.create_task(store.commit(again))
        await asyncio.sleep(0)
    await removing
    await committing
    again.release()
    assert store.size(digest) == 7


async def test_of_many_blobs_one_that_can_not_be_moved_away_stays(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn, other = await keep(store, b"stubborn"), await keep(store, b"other")
    unlink = os.unlink

    def refused(path: str) -> None:
        if path == str(store.path(stubborn)):
            raise OSError(errno.EACCES, "Permission denied")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refused)
    assert await store.remove_all([stubborn, other]) == [other]
    assert (store.size(stubborn), store.size(other)) == (8, None)


async def test_sweeping_frees_what_was_taken_away_and_nothing_else(
    store: BlobStore, tmp_path: Path
) -> None:
    digest = await keep(store, b"old")
    partial = await store.begin(Digest.of(b"new"), 3)
    assert store.remove(digest)
    await store.sweep()
    assert [entry.name for entry in (tmp_path / "fills").iterdir()] == [partial.path.name]
    partial.release()


async def test_a_large_blob_is_renamed_and_unlinked_by_the_sweep(
    store: BlobStore, tmp_path: Path
) -> None:
    small = await keep(store, b"small")
    large = await keep(store, bytes(UNLINKED_AT_ONCE + 1))
    assert set(await store.remove_all([large, small])) == {large, small}
    assert (store.size(large), store.size(small)) == (None, None)
    assert [entry.name for entry in (tmp_path / "fills").iterdir()] == [
        f"removed-sha256-{large.hex}"
    ]
    await store.sweep()
    assert list((tmp_path / "fills").iterdir()) == []


async def test_opening_removes_what_a_killed_engine_left_and_keeps_whole_blobs(
    store: BlobStore, tmp_path: Path
) -> None:
    digest = await keep(store, b"whole")
    partial = await store.begin(Digest.of(b"cut off"), 7)
    await store.append(partial, [b"cut"])
    partial.release()
    again = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await again.open()
    assert list((tmp_path / "fills").iterdir()) == []
    assert await again.sizes() == {digest: 5}
    again.close()


async def leave_over(store: BlobStore, content: bytes, size: int) -> Path:
    """Begin a blob, and leave over what has come of it."""
    partial = await store.begin(Digest.of(content), len(content))
    await store.append(partial, [content[:size]])
    await store.keep_for_resume(partial)
    partial.release()
    return partial.path


async def test_a_large_part_is_continued_by_the_next_engine_and_hashed_anew(
    store: BlobStore, tmp_path: Path
) -> None:
    content = os.urandom(MIN_RESUMABLE_SIZE * 2)
    await leave_over(store, content, MIN_RESUMABLE_SIZE + 5)
    again = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await again.open()
    partial = await again.begin(Digest.of(content), len(content))
    assert (partial.resumable_size, partial.written) == (MIN_RESUMABLE_SIZE + 5, 0)
    while await again.hash_resumable(partial):
        pass
    assert partial.written == MIN_RESUMABLE_SIZE + 5
    await again.append(partial, [content[partial.written :]])
    assert partial.digest_matches()
    await again.commit(partial)
    partial.release()
    assert again.path(partial.digest).read_bytes() == content
    again.close()


async def test_a_part_that_was_changed_on_the_disk_is_found_out(store: BlobStore) -> None:
    content = os.urandom(MIN_RESUMABLE_SIZE * 2)
    path = await leave_over(store, content, MIN_RESUMABLE_SIZE)
    with path.open("r+b") as file:
        file.write(bytes([content[0] ^ 1]))
    partial = await store.begin(Digest.of(content), len(content))
    while await store.hash_resumable(partial):
        pass
    await store.append(partial, [content[partial.written :]])
    assert not partial.digest_matches()
    partial.release()


async def test_a_small_part_is_not_worth_continuing(store: BlobStore) -> None:
    path = await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE - 1)
    assert not path.exists()


async def test_a_part_that_is_longer_than_the_blob_is_begun_anew(store: BlobStore) -> None:
    content = os.urandom(MIN_RESUMABLE_SIZE)
    path = await leave_over(store, content, len(content))
    with path.open("ab") as file:
        file.write(b"more")
    partial = await store.begin(Digest.of(content), len(content))
    assert partial.resumable_size == 0
    assert path.stat().st_size == 0
    partial.release()


async def test_after_the_machine_was_down_no_part_is_trusted(
    store: BlobStore, tmp_path: Path
) -> None:
    path = await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE * 2), MIN_RESUMABLE_SIZE)
    (tmp_path / "fills-boot").write_text("another run of the machine")
    again = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await again.open()
    assert not path.exists()
    again.close()


async def test_a_part_that_nobody_continues_for_a_day_goes(store: BlobStore, clock: Clock) -> None:
    old = await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE)
    young = await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE)
    os.utime(old, (0, young.stat().st_mtime - RESUMABLE_TTL - 1))
    (await store.begin(Digest.of(b"another"), 7)).release()
    assert old.exists()
    clock.now += RESUMABLE_CLEANUP_INTERVAL + 1
    (await store.begin(Digest.of(b"and another"), 11)).release()
    assert not old.exists()
    assert young.exists()


async def test_what_the_disk_does_not_take_is_given_back_and_hashed_all_the_same(
    store: BlobStore,
) -> None:
    content = os.urandom(100_000)
    partial = await store.begin(Digest.of(content), len(content))
    with no_file_above(60_000), pytest.raises(NotWritten) as refused:
        await store.append(partial, [content])
    assert partial.written == 60_000
    assert b"".join(refused.value.rest) == content[60_000:]
    assert partial.digest_matches()
    await store.discard(partial)
    partial.release()


async def test_many_small_pieces_are_written_in_order(store: BlobStore) -> None:
    pieces = [os.urandom(number % 7) for number in range(2000)]
    content = b"".join(pieces)
    partial = await store.begin(Digest.of(content), len(content))
    with no_file_above(3000), pytest.raises(NotWritten) as refused:
        await store.append(partial, pieces)
    await asyncio.to_thread(partial.write, refused.value.rest)
    assert partial.digest_matches()
    await store.commit(partial)
    partial.release()
    assert store.path(partial.digest).read_bytes() == content


async def test_a_full_disk_gets_rid_of_what_was_left_over_and_takes_the_rest(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumable_part = await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE)
    content = os.urandom(10_000)
    partial = await store.begin(Digest.of(content), len(content))
    pwritev = os.pwritev

    def while_it_is_there(descriptor: int, pieces: list[memoryview], position: int) -> int:
        if resumable_part.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwritev(descriptor, pieces, position)

    monkeypatch.setattr(os, "pwritev", while_it_is_there)
    await store.append(partial, [content])
    assert not resumable_part.exists()
    assert partial.path.exists()
    assert partial.digest_matches()
    await store.commit(partial)
    partial.release()
    assert store.path(partial.digest).read_bytes() == content


async def test_a_blob_is_synced_before_it_is_renamed_and_renamed_before_it_counts(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fdatasync, fsync, rename = os.fdatasync, os.fsync, os.rename

    def named(descriptor: int) -> str:
        return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))

    def sync_content(descriptor: int) -> None:
        calls.append(f"content of {named(descriptor)}")
        fdatasync(descriptor)

    def sync_directory(descriptor: int) -> None:
        calls.append(f"directory {named(descriptor)}")
        fsync(descriptor)

    def rename_recorded(old: Path, new: Path) -> None:
        calls.append("name")
        rename(old, new)

    monkeypatch.setattr(os, "fdatasync", sync_content)
    monkeypatch.setattr(os, "fsync", sync_directory)
    monkeypatch.setattr(os, "rename", rename_recorded)
    digest = await keep(store, b"content")
    assert calls == [
        f"content of {part_name(digest, 7, '')}",
        "name",
        f"directory {digest.hex[:2]}",
        "directory sha256",
        "directory blobs",
    ]


async def test_discarding_one_blob_leaves_a_later_one_of_the_same_digest_alone(
    store: BlobStore,
) -> None:
    digest = Digest.of(b"content")
    first = await store.begin(digest, 7)
    await store.discard(first)
    second = await store.begin(digest, 7)
    await store.discard(first)
    assert second.path.exists()
    first.release()
    second.release()


async def test_what_the_kernel_does_not_have_in_memory_is_read_from_the_disk(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(READ_SIZE * 2)
    digest = await keep(store, content)

    def would_block(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", would_block)
    assert await read_all(store, digest, 3, len(content)) == content[3:]


async def test_handing_out_remembers_only_what_still_matters(
    store: BlobStore, clock: Clock
) -> None:
    for number in range(100):
        store.lease(Digest.of(str(number).encode()))
        clock.now += 10
    assert len(store._leases) <= LEASE_DURATION / 10 + 1


# Foreign names, and files that can't be removed: F84 and S17


async def test_f84_foreign_names_are_passed_over_and_counted(
    store: BlobStore, tmp_path: Path
) -> None:
    digest = await keep(store, b"a blob")
    root, directory = tmp_path / "blobs", store.path(digest).parent
    (root / "lost+found").mkdir()
    (root / ".DS_Store").write_bytes(b"x")
    (root / "@eaDir").mkdir()
    (root / "@eaDir" / "thumbs").mkdir()
    (root / "@eaDir" / "thumbs" / "a").write_bytes(b"x")
    (root / "sha256" / "a file").write_bytes(b"x")
    (directory / ".nfs0000000001").write_bytes(b"x")
    (directory / "\x1b[31m").write_bytes(b"x")
    (directory / digest.hex[:-1]).write_bytes(b"too short")
    wrong_place = root / "sha256" / ("00" if directory.name != "00" else "01")
    wrong_place.mkdir()
    (wrong_place / digest.hex).write_bytes(b"a blob")
    (directory / Digest.of(b"a directory").hex).mkdir()
    assert await store.sizes() == {digest: 6}
    assert store.foreign.count == 9
    assert len(store.foreign.examples) == MAX_FOREIGN_EXAMPLES
    assert str(store.foreign).endswith(" and 6 more")
    assert str(store.foreign).isprintable()


async def test_f84_a_directory_that_can_not_be_listed_ends_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await keep(store, b"first"), await keep(store, b"second")
    scandir = os.scandir

    def listed(path: str) -> object:
        if path == str(store.path(first).parent):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)
    assert await store.sizes() == {second: 6}
    assert store.foreign.count == 1
    # The row of the first must not be dropped for it.
    assert store.stat_size(first) == 5


async def test_f84_directories_and_stubborn_files_among_the_parts_do_not_stop_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills = tmp_path / "fills"
    (fills / "lost+found").mkdir(parents=True)
    (fills / "removed-sha256-x").mkdir()
    (fills / "sha256-small").write_bytes(b"x")
    (fills / "sha256-stubborn").write_bytes(b"x")
    unlink = Path.unlink

    def stubborn(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith("stubborn"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stubborn)
    store = BlobStore(tmp_path / "blobs", fills)
    await store.open()
    try:
        assert sorted(each.name for each in fills.iterdir()) == [
            "lost+found",
            "removed-sha256-x",
            "sha256-stubborn",
        ]
        assert store.remove(await keep(store, b"content"))
        await store.sweep()
        assert sorted(each.name for each in fills.iterdir()) == [
            "lost+found",
            "removed-sha256-x",
            "sha256-stubborn",
        ]
    finally:
        store.close()


async def test_a_blob_that_can_not_be_moved_away_stays_with_its_row(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await keep(store, b"content")

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as disk:
        disk.setattr(os, "unlink", refused)
        disk.setattr(os, "rename", refused)
        assert not store.remove(digest)
        # A damaged one counts as not cached all the same, until it has come again.
        assert store.remove_damaged(digest, is_damaged=lambda status: True)
        assert store.size(digest) is None
    assert await keep(store, b"content") == digest
    assert store.size(digest) == 7


async def test_a_file_that_this_user_may_not_read_counts_as_not_cached(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that root ran once leaves such files: the blob is fetched again."""
    digest = await keep(store, b"content")
    path = store.path(digest)

    def refused(name: Path) -> FileIO:
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    with monkeypatch.context() as disk:
        disk.setattr(blobs_module, "FileIO", refused)
        disk.setattr(os, "access", lambda name, mode: name != path)
        with pytest.raises(FileNotFoundError):
            async with store.opened(digest, 7):
                pytest.fail("the file was opened")
    assert store.size(digest) is None
    assert await keep(store, b"content") == digest
    async with store.opened(digest, 7) as file:
        assert file.read() == b"content"


async def test_a_directory_of_blobs_that_this_user_may_not_use_is_named(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await keep(store, b"content")
    closed = store.path(digest).parent
    (closed.parent / "lost+found").mkdir()
    assert store.forbidden_directory() is None
    forbidden = {closed, closed.parent / "lost+found"}
    access = os.access

    def answer(name: Path, mode: int) -> bool:
        return name not in forbidden and access(name, mode)

    monkeypatch.setattr(os, "access", answer)
    assert store.forbidden_directory() == closed


async def test_a_right_file_in_the_place_of_a_damaged_one_stays(store: BlobStore) -> None:
    digest = await keep(store, b"content")
    assert not store.remove_damaged(digest, is_damaged=lambda status: status.st_size != 7)
    assert store.size(digest) == 7


async def test_a_blob_is_hashed_piece_by_piece_and_opened_only_with_its_size(
    store: BlobStore,
) -> None:
    content = os.urandom(CHECK_SIZE * 2 + 3)
    digest = await keep(store, content)
    counts: list[int] = []

    async def pace(count: int) -> None:
        counts.append(count)

    assert (await store.check(digest, pace=pace)).digest_matches
    assert counts == [CHECK_SIZE, CHECK_SIZE, 3]
    store.path(digest).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not (await store.check(digest)).digest_matches
    async with store.opened(digest, len(content)):
        os.truncate(store.path(digest), 10)
    with pytest.raises(FileNotFoundError):
        async with store.opened(digest, len(content)):
            raise AssertionError("It was opened.")


async def test_a_part_is_continued_only_for_its_source_and_size(store: BlobStore) -> None:
    """S07."""
    content = os.urandom(MIN_RESUMABLE_SIZE * 2)
    digest, size = Digest.of(content), len(content)
    partial = await store.begin(digest, size, "hostile.example")
    await store.append(partial, [content[:MIN_RESUMABLE_SIZE]])
    await store.keep_for_resume(partial)
    partial.release()
    for source, of_size, resumable_size in (
        ("good.example", size, 0),
        ("hostile.example", size + 1, 0),
        ("hostile.example\n1", size, 0),
        ("../../hostile.example", size, 0),
        ("hostile.example", size, MIN_RESUMABLE_SIZE),
    ):
        other = await store.begin(digest, of_size, source)
        assert (other.resumable_size, other.path.parent) == (resumable_size, partial.path.parent)
        other.release()


async def test_parts_of_earlier_versions_which_name_no_source_are_removed(
    store: BlobStore, tmp_path: Path
) -> None:
    """S07: it is unknown who sent them."""
    path = await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE * 2), MIN_RESUMABLE_SIZE)
    old = path.with_name(path.name.rpartition("-")[0])
    old.write_bytes(bytes(MIN_RESUMABLE_SIZE))
    again = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await again.open()
    assert [each.name for each in (tmp_path / "fills").iterdir()] == [path.name]
    again.close()


async def test_a_second_blob_of_the_same_digest_takes_the_place_of_the_first(
    store: BlobStore,
) -> None:
    """S07: it came through another source; readers of the first one read on."""
    digest = await keep(store, b"content")
    with store.path(digest).open("rb") as first:
        partial = await store.begin(digest, 7, "other.example")
        await store.append(partial, [b"content"])
        await store.commit(partial)
        assert partial.is_committed
        third = await store.begin(digest, 7, "third.example")
        await store.discard(third)
        third.release()
        assert first.read() == store.path(digest).read_bytes() == b"content"
    partial.release()


async def test_a_fill_that_is_cancelled_while_its_file_is_opened_leaves_nothing_open(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, going_on = threading.Event(), threading.Event()
    begin = store._begin

    def slow(digest: Digest, size: int, source: str) -> PartialBlob:
        entered.set()
        going_on.wait(30)
        return begin(digest, size, source)

    monkeypatch.setattr(store, "_begin", slow)
    opened = len(os.listdir("/proc/self/fd"))
    beginning = asyncio.create_task(store.begin(Digest.of(b"content"), 7))
    await asyncio.to_thread(entered.wait, 30)
    beginning.cancel()
    going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert len(os.listdir("/proc/self/fd")) == opened
    assert list((tmp_path / "fills").iterdir()) == []
    assert not store._growing


async def test_what_is_left_over_is_bounded_and_the_oldest_goes_first(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S07: a source that breaks everything off could fill the disk with parts, and cached images
    would have to go for them."""
    parts = []
    for number in range(3):
        parts.append(await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE))
        os.utime(parts[-1], (0, parts[-1].stat().st_mtime - 100 + number))
    monkeypatch.setattr(blobs_module, "MAX_RESUMABLE_PARTS", 3)
    parts.append(await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE))
    assert [each.exists() for each in parts] == [False, True, True, True]
    total = MIN_RESUMABLE_SIZE * 2 * RESUMABLE_SHARE
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total))
    parts.append(await leave_over(store, os.urandom(MIN_RESUMABLE_SIZE), MIN_RESUMABLE_SIZE))
    assert [each.exists() for each in parts] == [False, False, False, True, True]


@pytest.mark.parametrize("use", ["opened", "check"])
async def test_a_file_whose_opening_is_cancelled_does_not_stay_open(
    store: BlobStore, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await keep(store, b"content")
    opened: list[FileIO] = []
    may_open = threading.Event()

    def opened_slowly(path: Path) -> FileIO:
        may_open.wait(30)
        opened.append(FileIO(path))
        return opened[0]

    monkeypatch.setattr(blobs_module, "FileIO", opened_slowly)

    async def open_it() -> None:
        if use == "check":
            await store.check(digest)
        else:
            async with store.opened(digest):
                raise AssertionError("It was opened.")

    opening = asyncio.create_task(open_it())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.sleep(0)
    may_open.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [each.closed for each in opened] == [True]


async def test_the_directory_of_growing_blobs_is_made_again(
    store: BlobStore, tmp_path: Path
) -> None:
    """B4.3: it was removed under a running engine."""
    (tmp_path / "fills").rmdir()
    digest = await keep(store, b"content")
    assert store.path(digest).read_bytes() == b"content"


async def test_without_a_data_directory_no_part_of_it_is_made(tmp_path: Path) -> None:
    """B4.3: the catalog went with it, and would not know of the blobs."""
    data = tmp_path / "data"
    store = BlobStore(data / "blobs", data / "fills")
    await store.open()
    data.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        await store.begin(Digest.of(b"content"), 7)
    assert not data.exists()
    store.close()


async def test_a_disk_that_hangs_is_not_waited_for(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4.4: one thread waits for it at a time, and what it gives too late is removed."""
    thaws = threading.Event()
    calls: list[Path] = []
    open_part = BlobStore._open_part

    def hangs(self: BlobStore, path: Path) -> int:
        calls.append(path)
        thaws.wait(30)
        return open_part(self, path)

    monkeypatch.setattr(BlobStore, "_open_part", hangs)
    monkeypatch.setattr(blobs_module, "BEGIN_TIMEOUT", 0.01)
    for content in (b"first", b"second", b"third"):
        with pytest.raises(OSError, match="has not answered") as refusal:
            await store.begin(Digest.of(content), len(content))
        assert refusal.value.errno == errno.ETIMEDOUT
    assert len(calls) == 1
    monkeypatch.setattr(blobs_module, "BEGIN_TIMEOUT", 30.0)
    thaws.set()
    async with asyncio.timeout(30):
        while store._hanging:
            await asyncio.sleep(0)
    assert list((tmp_path / "fills").iterdir()) == []
    await keep(store, b"first")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EDQUOT, "Free space"),
        (errno.ENOENT, "put it back, or restart the engine"),
        (errno.ENOTDIR, "move it away"),
        (errno.EROFS, "Mount it for writing"),
        (errno.EIO, "Look at the disk behind"),
        (errno.ETIMEDOUT, "Look at the disk behind"),
    ],
)
async def test_the_advice_fits_what_the_disk_says(tmp_path: Path, number: int, advice: str) -> None:
    """B4.3: a directory that is gone needs no free space."""
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    assert advice in (await store.cause(OSError(number, os.strerror(number)))).hint
