"""Wait for what an engine does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from entrepot.api.models import PullSnapshot
from entrepot.cache.pull import Pull
from entrepot.engine.api_models import pull_snapshot
from entrepot.engine.engine import Engine


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
