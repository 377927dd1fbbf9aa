"""FetchQueue at a source: how many blobs come from it at once, and who has to give a turn away.

Failures L05 and F91 (a few trickling blobs took all turns for ever) and S10 (fills that waited held
file descriptors).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrepot.cache import fetch_queue as queue_module
from entrepot.cache.fetch_queue import FetchQueue, TooManyFills
from entrepot.cache.fill import MAX_UNWANTED_TIME, TAIL, Fill, FillState, FillUnwanted
from entrepot.cache.fills import PACE_INTERVAL, Fills
from entrepot.cache.pace import MAX_CRAWL_TIME, MIN_RATE, RATE_WINDOW
from entrepot.cache.transfer import MAX_TRANSFERS
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceFailed,
    SourceNotFound,
    SourceUnreachable,
)
from entrepot.store.blobs import MIN_RESUMABLE_SIZE, BlobStore
from entrepot.store.partial_blob import PartialBlob
from tests.fakes.threaded_body import ThreadedChunks

ORIGIN = "slow.example"
CHUNK = 64 * 1024


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Stream:
    is_threaded = False

    def __init__(self, offset: int, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        self.offset, self.size, self.validator, self._chunks = offset, size, None, chunks
        self.body = ThreadedChunks(chunks) if self.is_threaded else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks if self.body is None else aiter(self.body)


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
class Drip:
    """A source that sends what it is told to send, and nothing on its own."""

    content: bytes
    offsets: list[int] = field(default_factory=list)
    open: int = 0
    _sent: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    def send(self, count: int) -> None:
        self._sent.put_nowait(count)

    async def until_requested(self) -> None:
        await until(lambda: len(self.offsets) == 1)

    @asynccontextmanager
    async def __call__(self, *, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        self.offsets.append(offset)
        self.open += 1
        try:
            yield Stream(offset, len(self.content), self._chunks(offset))
        finally:
            self.open -= 1

    async def _chunks(self, position: int) -> AsyncIterator[bytes]:
        while position < len(self.content):
            count = await self._sent.get()
            yield self.content[position : position + count]
            position += count


@dataclass
class Place:
    fills: Fills
    store: BlobStore
    clock: Clock

    async def join(self, source: Drip, origin: str = ORIGIN, repository: str = "") -> Fill:
        return await self.fills.join(
            Digest.of(source.content),
            len(source.content),
            source,
            origin=origin,
            repository=repository,
        )

    async def join_queue(self, source: Drip) -> Fill:
        """Join, and wait until the fill waits for its turn."""
        before = self.fills._queues[ORIGIN].waiting
        fill = await self.join(source)
        await until(lambda: self.fills._queues[ORIGIN].waiting == before + 1)
        return fill

    def look_after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.fills.check_pace()

    def descriptors(self) -> int:
        """Parts of blobs that are open now."""
        opened = [
            os.readlink(f"/proc/self/fd/{each}")
            for each in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{each}")
        ]
        return sum(each.startswith(str(self.store._fills)) for each in opened)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(tmp_path) as place:
        yield place


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Place]:
    store = BlobStore(directory / "blobs", directory / "fills")
    await store.open()
    clock = Clock()

    async def on_stored(digest: Digest, size: int, origin: str) -> None: ...

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    fills = Fills(store, clock=clock, on_stored=on_stored, pause=pause, parallel_per_source=2)
    try:
        async with fills.running():
            yield Place(fills, store, clock)
    finally:
        store.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def drips(count: int, size: int = CHUNK * 4) -> list[Drip]:
    return [Drip(os.urandom(size)) for _ in range(count)]


def waits(fill: Fill) -> asyncio.Task[None]:
    """A pull that waits for the blob; some tests end before it does."""
    pull = asyncio.create_task(fill.wait())
    pull.add_done_callback(lambda done: done.cancelled() or done.exception())
    return pull


async def test_only_so_many_blobs_come_at_once_and_the_others_follow_in_order(place: Place) -> None:
    sources = drips(5)
    fills = [await place.join(each) for each in sources]
    for number in range(5):
        await sources[number].until_requested()
        assert [each.open for each in sources[number + 2 :]] == [0] * len(sources[number + 2 :])
        sources[number].send(CHUNK * 4)
        await fills[number].wait()


async def test_a_source_that_has_all_its_turns_taken_keeps_no_other_source_waiting(
    place: Place,
) -> None:
    for source in drips(5):
        await place.join(source)
    [other] = drips(1)
    fill = await place.join(other, "quick.example")
    other.send(CHUNK * 4)
    await fill.wait()


async def test_who_leaves_the_queue_takes_no_place(place: Place) -> None:
    sources = drips(4)
    fills = [await place.join(each) for each in sources]
    await until(lambda: sources[1].open == 1)
    place.fills.cancel(fills[2])
    await fills[2].finished.wait()
    sources[0].send(CHUNK * 4)
    await until(lambda: sources[3].open == 1)
    assert sources[2].offsets == []


async def test_s10_fills_that_wait_for_their_turn_cost_no_file_descriptor(place: Place) -> None:
    """A manifest of some thousand layers took all file descriptors of the engine."""
    before = place.descriptors()
    sources = drips(300, 100)
    for source in sources:
        await place.join(source)
    await until(lambda: sources[0].open == sources[1].open == 1)
    assert len(place.fills.under_way) == 300
    assert place.descriptors() - before == 2
    assert len(list(place.store._fills.iterdir())) == 2


async def test_s10_beyond_a_bound_fills_of_one_source_are_begun_in_order_as_others_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FILLS_PER_SOURCE", 3)
    monkeypatch.setattr(queue_module, "MAX_WAITING_REQUESTS", 2)
    sources = drips(6, 100)
    joining = [asyncio.create_task(place.join(each)) for each in sources[:5]]
    await until(lambda: len(place.fills.under_way) == 3)
    with pytest.raises(TooManyFills):
        await place.join(sources[5])
    # Another source has places of its own, and a blob that comes in already needs none.
    await place.join(sources[5], "other.example")
    assert await place.join(sources[0]) is joining[0].result()
    for source in sources[:5]:
        source.send(100)
    for task in joining:
        await (await task).wait()


async def test_s10_one_that_waits_to_begin_and_leaves_takes_no_place(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FILLS_PER_SOURCE", 1)
    sources = drips(3, 100)
    await place.join(sources[0])
    leaves, stays = (asyncio.create_task(place.join(each)) for each in sources[1:])
    await asyncio.sleep(0)
    leaves.cancel()
    for source in sources:
        source.send(100)
    await (await stays).wait()
    assert leaves.cancelled()
    assert sources[1].offsets == []


async def test_l05_blobs_that_trickle_give_their_turns_to_those_that_wait(place: Place) -> None:
    """Six blobs at a byte a second stopped a source for good."""
    slow = drips(2, CHUNK * 4)
    pulls = [waits(await place.join(each)) for each in slow]
    await until(lambda: all(each.open for each in slow))
    for source in slow:
        source.send(60)
    await until(lambda: place.fills.fetched == 120)
    [quick] = drips(1)
    fill = await place.join_queue(quick)
    place.look_after(RATE_WINDOW - 1)
    assert quick.offsets == []
    place.look_after(1)
    await until(lambda: quick.open == 1)
    # One waited, so one turn was given away.
    assert sorted(each.open for each in slow) == [0, 1]
    quick.send(CHUNK * 4)
    await fill.wait()
    # The other one goes on where it stood, when its turn comes again.
    await until(lambda: all(each.open for each in slow))
    assert sorted(each.offsets for each in slow) == [[0], [0, 60]]
    for source in slow:
        source.send(CHUNK * 4)
    await asyncio.gather(*pulls)


async def test_l05_a_slow_blob_goes_on_while_nobody_waits_for_its_turn(place: Place) -> None:
    [slow] = drips(1)
    pull = waits(await place.join(slow))
    for _ in range(3):
        slow.send(60)
        await until(lambda: slow._sent.empty())
        place.look_after(RATE_WINDOW)
        await asyncio.sleep(0)
    slow.send(CHUNK * 4)
    await pull
    assert slow.offsets == [0]


async def test_l05_one_that_comes_when_a_blob_crawls_already_has_its_turn_soon(
    place: Place,
) -> None:
    slow = drips(2)
    pulls = [waits(await place.join(each)) for each in slow]
    await until(lambda: all(each.open for each in slow))
    place.look_after(RATE_WINDOW)
    [quick] = drips(1)
    await place.join_queue(quick)
    place.look_after(PACE_INTERVAL)
    await until(lambda: quick.open == 1)
    for pull in pulls:
        pull.cancel()


async def test_l05_a_blob_that_comes_fast_enough_keeps_its_turn(place: Place) -> None:
    sources = drips(3)
    fills = [await place.join(each) for each in sources]
    pulls = [waits(each) for each in fills]
    await until(lambda: sources[1].open == 1)
    for source in sources[:2]:
        source.send(int(MIN_RATE * RATE_WINDOW))
    await until(lambda: fills[0].received == fills[1].received > 0)
    place.look_after(RATE_WINDOW)
    await asyncio.sleep(0)
    assert sources[2].offsets == []
    assert not fills[0].is_too_slow
    for pull in pulls:
        pull.cancel()


async def test_l05_a_blob_that_crawls_for_ten_minutes_fails_and_leaves_its_part(
    place: Place,
) -> None:
    [slow] = drips(1, MIN_RESUMABLE_SIZE * 2)
    fill = await place.join(slow)
    pull = waits(fill)
    slow.send(MIN_RESUMABLE_SIZE)
    await until(lambda: fill.received == MIN_RESUMABLE_SIZE)
    place.look_after(RATE_WINDOW)
    while place.clock.now < MAX_CRAWL_TIME + RATE_WINDOW:
        assert not fill.ended
        place.look_after(RATE_WINDOW)
        for _ in range(5):
            await asyncio.sleep(0)
    with pytest.raises(SourceBrokeOff, match="less than"):
        await pull
    await until(lambda: not place.fills.under_way)
    assert [each.stat().st_size for each in place.store._fills.iterdir()] == [MIN_RESUMABLE_SIZE]


async def test_l05_the_time_in_the_queue_is_not_the_time_of_the_source(place: Place) -> None:
    sources = drips(3)
    fills = [await place.join(each) for each in sources]
    pulls = [waits(each) for each in fills]
    await until(lambda: sources[1].open == 1)
    place.clock.now += 10 * MAX_CRAWL_TIME
    sources[0].send(CHUNK * 4)
    await until(lambda: sources[2].open == 1)
    place.fills.check_pace()
    assert not fills[2].is_too_slow
    assert fills[1].is_too_slow
    for pull in pulls:
        pull.cancel()


async def test_l05_the_time_in_which_the_engine_itself_stood_still_is_not_the_time_of_the_source(
    place: Place,
) -> None:
    [source] = drips(1)
    pull = waits(await place.join(source))
    await until(lambda: source.open == 1)
    place.look_after(10 * MAX_CRAWL_TIME)
    source.send(CHUNK * 4)
    await pull
    assert source.offsets == [0]


async def test_l05_a_source_that_sends_a_byte_and_breaks_off_does_not_escape_the_floor(
    place: Place,
) -> None:
    content = os.urandom(CHUNK)

    @asynccontextmanager
    async def source(*, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        async def one_byte() -> AsyncIterator[bytes]:
            place.clock.now += 20
            yield content[offset : offset + 1]
            await asyncio.sleep(0)
            place.fills.check_pace()

        yield Stream(offset, len(content), one_byte())

    fill = await place.fills.join(Digest.of(content), len(content), source, origin=ORIGIN)
    with pytest.raises(SourceBrokeOff, match="less than"):
        await fill.wait()


@through_the_loop
async def test_l05_a_disk_that_is_slow_is_not_blamed_on_the_source(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = asyncio.Event()
    append = place.store.append

    async def slow(*arguments: object) -> None:
        await going_on.wait()
        await append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(place.store, "append", slow)
    [source] = drips(1, CHUNK * 128)
    fill = await place.join(source)
    pull = waits(fill)
    source.send(CHUNK * 64)
    source.send(CHUNK * 64)
    await until(lambda: fill._storage.buffer.is_full)
    for _ in range(20):
        place.look_after(RATE_WINDOW)
        await asyncio.sleep(0)
    assert not fill.is_too_slow
    going_on.set()
    await pull


@in_a_thread
async def test_l05_a_disk_that_has_a_thread_wait_is_not_blamed_on_the_source(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    thaws, has_begun = threading.Event(), threading.Event()
    append = PartialBlob.append

    def slow(partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        has_begun.set()
        thaws.wait(60)
        append(partial, pieces)

    monkeypatch.setattr(PartialBlob, "append", slow)
    [source] = drips(1)
    fill = await place.join(source)
    pull = waits(fill)
    source.send(CHUNK * 4)
    await until(has_begun.is_set)
    for _ in range(20):
        place.look_after(RATE_WINDOW)
        await asyncio.sleep(0)
    assert not fill.is_too_slow
    thaws.set()
    await pull


@in_a_thread
async def test_l05_a_fill_without_a_turn_has_no_thread(place: Place) -> None:
    slow = drips(2)
    pulls = [waits(await place.join(each)) for each in slow]
    for source in slow:
        source.send(60)
    await until(lambda: place.fills.fetched == 120)
    quick = drips(2)
    for source in quick:
        pulls.append(waits(await place.join_queue(source)))
    assert place.fills._threads.free == MAX_TRANSFERS - 2
    place.look_after(RATE_WINDOW)
    await until(lambda: all(each.open for each in quick))
    assert [each.open for each in slow] == [0, 0]
    await until(lambda: place.fills._threads.free == MAX_TRANSFERS - 2)
    for source in (*slow, *quick):
        source.send(CHUNK * 4)
    await asyncio.gather(*pulls)
    assert place.fills._threads.free == MAX_TRANSFERS
    # Each went on where it stood.
    assert [each.offsets for each in slow] == [[0, 60], [0, 60]]


@in_a_thread
async def test_l05_blobs_that_trickle_from_many_sources_leave_the_loop_to_another(
    place: Place,
) -> None:
    place.fills._threads.free = 4
    slow = drips(6)
    pulls = [
        waits(await place.join(source, f"slow{number // 2}.example"))
        for number, source in enumerate(slow)
    ]
    await until(lambda: all(each.open for each in slow))
    for source in slow:
        source.send(60)
    await until(lambda: place.fills.fetched == 6 * 60)
    assert place.fills._threads.free == 0
    [quick] = drips(1)
    quick.send(CHUNK * 4)
    await (await place.join(quick, "quick.example")).wait()
    for source in slow:
        source.send(CHUNK * 4)
    await asyncio.gather(*pulls)
    assert place.fills._threads.free == 4


async def test_a_fill_that_gave_its_turn_away_costs_no_file_descriptor_and_its_reader_reads_on(
    place: Place,
) -> None:
    before = place.descriptors()
    slow = drips(2, TAIL + 2000)
    fills = [await place.join(each) for each in slow]
    for source in slow:
        source.send(1000)
    await until(lambda: fills[0].received == fills[1].received == 1000)
    client = fills[0].read(0, 1000)
    assert await anext(client)
    pulls = [waits(each) for each in fills]
    quick = drips(2)
    for source in quick:
        await place.join_queue(source)
    place.look_after(RATE_WINDOW)
    await until(lambda: all(each.open for each in quick))
    await until(lambda: place.descriptors() - before == 3)
    # The client that reads one of the slow ones has that open.
    await client.aclose()  # type: ignore[attr-defined]
    await until(lambda: place.descriptors() - before == 2)
    for source in quick:
        source.send(CHUNK * 4)
    await until(lambda: all(each.open for each in slow))
    for source in slow:
        source.send(TAIL + 2000)
    await asyncio.gather(*pulls)
    pieces = [piece async for piece in fills[0].read(0, fills[0].size)]
    assert (
        sum(piece.count if not isinstance(piece, bytes) else len(piece) for piece in pieces)
        == fills[0].size
    )


@pytest.mark.parametrize("turn", [True, False], ids=["in its turn", "waiting for its turn"])
async def test_l05_a_fill_that_nobody_reads_and_no_pull_wants_is_ended(
    place: Place, turn: bool
) -> None:
    """Also after all six clients had left, a seventh got nothing."""
    first = drips(2, MIN_RESUMABLE_SIZE * 2)
    busy = [] if turn else [waits(await place.join(each)) for each in first]
    source = Drip(os.urandom(MIN_RESUMABLE_SIZE * 2))
    fill = await place.join(source)
    client = asyncio.create_task(fill.wait_beyond(MIN_RESUMABLE_SIZE))
    if turn:
        source.send(MIN_RESUMABLE_SIZE)
        await until(lambda: fill.received == MIN_RESUMABLE_SIZE)
    place.look_after(1)
    client.cancel()
    await asyncio.wait([client])
    place.look_after(1)
    place.look_after(MAX_UNWANTED_TIME - 1)
    assert not fill.is_ending
    place.look_after(1)
    # A client that comes at this moment gets a fill of its own.
    next_one = asyncio.create_task(place.join(source))
    await fill.finished.wait()
    assert isinstance(fill.error, FillUnwanted)
    assert await next_one is not fill
    if turn:
        # What had come is left over for the next one.
        await until(lambda: len(source.offsets) == 2)
        assert source.offsets == [0, MIN_RESUMABLE_SIZE]
    for pull in busy:
        pull.cancel()


async def test_a_fill_that_is_wanted_again_in_time_goes_on(place: Place) -> None:
    [source] = drips(1)
    fill = await place.join(source)
    await until(lambda: source.open == 1)
    place.look_after(1)
    place.look_after(MAX_UNWANTED_TIME - 1)
    pull = waits(fill)
    await asyncio.sleep(0)
    place.look_after(1)
    place.look_after(MAX_UNWANTED_TIME)
    assert not fill.is_ending
    source.send(CHUNK * 4)
    await pull


async def test_l05_sources_that_are_too_slow_are_told_by_name_for_as_long_as_it_lasts(
    place: Place,
) -> None:
    sources = drips(3)
    pulls = [waits(await place.join(each)) for each in sources[:2]]
    pulls += [waits(await place.join(sources[2], "very.slow.example"))]
    await until(lambda: all(each.open for each in sources))
    assert list(place.fills.notices()) == []
    place.look_after(RATE_WINDOW)
    one, other = place.fills.notices()
    assert one.startswith("2 blobs from slow.example come in at less than 1.0 kB/s (sha256:")
    assert other.startswith("A blob from very.slow.example comes in at less than 1.0 kB/s (sha256:")
    for source in sources[:2]:
        source.send(CHUNK * 4)
    await asyncio.gather(*pulls[:2])
    await until(lambda: len(place.fills.under_way) == 1)
    assert len(list(place.fills.notices())) == 1
    pulls[2].cancel()


async def test_the_only_blob_of_a_repository_does_not_wait_behind_fifty_of_another(
    place: Place,
) -> None:
    large = drips(50, 100)
    for source in large:
        await place.join(source, repository="library/large")
    await until(lambda: large[1].open == 1)
    [small] = drips(1, 100)
    fill = await place.join(small, repository="library/small")
    await until(lambda: place.fills._queues[ORIGIN].waiting == 49)
    large[0].send(100)
    await until(lambda: small.open == 1)
    assert [source.offsets for source in large[2:]] == [[]] * 48
    small.send(100)
    await fill.wait()


async def test_a_blob_that_two_repositories_need_has_the_turn_of_the_one_that_comes_first(
    place: Place,
) -> None:
    large = drips(50, 100)
    for source in large:
        await place.join(source, repository="library/large")
    await until(lambda: large[1].open == 1)
    shared = await place.join(large[-1], repository="library/small")
    large[0].send(100)
    await until(lambda: large[-1].open == 1)
    assert [source.offsets for source in large[2:-1]] == [[]] * 47
    large[-1].send(100)
    await shared.wait()
    await until(lambda: large[2].open == 1)


async def test_s10_a_repository_with_all_fills_of_a_source_does_not_keep_another_from_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FILLS_PER_SOURCE", 3)
    large = drips(10, 100)
    joining = [
        asyncio.create_task(place.join(source, repository="library/large")) for source in large
    ]
    await until(lambda: len(place.fills.under_way) == 3)
    [small] = drips(1, 100)
    joins = asyncio.create_task(place.join(small, repository="library/small"))
    await until(lambda: place.fills._queues[ORIGIN]._places.waiting == 8)
    for source in (*large[:2], small):
        source.send(100)
    await (await joins).wait()
    assert sum(bool(source.offsets) for source in large) <= 4
    for task in joining:
        task.cancel()
    await asyncio.wait(joining)


async def test_turns_are_given_in_order() -> None:
    queue = FetchQueue(1)
    order: list[int] = []

    async def take_turn(number: int) -> None:
        async with queue.turn():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(take_turn(number) for number in range(20)))
    assert order == list(range(20))
    assert queue.waiting == 0


# Whatever a source does, it ends, and no one waits for ever (S02)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, CHUNK * 2)),
        st.tuples(st.just("wrong"), st.integers(1, CHUNK)),
        st.tuples(st.just("offset"), st.integers(0, CHUNK * 6)),
        st.tuples(st.just("size"), st.integers(0, CHUNK * 6)),
        st.tuples(
            st.just("raise"),
            st.sampled_from(
                [
                    *(
                        ValueError,
                        UnicodeError,
                        RecursionError,
                        OverflowError,
                        KeyError,
                        MemoryError,
                        TimeoutError,
                        OSError,
                        StopAsyncIteration,
                    ),
                    *(
                        SourceBrokeOff,
                        SourceFailed,
                        SourceUnreachable,
                        SourceAnswerInvalid,
                        SourceNotFound,
                    ),
                ]
            ),
        ),
        st.tuples(st.sampled_from(["break off", "silence", "end"]), st.none()),
    ),
    max_size=6,
)


@dataclass
class Scripted:
    """A source of which each request follows the next of the *scripts*: then it sends the blob, or
    nothing at all."""

    content: bytes
    scripts: list[list[tuple[str, object]]]
    good_at_last: bool

    @asynccontextmanager
    async def __call__(self, *, offset: int, validator: str | None) -> AsyncIterator[Stream]:
        script: list[tuple[str, object]] = (
            self.scripts.pop(0)
            if self.scripts
            else [("send", len(self.content)) if self.good_at_last else ("silence", None)]
        )
        size: int | None = len(self.content)
        while script and script[0][0] in {"offset", "size"}:
            what, number = script.pop(0)
            assert isinstance(number, int)
            offset, size = (number, size) if what == "offset" else (offset, number)
        if script and script[0][0] == "raise":
            raise _made(script[0][1])
        yield Stream(offset, size, self._chunks(script, offset))

    async def _chunks(
        self, script: list[tuple[str, object]], position: int
    ) -> AsyncIterator[bytes]:
        for what, detail in script:
            if what == "send" and isinstance(detail, int):
                yield self.content[position : position + detail]
                position += detail
            elif what == "wrong" and isinstance(detail, int):
                yield bytes(detail)
                position += detail
            elif what == "raise":
                raise _made(detail)
            elif what == "break off":
                raise SourceBrokeOff("The connection was lost.")
            elif what == "silence":
                await asyncio.Event().wait()


def _made(kind: object) -> BaseException:
    assert isinstance(kind, type)
    assert issubclass(kind, Exception)
    return kind("what a source can provoke")


@given(
    scripts=st.lists(STEPS, max_size=4),
    good_at_last=st.booleans(),
    competitors=st.integers(0, 3),
    leaves=st.booleans(),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_s02_whatever_a_source_does_a_fill_ends_and_all_who_wait_are_released(
    tmp_path: Path,
    scripts: list[list[tuple[str, object]]],
    good_at_last: bool,
    competitors: int,
    leaves: bool,
) -> None:
    content = os.urandom(CHUNK * 4)
    async with opened(tmp_path) as place:
        source = Scripted(content, [list(script) for script in scripts], good_at_last)
        fill = await place.fills.join(Digest.of(content), len(content), source, origin=ORIGIN)
        others = [await place.join(each) for each in drips(competitors)]
        waiting = [
            asyncio.create_task(each)
            for each in (fill.wait(), fill.wait_beyond(len(content) - 1), _read_all(fill))
        ]
        waiting += [asyncio.create_task(other.wait()) for other in others]
        if leaves:
            waiting.pop(1).cancel()
        async with asyncio.timeout(60):
            while place.fills.under_way:
                await asyncio.sleep(0)
                place.look_after(RATE_WINDOW)
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [
            each
            for each in ends
            if each is not None and not isinstance(each, (EntrepotError, bytes))
        ] == []
        assert fill.state is (FillState.VERIFIED if fill.is_stored else FillState.FAILED)
        assert (place.store.size(fill.digest) == len(content)) == fill.is_stored
        # No client ever finishes a wrong blob.
        assert [each for each in ends if isinstance(each, bytes) and each != content] == []
        assert not place.fills._fills
        place.store.path(fill.digest).unlink(missing_ok=True)


async def _read_all(fill: Fill) -> bytes:
    content = b""
    async for piece in fill.read(0, fill.size):
        content += (
            piece
            if isinstance(piece, bytes)
            else os.pread(piece.file.fileno(), piece.count, piece.offset)
        )
    return content
