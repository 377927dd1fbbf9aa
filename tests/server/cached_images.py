"""Images that an engine has cached."""

from __future__ import annotations

import asyncio

from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.fakes import FakeImage, FakeRegistry


async def cache(
    engine: Engine, source: FakeRegistry, *images: str, platform: str = "linux/amd64"
) -> list[FakeImage]:
    """Pull images until they are whole."""
    cached = []
    for image in images:
        repository, _, tag = image.partition(":")
        cached.append(
            source.add_image(repository, tag, layers=[f"layer of {image}".encode() * 100])
        )
        pull = engine.cache.pulls.get((await engine.pulls.start(image, platform, "test")).id)
        async with asyncio.timeout(30):
            await pull.finished.wait()
        assert pull.state is PullState.COMPLETED
    await engine.cache.usage.write()
    return cached
