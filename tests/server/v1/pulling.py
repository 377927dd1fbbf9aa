"""Wait for pulls."""

from __future__ import annotations

import asyncio

from entrepot.engine.engine import Engine

PULLS = "/entrepot/v1/pulls"


async def end_of_pull(engine: Engine, id: str) -> None:
    async with asyncio.timeout(30):
        await engine.cache.pulls.get(id).finished.wait()
