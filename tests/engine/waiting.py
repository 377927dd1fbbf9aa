"""Wait for what an engine does."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from entrepot.api.models import PullSnapshot
from entrepot.cache.pull import Pull
from entrepot.engine.api_models import pull_snapshot
from entrepot.engine.engine import Engine

_POLLING = {asyncio.sleep.__code__, asyncio.Event.wait.__code__}
"""What a background task awaits between two of its rounds."""


async def settled(engine: Engine) -> None:
    """Wait until every background task of an engine rests until its next round.

    What an engine does after its start (a health check, the reconciliation, a round of maintenance)
    would otherwise meet what a test patches, moves, or counts.
    """
    async with asyncio.timeout(60):
        while not all(_rests(task) for task in engine._tasks._tasks):
            await asyncio.sleep(0.001)


def _rests(task: asyncio.Task[None]) -> bool:
    coroutine = task.get_coro()
    assert inspect.iscoroutine(coroutine)
    awaited = coroutine.cr_await
    return inspect.iscoroutine(awaited) and awaited.cr_code in _POLLING


async def ended(engine: Engine, pull: PullSnapshot) -> PullSnapshot:
    running: Pull = engine.cache.pulls.get(pull.id)
    async with asyncio.timeout(30):
        await running.finished.wait()
    return pull_snapshot(running.progress())


@asynccontextmanager
async def event(engine: Engine, kind: str) -> AsyncIterator[None]:
    """Within it something makes the engine record an event; at its end that has come."""
    with engine.events.watching() as watched:
        yield
        async with asyncio.timeout(30):
            async for each in watched:
                if each.kind == kind:
                    return
