"""The engine is killed while images come in. What it had not finished is continued or gone; what it
serves afterwards is right."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx
import pytest

from entrepot.store.blobs import MIN_RESUMABLE_SIZE
from tests.e2e.clients.container_clients import AMD64, Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.fakes import Content, FakeImage, FakeRegistry

KILLS = 100 if os.environ.get("ENTREPOT_TESTS") == "long" else 20
"""How often an engine is killed."""

READERS = 5
WITHHELD = 64 * 1024
"""Bytes at the end of a blob that no client gets before the digest is verified."""


@dataclass
class Body:
    """What one client got of a blob. *wanted* bytes are waited for by `reached`."""

    wanted: int
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    received: int = 0
    ended_cleanly: bool = False
    status: int | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, url: str) -> None:
        """Read it to its end, clean or not."""
        try:
            async with (
                httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as client,
                client.stream("GET", url) as answer,
            ):
                self.status = answer.status_code
                async for chunk in answer.aiter_raw():
                    self.hasher.update(chunk)
                    self.received += len(chunk)
                    if self.received >= self.wanted:
                        self.reached.set()
            self.ended_cleanly = True
        except httpx.TransportError:
            pass
        finally:
            self.reached.set()

    def is_whole(self, content: Content) -> bool:
        return (
            self.ended_cleanly
            and self.status == 200
            and self.hasher.hexdigest() == content.digest.hex
        )


@pytest.fixture
async def fake_source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as source:
        yield source


@pytest.fixture
async def engine(fake_source: FakeRegistry, new_engine: Callable[..., Entrepot]) -> Entrepot:
    engine = await asyncio.to_thread(new_engine(fake_source.url).start)
    await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
    return engine


@pytest.fixture
def image(fake_source: FakeRegistry) -> FakeImage:
    return fake_source.add_image("library/app", "1", layers=[4_000_000, 500_000], platforms=[AMD64])


def _layer(image: FakeImage) -> Content:
    return image.platforms[AMD64].layers[0]


def _url(engine: Entrepot, content: Content) -> str:
    return f"{engine.url}/v2/library/app/blobs/{content.digest}"


async def _ask_for_manifests(engine: Entrepot, image: FakeImage) -> None:
    """As every client does before it asks for blobs."""
    async with httpx.AsyncClient(
        trust_env=False, verify=False, timeout=60, base_url=engine.url
    ) as client:
        for reference in ("1", str(image.platforms[AMD64].digest)):
            (await client.get(f"/v2/library/app/manifests/{reference}")).raise_for_status()


def _assert_only_whole_blobs(engine: Entrepot) -> None:
    files = [each for each in engine.directories.blobs.rglob("*") if each.is_file()]
    assert [
        each for each in files if hashlib.sha256(each.read_bytes()).hexdigest() != each.name
    ] == []


@pytest.mark.parametrize(
    "bytes_sent",
    [0, 2_000_000, -1],
    ids=["before the first byte", "in the middle", "before the last byte"],
)
async def test_killed_during_a_pull_it_serves_the_whole_image_after_a_restart(
    bytes_sent: int, engine: Entrepot, fake_source: FakeRegistry, image: FakeImage, skopeo: Skopeo
) -> None:
    layer = _layer(image)
    bytes_sent = bytes_sent % layer.size
    gate = fake_source.hold(str(layer.digest), bytes_sent, method="GET")
    await _ask_for_manifests(engine, image)
    # What came of a blob is bytes_sent on at once, but for its last 64 KiB.
    bodies = [Body(wanted=min(bytes_sent, layer.size - WITHHELD)) for _ in range(READERS)]
    async with asyncio.TaskGroup() as readers:
        for body in bodies:
            readers.create_task(body.read(_url(engine, layer)))
        await gate.reached
        if bytes_sent:
            await asyncio.gather(*(body.reached.wait() for body in bodies))
        await asyncio.to_thread(engine.kill)
    assert [body.ended_cleanly for body in bodies] == [False] * READERS
    assert str(layer.digest) not in engine.cached_blobs()
    _assert_only_whole_blobs(engine)

    resumable_bytes = sum(
        each.stat().st_size for each in engine.unfinished() if layer.digest.hex in each.name
    )
    await asyncio.to_thread(engine.start)
    worth_continuing = bytes_sent > MIN_RESUMABLE_SIZE
    assert [str(layer.digest.hex) in each.name for each in engine.unfinished()] == [
        True
    ] * worth_continuing
    gate.open()
    await _ask_for_manifests(engine, image)
    after = Body(wanted=layer.size)
    await after.read(_url(engine, layer))
    assert after.is_whole(layer)
    _, again = fake_source.received("GET", str(layer.digest))
    assert again.headers.get("range") == (f"bytes={resumable_bytes}-" if worth_continuing else None)
    reference = f"{engine.address}/library/app:1"
    await asyncio.to_thread(skopeo.pull, reference)
    skopeo.assert_holds(reference, image)
    await asyncio.to_thread(engine.wait_for_pull, "library/app:1")
    assert engine.cached_blobs() == {str(each.digest) for each in image.platforms[AMD64].blobs}
    assert engine.unfinished() == []
    _assert_only_whole_blobs(engine)


@pytest.mark.parametrize("life", range(KILLS // 20))
async def test_killed_again_and_again_it_never_serves_a_short_or_wrong_blob(
    life: int, engine: Entrepot, fake_source: FakeRegistry
) -> None:
    # At 8 MB a second a layer takes half a second, and the kills fall from its first byte
    # to its last.
    fake_source.throttle = 8_000_000
    moments = random.Random(f"F37 {life}")
    before: FakeImage | None = None
    continued = 0
    for number in range(20):
        image = fake_source.add_image(
            "library/app", str(number), layers=[4_000_000, 50_000], platforms=[AMD64]
        )
        layer = _layer(image)
        wanted_bytes = moments.choice(
            (1, layer.size - WITHHELD, moments.randrange(1, layer.size), 0)
        )
        bodies = [Body(wanted_bytes) for _ in range(READERS)]
        async with httpx.AsyncClient(
            trust_env=False, verify=False, timeout=60, base_url=engine.url
        ) as client:
            if before is not None:
                # What came to nothing in the life before is whole in this one.
                again = Body(wanted=layer.size)
                await again.read(_url(engine, _layer(before)))
                assert again.is_whole(_layer(before))
                continued += any(
                    "range" in each.headers
                    for each in fake_source.received("GET", str(_layer(before).digest))
                )
            (
                await client.get(f"/v2/library/app/manifests/{image.platforms[AMD64].digest}")
            ).raise_for_status()
        async with asyncio.TaskGroup() as readers:
            for body in bodies:
                readers.create_task(body.read(_url(engine, layer)))
            if wanted_bytes:
                await bodies[0].reached.wait()
            await asyncio.to_thread(engine.kill)
        assert all(body.is_whole(layer) or not body.ended_cleanly for body in bodies)
        _assert_only_whole_blobs(engine)
        fake_source.requests.clear()
        before = image
        await asyncio.to_thread(engine.start)
        # What is left over is one layer at the most, which the next life uses up; and layers that
        # had come whole, but were not safe on the disk yet.
        partial_files = [each for each in engine.unfinished() if each.stat().st_size < layer.size]
        assert [layer.digest.hex in each.name for each in partial_files] in ([], [True])
    assert continued > 2
    assert all("failed in an unforeseen way" not in line for line in engine.process.lines())
