"""What is in memory of a blob that comes in, and what passes through memory because the disk does
not take it."""

from __future__ import annotations

import asyncio

import pytest

from entrepot.cache.fill_buffer import (
    BYPASS_BUFFER,
    MAX_READER_DELAY,
    SMALL_PIECE,
    WRITE_AHEAD,
    FillBuffer,
    FillReaders,
    StorageFailed,
)

PIECE = bytes(1024 * 1024)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def readers() -> FillReaders:
    return FillReaders()


@pytest.fixture
def buffer(readers: FillReaders, clock: Clock) -> FillBuffer:
    return FillBuffer(readers, clock=clock)


def bypass_more_than_fits(buffer: FillBuffer) -> None:
    buffer.bypass_disk(b"")
    while buffer.end - buffer.start <= BYPASS_BUFFER:
        buffer.add(PIECE)
        buffer.acknowledge(len(PIECE))


async def test_it_is_read_across_its_pieces(buffer: FillBuffer) -> None:
    buffer.skip_to(100)
    buffer.add(b"1" * SMALL_PIECE)
    buffer.add(b"two")
    assert buffer.read(99, 10) is None
    assert buffer.read(100, 2) == b"11"
    assert buffer.read(100 + SMALL_PIECE - 1, 10) == b"1"
    assert buffer.read(100 + SMALL_PIECE, 10) == b"two"
    assert buffer.read(100 + SMALL_PIECE + 2, 10) == b"o"
    assert buffer.read(buffer.end, 10) == b""


async def test_small_pieces_are_joined(buffer: FillBuffer) -> None:
    for _ in range(100):
        buffer.add(b"x" * 1000)
    assert len(buffer._pieces) == -(-100 // (SMALL_PIECE // 1000))
    assert b"".join(
        [buffer.read(offset, 1) or b"" for offset in range(0, 100_000, 7)]
    ) == b"x" * len(range(0, 100_000, 7))


async def test_what_waits_for_the_disk_is_given_once_and_in_order(buffer: FillBuffer) -> None:
    buffer.add(b"one")
    assert await buffer.next_pieces() == [b"one"]
    buffer.add(b"two")
    buffer.acknowledge(3)
    assert await buffer.next_pieces() == [b"two"]
    buffer.acknowledge(3)
    buffer.close()
    assert await buffer.next_pieces() == []


async def test_who_adds_waits_while_too_much_waits_for_the_disk(buffer: FillBuffer) -> None:
    buffer.add(bytes(WRITE_AHEAD))
    waiting = asyncio.create_task(buffer.wait_for_space())
    await asyncio.sleep(0)
    assert not waiting.done()
    buffer.acknowledge(1)
    assert await waiting


async def test_when_nothing_is_taken_any_more_nobody_waits_for_room(buffer: FillBuffer) -> None:
    buffer.add(bytes(WRITE_AHEAD))
    waiting = asyncio.create_task(buffer.wait_for_space())
    await asyncio.sleep(0)
    buffer.stop()
    assert not await waiting


async def test_what_is_on_the_disk_does_not_stay_in_memory(buffer: FillBuffer) -> None:
    for _ in range(4):
        buffer.add(PIECE)
    buffer.acknowledge(3 * len(PIECE))
    assert (buffer.start, buffer.acknowledged, buffer.end) == (
        3 * len(PIECE),
        3 * len(PIECE),
        4 * len(PIECE),
    )


async def test_from_a_small_file_the_blob_is_whole_in_memory(buffer: FillBuffer) -> None:
    buffer.skip_to(3)
    buffer.add(b"two")
    buffer.bypass_disk(b"one")
    assert buffer.is_whole
    assert (buffer.read(0, 9), buffer.read(3, 9)) == (b"one", b"two")


async def test_it_waits_for_the_slowest_and_forgets_what_all_have(
    buffer: FillBuffer, readers: FillReaders
) -> None:
    with readers.reading(0) as slow, readers.reading(0) as quick:
        bypass_more_than_fits(buffer)
        quick.position = buffer.end
        waiting = asyncio.create_task(buffer.wait_for_readers())
        await asyncio.sleep(0)
        readers.notify()
        await asyncio.sleep(0)
        assert not waiting.done()
        assert buffer.is_whole
        slow.position += len(PIECE)
        readers.notify()
        await waiting
        assert buffer.start == len(PIECE)
        assert not buffer.is_whole


async def test_a_reader_that_leaves_is_waited_for_no_longer(
    buffer: FillBuffer, readers: FillReaders
) -> None:
    with readers.reading(BYPASS_BUFFER):
        with readers.reading(0):
            bypass_more_than_fits(buffer)
            waiting = asyncio.create_task(buffer.wait_for_readers())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting


async def test_a_reader_that_holds_up_the_others_for_too_long_is_given_up(
    buffer: FillBuffer, readers: FillReaders, clock: Clock
) -> None:
    with readers.reading(0) as slow, readers.reading(0) as quick:
        bypass_more_than_fits(buffer)
        quick.position = buffer.end - len(PIECE)
        waiting = asyncio.create_task(buffer.wait_for_readers())
        await asyncio.sleep(0)
        # It moves, but by a byte only, and the others have waited all the time.
        slow.position += 1
        clock.now += MAX_READER_DELAY
        readers.notify()
        await waiting
        assert buffer.read(slow.position, 1) is None
        assert buffer.read(quick.position, len(PIECE)) == PIECE


async def test_without_a_reader_it_waits_for_one_and_then_gives_up(
    buffer: FillBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.cache.fill_buffer.MAX_READER_DELAY", 0.01)
    bypass_more_than_fits(buffer)
    with pytest.raises(StorageFailed, match="no client waits for its bytes"):
        await buffer.wait_for_readers()
