"""Background tasks have an owner."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest

from entrepot.tasks import (
    LOWER_PRIORITY,
    OwnedTasks,
    uninterrupted,
    where_raised,
    yield_to_event_loop,
)


async def test_the_end_of_the_owner_cancels_and_awaits_its_tasks() -> None:
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up = True

    async with OwnedTasks() as tasks:
        tasks.start(work(), "work")
        await asyncio.sleep(0)
    assert cleaned_up
    assert not tasks.open


async def test_a_task_that_fails_is_logged_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("unforeseen")

    going_on = asyncio.Event()
    async with OwnedTasks() as tasks:
        other = tasks.start(asyncio.Event().wait(), "other")  # type: ignore[arg-type]
        failing = tasks.start(fail(), "the failing one")
        await asyncio.wait([failing])
        going_on.set()
        assert not other.done()
    assert "the failing one failed in an unforeseen way" in caplog.text
    assert "ValueError: unforeseen" in caplog.text


async def test_a_file_that_a_thread_opened_for_a_caller_who_left_is_closed(tmp_path: Path) -> None:
    """S06: a client that disconnects while a thread opens its file must not cost a descriptor."""
    opened: list[FileIO] = []
    goes_on = threading.Event()

    def open_it() -> FileIO:
        goes_on.wait()
        opened.append(FileIO(tmp_path / "file", "w"))
        return opened[0]

    opening = asyncio.get_running_loop().run_in_executor(None, open_it)
    caller = asyncio.create_task(uninterrupted(opening, discard=FileIO.close))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert opened[0].closed


async def test_a_task_that_another_one_starts_at_its_end_ends_with_the_owner_too() -> None:
    ended_tasks: list[str] = []
    tasks = OwnedTasks()

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended_tasks.append("last")

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.start(last(), "last")
            await asyncio.sleep(0)
            ended_tasks.append("first")

    async with tasks:
        tasks.start(first(), "first")
        await asyncio.sleep(0)
    assert ended_tasks == ["first", "last"]


async def test_a_thread_is_waited_for_however_often_its_waiter_is_cancelled() -> None:
    """The file that it uses would be closed under it."""
    thread: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(uninterrupted(thread))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
    thread.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_the_place_of_an_exception_is_given_without_its_text() -> None:
    """The text may repeat what a source sent, or the address of a presigned URL."""
    try:
        int("secret")
    except ValueError as error:
        line = where_raised(error)
    assert line.startswith("ValueError in test_tasks.py:")
    assert "secret" not in line
    assert where_raised(KeyError("secret")) == "KeyError"


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_a_thread_that_gives_way_lowers_its_own_priority_only() -> None:
    before = priority()
    with ThreadPoolExecutor(1, initializer=yield_to_event_loop) as threads:
        assert threads.submit(priority).result() == min(before + LOWER_PRIORITY, 19)
    assert priority() == before


def test_a_system_without_such_priorities_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(which: int, who: int, value: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    yield_to_event_loop()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "getpriority", None)
    yield_to_event_loop()
