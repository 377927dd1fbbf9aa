"""Pulls: started, cancelled, resumed, and how they end."""

from __future__ import annotations

import asyncio
import os

import pytest

from entrepot.core.reference import Digest
from entrepot.core.states import LayerState, PullState
from entrepot.engine.engine import Engine
from entrepot.engine.pulls import own_platform
from entrepot.errors import NotFound, RepositoryUnknown
from tests.conftest import LOGIN_SERVER
from tests.engine.waiting import ended
from tests.fakes import DropAfter, FakeRegistry, Status


async def test_a_pull_tells_what_came_and_what_was_held(
    engine: Engine, source: FakeRegistry
) -> None:
    base = os.urandom(50_000)
    first = source.add_image("library/a", "1", layers=[base, 10_000])
    second = source.add_image("library/b", "1", layers=[base, 20_000])
    await ended(engine, await engine.pulls.start("library/a:1", "linux/amd64", "cli"))
    pull = await ended(engine, await engine.pulls.start("library/b:1", "linux/amd64", "cli"))
    states = {layer.digest: layer.state for layer in pull.layers}
    wanted = second.platforms["linux/amd64"]
    assert states[str(Digest.of(base))] is LayerState.CACHED
    assert states[str(wanted.layers[1].digest)] is LayerState.VERIFIED
    assert (pull.received, pull.size) == (wanted.size, wanted.size)
    assert pull.from_source == wanted.size - len(base)
    assert pull.asked_by == ("cli",)
    assert source.count("GET", str(Digest.of(base))) == 1
    assert first.platforms["linux/amd64"].layers[0].digest == wanted.layers[0].digest


async def test_a_pull_resumes_where_the_source_broke_off(
    engine: Engine, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1", layers=[os.urandom(500_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    source.fault(str(layer.digest), DropAfter(200_000), method="GET")
    pull = await ended(engine, await engine.pulls.start("library/nginx:1", "linux/amd64", "cli"))
    assert pull.state is PullState.COMPLETED
    resumed = next(each for each in pull.layers if each.digest == str(layer.digest))
    assert resumed.resumed_at is not None
    assert engine.blobs.size(layer.digest) == layer.size


async def test_a_pull_that_fails_says_why_and_keeps_what_came(
    engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1", layers=[10_000, 20_000]).platforms["linux/amd64"]
    source.fault(str(image.layers[1].digest), Status(404))
    pull = await ended(engine, await engine.pulls.start("library/nginx:1", "linux/amd64", "cli"))
    assert (pull.state, pull.error_code) == (PullState.FAILED, "SourceNotFound")
    assert pull.error_message
    assert pull.error_message.startswith(
        f"{LOGIN_SERVER} has no library/nginx@{image.layers[1].digest}"
    )
    assert engine.blobs.size(image.layers[0].digest) == image.layers[0].size
    assert engine.events.recent()[-1].kind == "pull-ended"


async def test_a_cancelled_pull_gives_up_what_nobody_else_wants(
    engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1", layers=[os.urandom(300_000)]).platforms[
        "linux/amd64"
    ]
    gate = source.hold(str(image.layers[0].digest), after_bytes=100_000)
    started = await engine.pulls.start("library/nginx:1", "linux/amd64", "cli")
    async with asyncio.timeout(30):
        await gate.reached
    engine.cache.pulls.cancel(started.id)
    pull = await ended(engine, started)
    assert pull.state is PullState.CANCELLED
    assert engine.blobs.size(image.layers[0].digest) is None
    assert list(engine.directories.fills.glob(f"*{image.layers[0].digest.hex}*")) == []


async def test_the_same_image_is_pulled_once(engine: Engine, source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "1", layers=[100_000])
    pulls = await asyncio.gather(
        *(
            engine.pulls.start("library/nginx:1", "linux/amd64", f"client {number}")
            for number in range(5)
        )
    )
    outcomes = [await ended(engine, pull) for pull in pulls]
    assert {pull.state for pull in outcomes} == {PullState.COMPLETED}
    assert source.count("GET", str(image.platforms["linux/amd64"].layers[0].digest)) == 1


async def test_a_platform_that_the_image_does_not_have_is_named_with_those_that_it_has(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    pull = await ended(engine, await engine.pulls.start("library/nginx:1", "linux/s390x", "cli"))
    assert pull.state is PullState.FAILED
    assert (
        pull.error_message
        == "library/nginx:1 has no image for linux/s390x. It has: linux/amd64, linux/arm64."
    )


async def test_the_platform_of_an_image_without_an_index_comes_from_its_config(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", platforms=["linux/riscv64"], index=False)
    pull = await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    assert pull.platform == "linux/riscv64"
    [tag] = (await engine.repositories.get("library/nginx")).tags
    assert tag.platforms == ("linux/riscv64",)


async def test_no_rule_no_pull(engine: Engine) -> None:
    with pytest.raises(RepositoryUnknown, match="No cache rule answers for other/thing"):
        await engine.pulls.start("other/thing:1", None, "cli")
    assert engine.cache.pulls.all() == []


async def test_only_the_last_pulls_are_remembered(engine: Engine) -> None:
    with pytest.raises(NotFound, match="There is no pull 99"):
        engine.cache.pulls.get("99")


def test_this_machine_has_a_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.engine.pulls.platform.machine", lambda: "aarch64")
    assert own_platform() == "linux/arm64"
