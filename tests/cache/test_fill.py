"""One blob on its way in, for all clients and pulls that want it.

The source is scripted here, because a real one can't be made to break off after a number of bytes;
`tests/e2e/clients` has the real ones.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from entrepot.cache.fill import (
    ATTEMPTS_WITHOUT_PROGRESS,
    EXCESS,
    TAIL,
    Fill,
    FillCancelled,
    FillFailed,
    FillState,
)
from entrepot.cache.fill_buffer import BYPASS_BUFFER, WRITE_AHEAD, FillBuffer, StorageFailed
from entrepot.cache.fills import Fills
from entrepot.cache.transfer import MAX_TRANSFERS
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceFailed,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.store import blobs as blobs_module
from entrepot.store.blobs import MIN_RESUMABLE_SIZE, BlobStore
from entrepot.store.partial_blob import FilePart, NotWritten, PartialBlob
from tests.fakes.threaded_body import ThreadedChunks
from tests.store.full_disk import no_file_above

CHUNK = 64 * 1024
ORIGIN = "registry.example.com"


@dataclass
class Stream:
    """What a source sends on one request."""

    offset: int
    size: int | None
    validator: str | None
    chunks: AsyncIterator[bytes]
    body: ThreadedChunks | None = None
    is_threaded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.is_threaded:
            self.body = ThreadedChunks(self.chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks if self.body is None else aiter(self.body)


@pytest.fixture(autouse=True, params=[False, True], ids=["loop", "thread"])
def is_threaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Each test of this file runs twice: its sources are read through the event loop, and in a
    thread."""
    threaded: bool = request.param
    monkeypatch.setattr(Stream, "is_threaded", threaded)
    return threaded


through_the_loop = pytest.mark.parametrize("is_threaded", [False], indirect=True, ids=["loop"])
in_a_thread = pytest.mark.parametrize("is_threaded", [True], indirect=True, ids=["thread"])


@dataclass
class Source:
    """A source whose failures are scripted: *script* holds, for each request, after how many bytes
    it breaks off, or an error."""

    content: bytes
    script: list[int | EntrepotError] = field(default_factory=list)
    ranges: bool = True
    says_size: int | None = None
    requests: list[tuple[int, str | None]] = field(default_factory=list)
    held_back: dict[int, asyncio.Event] = field(default_factory=dict)
    """Offsets at which the source waits for an event."""

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
    """Fills, their store, and what they stored."""

    fills: Fills
    store: BlobStore
    stored: dict[Digest, int]
    pauses: list[float]
    refusals: list[int | None]
    origins: list[str]

    async def join(self, source: Source, digest: Digest | None = None) -> Fill:
        return await self.fills.join(
            digest or Digest.of(source.content), len(source.content), source, origin=ORIGIN
        )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    stored: dict[Digest, int] = {}
    pauses: list[float] = []
    refusals: list[int | None] = []
    origins: list[str] = []

    async def on_stored(digest: Digest, size: int, origin: str) -> None:
        stored[digest] = size
        origins.append(origin)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    clock = asyncio.get_running_loop().time
    fills = Fills(
        store,
        clock=clock,
        on_stored=on_stored,
        on_refusal=lambda error: refusals.append(error.errno),
        pause=pause,
    )
    async with fills.running():
        yield Place(fills, store, stored, pauses, refusals, origins)
    store.close()


async def fed(fill: Fill, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
    """What a client gets."""
    async for piece in fill.read(start, fill.size if end is None else end):
        yield (
            os.pread(piece.file.fileno(), piece.count, piece.offset)
            if isinstance(piece, FilePart)
            else piece
        )


async def read(fill: Fill, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in fed(fill, start, end)])


async def receive(fill: Fill, received: bytearray) -> None:
    """Like `read`, for what breaks off."""
    async for chunk in fed(fill):
        received.extend(chunk)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_fifty_clients_get_the_same_bytes_from_one_request(place: Place) -> None:
    source = Source(os.urandom(1_000_003))
    fills = await asyncio.gather(*(place.join(source) for _ in range(50)))
    bodies = await asyncio.gather(*(read(fill) for fill in fills))
    assert {hashlib.sha256(body).hexdigest() for body in bodies} == {
        hashlib.sha256(source.content).hexdigest()
    }
    assert source.requests == [(0, None)]
    await fills[0].wait()
    assert place.stored == {Digest.of(source.content): 1_000_003}
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
    parts = await asyncio.gather(
        *(read(fill, start, start + size // 8) for start in range(0, size, size // 8))
    )
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
    with pytest.raises(SourceAnswerInvalid, match="wrong bytes"):
        await receive(fill, received)
    assert len(received) <= max(0, size - TAIL)
    with pytest.raises(SourceAnswerInvalid):
        await fill.wait()
    assert place.store.size(fill.digest) is None
    assert place.stored == {}
    assert list(place.store._fills.iterdir()) == []


async def test_no_client_can_finish_a_blob_whose_last_byte_is_wrong(place: Place) -> None:
    right = os.urandom(CHUNK * 8)
    fill = await place.join(Source(right[:-1] + bytes([right[-1] ^ 1])), Digest.of(right))
    received = bytearray()
    with pytest.raises(SourceAnswerInvalid, match="wrong bytes"):
        await receive(fill, received)
    assert len(received) <= len(right) - TAIL
    await fill.finished.wait()
    assert list(place.store._fills.iterdir()) == []


async def test_a_source_that_breaks_off_is_asked_again_from_the_byte_reached(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 3, CHUNK * 2])
    fill = await place.join(source)
    assert await read(fill) == source.content
    assert source.requests == [(0, None), (CHUNK * 3, '"tag"'), (CHUNK * 5, '"tag"')]
    assert fill.resumed_at == CHUNK * 5
    assert fill.fetched == len(source.content)
    assert len(place.pauses) == 2


async def test_a_source_without_ranges_begins_anew_and_what_is_here_is_skipped(
    place: Place,
) -> None:
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 3], ranges=False)
    fill = await place.join(source)
    assert await read(fill) == source.content
    assert fill.fetched == len(source.content) + CHUNK * 3


async def test_a_source_that_brings_nothing_more_gives_every_waiter_its_error(place: Place) -> None:
    source = Source(
        os.urandom(CHUNK * 8),
        script=[CHUNK * 4, *[SourceFailed("503.") for _ in range(ATTEMPTS_WITHOUT_PROGRESS)]],
    )
    fill = await place.join(source)
    outcomes = await asyncio.gather(*(read(fill) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SourceFailed] * 5
    assert len(source.requests) == 1 + ATTEMPTS_WITHOUT_PROGRESS
    assert place.fills.any(fill.digest) is None
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


@pytest.mark.parametrize("said", [7, 999, 1000, 1001, 2000, None])
@pytest.mark.parametrize("sent", [999, 1000, 1001])
async def test_f82_the_digest_decides_how_large_a_blob_is(
    place: Place, said: int | None, sent: int
) -> None:
    """Manifests are off by one, and so are sources. No more bytes come in than the source
    announces, and none are kept that are wrong."""
    content = os.urandom(sent)
    source = Source(content, says_size=said)
    fill = await place.fills.join(Digest.of(content), 1000, source, origin=ORIGIN)
    if said is not None and said < sent:
        with pytest.raises(SourceAnswerInvalid, match="sends more than"):
            await fill.wait()
        assert place.stored == {}
        return
    await fill.wait()
    assert (fill.size, place.stored) == (sent, {fill.digest: sent})
    assert await read(fill) == content
    assert place.store.size(fill.digest) == sent


@pytest.mark.parametrize("said", [5 * CHUNK + 1, None])
async def test_f82_wrong_bytes_of_another_size_are_not_kept_and_no_reader_gets_their_end(
    place: Place, said: int | None
) -> None:
    content = os.urandom(5 * CHUNK + 1)
    fill = await place.fills.join(
        Digest.of(b"other"), 5 * CHUNK, Source(content, says_size=said), origin=ORIGIN
    )
    got = bytearray()
    with pytest.raises(SourceAnswerInvalid):
        await receive(fill, got)
    assert len(got) <= 5 * CHUNK + 1 - TAIL
    assert place.stored == {}


async def test_f82_a_source_that_states_no_size_sends_no_more_than_a_little_beyond_the_manifest(
    place: Place,
) -> None:
    content = os.urandom(20 * CHUNK)
    source = Source(content)
    fill = await place.fills.join(Digest.of(content), CHUNK, source, origin=ORIGIN)
    with pytest.raises(SourceAnswerInvalid, match="sends more than the 65,536 bytes"):
        await fill.wait()
    assert fill.fetched <= CHUNK + EXCESS + CHUNK


@pytest.mark.parametrize("more", [-1, 1])
async def test_f82_a_reader_that_was_told_another_size_never_finishes(
    place: Place, more: int
) -> None:
    """Its Content-Length is wrong: the transfer is cut, and the next one has the right length."""
    content = os.urandom(3 * CHUNK)
    source = Source(content)
    gate = source.held_back[2 * CHUNK] = asyncio.Event()
    stated = len(content) + more
    fill = await place.fills.join(Digest.of(content), stated, source, origin=ORIGIN)
    reading = asyncio.create_task(read(fill))
    await fill.wait_beyond(0)
    gate.set()
    with pytest.raises(SourceAnswerInvalid, match="its size is known now"):
        await reading
    await fill.wait()
    assert place.stored == {fill.digest: len(content)}
    assert await read(fill) == content


async def test_f82_what_was_left_over_of_another_size_is_fetched_again(place: Place) -> None:
    """An engine that was killed in mid-fill, and a manifest that is off by one."""
    content = os.urandom(2 * MIN_RESUMABLE_SIZE + 5)
    stated = len(content) + 1
    breaking = Source(content, script=[MIN_RESUMABLE_SIZE + 7, *[0] * 50])
    first = await place.fills.join(Digest.of(content), stated, breaking, origin=ORIGIN)
    with pytest.raises(SourceBrokeOff):
        await first.wait()
    fill = await place.fills.join(
        Digest.of(content), stated, Source(content, says_size=len(content)), origin=ORIGIN
    )
    await fill.wait()
    assert place.stored == {fill.digest: len(content)}


async def test_a_source_that_ends_early_without_an_error_is_asked_again(place: Place) -> None:
    content = os.urandom(CHUNK * 4)
    short = Source(content[: CHUNK * 2])
    whole = Source(content)
    calls = [short, whole]
    fill = await place.fills.join(
        Digest.of(content),
        len(content),
        lambda *, offset, validator: calls.pop(0)(offset=offset, validator=validator),
        origin=ORIGIN,
    )
    assert await read(fill) == content
    assert whole.requests == [(CHUNK * 2, '"tag"')]


@pytest.mark.parametrize(
    "taken",
    [0, 1000, BYPASS_BUFFER + 1000, BYPASS_BUFFER * 2],
    ids=["nothing", "a little", "more than the memory", "most of it"],
)
async def test_on_a_full_disk_clients_get_every_byte_and_nothing_is_kept(
    place: Place, taken: int
) -> None:
    source = Source(os.urandom(BYPASS_BUFFER * 3 + 17))
    gate = source.held_back[0] = asyncio.Event()
    fill = await place.join(source)
    half = fill.size // 2
    reading = [asyncio.create_task(read(fill)) for _ in range(5)] + [
        asyncio.create_task(read(fill, half))
    ]
    with no_file_above(taken):
        gate.set()
        *whole, part = await asyncio.gather(*reading)
        with pytest.raises(StorageFailed, match="can't be stored: File too large"):
            await fill.wait()
    assert [body == source.content for body in whole] == [True] * 5
    assert part == source.content[half:]
    assert len(source.requests) == 1
    assert place.stored == {}
    assert place.refusals == [errno.EFBIG]
    assert list(place.store._fills.iterdir()) == []
    assert place.fills.refusal is not None
    assert await read(await place.join(Source(b"the next one"))) == b"the next one"
    await until(lambda: len(place.stored) == 1)
    assert place.fills.refusal is None


async def test_on_a_full_disk_a_small_blob_is_read_by_a_client_that_comes_when_it_has_ended(
    place: Place,
) -> None:
    source = Source(os.urandom(10_000))
    with no_file_above(4096):
        fill = await place.join(source)
        with pytest.raises(StorageFailed):
            await fill.wait()
    assert await read(fill) == source.content


async def test_on_a_full_disk_no_client_can_finish_a_wrong_blob(place: Place) -> None:
    right = os.urandom(CHUNK * 8)
    with no_file_above(1000):
        fill = await place.join(Source(bytes([right[0] ^ 1]) + right[1:]), Digest.of(right))
        received = bytearray()
        with pytest.raises(SourceAnswerInvalid, match="wrong bytes"):
            await receive(fill, received)
    assert len(received) <= len(right) - TAIL


async def test_on_a_full_disk_a_source_that_breaks_off_is_asked_again(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 3, CHUNK * 2])
    with no_file_above(CHUNK):
        fill = await place.join(source)
        assert await read(fill) == source.content
    assert [offset for offset, _ in source.requests] == [0, CHUNK * 3, CHUNK * 5]


async def test_on_a_full_disk_a_client_that_comes_too_late_gets_a_fill_of_its_own(
    place: Place,
) -> None:
    source = Source(os.urandom(BYPASS_BUFFER * 3))
    gate = source.held_back[BYPASS_BUFFER * 2] = asyncio.Event()
    with no_file_above(0):
        fill = await place.join(source)
        early = asyncio.create_task(read(fill))
        await until(lambda: not fill.can_be_joined)
        assert place.fills.any(fill.digest) is None
        other = await place.join(source)
        assert other is not fill
        late = asyncio.create_task(read(other))
        await until(lambda: fill.received == other.received == BYPASS_BUFFER * 2)
        gate.set()
        assert await early == await late == source.content
        await asyncio.gather(fill.finished.wait(), other.finished.wait())
    assert len(source.requests) == 2
    assert place.fills.any(fill.digest) is None
    assert not place.fills.under_way


async def test_on_a_full_disk_a_client_that_was_given_up_is_never_sent_another_file(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("entrepot.cache.fill_buffer.MAX_READER_DELAY", 0.01)
    source = Source(os.urandom(BYPASS_BUFFER * 3))
    gate = source.held_back[CHUNK * 8] = asyncio.Event()
    with no_file_above(CHUNK * 4):
        fill = await place.join(source)
        keeping = asyncio.create_task(read(fill))
        await until(lambda: fill.error is not None)
        slow = fill.read(0, fill.size)
        pieces = [await anext(slow)]
        gate.set()
        assert await keeping == source.content
        await fill.finished.wait()
    # A file that is opened now gets the number of the one that was closed.
    with ExitStack() as opened:
        for number in range(8):
            (tmp_path / f"other-{number}").write_bytes(bytes(CHUNK * 8))
            opened.enter_context((tmp_path / f"other-{number}").open("rb"))
        got = bytearray()

        async def take_the_rest() -> None:
            while True:
                piece = pieces.pop() if pieces else await anext(slow)
                got.extend(
                    os.pread(piece.file.fileno(), piece.count, piece.offset)
                    if isinstance(piece, FilePart)
                    else piece
                )

        with pytest.raises(StorageFailed, match="too slow"):
            await take_the_rest()
    assert got == source.content[: len(got)]


async def test_on_a_full_disk_a_fill_that_nobody_reads_ends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.cache.fill_buffer.MAX_READER_DELAY", 0.01)
    source = Source(os.urandom(BYPASS_BUFFER * 3))
    with no_file_above(0):
        fill = await place.join(source)
        with pytest.raises(StorageFailed, match="no client waits"):
            await fill.wait()
    assert fill.fetched < fill.size


async def test_where_the_disk_takes_no_new_file_clients_get_every_byte_and_nothing_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    source = Source(os.urandom(BYPASS_BUFFER * 2))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        fill = await place.join(source)
        assert await read(fill) == source.content
        with pytest.raises(StorageFailed, match="Read-only file system"):
            await fill.wait()
    assert not fill.is_stored
    assert place.stored == {}
    assert place.refusals == [errno.EROFS]
    assert await read(await place.join(Source(b"content"))) == b"content"


async def test_while_the_disk_hangs_clients_get_every_byte(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4.4: a new blob needs a file, which a frozen file system gives no one."""
    thaws = threading.Event()

    def hangs(*_: object) -> int:
        thaws.wait(30)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(blobs_module, "BEGIN_TIMEOUT", 0.01)
    monkeypatch.setattr(BlobStore, "_open_part", hangs)
    try:
        for _ in range(6):
            source = Source(os.urandom(BYPASS_BUFFER * 2))
            fill = await place.join(source)
            async with asyncio.timeout(30):
                assert await read(fill) == source.content
            with pytest.raises(StorageFailed, match="has not answered") as failure:
                await fill.wait()
            assert "Look at the disk behind" in failure.value.hint
        assert place.stored == {}
        assert place.refusals == [errno.ETIMEDOUT]
    finally:
        thaws.set()


async def test_a_disk_that_takes_bytes_and_no_name_is_told(place: Place, tmp_path: Path) -> None:
    """B4.3: a file stands where the blobs belong."""
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_bytes(b"")
    source = Source(b"content")
    fill = await place.join(source)
    assert await read(fill) == source.content
    with pytest.raises(StorageFailed, match="can't be stored") as failure:
        await fill.wait()
    assert "move it away" in failure.value.hint
    assert place.refusals == [errno.ENOTDIR]
    assert place.fills.refusal is not None


async def test_a_fill_goes_on_where_one_that_the_source_broke_off_has_ended(place: Place) -> None:
    source = Source(
        os.urandom(CHUNK * 32),
        script=[CHUNK * 20, *[SourceFailed("503.") for _ in range(ATTEMPTS_WITHOUT_PROGRESS)]],
    )
    with pytest.raises(SourceFailed):
        await (await place.join(source)).wait()
    source.requests.clear()
    fill = await place.join(source)
    assert await read(fill) == source.content
    assert source.requests == [(CHUNK * 20, None)]
    assert fill.resumed_at == CHUNK * 20
    assert fill.fetched == CHUNK * 12


async def test_a_part_that_is_not_what_it_was_is_thrown_away_with_the_rest(place: Place) -> None:
    source = Source(
        os.urandom(CHUNK * 32),
        script=[CHUNK * 20, *[SourceFailed("503.") for _ in range(ATTEMPTS_WITHOUT_PROGRESS)]],
    )
    with pytest.raises(SourceFailed):
        await (await place.join(source)).wait()
    [part] = place.store._fills.iterdir()
    with part.open("r+b") as file:
        file.write(bytes([source.content[0] ^ 1]))
    fill = await place.join(source)
    with pytest.raises(SourceAnswerInvalid, match="wrong bytes"):
        # A client that has got some of it can not begin again.
        await read(fill)
    source.requests.clear()
    assert await read(await place.join(source)) == source.content
    assert source.requests == [(0, None)]


async def test_a_part_that_is_not_what_it_was_and_went_to_nobody_is_fetched_again_at_once(
    place: Place,
) -> None:
    """S07."""
    source = Source(
        os.urandom(CHUNK * 32),
        script=[CHUNK * 20, *[SourceFailed("503.") for _ in range(ATTEMPTS_WITHOUT_PROGRESS)]],
    )
    with pytest.raises(SourceFailed):
        await (await place.join(source)).wait()
    [part] = place.store._fills.iterdir()
    with part.open("r+b") as file:
        file.write(bytes([source.content[0] ^ 1]))
    source.requests.clear()
    fill = await place.join(source)
    await fill.wait()
    assert source.requests == [(CHUNK * 20, None), (0, None)]
    assert fill.is_stored
    assert await read(fill) == source.content


async def test_a_blob_that_came_whole_and_was_not_yet_named_is_not_fetched_again(
    place: Place,
) -> None:
    source = Source(os.urandom(CHUNK * 32))
    digest = Digest.of(source.content)
    partial = await place.store.begin(digest, len(source.content), ORIGIN)
    await place.store.append(partial, [source.content])
    await place.store.keep_for_resume(partial)
    partial.release()
    fill = await place.join(source)
    assert await read(fill) == source.content
    await fill.wait()
    assert source.requests == []
    assert place.store.size(digest) == len(source.content)


async def test_a_slow_client_slows_neither_the_fill_nor_the_others(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 64))
    fill = await place.join(source)
    slow = fed(fill)
    first = await anext(slow)
    assert await asyncio.gather(*(read(fill) for _ in range(4))) == [source.content] * 4
    await fill.wait()
    assert first + b"".join([chunk async for chunk in slow]) == source.content
    assert len(source.requests) == 1


async def test_a_client_that_comes_when_the_fill_has_just_ended_still_reads_it(
    place: Place,
) -> None:
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
    place.fills.cancel(fill)
    with pytest.raises(FillCancelled):
        await waiting
    assert fill.state is FillState.FAILED
    assert list(place.store._fills.iterdir()) == []


async def test_the_end_of_the_engine_ends_the_fills_and_leaves_what_has_come_to_the_next(
    tmp_path: Path,
) -> None:
    source = Source(os.urandom(CHUNK * 32))
    source.held_back[CHUNK * 20] = asyncio.Event()

    async def on_stored(digest: Digest, size: int, origin: str) -> None: ...

    async def join(fills: Fills) -> Fill:
        return await fills.join(
            Digest.of(source.content), len(source.content), source, origin=ORIGIN
        )

    async def reaches_the_middle(fill: Fill, requests: int) -> None:
        await until(lambda: fill.received == CHUNK * 20 and len(source.requests) == requests)

    for number in (1, 2):
        store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
        await store.open()
        fills = Fills(store, clock=asyncio.get_running_loop().time, on_stored=on_stored)
        async with fills.running():
            fill = await join(fills)
            await reaches_the_middle(fill, number)
        assert fill.finished.is_set()
        assert [each.stat().st_size for each in store._fills.iterdir()] == [CHUNK * 20]
        with pytest.raises(StorageFailed, match="stopping"):
            await join(fills)
        store.close()
    assert [offset for offset, _ in source.requests] == [0, CHUNK * 20]


async def test_memory_waits_for_the_disk_and_not_the_other_way_round(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    append = PartialBlob.append

    def slow(self: PartialBlob, pieces: Sequence[bytes]) -> None:
        waiting.append(sum(map(len, pieces)))
        append(self, pieces)

    monkeypatch.setattr(PartialBlob, "append", slow)
    source = Source(os.urandom(CHUNK * 256))
    fill = await place.join(source)
    await fill.wait()
    assert max(waiting) <= WRITE_AHEAD + CHUNK
    assert fill._storage.buffer.start == fill._storage.buffer.end == fill.size


@through_the_loop
async def test_a_disk_that_is_slow_slows_the_fill_which_is_kept_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = PartialBlob.append
    going_on = threading.Semaphore(0)

    def slow(self: PartialBlob, pieces: Sequence[bytes]) -> None:
        going_on.acquire()
        append(self, pieces)

    monkeypatch.setattr(PartialBlob, "append", slow)
    source = Source(os.urandom(CHUNK * 256))
    fill = await place.join(source)
    await until(lambda: fill.received >= WRITE_AHEAD)
    for _ in range(100):
        await asyncio.sleep(0)
    assert fill.received <= WRITE_AHEAD + CHUNK
    going_on.release(1000)
    assert await read(fill) == source.content
    await fill.wait()
    assert place.store.size(fill.digest) == fill.size


@through_the_loop
async def test_clients_get_from_memory_what_is_not_written_yet_and_from_the_file_what_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Semaphore(0)
    append = PartialBlob.append

    def slow_disk(partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        going_on.acquire()
        append(partial, pieces)

    monkeypatch.setattr(PartialBlob, "append", slow_disk)
    source = Source(os.urandom(CHUNK * 64))
    fill = await place.join(source)
    client = fill.read(0, fill.size)
    first = await anext(client)
    assert isinstance(first, bytes)
    assert source.content.startswith(first)
    going_on.release(1000)
    await fill.wait()
    rest = [each async for each in client]
    assert [
        (type(each), each.offset, each.count) for each in rest if isinstance(each, FilePart)
    ] == [(FilePart, len(first), fill.size - len(first))]
    assert len(rest) == 1
    assert await read(fill) == source.content


# A thread of its own


class Disk:
    """A disk that takes nothing before it *thaws*, and then perhaps not all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.thaws = threading.Event()
        self.has_begun = threading.Event()
        self.error: OSError | None = None
        self.releases: list[bool] = []
        """For each time that a file was released: whether a thread was writing."""
        append, release = PartialBlob.append, PartialBlob.release
        is_writing = False

        def slow(partial: PartialBlob, pieces: Sequence[bytes]) -> None:
            nonlocal is_writing
            is_writing = True
            self.has_begun.set()
            self.thaws.wait(60)
            is_writing = False
            if self.error is not None:
                partial.hash(pieces)
                raise NotWritten(self.error, [memoryview(piece) for piece in pieces])
            append(partial, pieces)

        def released(partial: PartialBlob) -> None:
            self.releases.append(is_writing)
            release(partial)

        monkeypatch.setattr(PartialBlob, "append", slow)
        monkeypatch.setattr(PartialBlob, "release", released)


@in_a_thread
async def test_a_source_is_read_in_a_thread_from_its_first_byte_to_its_last(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[ThreadedChunks] = []
    prepare = Stream.__post_init__

    def remember(stream: Stream) -> None:
        prepare(stream)
        assert stream.body is not None
        bodies.append(stream.body)

    monkeypatch.setattr(Stream, "__post_init__", remember)
    source = Source(os.urandom(CHUNK * 8), script=[CHUNK * 3])
    monkeypatch.setattr(FillBuffer, "add", lambda *_: pytest.fail("through memory"))
    assert await read(await place.join(source)) == source.content
    assert [name.startswith("entrepot-transfer") for body in bodies for name in body.readers] == [
        True,
        True,
    ]
    assert place.fills._threads.free == MAX_TRANSFERS


@in_a_thread
@pytest.mark.parametrize("end", ["pull cancelled", "engine stops"])
async def test_a_thread_that_waits_for_the_source_ends_before_its_file_is_released(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(os.urandom(CHUNK * 32))
    source.held_back[CHUNK * 20] = asyncio.Event()
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    fills = Fills(store, clock=asyncio.get_running_loop().time)
    threads_at_release: list[int] = []
    release = PartialBlob.release

    def released(partial: PartialBlob) -> None:
        threads_at_release.append(MAX_TRANSFERS - fills._threads.free)
        release(partial)

    monkeypatch.setattr(PartialBlob, "release", released)
    async with fills.running():
        fill = await fills.join(
            Digest.of(source.content), len(source.content), source, origin=ORIGIN
        )
        await until(lambda: fill.received == CHUNK * 20)
        assert fills._threads.free == MAX_TRANSFERS - 1
        if end == "pull cancelled":
            fills.cancel(fill)
            await fill.finished.wait()
    assert fill.finished.is_set()
    assert threads_at_release == [0]
    # The received bytes are for the next engine, not for who cancelled.
    assert [part.stat().st_size for part in store._fills.iterdir()] == (
        [CHUNK * 20] if end == "engine stops" else []
    )
    store.close()


@in_a_thread
async def test_a_file_is_not_released_while_a_disk_that_hangs_has_a_thread(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    fill = await place.join(Source(os.urandom(CHUNK * 8)))
    await until(disk.has_begun.is_set)
    place.fills.cancel(fill)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not fill.finished.is_set()
    disk.thaws.set()
    await fill.finished.wait()
    assert disk.releases == [False]
    assert list(place.store._fills.iterdir()) == []


@in_a_thread
async def test_a_disk_that_has_a_thread_wait_holds_back_the_source_and_the_blob_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    source = Source(os.urandom(CHUNK * 256))
    fill = await place.join(source)
    await until(disk.has_begun.is_set)
    for _ in range(100):
        await asyncio.sleep(0)
    assert fill.received == 0
    disk.thaws.set()
    assert await read(fill) == source.content
    await fill.wait()
    assert place.store.size(fill.digest) == fill.size


@in_a_thread
async def test_a_fill_that_is_interrupted_as_the_disk_gets_full_still_feeds_its_clients(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that the disk did not take are hashed already: they must not be fetched again."""
    disk = Disk(monkeypatch)
    disk.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    source = Source(os.urandom(CHUNK * 8))
    fill = await place.join(source)
    client = asyncio.create_task(read(fill))
    await until(disk.has_begun.is_set)
    fill._interrupt(SourceBrokeOff("It is too slow."))
    await asyncio.sleep(0)
    disk.thaws.set()
    assert await client == source.content
    with pytest.raises(StorageFailed, match="No space left on device"):
        await fill.wait()
    assert [offset for offset, _ in source.requests] == [0, CHUNK]
    assert place.refusals == [errno.ENOSPC]


@in_a_thread
async def test_a_fill_for_which_no_thread_is_free_goes_through_the_loop(place: Place) -> None:
    place.fills._threads.free = 0
    source = Source(os.urandom(CHUNK * 8))
    fill = await place.join(source)
    assert await read(fill) == source.content
    await fill.wait()
    assert place.store.size(fill.digest) == fill.size
    assert place.fills._threads.free == 0


@in_a_thread
async def test_bytes_reach_a_client_that_waits_before_the_source_goes_on(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8))
    gates = {offset: asyncio.Event() for offset in range(0, CHUNK * 6, CHUNK)}
    source.held_back.update(gates)
    fill = await place.join(source)
    client = fill.read(0, fill.size)
    for offset, gate in gates.items():
        gate.set()
        part = await anext(client)
        assert isinstance(part, FilePart)
        assert (part.offset, part.count) == (offset, CHUNK)
    await client.aclose()  # type: ignore[attr-defined]


# Whatever is raised, everybody who waits gets a definite end (S02)

UNFORESEEN = [ValueError, UnicodeError, RecursionError, OverflowError, KeyError, MemoryError]


async def definite_end(fill: Fill) -> list[BaseException | None]:
    """How a fill ends for all who can wait for it: a client that reads, one that waits for a byte,
    a pull."""

    async def outcome(waiting: Awaitable[object]) -> BaseException | None:
        try:
            await waiting
        except EntrepotError as error:
            return error
        return None

    waits = (read(fill), fill.wait_beyond(fill.size - 1), fill.wait())
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*(outcome(waiting) for waiting in waits))
    assert fill.state in {FillState.VERIFIED, FillState.FAILED}
    return ends


@pytest.mark.parametrize("kind", UNFORESEEN)
@pytest.mark.parametrize("where", ["opening", "first byte", "in the middle"])
async def test_what_a_source_can_provoke_is_an_invalid_answer_for_all_who_wait(
    place: Place, kind: type[Exception], where: str
) -> None:
    """S02: the clients hung for ever, and the pull was told as completed."""
    content = os.urandom(CHUNK * 8)

    @asynccontextmanager
    async def source(*, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        if where == "opening":
            raise kind("Port out of range")

        async def chunks() -> AsyncIterator[bytes]:
            if where == "in the middle":
                yield content[: CHUNK * 4]
            raise kind("Port out of range")

        yield Stream(offset, None, None, chunks())

    fill = await place.fills.join(Digest.of(content), len(content), source, origin=ORIGIN)
    assert [type(end) for end in await definite_end(fill)] == [SourceAnswerInvalid] * 3
    assert fill.error is not None
    assert kind.__name__ in fill.error.message
    # The text may repeat what the source sent.
    assert "Port out of range" not in fill.error.message
    await until(lambda: not place.fills.under_way)
    assert place.stored == {}
    assert list(place.store._fills.iterdir()) == []


@pytest.mark.parametrize("kind", UNFORESEEN)
@pytest.mark.parametrize("step", ["begin", "append", "commit", "discard"])
async def test_whatever_the_store_raises_all_who_wait_get_a_definite_end(
    place: Place,
    kind: type[Exception],
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_threaded: bool,
) -> None:
    """S02."""

    async def fails(*_: object) -> None:
        raise kind("unforeseen")

    def fails_in_thread(*_: object) -> None:
        raise kind("unforeseen")

    if is_threaded and step == "append":
        monkeypatch.setattr(place.store, "append_blocking", fails_in_thread)
    else:
        monkeypatch.setattr(place.store, step, fails)
    content = os.urandom(CHUNK * 8)
    fill = await place.join(
        Source(bytes(len(content)) if step == "discard" else content), Digest.of(content)
    )
    whole, _, pull_error = await definite_end(fill)
    assert isinstance(pull_error, EntrepotError)
    assert not fill.is_stored
    # What came right goes to the clients; that it is not stored is what the pull is told.
    assert (whole is None) == (step == "commit")
    await until(lambda: not place.fills.under_way)
    assert place.stored == {}
    assert "Traceback" not in caplog.text


async def test_a_blob_that_is_not_here_is_told_to_nobody_as_held(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S02: no error was taken for success."""

    async def does_nothing(*_: object) -> None: ...

    monkeypatch.setattr(place.store, "commit", does_nothing)
    fill = await place.join(Source(b"content"))
    *_, pull_error = await definite_end(fill)
    assert isinstance(pull_error, FillFailed)
    await until(lambda: not place.fills.under_way)
    assert place.stored == {}


@pytest.mark.parametrize("kind", UNFORESEEN)
async def test_a_blob_that_can_not_be_written_down_is_held_all_the_same(
    place: Place, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """S02."""

    async def fails(*_: object) -> None:
        raise kind("unforeseen")

    place.fills.on_stored = fails
    fill = await place.join(Source(b"content"))
    assert await definite_end(fill) == [None, None, None]
    assert place.store.size(fill.digest) == 7
    assert f"could not be written to the catalog: {kind.__name__}" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", [*UNFORESEEN, OSError])
@pytest.mark.parametrize("works_for", [0, 1, 3, 6])
async def test_a_clock_that_fails_leaves_nobody_waiting(
    tmp_path: Path, kind: type[Exception], works_for: int
) -> None:
    """S02."""
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    remaining = works_for + 1

    def clock() -> float:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise kind("unforeseen")
        return 0.0

    async def on_stored(digest: Digest, size: int, origin: str) -> None: ...

    fills = Fills(store, clock=clock, on_stored=on_stored)
    async with fills.running():
        source = Source(os.urandom(CHUNK * 8))
        fill = await fills.join(
            Digest.of(source.content), len(source.content), source, origin=ORIGIN
        )
        ends = await definite_end(fill)
        fills.check_pace()
    assert all(isinstance(end, EntrepotError) for end in ends)
    store.close()


async def test_a_failure_keeps_nothing_of_the_frames_in_which_it_was_raised(place: Place) -> None:
    """S24: what failed is remembered, and each who was failure of it made it longer."""

    @asynccontextmanager
    async def source(*, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        raise ValueError("with a large answer in its frame")
        yield

    fill = await place.fills.join(Digest.of(b"content"), 7, source, origin=ORIGIN)
    lengths = set()
    for _ in range(3):
        with pytest.raises(SourceAnswerInvalid) as failure:
            await fill.wait()
        lengths.add(len(failure.traceback))
    assert len(lengths) == 1
    assert failure.value.__cause__ is failure.value.__context__ is None


async def test_what_ends_the_process_ends_the_fill_first(place: Place) -> None:
    """S02."""

    class Unforeseen(BaseException):
        pass

    @asynccontextmanager
    async def source(*, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        raise Unforeseen
        yield

    fill = await place.fills.join(Digest.of(b"content"), 7, source, origin=ORIGIN)
    assert [type(end) for end in await definite_end(fill)] == [FillFailed] * 3


async def test_a_fill_that_is_cancelled_before_its_first_step_ends_for_all_who_wait(
    place: Place,
) -> None:
    """S02: nothing of its task runs then, not even what stands in a finally."""
    fill = await place.join(Source(b"content"))
    place.fills.cancel(fill)
    assert [type(end) for end in await definite_end(fill)] == [FillCancelled] * 3
    assert not place.fills.under_way
    assert await read(await place.join(Source(b"content"))) == b"content"


async def test_a_client_that_leaves_while_it_waits_is_forgotten_at_once(place: Place) -> None:
    """S06: each cost some kilobytes for as long as the fill went on."""
    source = Source(os.urandom(CHUNK * 8))
    source.held_back[0] = asyncio.Event()
    fill = await place.join(source)
    clients = [asyncio.create_task(fill.wait_beyond(CHUNK)) for _ in range(100)]
    await until(lambda: len(fill._waiting) == 100)
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)
    assert not fill._waiting
    assert not fill.is_wanted


# Sources have fills of their own (S07)


async def test_two_sources_with_one_digest_have_a_fill_each(place: Place) -> None:
    """S07: one slow source made a base layer unpullable through all others."""
    content = os.urandom(CHUNK * 8)
    digest = Digest.of(content)
    slow, good = Source(content), Source(content)
    gate = slow.held_back[CHUNK] = asyncio.Event()
    held_up = await place.fills.join(digest, len(content), slow, origin="slow.example")
    await until(lambda: held_up.received == CHUNK)
    other = await place.fills.join(digest, len(content), good, origin="good.example")
    assert await read(other) == content
    await other.wait()
    assert place.origins == ["good.example"]
    assert not held_up.ended
    # The second one may finish as well: the blob is there already.
    gate.set()
    await held_up.wait()
    assert place.origins == ["good.example", "slow.example"]
    assert place.store.size(digest) == len(content)
    assert await read(held_up) == content
    assert list(place.store._fills.iterdir()) == []


async def test_a_wrong_size_misleads_only_who_believed_it(place: Place) -> None:
    """S07: who came first determined the length of everybody's answer."""
    content = os.urandom(CHUNK * 8)
    digest = Digest.of(content)
    hostile, good = Source(content), Source(content)
    hostile.held_back[CHUNK] = asyncio.Event()
    absurd = await place.fills.join(digest, 10**15, hostile, origin=ORIGIN)
    fill = await place.fills.join(digest, len(content), good, origin=ORIGIN)
    assert fill is not absurd
    assert fill.size == len(content)
    assert await read(fill) == content
    place.fills.cancel(absurd)
    await absurd.finished.wait()
    await fill.wait()
    assert place.store.size(digest) == len(content)


async def test_hostile_bytes_reach_no_client_of_another_source(place: Place) -> None:
    """S07."""
    content = os.urandom(CHUNK * 8)
    digest = Digest.of(content)
    hostile = await place.fills.join(
        digest, len(content), Source(os.urandom(len(content))), origin="hostile.example"
    )
    good = await place.fills.join(digest, len(content), Source(content), origin="good.example")
    bodies = await asyncio.gather(read(hostile), read(good), return_exceptions=True)
    assert isinstance(bodies[0], SourceAnswerInvalid)
    assert bodies[1] == content
    await good.wait()
    assert place.store.size(digest) == len(content)


async def test_what_a_hostile_source_left_over_is_not_continued_through_another(
    place: Place,
) -> None:
    """S07: 2 MB of noise of one source spoilt the next answer of every other."""
    content = os.urandom(CHUNK * 32)
    digest = Digest.of(content)
    noise = Source(
        os.urandom(len(content)),
        script=[CHUNK * 20, *[SourceFailed("503.") for _ in range(ATTEMPTS_WITHOUT_PROGRESS)]],
    )
    with pytest.raises(SourceFailed):
        await (await place.fills.join(digest, len(content), noise, origin="hostile.example")).wait()
    assert len(list(place.store._fills.iterdir())) == 1
    good = Source(content)
    assert (
        await read(await place.fills.join(digest, len(content), good, origin="good.example"))
        == content
    )
    assert good.requests == [(0, None)]


async def test_a_digest_is_under_way_from_whatever_source(place: Place) -> None:
    """S07: housekeeping takes no blob away that comes in."""
    source = Source(os.urandom(CHUNK * 8))
    source.held_back[0] = asyncio.Event()
    fill = await place.join(source)
    assert place.fills.is_under_way(fill.digest)
    assert place.fills.any(fill.digest) is fill
    assert place.fills.get(fill.digest, ORIGIN, fill.size) is fill
    assert place.fills.get(fill.digest, "other.example", fill.size) is None
    assert place.fills.get(fill.digest, ORIGIN, fill.size + 1) is None
    assert not place.fills.is_under_way(Digest.of(b"another"))
    place.fills.cancel(fill)
    await fill.finished.wait()
    assert not place.fills.is_under_way(fill.digest)


@pytest.mark.parametrize("kind", [SourceNotFound, SourceRefused, SourceRateLimited])
async def test_a_repository_that_does_not_have_the_blob_speaks_for_no_other_one(
    place: Place, kind: type[EntrepotError]
) -> None:
    """S07: an image that only names the layer of another one, or is asked for without a sign-in,
    broke the pull of that."""
    content = os.urandom(CHUNK * 8)
    naming, having = Source(b"", script=[kind("Not here.")]), Source(content)
    gate = asyncio.Event()

    @asynccontextmanager
    async def slowly_refused(*, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        await gate.wait()
        async with naming(offset=offset, validator=validator) as stream:
            yield stream

    digest = Digest.of(content)
    first = await place.fills.join(digest, len(content), slowly_refused, origin=ORIGIN)
    joining = asyncio.create_task(place.fills.join(digest, len(content), having, origin=ORIGIN))
    await until(lambda: first.is_wanted)
    gate.set()
    second = await joining
    assert isinstance(first.error, kind)
    assert second is not first
    assert await read(second) == content


async def test_a_repository_shares_the_fill_of_another_one_that_has_the_blob(place: Place) -> None:
    source = Source(os.urandom(CHUNK * 8))
    first = await place.join(source)
    second = await place.join(Source(source.content, ranges=False))
    assert second is first
    assert await read(second) == source.content
    assert len(source.requests) == 1
