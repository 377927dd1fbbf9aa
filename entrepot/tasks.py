"""Background tasks with an owner.

It starts them, logs failures, and cancels them at its end. An `asyncio.TaskGroup` would cancel all
its tasks when one fails, and wrap what the body raises; here one fill that fails in an unforeseen
way must not end the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

LOWER_PRIORITY = 10
"""By how much the nice value of a thread that gives way is higher. Of two threads that want the
same processor, the other one gets nine tenths of it."""

T = TypeVar("T")

_log = logging.getLogger("entrepot.tasks")


class OwnedTasks:
    """The tasks of one owner. Use it as ``async with``."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    @property
    def open(self) -> bool:
        """Whether tasks can be started."""
        return self._open

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start *work*; an exception that it raises is logged.

        A task that is cancelled before its first step runs nothing of *work*, not even a
        ``finally``: cleanup that must always happen belongs in a callback of the task.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed in an unforeseen way", task.get_name(), exc_info=error)

    async def __aenter__(self) -> OwnedTasks:
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False
        # A task that ends may have started another one.
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)


async def uninterrupted(
    future: asyncio.Future[T], *, discard: Callable[[T], None] | None = None
) -> T:
    """Wait for a thread to end, even when cancelled, however often.

    Then raise `CancelledError`. A file that the thread uses may only be closed after that. If the
    caller was cancelled, *discard* gets the result: a file that the thread has just opened must be
    closed.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if discard is not None and not future.cancelled() and future.exception() is None:
            discard(future.result())
        raise


def where_raised(error: BaseException) -> str:
    """Type and place of an exception: ``ValueError in client.py:373``.

    Not its text, which may repeat what a source sent, or a presigned URL.
    """
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename).name
    return f"{type(error).__name__} in {file}:{trace.tb_lineno}"


class LatestValue(Generic[T]):
    """A value that takes time to fetch, perhaps for ever.

    It is fetched once at a time; a caller that can't wait gets the last value.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        self._fetch = fetch
        self._fetching: asyncio.Future[T] | None = None
        self._latest: T | None = None

    async def get(self, timeout: float) -> T | None:  # noqa: ASYNC109 (it returns the last value)
        """The current value, or after *timeout* seconds the last one.

        None if there is none yet. Raises what the fetch raises.
        """
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._fetch())
        fetching = self._fetching
        ended_fetches, _ = await asyncio.wait({fetching}, timeout=timeout)
        if not ended_fetches:
            return self._latest
        if self._fetching is fetching:
            self._fetching = None
        self._latest = fetching.result()
        return self._latest


def yield_to_event_loop() -> None:
    """Let the calling thread give way to the event loop's thread, where both want a processor.

    A thread that moves bytes and waits for the interpreter lock hundreds of times a second runs
    whenever the event loop might: with 250 clients a manifest then takes twice as long at p99. On
    Linux each thread has a priority of its own (setpriority(2)), and only threads and processes of
    one control group or session compete by it (sched(7)). Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            lower = os.getpriority(os.PRIO_PROCESS, thread) + LOWER_PRIORITY
            os.setpriority(os.PRIO_PROCESS, thread, lower)
