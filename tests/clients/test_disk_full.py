"""The disk is full, really: a file system of a few megabytes under the data directory."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.container_clients import AMD64, Skopeo
from tests.clients.entrepot import Entrepot
from tests.clients.test_killed import Body
from tests.programs import require_program
from tests.standin import StandIn

SIZE = 48_000_000
"""Of the file system, in bytes. An engine wants 16 MiB of it free to start."""


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("a file system can be mounted by root only")
    disk = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run([require_program("mount"), "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run([require_program("umount"), "--lazy", disk], check=True)


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    async with StandIn() as source:
        yield source


async def test_an_image_that_does_not_fit_is_pulled_whole_and_the_engine_says_that_it_is_not_kept(
    small_disk: Path, stand_in: StandIn, new_engine: Callable[..., Entrepot], skopeo: Skopeo
) -> None:
    engine = new_engine(stand_in.url)
    (engine.root / "d").symlink_to(small_disk)
    await asyncio.to_thread(engine.start)
    await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
    small = stand_in.add_image("library/small", "1", layers=[1_000_000], platforms=[AMD64])
    large = stand_in.add_image("library/large", "1", layers=[SIZE + 20_000_000, 5_000], platforms=[AMD64])

    reference = f"{engine.address}/library/large:1"
    await asyncio.to_thread(skopeo.pull, reference)
    skopeo.assert_holds(reference, large)
    layer = large.platforms[AMD64].layers[0]
    url = f"{engine.url}/v2/library/large/blobs/{layer.digest}"
    together = [Body(wanted=layer.size) for _ in range(3)]
    await asyncio.gather(*(body.read(url) for body in together))
    assert [body.is_whole(layer) for body in together] == [True] * 3

    engine.process.wait_for_line(r"ERROR The disk takes no more \(No space left on device\)")
    status = await asyncio.to_thread(engine.ask, "status")
    assert any(re.search("The disk takes no more", notice) for notice in status["notices"])
    assert engine.get("/readyz").status_code == 200
    assert str(layer.digest) not in engine.held_blobs()
    assert engine.unfinished() == []

    reference = f"{engine.address}/library/small:1"
    await asyncio.to_thread(skopeo.pull, reference)
    skopeo.assert_holds(reference, small)
    assert {str(each.digest) for each in small.platforms[AMD64].blobs} <= engine.held_blobs()
    status = await asyncio.to_thread(engine.ask, "status")
    assert not any(re.search("The disk takes no more", notice) for notice in status["notices"])
