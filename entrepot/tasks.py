"""Background tasks with an owner: it starts them, hears when one fails, and at its end cancels and
awaits them all.

An `asyncio.TaskGroup` would end all its tasks when one fails, and wrap whatever the body raises;
here one fill that fails in an unforeseen way must not take the others along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

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
        """Start *work*; what it raises becomes a line of the log.

        A task that is cancelled before its first step runs nothing of *work*, not even a
        ``finally``: what must happen at its end in every case belongs in a callback of the task.
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
    """Wait for a thread that uses an open file, also when cancelled, however often: the file may
    only be closed after the thread has let go of it.

    *discard* gets the result that nobody takes because the caller was cancelled: a file that the
    thread has just opened must be closed.
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
    """The kind of an exception and where it was raised, for a message: ``ValueError in
    client.py:373``.

    Not its text, which may repeat what a source sent, or the address of a presigned URL.
    """
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{type(error).__name__} in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class LatestValue(Generic[T]):
    """A value that has to be asked for and may hang: it is asked for once at a time, and whoever
    can't wait gets the last one."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking: asyncio.Future[T] | None = None
        self._latest: T | None = None

    async def get(self, patience: float) -> T | None:
        """The value as it is now, or after *patience* seconds the last one; None where there was
        none yet. Raises what asking raises."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
        asking = self._asking
        done, _ = await asyncio.wait({asking}, timeout=patience)
        if not done:
            return self._latest
        if self._asking is asking:
            self._asking = None
        self._latest = asking.result()
        return self._latest
