"""The watch of the event loop."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from entrepot.engine import stall_watch
from entrepot.engine.engine import Engine
from entrepot.engine.stall_watch import (
    INTERVAL,
    SAMPLES,
    STALL,
    WARNING_INTERVAL,
    Stall,
    StallWatch,
    place_of,
)

HANGS = 60.0
"""Seconds after which a test that waits for the watch fails."""


class Reports(list[Stall]):
    """The stalls that a watch reported; the first one sets `came`."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def __call__(self, stall: Stall) -> None:
        self.append(stall)
        self.came.set()


class Clocks:
    """The clock and the processor time of a watch, which a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.processor_time = 1.0
        self.reports = Reports()
        self.watch = StallWatch(
            report=self.reports,
            monotonic=lambda: self.now,
            processor_time=lambda: self.processor_time,
        )
        self.watch._start_span()

    def beat(self, lag: float, *, processor_time: float = 0.0) -> None:
        self.now += INTERVAL + lag
        self.processor_time += processor_time
        self.watch.beat()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@asynccontextmanager
async def running(watch: StallWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    while watch._beat == 0.0:
        await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_call_that_holds_the_loop_is_named_while_it_does() -> None:
    reports = Reports()

    def hold_the_loop() -> None:
        assert reports.came.wait(HANGS)

    watch = StallWatch(report=reports)
    async with running(watch):
        hold_the_loop()
        beat = watch._beat
        while watch._beat == beat:
            await asyncio.sleep(0)
        assert watch.lag().max >= STALL
    [stall] = reports
    assert stall.lag >= STALL
    assert stall.place is not None
    assert re.search(
        r"^\S+threading\.py:\d+ \S+ < .*test_stall_watch\.py:\d+ \S+hold_the_loop", stall.place
    )
    assert watch.stalls == watch.lag().stalls == 1


async def test_the_status_of_an_engine_has_its_lag_and_its_stalls(engine: Engine) -> None:
    reports = Reports()
    watch = engine.stall_watch
    while watch._beat == 0.0:
        await asyncio.sleep(0)
    watch._report, watch._reported_at = reports, -math.inf
    assert reports.came.wait(HANGS)
    beat = watch._beat
    while watch._beat == beat:
        await asyncio.sleep(0)
    lag = (await engine.status.get()).loop_lag
    assert lag.max >= STALL
    assert lag.stalls >= 1


async def test_a_loop_that_waits_for_its_sockets_is_not_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the processor was busy with others."""
    reports = Reports()
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look(frame: object) -> bool:
        loop.call_soon_threadsafe(looked.set)
        return True

    monkeypatch.setattr(stall_watch, "_waits_for_sockets", look)
    # Its timer never comes.
    monkeypatch.setattr(StallWatch, "beat", lambda _self: None)
    async with running(StallWatch(report=reports)):
        await asyncio.wait_for(looked.wait(), HANGS)
    assert reports == []


async def test_the_frame_of_a_loop_without_work_is_recognised() -> None:
    frames: asyncio.Queue[bool] = asyncio.Queue()
    loop, loop_thread = asyncio.get_running_loop(), threading.get_ident()

    def look() -> None:
        waits = False
        while not waits:
            waits = stall_watch._waits_for_sockets(sys._current_frames()[loop_thread])
        loop.call_soon_threadsafe(frames.put_nowait, waits)

    threading.Thread(target=look, daemon=True).start()
    assert await asyncio.wait_for(frames.get(), HANGS)
    assert not stall_watch._waits_for_sockets(sys._getframe())


def test_the_gauge_covers_a_minute(clocks: Clocks) -> None:
    clocks.beat(0.2)
    for number in range(SAMPLES - 1):
        clocks.beat(0.01 if number % 50 == 0 else 0.001)
    lag = clocks.watch.lag()
    assert (round(lag.max, 6), round(lag.p99, 6)) == (0.2, 0.01)
    clocks.beat(0.0)
    assert round(clocks.watch.lag().max, 6) == 0.01


def test_a_call_that_lets_no_other_thread_run_is_told_without_its_place(clocks: Clocks) -> None:
    clocks.beat(0.6, processor_time=0.6)
    [stall] = clocks.reports
    assert (round(stall.lag, 6), stall.place) == (0.6, None)
    assert str(stall) == (
        "The event loop was held for more than 0.60 s by a call that lets no other thread run, so "
        "its place is unknown."
    )


def test_a_process_that_was_stopped_is_no_stall(clocks: Clocks) -> None:
    clocks.beat(0.001)
    clocks.beat(3600.0, processor_time=0.01)
    clocks.beat(0.002)
    lag = clocks.watch.lag()
    assert (round(lag.max, 6), lag.stalls, clocks.reports) == (0.002, 0, [])


def test_a_short_lag_is_counted_and_not_reported(clocks: Clocks) -> None:
    clocks.beat(STALL - 0.01, processor_time=STALL)
    assert (clocks.reports, clocks.watch.stalls) == ([], 0)
    assert round(clocks.watch.lag().max, 6) == round(STALL - 0.01, 6)


def test_many_stalls_are_one_warning_that_counts_them(clocks: Clocks) -> None:
    for _ in range(5):
        clocks.beat(0.5, processor_time=0.5)
    clocks.now += WARNING_INTERVAL
    clocks.watch._start_span()
    clocks.beat(0.5, processor_time=0.5)
    assert [stall.unreported for stall in clocks.reports] == [0, 4]
    assert clocks.watch.stalls == 6
    assert str(clocks.reports[1]).endswith(" (4 more since the last warning).")


def test_by_default_stalls_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    clocks.watch._report = StallWatch()._report
    with caplog.at_level(logging.WARNING):
        clocks.beat(1.5, processor_time=1.5)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "The event loop was held for more than 1.50 s by a call that lets no other thread run, "
            "so its place is unknown.",
        ),
        ("WARNING", "The event loop goes on, after 1.5 s."),
    ]


def test_the_place_names_our_own_code_behind_that_of_a_library() -> None:
    def inner() -> str:
        return place_of(sys._getframe())

    # No frame of our own: the innermost ones.
    assert inner().startswith("engine/test_stall_watch.py:")
    places: list[str] = []
    clocks = Clocks()
    clocks.watch._report = lambda _stall: places.append(place_of(sys._getframe()))
    clocks.beat(0.5, processor_time=0.5)
    [place] = places
    assert re.fullmatch(
        r"engine/test_stall_watch\.py:\d+ \S+<lambda>"
        r" < engine/stall_watch\.py:\d+ StallWatch\._notice"
        r" < engine/stall_watch\.py:\d+ StallWatch\.beat",
        place,
    )


def test_a_thread_that_is_late_itself_blames_no_call() -> None:
    """As after SIGSTOP and SIGCONT, where both come back at once."""
    reports = Reports()
    watch = StallWatch(report=reports)
    times = iter(range(0, 2000, 10))

    def jump() -> float:
        now = next(times)
        if now == 1000:
            watch._ended.set()
        return float(now)

    watch._monotonic = jump
    watch._start_span()
    watch._watch(threading.get_ident())
    assert (reports, watch.stalls) == ([], 0)


def test_a_thread_that_was_late_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop may be held by a disk that hangs, and the processor busy with others."""
    watch = StallWatch(report=lambda _stall: watch._ended.set())
    in_time = iter([True, False, True, True])
    monkeypatch.setattr(watch, "_waits_until", lambda _moment: next(in_time))
    watch._start_span()
    watch._watch(threading.get_ident())
    assert watch.stalls == 1


class EndedWhileAwaited(threading.Event):
    """The end of a watch, which comes while its thread waits."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


def test_a_watch_that_ends_while_its_thread_waits_reports_nothing() -> None:
    reports = Reports()
    watch = StallWatch(report=reports)
    watch._start_span()
    watch._ended = EndedWhileAwaited()

    watch._watch(threading.get_ident())

    assert reports == []
