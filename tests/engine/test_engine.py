"""The engine as a whole, without HTTP."""

from __future__ import annotations

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.reference import Repository
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER, Clock
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry


async def test_rules_and_cached_images_are_there_after_a_restart(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    async with Engine.open(directories, settings) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        pull = await ended(
            engine, await engine.pulls.start("library/nginx:1.27", "linux/amd64", "test")
        )
        assert pull.state is PullState.COMPLETED
    await source.stop()
    async with Engine.open(directories, settings) as engine:
        assert [rule.name for rule in await engine.rules.list()] == ["example-library"]
        answer = await engine.cache.manifest(
            Repository("library/nginx"), image.platforms["linux/amd64"].digest
        )
        assert answer.manifest.content == image.platforms["linux/amd64"].manifest.content
        status = await engine.status.get()
        assert (status.rules, status.repositories, status.blobs_size) == (
            1,
            1,
            image.platforms["linux/amd64"].size,
        )
        detail = await engine.repositories.get("library/nginx")
        assert [(tag.name, tag.platforms) for tag in detail.tags] == [("1.27", ("linux/amd64",))]
        assert detail.repository.pulls == 1


async def test_a_catalog_without_its_file_and_a_file_without_its_row_both_heal(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1", layers=[10_000, 20_000]).platforms["linux/amd64"]
    async with Engine.open(directories, settings) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        await ended(engine, await engine.pulls.start("library/nginx:1", "linux/amd64", "cli"))
        engine.blobs.path(image.layers[0].digest).unlink()
    async with Engine.open(directories, settings) as engine:
        pull = await ended(
            engine, await engine.pulls.start("library/nginx:1", "linux/amd64", "cli")
        )
        assert pull.state is PullState.COMPLETED
        assert engine.blobs.path(image.layers[0].digest).read_bytes() == image.layers[0].content


async def test_use_is_written_down_by_the_end(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1").platforms["linux/amd64"]
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        for _ in range(3):
            await engine.cache.manifest(Repository("library/nginx"), image.digest)
    async with Engine.open(directories, settings, clock=clock) as engine:
        [rule] = await engine.rules.list()
        assert (rule.pulls, rule.last_pull) == (3, clock.now)
