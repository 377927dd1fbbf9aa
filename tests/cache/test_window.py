"""What passes through memory because the disk does not take it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from entrepot.cache.window import PATIENCE, WINDOW, Readers, StorageFailed, Window

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
def window(readers: Readers, clock: Clock) -> Window:
    return Window(100, readers, clock=clock)


def nothing() -> None: ...


async def fill_up(window: Window) -> None:
    while window.end - window.start < WINDOW:
        await window.put(PIECE, nothing)


async def turns(until: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not until():
            await asyncio.sleep(0)


async def test_it_is_read_across_its_pieces(window: Window) -> None:
    await window.put(b"one", nothing)
    await window.put(b"two", nothing)
    assert [window.read(offset, 10) for offset in range(100, 107)] == [b"one", b"ne", b"e", b"two", b"wo", b"o", b""]
    assert window.read(100, 2) == b"on"


async def test_what_comes_is_announced_before_room_is_made(window: Window, readers: Readers) -> None:
    announced: list[int] = []
    with readers.reading(100) as reader:
        await fill_up(window)
        putting = asyncio.create_task(window.put(PIECE, lambda: announced.append(window.end)))
        await turns(lambda: bool(announced))
        assert not putting.done()
        reader.position += len(PIECE)
        readers.changed()
        await putting
    assert announced == [100 + WINDOW + len(PIECE)]


async def test_it_waits_for_the_slowest_and_forgets_what_all_have(window: Window, readers: Readers) -> None:
    with readers.reading(100) as slow, readers.reading(100) as quick:
        await fill_up(window)
        quick.position = window.end
        putting = asyncio.create_task(window.put(PIECE, nothing))
        readers.changed()
        await asyncio.sleep(0)
        assert not putting.done()
        assert not window.has_moved
        slow.position += len(PIECE)
        readers.changed()
        await putting
        assert window.start == 100 + len(PIECE)
        assert window.has_moved


async def test_a_reader_that_leaves_is_waited_for_no_longer(window: Window, readers: Readers) -> None:
    with readers.reading(100 + WINDOW):
        with readers.reading(100):
            await fill_up(window)
            putting = asyncio.create_task(window.put(PIECE, nothing))
            await asyncio.sleep(0)
            assert not putting.done()
        await putting


async def test_a_reader_that_holds_up_the_others_for_too_long_is_given_up(window: Window, readers: Readers, clock: Clock) -> None:
    with readers.reading(100) as slow, readers.reading(100) as quick:
        await fill_up(window)
        quick.position = window.end
        putting = asyncio.create_task(window.put(PIECE, nothing))
        await asyncio.sleep(0)
        # It moves, but by a byte only, and the others have waited all the time.
        slow.position += 1
        clock.now += PATIENCE
        readers.changed()
        await putting
        with pytest.raises(StorageFailed, match="too slow"):
            window.read(slow.position, 1)
        assert window.read(quick.position, len(PIECE)) == PIECE


async def test_without_a_reader_it_waits_for_one_and_then_gives_up(window: Window, readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.cache.window.PATIENCE", 0.01)
    await fill_up(window)
    with pytest.raises(StorageFailed, match="nobody waits for its bytes"):
        await window.put(PIECE, nothing)
