"""Running a command's work with a client of the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from entrepot.api.client import CacheClient
from entrepot.api.errors import ClientError
from entrepot.cli.connection import link
from entrepot.cli.output import fail
from entrepot.errors import EntrepotError

T = TypeVar("T")


def call_engine(work: Callable[[CacheClient], Awaitable[T]], *, waits: bool = False) -> T:
    """Run *work* with a client of the engine; an error ends the program.

    *waits* says that it does more than send requests, such as sleep.
    """

    async def run(blocking: bool) -> T:
        async with engine_link.client(blocking=blocking) as client:
            return await work(client)

    try:
        engine_link = link()
        if engine_link.blocks and not waits:
            return run_blocking(run(True))
        import asyncio

        return asyncio.run(run(False))
    except (ClientError, EntrepotError) as error:
        fail(error)


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that blocks in place of waiting.

    It needs no event loop, and the command starts in half the time.
    """
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("The coroutine waits, and there is no event loop to wake it.")
