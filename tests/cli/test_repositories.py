"""``entrepot repository`` and ``entrepot evict`` on a real engine."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import pytest

from entrepot.api.models import EvictionProgress
from entrepot.core.reference import Repository
from entrepot.engine import maintenance as maintenance_module
from entrepot.engine.engine import Engine
from entrepot.store.removal import Evicted
from tests.cli.conftest import PATIENCE, CommandLine
from tests.conftest import Clock
from tests.fakes import FakeRegistry


async def _cached(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, clock: Clock, *names: str
) -> None:
    for name in names:
        source.add_image(f"library/{name}", "1", layers=[os.urandom(100_000)])
        await entrepot.done("pull", f"library/{name}:1", "--platform", "linux/amd64")
        clock.now += 3600
    await engine.cache.usage.write()


async def test_a_tag_with_its_images_and_layers(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry
) -> None:
    shared = b"shared" * 1000
    image = source.add_image("library/nginx", "1.27", layers=[shared, b"own"])
    source.add_image("library/debian", "12", layers=[shared], platforms=["linux/arm64"])
    for each in ("library/nginx:1.27", "library/debian:12"):
        await entrepot.done("pull", each, "--platform", "linux/arm64")
    document = await entrepot.ask("repository", "show", "library/nginx:1.27")
    assert [(each["platform"], each["holding"]) for each in document["images"]] == [
        ("linux/amd64", "nothing"),
        ("linux/arm64", "whole"),
    ]
    assert document["sharedSize"] == len(shared)
    output = (await entrepot.done("repository", "show", "library/nginx:1.27")).output
    assert "Tag         library/nginx:1.27\n" in output
    arm = image.platforms["linux/arm64"]
    assert re.search(rf"^linux/arm64  {arm.digest.short}  .* cached ", output, re.MULTILINE)
    assert re.search(r"^linux/amd64  .* not cached ", output, re.MULTILINE)
    assert re.search(
        rf"^{arm.layers[0].digest.short}  6\.0 kB  cached  layer   1 image: library/debian:12$",
        output,
        re.MULTILINE,
    )
    assert re.search(
        rf"^{arm.layers[1].digest.short}     3 B  cached  layer   not shared$", output, re.MULTILINE
    )


async def test_a_locked_repository_shows_its_lock_and_can_not_be_deleted(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await _cached(entrepot, engine, source, clock, "nginx")
    result = await entrepot.done("repository", "lock", "library/nginx")
    assert result.errors == "library/nginx is locked: it is not evicted and can't be deleted.\n"
    assert (await entrepot.ask("repository", "list"))[0]["locked"] is True
    assert (await entrepot.done("repository", "list")).output.splitlines()[1].endswith("  locked")
    assert (
        "Locked     yes: neither evicted nor deleted\n"
        in (await entrepot.done("repository", "show", "library/nginx")).output
    )
    refused = await entrepot.run("repository", "delete", "library/nginx", "--yes")
    assert refused.status == 1
    assert refused.errors == (
        "Error: library/nginx is locked. Unlock it first: entrepot repository unlock library/nginx (REGISTRY_DISALLOWED_OPERATION)\n"
    )
    assert (
        await entrepot.done("repository", "unlock", "library/nginx")
    ).errors == "library/nginx is unlocked.\n"
    await entrepot.done("repository", "delete", "library/nginx", "--yes")


async def test_a_tag_and_a_manifest_are_locked_for_themselves(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await _cached(entrepot, engine, source, clock, "nginx")
    await entrepot.done("repository", "lock", "library/nginx:1")
    shown = await entrepot.ask("repository", "show", "library/nginx")
    assert (shown["repository"]["locked"], shown["tags"][0]["locked"]) == (False, True)
    assert "  locked, " in (await entrepot.done("repository", "show", "library/nginx")).output
    digest = shown["tags"][0]["digest"]
    await entrepot.done("repository", "lock", f"library/nginx@{digest}")
    await entrepot.done("repository", "unlock", "library/nginx:1")
    assert [
        each.locked
        for each in await engine.catalog.inventory_manifests(Repository("library/nginx"))
        if str(each.digest) == digest
    ] == [True]
    missing = await entrepot.run("repository", "lock", "library/nginx:2")
    assert (
        missing.status,
        missing.errors.startswith("Error: library/nginx has no cached tag 2."),
    ) == (
        1,
        True,
    )
    wrong = await entrepot.run("repository", "lock", "Library")
    assert (wrong.status, "GenericRepositoryNameInvalid" in wrong.errors) == (1, True)


async def test_a_dry_run_shows_what_would_go(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await _cached(entrepot, engine, source, clock, "a", "b")
    result = await entrepot.done("evict", "--dry-run", "--to", "150kB")
    title, line = result.output.splitlines()
    assert title.split() == ["Image", "Platform", "Digest", "Frees", "Used"]
    assert line.startswith("library/a:1  linux/amd64  ")
    assert " 100.4 kB " in line
    assert result.errors == "1 image would be evicted, which frees 100.4 kB.\n"
    planned = await entrepot.ask("evict", "--dry-run", "--to", "150kB")
    assert (planned["dryRun"], [each["repository"] for each in planned["images"]]) == (
        True,
        ["library/a"],
    )
    assert len(await entrepot.ask("repository", "list")) == 2


async def test_eviction_says_what_went_and_what_could_not(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await _cached(entrepot, engine, source, clock, "a", "b")
    nothing = await entrepot.done("evict")
    assert nothing.errors.startswith("Nothing to evict: 200.8 kB of ")
    await entrepot.done("repository", "lock", "library/b")
    unasked = await entrepot.run("evict", "--to", "0")
    assert (
        unasked.status,
        "Evict 1 image and free 100.4 kB? See them with --dry-run. Without a terminal, confirm with --yes."
        in unasked.errors,
    ) == (2, True)
    result = await entrepot.done("evict", "--to", "0", "--yes")
    assert (
        result.errors
        == "1 image evicted, 100.4 kB freed.\nThe goal of 0 B is missed by 100.4 kB: 100.4 kB are locked.\n"
    )
    assert [each["name"] for each in await entrepot.ask("repository", "list")] == ["library/b"]
    status = (await entrepot.done("status")).output
    assert re.search(
        r"^Cached +100\.4 kB of \d+\.\d [GT]B, \d+\.\d [GT]B free on the file system$",
        status,
        re.MULTILINE,
    )


async def test_ctrl_c_ends_an_eviction_after_its_present_step(
    entrepot: CommandLine,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await _cached(entrepot, engine, source, clock, "a", "b", "c")
    monkeypatch.setattr(maintenance_module, "IMAGES_PER_TRANSACTION", 1)
    evict, cancel = engine.catalog.evict_steps, engine.maintenance.cancel_eviction
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> list[Evicted]:
        began.set()
        await cancelled.wait()
        return await evict(*arguments, **options)

    def cancelling() -> EvictionProgress:
        cancelled.set()
        return cancel()

    monkeypatch.setattr(engine.catalog, "evict_steps", slow)
    monkeypatch.setattr(engine.maintenance, "cancel_eviction", cancelling)
    process = await entrepot.start("evict", "--to", "0", "--yes")
    async with asyncio.timeout(PATIENCE):
        await began.wait()
        process.send_signal(2)
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith(
        "The eviction was cancelled. Until then: 1 image evicted, 100.4 kB freed.\n"
    )
    assert len(await entrepot.ask("repository", "list")) == 2


async def test_right_after_a_pull_eviction_names_the_last_minute_as_the_reason(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    """Newcomer: what was pulled a moment ago was said to be "locked or in use", and is neither."""
    await _cached(entrepot, engine, source, clock, "a")
    clock.now -= 3600
    result = await entrepot.done("evict", "--dry-run", "--to", "0")
    assert result.errors.splitlines()[1] == (
        "The goal of 0 B is missed by 100.4 kB: 100.4 kB were used within the last minute, and can go when it has passed."
    )
    planned = await entrepot.ask("evict", "--dry-run", "--to", "0")
    assert (planned["locked"], planned["inUse"], planned["recent"]) == (0, 0, planned["shortfall"])
    assert planned["shortfall"] > 100_000


@pytest.mark.parametrize(("answer", "deleted"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
async def test_in_a_terminal_a_deletion_is_asked_about(
    answer: bytes, deleted: bool, entrepot: CommandLine, engine: Engine
) -> None:
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, answer)
        result = await entrepot.run("rule", "delete", "-n", "example-library", stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert result.errors.startswith("Delete the cache rule example-library? What it cached stays.")
    assert result.status == (0 if deleted else 1)
    assert (len(engine.documents.rules) == 0) is deleted
