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
    Readers,
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
def readers() -> Readers:
    return Readers()


@pytest.fixture
def window(readers: Readers, clock: Clock) -> FillBuffer:
    return FillBuffer(readers, clock=clock)


def pass_on_more_than_fits(window: FillBuffer) -> None:
    window.pass_on(b"")
    while window.end - window.start <= BYPASS_BUFFER:
        window.add(PIECE)
        window.take(len(PIECE))


async def test_it_is_read_across_its_pieces(window: FillBuffer) -> None:
    window.skip_to(100)
    window.add(b"1" * SMALL_PIECE)
    window.add(b"two")
    assert window.read(99, 10) is None
    assert window.read(100, 2) == b"11"
    assert window.read(100 + SMALL_PIECE - 1, 10) == b"1"
    assert window.read(100 + SMALL_PIECE, 10) == b"two"
    assert window.read(100 + SMALL_PIECE + 2, 10) == b"o"
    assert window.read(window.end, 10) == b""


async def test_small_pieces_are_joined(window: FillBuffer) -> None:
    for _ in range(100):
        window.add(b"x" * 1000)
    assert len(window._pieces) == -(-100 // (SMALL_PIECE // 1000))
    assert b"".join(
        [window.read(offset, 1) or b"" for offset in range(0, 100_000, 7)]
    ) == b"x" * len(range(0, 100_000, 7))


async def test_what_waits_for_the_disk_is_given_once_and_in_order(window: FillBuffer) -> None:
    window.add(b"one")
    assert await window.more() == [b"one"]
    window.add(b"two")
    window.take(3)
    assert await window.more() == [b"two"]
    window.take(3)
    window.close()
    assert await window.more() == []


async def test_who_adds_waits_while_too_much_waits_for_the_disk(window: FillBuffer) -> None:
    window.add(bytes(WRITE_AHEAD))
    waiting = asyncio.create_task(window.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    window.take(1)
    assert await waiting


async def test_when_nothing_is_taken_any_more_nobody_waits_for_room(window: FillBuffer) -> None:
    window.add(bytes(WRITE_AHEAD))
    waiting = asyncio.create_task(window.room())
    await asyncio.sleep(0)
    window.stop()
    assert not await waiting


async def test_what_is_on_the_disk_does_not_stay_in_memory(window: FillBuffer) -> None:
    for _ in range(4):
        window.add(PIECE)
    window.take(3 * len(PIECE))
    assert (window.start, window.taken, window.end) == (
        3 * len(PIECE),
        3 * len(PIECE),
        4 * len(PIECE),
    )


async def test_from_a_small_file_the_blob_is_whole_in_memory(window: FillBuffer) -> None:
    window.skip_to(3)
    window.add(b"two")
    window.pass_on(b"one")
    assert window.is_whole
    assert (window.read(0, 9), window.read(3, 9)) == (b"one", b"two")


async def test_it_waits_for_the_slowest_and_forgets_what_all_have(
    window: FillBuffer, readers: Readers
) -> None:
    with readers.reading(0) as slow, readers.reading(0) as quick:
        pass_on_more_than_fits(window)
        quick.position = window.end
        waiting = asyncio.create_task(window.passed_on())
        await asyncio.sleep(0)
        readers.changed()
        await asyncio.sleep(0)
        assert not waiting.done()
        assert window.is_whole
        slow.position += len(PIECE)
        readers.changed()
        await waiting
        assert window.start == len(PIECE)
        assert not window.is_whole


async def test_a_reader_that_leaves_is_waited_for_no_longer(
    window: FillBuffer, readers: Readers
) -> None:
    with readers.reading(BYPASS_BUFFER):
        with readers.reading(0):
            pass_on_more_than_fits(window)
            waiting = asyncio.create_task(window.passed_on())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting


async def test_a_reader_that_holds_up_the_others_for_too_long_is_given_up(
    window: FillBuffer, readers: Readers, clock: Clock
) -> None:
    with readers.reading(0) as slow, readers.reading(0) as quick:
        pass_on_more_than_fits(window)
        quick.position = window.end - len(PIECE)
        waiting = asyncio.create_task(window.passed_on())
        await asyncio.sleep(0)
        # It moves, but by a byte only, and the others have waited all the time.
        slow.position += 1
        clock.now += MAX_READER_DELAY
        readers.changed()
        await waiting
        assert window.read(slow.position, 1) is None
        assert window.read(quick.position, len(PIECE)) == PIECE


async def test_without_a_reader_it_waits_for_one_and_then_gives_up(
    window: FillBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.cache.fill_buffer.MAX_READER_DELAY", 0.01)
    pass_on_more_than_fits(window)
    with pytest.raises(StorageFailed, match="nobody waits for its bytes"):
        await window.passed_on()
