"""``entrepot verify`` on a real engine: F90."""

from __future__ import annotations

import asyncio
import os

import pytest

from entrepot.cli import verify as verify_module
from entrepot.cli.verify import parse_speed
from entrepot.core.states import VerificationState
from entrepot.engine.engine import Engine
from entrepot.engine.verification import DEFAULT_SPEED
from tests.cli.conftest import PATIENCE, CommandLine
from tests.fakes import FakeRegistry
from tests.fakes.images import PlatformImage
from tests.scenarios.test_damaged_blobs import flip

AMD64 = "linux/amd64"


@pytest.fixture
async def image(engine: Engine, source: FakeRegistry) -> PlatformImage:
    image = source.add_image("library/nginx", "1", layers=[os.urandom(200_000)], platforms=[AMD64])
    await engine.cache.pulls.get(
        (await engine.pulls.start("library/nginx:1", AMD64, "test")).id
    ).finished.wait()
    return image.platforms[AMD64]


async def test_all_is_right(entrepot: CommandLine, image: PlatformImage) -> None:
    done = await entrepot.done("verify", "--json")
    document = done.document
    assert (document["state"], document["checked"], document["speedLimit"], document["wrong"]) == (
        "completed",
        2,
        DEFAULT_SPEED,
        0,
    )
    assert done.errors.startswith("2 blobs (200.")
    assert done.errors.endswith(": nothing wrong.\n")


async def test_f90_damaged_blobs_are_named_and_the_status_is_1(
    entrepot: CommandLine, engine: Engine, image: PlatformImage
) -> None:
    flip(engine.blobs.path(image.layers[0].digest))
    result = await entrepot.run("verify", "--speed", "unlimited")
    assert (result.status, result.output) == (1, f"damaged and removed  {image.layers[0].digest}\n")
    assert result.errors.endswith(": 1 damaged.\n")
    assert engine.blobs.size(image.layers[0].digest) is None
    assert (await entrepot.done("verify")).output == ""


async def test_ctrl_c_ends_it_in_the_engine_too(
    entrepot: CommandLine, engine: Engine, image: PlatformImage
) -> None:
    process = await entrepot.start("verify", "--speed", "1 B/s")
    async with asyncio.timeout(PATIENCE):
        while not engine.verification.is_under_way:
            await asyncio.sleep(0)
        # Another command joins it.
        other = await entrepot.start("verify")
        assert other.stderr is not None
        assert (
            await other.stderr.readline()
        ).decode() == "A verification is already running; this is it.\n"
        process.send_signal(2)
        _, errors = await process.communicate()
        _, other_errors = await other.communicate()
    assert (process.returncode, other.returncode) == (1, 1)
    assert "The verification was cancelled. Until then: " in errors.decode()
    assert "The verification was cancelled. Until then: " in other_errors.decode()
    assert "Traceback" not in errors.decode()
    assert engine.verification.snapshot().state is VerificationState.CANCELLED


async def test_a_client_that_may_only_read_can_not_begin_it(
    entrepot: CommandLine, image: PlatformImage
) -> None:
    result = await entrepot.run("--read-only", "verify")
    assert result.status == 1
    assert result.errors.endswith("(EngineReadOnly)\n")


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("100 MB/s", DEFAULT_SPEED),
        (verify_module.DEFAULT_SPEED, DEFAULT_SPEED),
        ("50MiB", 52_428_800),
        ("1 B/s", 1),
        ("Unlimited", None),
    ],
)
def test_a_speed_is_a_size_per_second(text: str, speed: int | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "0 MB/s", "fast", "", "-1", "10 MB/min"])
async def test_what_is_no_speed_is_refused(text: str, alone: CommandLine) -> None:
    result = await alone.run("verify", "--speed", text)
    assert result.status == 2
    assert "Write 100 MB/s, 50MB, or unlimited." in result.errors
