"""One blob on its way in, for everyone who wants it.

The source is scripted here, because a real one can't be made to break off after so many bytes; `tests/clients` has the real ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from entrepot.cache.fill import ATTEMPTS_WITHOUT_PROGRESS, TAIL, Fill, FillCancelled, Fills, FillState, StorageFailed
from entrepot.errors import EntrepotError
from entrepot.reference import Digest
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceFailed, SourceUnreachable
from entrepot.store.blobs import BlobStore, PartialBlob

CHUNK = 64 * 1024


@dataclass
class Stream:
    """What a source sends on one request."""

    offset: int
    size: int | None
    validator: str | None
    chunks: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks


@dataclass
class Source:
    """A source whose failures are scripted: *script* holds, for each request, after how many bytes it breaks off, or an error."""

    content: bytes
    script: list[int | EntrepotError] = field(default_factory=list)
    ranges: bool = True
    says_size: int | None = None
    requests: list[tuple[int, str | None]] = field(default_factory=list)
    held_back: dict[int, asyncio.Event] = field(default_factory=dict)
    """Offsets at which the source waits until somebody lets it go on."""

    @asynccontextmanager
    async def __call__(self, *, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        self.requests.append((offset, validator))
        step = self.script.pop(0) if self.script else len(self.content)
        if isinstance(step, EntrepotError):
            raise step
        start = offset if self.ranges else 0
        yield Stream(start, self.says_size, '"tag"', self._send(start, start + step))

    async def _send(self, start: int, end: int) -> AsyncIterator[bytes]:
        position = start
        while position < min(end, len(self.content)):
            if position in self.held_back:
                await self.held_back[position].wait()
            chunk = self.content[position : min(position + CHUNK, end)]
            position += len(chunk)
            yield chunk
        if end < len(self.content):
            raise SourceBrokeOff("The connection was lost.")


@dataclass
class Place:
    """Fills, their store, and what became held."""

    fills: Fills
    store: BlobStore
    held: dict[Digest, int]
    pauses: list[float]

    async def join(self, source: Source, digest: Digest | None = None) -> Fill:
        return await self.fills.join(digest or Digest.of(source.content), len(source.content), source)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    held: dict[Digest, int] = {}
    pauses: list[float] = []

    async def on_held(digest: Digest, size: int) -> None:
        held[digest] = size

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    fills = Fills(store, clock=asyncio.get_running_loop().time, on_held=on_held, pause=pause)
    async with fills.running():
        yield Place(fills, store, held, pauses)
    store.close()


async def read(fill: Fill, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in fill.read(start, fill.size if end is None else end)])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_fifty_clients_get_the_same_bytes_from_one_request(place: Place) -> None:
    source = Source(os.urandom(1_000_003))
    fills = await asyncio.gather(*(place.join(source) for _ in range(50)))
    bodies = await asyncio.gather(*(read(fill) for fill in fills))
    assert {hashlib.sha256(body).hexdigest() for body in bodies} == {hashlib.sha256(source.content).hexdigest()}
    assert source.requests == [(0, None)]
    await fills[0].wait()
    assert place.held == {Digest.of(source.content): 1_000_003}
    assert fills[0].served == 50 * 1_000_003


async def test_bytes_go_out_while_they_arrive(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8))
    gate = source.held_back[CHUNK * 4] = asyncio.Event()
    fill = await place.join(source)
    assert await read(fill, 0, CHUNK * 4) == source.content[: CHUNK * 4]
    assert not fill.ended
    gate.set()
    assert await read(fill) == source.content


async def test_ranges_are_read_from_the_same_fetch(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 16))
    fill = await place.join(source)
    size = len(source.content)
    parts = await asyncio.gather(*(read(fill, start, start + size // 8) for start in range(0, size, size // 8)))
    assert b"".join(parts) == source.content
    assert len(source.requests) == 1


async def test_clients_who_leave_change_nothing(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8))
    gate = source.held_back[CHUNK * 4] = asyncio.Event()
    fill = await place.join(source)
    leaving = asyncio.create_task(read(fill))
    await until(lambda: fill.readers == 1)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert fill.readers == 0
    gate.set()
    await fill.wait()
    assert place.store.size(fill.digest) == fill.size
    assert len(source.requests) == 1


async def test_the_last_bytes_are_withheld_until_the_digest_is_right(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8))
    gate = source.held_back[CHUNK * 7] = asyncio.Event()
    fill = await place.join(source)
    await until(lambda: fill.received == CHUNK * 7)
    assert fill.available == len(source.content) - TAIL
    gate.set()
    await fill.wait()
    assert fill.available == len(source.content)


@pytest.mark.parametrize("size", [1, 100, TAIL, CHUNK * 8])
async def test_no_client_can_finish_a_wrong_blob(place: Place, size: int) -> None:
    right = os.urandom(size)
    wrong = bytes([right[0] ^ 1]) + right[1:]
    fill = await place.join(Source(wrong), Digest.of(right))
    received = bytearray()

    async def receive() -> None:
        async for chunk in fill.read(0, size):
            received.extend(chunk)

    with pytest.raises(SourceAnswerInvalid, match="wrong bytes"):
        await receive()
    assert len(received) <= max(0, size - TAIL)
    with pytest.raises(SourceAnswerInvalid):
        await fill.wait()
    assert place.store.size(fill.digest) is None
    assert place.held == {}
    assert list(place.store._fills.iterdir()) == []


async def test_a_source_that_breaks_off_is_asked_again_from_the_byte_reached(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 3, CHUNK * 2])
    fill = await place.join(source)
    assert await read(fill) == source.content
    assert source.requests == [(0, None), (CHUNK * 3, '"tag"'), (CHUNK * 5, '"tag"')]
    assert fill.resumed_at == CHUNK * 5
    assert fill.fetched == len(source.content)
    assert len(place.pauses) == 2


async def test_a_source_without_ranges_begins_anew_and_what_is_here_is_skipped(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 3], ranges=False)
    fill = await place.join(source)
    assert await read(fill) == source.content
    assert fill.fetched == len(source.content) + CHUNK * 3


async def test_a_source_that_brings_nothing_more_gives_every_waiter_its_error(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 4, *[SourceFailed("503.") for _ in range(ATTEMPTS_WITHOUT_PROGRESS)]])
    fill = await place.join(source)
    outcomes = await asyncio.gather(*(read(fill) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SourceFailed] * 5
    assert len(source.requests) == 1 + ATTEMPTS_WITHOUT_PROGRESS
    assert place.fills.get(fill.digest) is None
    assert place.store.size(fill.digest) is None


async def test_a_source_that_can_not_be_reached_fails_at_once(place: Place) -> None:
    source = Source(b"content", script=[SourceUnreachable("Connection refused.")])
    fill = await place.join(source)
    with pytest.raises(SourceUnreachable):
        await fill.wait_beyond(0)
    assert source.requests == [(0, None)]
    assert place.pauses == []


async def test_after_a_failure_the_next_client_begins_a_new_fill(place: Place) -> None:
    source = Source(os.urandom(1000), script=[SourceFailed("500.")])
    failed = await place.join(source)
    with pytest.raises(SourceFailed):
        await failed.wait()
    assert await read(await place.join(source)) == source.content


@pytest.mark.parametrize("says", [7, 2000])
async def test_a_source_that_speaks_of_another_length_is_not_believed(place: Place, says: int) -> None:
    fill = await place.join(Source(os.urandom(1000), says_size=says))
    with pytest.raises(SourceAnswerInvalid, match="its manifest says 1,000"):
        await fill.wait()


async def test_a_source_that_ends_early_without_an_error_is_asked_again(place: Place) -> None:
    content = os.urandom(CHUNK * 4)
    short = Source(content[: CHUNK * 2])
    whole = Source(content)
    calls = [short, whole]
    fill = await place.fills.join(Digest.of(content), len(content), lambda *, offset, validator: calls.pop(0)(offset=offset, validator=validator))
    assert await read(fill) == content
    assert whole.requests == [(CHUNK * 2, '"tag"')]


async def test_a_full_disk_fails_the_fill_and_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: PartialBlob, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartialBlob, "append", full)
    fill = await place.join(Source(os.urandom(CHUNK * 4)))
    with pytest.raises(StorageFailed, match="No space left on device"):
        await read(fill)
    await fill.finished.wait()
    assert list(place.store._fills.iterdir()) == []
    monkeypatch.undo()
    source = Source(os.urandom(10))
    assert await read(await place.join(source)) == source.content


async def test_a_client_that_comes_when_the_fill_has_just_ended_still_reads_it(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 3))
    fill = await place.join(source)
    await fill.wait()
    assert await read(fill, 10) == source.content[10:]
    assert await read(fill) == source.content


async def test_an_empty_blob_is_a_blob(place: Place) -> None:
    fill = await place.join(Source(b""))
    await fill.wait()
    assert await read(fill) == b""
    assert place.store.size(fill.digest) == 0


async def test_a_cancelled_fill_tells_its_waiters_and_leaves_nothing(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8))
    source.held_back[CHUNK * 4] = asyncio.Event()
    fill = await place.join(source)
    waiting = asyncio.create_task(fill.wait())
    await until(lambda: fill.received == CHUNK * 4)
    place.fills.cancel(fill.digest)
    with pytest.raises(FillCancelled):
        await waiting
    assert fill.state is FillState.FAILED
    assert list(place.store._fills.iterdir()) == []


async def test_the_end_of_the_engine_ends_the_fills(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()

    async def on_held(digest: Digest, size: int) -> None: ...

    fills = Fills(store, clock=asyncio.get_running_loop().time, on_held=on_held)
    source = Source(os.urandom(CHUNK * 8))
    source.held_back[CHUNK * 4] = asyncio.Event()
    async with fills.running():
        fill = await fills.join(Digest.of(source.content), len(source.content), source)
        await until(lambda: fill.received == CHUNK * 4)
    assert fill.finished.is_set()
    assert list(store._fills.iterdir()) == []
    with pytest.raises(StorageFailed, match="stopping"):
        await fills.join(Digest.of(source.content), len(source.content), source)
    store.close()


async def test_memory_waits_for_the_disk_and_not_the_other_way_round(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    append = PartialBlob.append

    def slow(self: PartialBlob, content: bytes) -> None:
        waiting.append(len(content))
        append(self, content)

    monkeypatch.setattr(PartialBlob, "append", slow)
    source = Source(os.urandom(CHUNK * 256))
    fill = await place.join(source)
    await fill.wait()
    assert max(waiting) <= 4 * 1024 * 1024 + CHUNK
