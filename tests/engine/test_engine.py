"""The engine as a whole, without HTTP."""

from __future__ import annotations

import asyncio
import os

import pytest

from entrepot.api.models import PullSnapshot
from entrepot.cache.pull import Pull
from entrepot.config.documents import DocumentInvalid
from entrepot.config.settings import Directories, Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.reference import Digest, Repository
from entrepot.core.rules import CacheRuleTargetOverlap, RuleDraft, TargetPrefixPresent
from entrepot.core.states import HealthStatus, LayerState, PullState
from entrepot.engine.api_models import pull_snapshot
from entrepot.engine.engine import Engine
from entrepot.engine.pulls import own_platform
from entrepot.errors import NotFound, RepositoryUnknown
from entrepot.store.catalog import CatalogFailed
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import BasicSignIn, DropAfter, FakeRegistry, Status


async def ended(engine: Engine, pull: PullSnapshot) -> PullSnapshot:
    running: Pull = engine.cache.pulls.get(pull.id)
    async with asyncio.timeout(30):
        await running.finished.wait()
    return pull_snapshot(running.progress())


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
    assert states[str(Digest.of(base))] is LayerState.HELD
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


async def test_a_rule_over_a_cached_repository_is_refused_until_that_is_deleted(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    await engine.rules.delete("example-library")
    draft = RuleDraft("again", f"{LOGIN_SERVER}/library/*", "library/*")
    with pytest.raises(TargetPrefixPresent, match="library/nginx"):
        await engine.rules.create(draft)
    await engine.repositories.delete("library/nginx")
    await engine.rules.create(draft)


async def test_a_refused_rule_changes_nothing(engine: Engine) -> None:
    before = engine.directories.rules.read_bytes()
    with pytest.raises(CacheRuleTargetOverlap):
        await engine.rules.create(RuleDraft("everything", f"{LOGIN_SERVER}/*", "*"))
    assert engine.directories.rules.read_bytes() == before
    assert [rule.name for rule in await engine.rules.list()] == ["example-library"]


async def test_a_credential_set_is_tried_when_it_is_made(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source.sign_in = BasicSignIn({"reader": "right"})
    monkeypatch.setenv("EXAMPLE_USER", "reader")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "wrong")
    async with Engine.open(directories, settings) as engine:
        await engine.credential_sets.create(
            CredentialSetDraft(
                "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
            )
        )
        await engine.credential_sets.verify("example-login")
        [unhealthy] = engine.credential_sets.list()
        assert (unhealthy.health, unhealthy.error_code) == (HealthStatus.UNHEALTHY, "SourceRefused")
        assert any(
            "example-login is unhealthy" in notice for notice in (await engine.status.get()).notices
        )
        monkeypatch.setenv("EXAMPLE_PASSWORD", "right")
        await engine.credential_sets.verify("example-login")
        assert engine.credential_sets.list()[0].health is HealthStatus.HEALTHY


async def test_a_hand_edit_is_picked_up(engine: Engine) -> None:
    edited = engine.directories.rules.read_text().replace("example-library", "edited-by-hand")
    engine.directories.rules.write_text(edited)
    async with asyncio.timeout(30):
        with engine.events.watching() as events:
            async for event in events:
                if event.kind == "documents-read":
                    break
    assert [rule.name for rule in await engine.rules.list()] == ["edited-by-hand"]


async def test_a_broken_hand_edit_is_refused_shown_and_not_overwritten(engine: Engine) -> None:
    engine.directories.rules.write_text("[[rules]\n")
    async with asyncio.timeout(30):
        with engine.events.watching() as events:
            async for event in events:
                if event.kind == "documents-refused":
                    break
    assert [rule.name for rule in await engine.rules.list()] == ["example-library"]
    assert any("rules.toml" in notice for notice in (await engine.status.get()).notices)
    with pytest.raises(DocumentInvalid):
        await engine.rules.create(RuleDraft("another-one", f"{LOGIN_SERVER}/other/*", "other/*"))
    assert engine.directories.rules.read_text() == "[[rules]\n"


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


async def test_the_sources_are_listed_with_their_rules(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    found = {each.login_server: each for each in engine.status.source_registries()}
    assert (
        found[LOGIN_SERVER].rules,
        found[LOGIN_SERVER].declared,
        found[LOGIN_SERVER].reachable,
    ) == (1, True, True)
    assert found["docker.io"].reachable is None


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


async def test_a_rule_counts_what_is_held_through_it(engine: Engine, source: FakeRegistry) -> None:
    for name in ("nginx", "alpine"):
        source.add_image(f"library/{name}", "1")
        await ended(engine, await engine.pulls.start(f"library/{name}:1", None, "cli"))
    [rule] = await engine.rules.list()
    assert rule.repositories == 2
    assert rule.size == sum(each.size for each in await engine.repositories.list()) > 0


def test_this_machine_has_a_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrepot.engine.pulls.platform.machine", lambda: "aarch64")
    assert own_platform() == "linux/arm64"


@pytest.mark.parametrize(
    "failure", [CatalogFailed("The catalog fails."), None], ids=["fails", "hangs"]
)
async def test_f79_while_the_catalog_fails_rules_are_listed_with_what_was_last_known(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, failure: CatalogFailed | None
) -> None:
    monkeypatch.setattr("entrepot.engine.etags.USAGE_INTERVAL", 0)
    [before] = await engine.rules.list()

    async def ask() -> dict[str, tuple[int, int]]:
        if failure is not None:
            raise failure
        await asyncio.Event().wait()
        return {}

    with monkeypatch.context() as patched:
        patched.setattr("entrepot.engine.rule_usage.COUNT_TIMEOUT", 0.01)
        patched.setattr(engine.catalog, "rule_requests", ask)
        revision = engine.revisions.rules
        assert await engine.rules.list() == [before]
        # A client that keeps this answer is not told later that nothing has changed.
        assert engine.revisions.rules != revision
    revision = engine.revisions.rules
    assert await engine.rules.list() == [before]
    assert engine.revisions.rules == revision
