"""Cached repositories and what becomes of them when they are deleted."""

from __future__ import annotations

import asyncio
import os

import pytest

from entrepot.core.reference import Digest
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from entrepot.errors import NotFound
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry


async def test_deleting_a_repository_frees_its_blobs_but_not_those_of_others(
    engine: Engine, source: FakeRegistry
) -> None:
    base = os.urandom(5_000)
    source.add_image("library/a", "1", layers=[base, 10_000])
    other = source.add_image("library/b", "1", layers=[base, 20_000]).platforms["linux/amd64"]
    for name in ("a", "b"):
        await ended(engine, await engine.pulls.start(f"library/{name}:1", "linux/amd64", "cli"))
    await engine.repositories.delete("library/a")
    assert set(await engine.blobs.sizes()) == {blob.digest for blob in other.blobs}
    assert (await engine.status.get()).blobs_size == other.size


async def test_deleting_a_repository_ends_its_pulls(engine: Engine, source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "1", layers=[os.urandom(300_000)]).platforms[
        "linux/amd64"
    ]
    gate = source.hold(str(image.layers[0].digest), after_bytes=100_000)
    started = await engine.pulls.start("library/nginx:1", "linux/amd64", "cli")
    async with asyncio.timeout(30):
        await gate.reached
    await engine.repositories.delete("library/nginx")
    assert (await ended(engine, started)).state is PullState.CANCELLED
    assert await engine.repositories.list() == []


async def test_what_is_not_there_can_not_be_deleted(engine: Engine) -> None:
    with pytest.raises(NotFound, match="no cached repository library/nginx"):
        await engine.repositories.delete("library/nginx")
    with pytest.raises(NotFound, match="has no cached tag 1"):
        await engine.repositories.delete_tag("library/nginx", "1")
    with pytest.raises(NotFound, match="has no cached manifest"):
        await engine.repositories.delete_manifest("library/nginx", Digest.of(b""))
