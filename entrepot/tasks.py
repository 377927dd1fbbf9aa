"""Background tasks with an owner: it starts them, hears when one fails, and at its end cancels and awaits them all.

An `asyncio.TaskGroup` would end all its tasks when one fails, and wrap whatever the body raises; here one fill that fails in an unforeseen way must not take
the others along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

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

        A task that is cancelled before its first step runs nothing of *work*, not even a ``finally``: what must happen at its end in every case belongs in a
        callback of the task.
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


async def uninterrupted(future: asyncio.Future[T], *, discard: Callable[[T], None] | None = None) -> T:
    """Wait for a thread that uses an open file, also when cancelled, however often: the file may only be closed after the thread has let go of it.

    *discard* gets the result that nobody takes because the caller was cancelled: a file that the thread has just opened must be closed.
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
    """The kind of an exception and where it was raised, for a message: ``ValueError in client.py:373``.

    Not its text, which may repeat what a source sent, or the address of a presigned URL.
    """
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{type(error).__name__} in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
