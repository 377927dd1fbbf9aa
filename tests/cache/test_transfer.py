"""The bytes of a blob on their way from a source to a file, in a thread."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from entrepot.cache import transfer as transfer_module
from entrepot.cache.transfer import (
    BUFFER_SIZE,
    MAX_TRANSFERS,
    PROGRESS_SIZE,
    SPARE_BUFFERS,
    Transfer,
    TransferThreads,
)
from entrepot.core.reference import Digest
from entrepot.store.blobs import BlobStore
from entrepot.store.partial_blob import PartialBlob
from tests.store.full_disk import no_file_above


@dataclass
class Body:
    """A body that is here: no read of it waits."""

    content: bytes
    position: int = 0
    buffers: set[int] = field(default_factory=set)

    def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
        self.buffers.add(len(buffer.obj))  # type: ignore[arg-type]
        piece = self.content[self.position : self.position + len(buffer)]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def interrupt(self) -> None: ...


@dataclass
class Place:
    store: BlobStore
    threads: TransferThreads
    reports: list[tuple[int, int]] = field(default_factory=list)
    """The bytes from the source and in the file, as they were reported."""

    async def begin(self, content: bytes) -> PartialBlob:
        return await self.store.begin(Digest.of(content), len(content))

    async def transfer(
        self, body: Body, partial: PartialBlob, *, limit: int, skip: int = 0
    ) -> Transfer:
        transfer = Transfer(
            body,
            self.store,
            partial,
            skip=skip,
            limit=limit,
            on_progress=lambda transfer: self.reports.append((transfer.fetched, transfer.position)),
        )
        await self.threads.run(transfer)
        return transfer


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await store.open()
    threads = TransferThreads()
    yield Place(store, threads)
    threads.close()
    store.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait in a thread for what happens in the event loop."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0)


@pytest.fixture(autouse=True)
def no_reports_for_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "PROGRESS_INTERVAL", float("inf"))


async def test_all_bytes_are_hashed_and_written(place: Place) -> None:
    content = os.urandom(3 * BUFFER_SIZE + 17)
    partial = await place.begin(content)
    transfer = await place.transfer(Body(content), partial, limit=len(content))
    assert partial.digest_matches()
    assert partial.path.read_bytes() == content
    assert transfer.source_error is transfer.storage_error is None
    assert place.reports[-1] == (len(content), len(content))


async def test_a_source_that_is_fast_costs_the_loop_one_call_for_each_megabyte(
    place: Place,
) -> None:
    content = bytes(20 * PROGRESS_SIZE)
    partial = await place.begin(content)
    await place.transfer(Body(content), partial, limit=len(content))
    # The first bytes are reported at once, and the end.
    assert len(place.reports) <= 20 + 2


async def test_bytes_are_reported_before_the_source_has_the_thread_wait(place: Place) -> None:
    class Slow(Body):
        """The last buffer of it comes when the event loop has learnt of the others."""

        def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
            if self.position == 2 * BUFFER_SIZE:
                before_waiting()
                wait_until(lambda: place.reports[-1:] == [(self.position, self.position)])
            return super().read_into(buffer, before_waiting)

    content = bytes(3 * BUFFER_SIZE)
    partial = await place.begin(content)
    transfer = await place.transfer(Slow(content), partial, limit=len(content))
    assert transfer.source_error is None


async def test_a_source_that_waits_again_and_again_with_nothing_new_costs_no_calls(
    place: Place,
) -> None:
    class Patient(Body):
        def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
            for _ in range(1000):
                before_waiting()
            return super().read_into(buffer, before_waiting)

    content = bytes(BUFFER_SIZE)
    partial = await place.begin(content)
    await place.transfer(Patient(content), partial, limit=len(content))
    assert len(place.reports) <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_its_thread_gives_way_to_the_event_loop(place: Place) -> None:
    priorities: list[int] = []

    class WatchingBody(Body):
        def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
            priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return super().read_into(buffer, before_waiting)

    content = b"x" * 1000
    await place.transfer(WatchingBody(content), await place.begin(content), limit=len(content))
    assert min(priorities) > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_the_first_bytes_of_a_source_that_ignored_the_range_are_dropped(
    place: Place,
) -> None:
    content = os.urandom(2 * BUFFER_SIZE)
    partial = await place.begin(content)
    await place.store.append(partial, [content[:1000]])
    transfer = await place.transfer(Body(content), partial, limit=len(content), skip=1000)
    assert partial.path.read_bytes() == content
    assert (transfer.fetched, transfer.position) == (len(content), len(content))


@pytest.mark.parametrize("more", [1, 1000, 5 * BUFFER_SIZE])
async def test_no_more_than_one_byte_beyond_the_limit_is_read(place: Place, more: int) -> None:
    content = os.urandom(BUFFER_SIZE + more)
    partial = await place.begin(content)
    transfer = await place.transfer(Body(content), partial, limit=BUFFER_SIZE)
    assert transfer.exceeds_limit
    assert transfer.fetched == BUFFER_SIZE + 1
    assert partial.path.stat().st_size <= BUFFER_SIZE


@pytest.mark.parametrize("taken", [0, 1000, BUFFER_SIZE, 2 * BUFFER_SIZE + 1])
async def test_what_a_full_disk_does_not_take_is_hashed_and_not_lost(
    place: Place, taken: int
) -> None:
    content = os.urandom(4 * BUFFER_SIZE)
    partial = await place.begin(content)
    body = Body(content)
    with no_file_above(taken):
        transfer = await place.transfer(body, partial, limit=len(content))
    assert transfer.storage_error is not None
    assert transfer.position == taken
    assert partial.path.read_bytes() + transfer.unwritten == content[: body.position]
    partial.hash([content[body.position :]])
    assert partial.digest_matches()


async def test_a_failure_of_the_source_is_told_from_one_of_the_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Body):
        def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
            raise OSError("of the source")

    content = bytes(BUFFER_SIZE)
    partial = await place.begin(content)
    transfer = await place.transfer(Broken(content), partial, limit=len(content))
    assert (str(transfer.source_error), transfer.storage_error) == ("of the source", None)

    def refuse(*_: object) -> None:
        raise OSError("of the disk")

    monkeypatch.setattr(place.store, "append_blocking", refuse)
    transfer = await place.transfer(Body(content), partial, limit=len(content))
    assert (transfer.source_error, str(transfer.storage_error)) == (None, "of the disk")
    assert place.threads.free == MAX_TRANSFERS


async def test_buffers_are_used_again_and_few_are_kept(place: Place) -> None:
    content = bytes(BUFFER_SIZE)
    bodies = [Body(content) for _ in range(2 * SPARE_BUFFERS)]
    partials = [await place.store.begin(Digest.of(bytes([n])), 1) for n in range(len(bodies))]
    await asyncio.gather(
        *(
            place.transfer(body, partial, limit=len(content))
            for body, partial in zip(bodies, partials, strict=True)
        )
    )
    assert {size for body in bodies for size in body.buffers} == {BUFFER_SIZE}
    assert len(place.threads._buffers) <= SPARE_BUFFERS
