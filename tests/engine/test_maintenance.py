"""Eviction in a real engine: what goes, what stays, and what a reader sees of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from entrepot.api.models import EvictionProgress
from entrepot.cache.fill import Fill
from entrepot.cache.results import CachedBlob
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings, SizeLimit
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.core.states import EvictionState, PullState
from entrepot.engine import maintenance as maintenance_module
from entrepot.engine.engine import Engine
from entrepot.errors import Locked, NotFound
from entrepot.event_kinds import EventKind
from entrepot.server.run import listening
from entrepot.store import blobs as blobs_module
from entrepot.store.blob_walk import BlobSlice, BlobWalk
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.eviction import EvictionPlan
from entrepot.store.lookups import Lookup
from entrepot.store.manifests import Manifest
from entrepot.store.removal import Evicted
from tests.cache.test_fill import fed
from tests.conftest import LOGIN_SERVER, Clock
from tests.engine.waiting import event
from tests.fakes import FakeRegistry
from tests.fakes.images import PlatformImage

HOUR = 3600.0
LAYER = 100_000


async def pull(engine: Engine, image: str) -> None:
    pulled = engine.cache.pulls.get((await engine.pulls.start(image, "linux/amd64", "test")).id)
    async with asyncio.timeout(30):
        await pulled.finished.wait()
    assert pulled.state is PullState.COMPLETED


async def cached(
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    *names: str,
    layers: list[bytes] | None = None,
) -> list[PlatformImage]:
    """Pull ``library/NAME:1`` for each name, an hour between them; each has an index and a layer of
    its own."""
    made = []
    for name in names:
        image = source.add_image(
            f"library/{name}", "1", layers=[os.urandom(LAYER), *(layers or [])]
        )
        await pull(engine, f"library/{name}:1")
        clock.now += HOUR
        made.append(image.platforms["linux/amd64"])
    return made


async def names(engine: Engine) -> list[str]:
    return [each.removeprefix("library/") for each in await engine.catalog.repository_names()]


@asynccontextmanager
async def limited(
    directories: Directories, settings: Settings, clock: Clock, size: int
) -> AsyncIterator[Engine]:
    """An engine that may hold *size* bytes, with the rule for ``library/*``."""
    async with Engine.open(
        directories, replace(settings, size_limit=SizeLimit(size=size)), clock=clock
    ) as engine:
        if not list(engine.documents.rules):
            await engine.rules.create(
                RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
            )
        yield engine


# What goes


async def test_past_the_limit_the_images_used_least_recently_go_down_to_the_low_water_mark(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """F34."""
    settings = replace(settings, low_water=0.7)
    async with limited(directories, settings, clock, int(3.5 * LAYER)) as engine:
        await cached(engine, source, clock, "a", "b", "c")
        assert await names(engine) == ["a", "b", "c"]
        async with event(engine, "evicted"):
            await cached(engine, source, clock, "d")
        assert await names(engine) == ["c", "d"]
        status = await engine.status.get()
        assert status.space_limit == int(3.5 * LAYER)
        assert 2 * LAYER < status.blobs_size <= 0.7 * status.space_limit
        assert sum((await engine.blobs.sizes()).values()) == status.blobs_size
        assert status.notices == ()
    [evicted] = [each for each in engine.events.recent() if each.kind == "evicted"]
    assert re.fullmatch(
        r"Evicted 2 images of 2 repositories: 200\.\d kB freed, least recently used [34] h ago\.",
        evicted.message,
    )


async def test_an_evicted_image_leaves_the_layer_that_another_needs(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    """F31."""
    base = os.urandom(2 * LAYER)
    old, new = await cached(engine, source, clock, "old", "new", layers=[base])
    eviction = await engine.maintenance.evict(target=4 * LAYER - 1)
    assert [each.repository for each in eviction.images] == ["library/old"]
    assert eviction.freed == old.size - len(base)
    assert set(await engine.blobs.sizes()) == {blob.digest for blob in new.blobs}
    await source.stop()
    for blob in new.blobs:
        found = await engine.cache.blob(Repository("library/new"), blob.digest)
        assert isinstance(found, CachedBlob)
        assert (
            b"".join([chunk async for chunk in engine.blobs.read(blob.digest, 0, found.size)])
            == blob.content
        )


async def test_many_images_go_in_steps(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "IMAGES_PER_TRANSACTION", 1)
    base = os.urandom(LAYER)
    images = await cached(engine, source, clock, "a", "b", "c", layers=[base])
    eviction = await engine.maintenance.evict(target=0)
    assert [each.repository for each in eviction.images] == ["library/a", "library/b", "library/c"]
    assert eviction.freed == sum(image.size for image in images) - 2 * len(base)
    assert (await engine.blobs.sizes(), (await engine.status.get()).blobs_size) == ({}, 0)
    [evicted] = [each for each in engine.events.recent() if each.kind == "evicted"]
    assert evicted.message.startswith("Evicted 3 images of 3 repositories: 401.")


async def test_steps_are_smaller_after_another_write_has_waited(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "IMAGES_PER_STEP", 2)
    monkeypatch.setattr(maintenance_module, "IMAGES_PER_AWAITED_STEP", 1)
    await cached(engine, source, clock, "a", "b", "c", "d", "e")
    evict_steps, planned = Catalog.evict_steps, list[list[int]]()

    async def recording(
        catalog: Catalog, steps: Sequence[EvictionPlan], **options: Any
    ) -> list[Evicted]:
        planned.append([len(step.links) for step in steps])
        return await evict_steps(catalog, steps, **options)

    # Another write waits during the first of two transactions.
    monkeypatch.setattr(Catalog, "is_awaited", property(lambda _: len(planned) == 1))
    monkeypatch.setattr(Catalog, "evict_steps", recording)
    eviction = await engine.maintenance.evict(target=0)
    assert (eviction.count, planned) == (5, [[2, 2, 1], [1, 1, 1]])
    assert (await names(engine), await engine.blobs.sizes()) == ([], {})


async def test_an_eviction_shows_its_progress_and_ends_after_a_step_when_cancelled(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="No eviction has run"):
        engine.maintenance.cancel_eviction()
    monkeypatch.setattr(maintenance_module, "IMAGES_PER_TRANSACTION", 1)
    images = await cached(engine, source, clock, "a", "b", "c")
    write_usage = engine.cache.usage.write
    progress: list[EvictionProgress] = []

    async def cancelling() -> None:
        # The engine's own task writes too, so calls can't be counted.
        with suppress(NotFound):
            if engine.maintenance.eviction_progress().evicted == 1 and not progress:
                # One step is done, and the next one begins with this call.
                progress.append(engine.maintenance.eviction_progress())
                engine.maintenance.cancel_eviction()
        await write_usage()

    monkeypatch.setattr(engine.cache.usage, "write", cancelling)
    eviction = await engine.maintenance.evict(target=0)
    assert (eviction.cancelled, [each.repository for each in eviction.images]) == (
        True,
        ["library/a", "library/b"],
    )
    assert await names(engine) == ["c"]
    [during] = progress
    assert (during.state, during.total, during.evicted, during.freed, during.ended) == (
        EvictionState.RUNNING,
        3,
        1,
        images[0].size,
        None,
    )
    after = engine.maintenance.eviction_progress()
    assert (after.state, after.total, after.evicted) == (EvictionState.CANCELLED, 3, 2)
    assert (await engine.status.get()).blobs_size == images[2].size
    assert not (await engine.maintenance.evict(target=0)).cancelled
    assert engine.maintenance.eviction_progress().state is EvictionState.COMPLETED


async def test_an_evicted_image_is_fetched_again_at_its_next_pull(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    [image] = await cached(engine, source, clock, "a")
    await engine.maintenance.evict(target=0)
    assert (await names(engine), await engine.blobs.sizes()) == ([], {})
    await pull(engine, "library/a:1")
    assert set(await engine.blobs.sizes()) == {blob.digest for blob in image.blobs}
    assert [tag.name for tag in (await engine.repositories.get("library/a")).tags] == ["1"]


async def test_of_a_repository_only_the_old_image_goes(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    repository = Repository("library/a")
    images = []
    for tag in ("1", "2"):
        images.append(
            source.add_image("library/a", tag, layers=[os.urandom(LAYER)]).platforms["linux/amd64"]
        )
        await pull(engine, f"library/a:{tag}")
        clock.now += HOUR
    old, new = images
    await engine.maintenance.evict(target=LAYER + 5000)
    assert [tag.name for tag in (await engine.repositories.get("library/a")).tags] == ["2"]
    index = engine.cache.index
    assert await index.manifest_of(repository, new.digest) is not None
    assert await index.manifest_of(repository, old.digest) is None
    blobs = {blob.digest for image in images for blob in image.blobs}
    assert {blob for blob in blobs if await index.blob_of(repository, blob) is not None} == {
        blob.digest for blob in new.blobs
    }
    assert await index.tag(repository, Tag("1")) is None


async def test_a_limit_that_was_lowered_holds_for_what_is_cached_already(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """F35."""
    async with limited(directories, settings, clock, 10 * LAYER) as engine:
        await cached(engine, source, clock, "a", "b", "c")
    async with limited(directories, settings, clock, 2 * LAYER) as engine:
        async with event(engine, "evicted"):
            pass
        assert await names(engine) == ["c"]


async def test_data_of_others_on_the_file_system_lowers_the_limit(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    await cached(engine, source, clock, "a", "b", "c")
    status = (await engine.status.get()).blobs_size
    total, reserve = 50 * LAYER, LAYER
    monkeypatch.setattr(
        "entrepot.engine.maintenance.shutil.disk_usage", lambda _: Usage(total, total, 0)
    )
    assert (await engine.status.get()).space_limit == status - reserve
    monkeypatch.setattr(
        "entrepot.engine.maintenance.shutil.disk_usage",
        lambda _: Usage(total, status, total - status),
    )
    assert (await engine.status.get()).space_limit == int(total * 0.8)
    monkeypatch.setattr(
        "entrepot.engine.maintenance.shutil.disk_usage", lambda _: Usage(total, total, 0)
    )
    eviction = await engine.maintenance.evict()
    assert [each.repository for each in eviction.images] == ["library/a", "library/b"]
    assert eviction.goal == int((status - reserve) * 0.9)


async def test_a_dry_run_shows_what_would_go_and_changes_nothing(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    a, b = await cached(engine, source, clock, "a", "b")
    before = await engine.blobs.sizes()
    planned = await engine.maintenance.evict(dry_run=True, target=LAYER + 5000)
    assert [
        (each.repository, each.tags, each.digest, each.platform) for each in planned.images
    ] == [("library/a", ("1",), str(a.digest), "linux/amd64")]
    assert (
        planned.dry_run,
        planned.freed,
        planned.images[0].freed,
        planned.cached,
        planned.shortfall,
    ) == (True, a.size, a.size, a.size + b.size, 0)
    assert planned.images[0].last_used == pytest.approx(clock.now - 2 * HOUR)
    assert await engine.blobs.sizes() == before
    assert await names(engine) == ["a", "b"]
    assert (await engine.maintenance.evict(target=LAYER + 5000)).images == planned.images


async def test_manifests_that_clients_only_looked_at_do_not_pile_up(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/looked-at", "1")
    await engine.cache.manifest(Repository("library/looked-at"), Tag("1"))
    clock.now += 29 * 24 * HOUR
    await engine.maintenance.evict()
    assert await names(engine) == ["looked-at"]
    clock.now += 2 * 24 * HOUR
    await engine.maintenance.evict()
    assert await names(engine) == []


# What stays


@pytest.mark.parametrize(
    "hit",
    ["HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "GET range"],
)
async def test_a_hit_of_any_kind_keeps_an_image(
    engine: Engine, registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock, hit: str
) -> None:
    """F33. The use is in memory only when eviction begins."""
    a, _ = await cached(engine, source, clock, "a", "b")
    method, _, what = hit.partition(" ")
    path = {
        "tag": "manifests/1",
        "digest": f"manifests/{a.digest}",
        "blob": f"blobs/{a.layers[0].digest}",
        "range": f"blobs/{a.layers[0].digest}",
    }[what]
    headers = {"Range": "bytes=0-9"} if what == "range" else {"Accept": "*/*"}
    answer = await registry.request(method, f"/v2/library/a/{path}", headers=headers)
    assert answer.is_success
    clock.now += HOUR
    eviction = await engine.maintenance.evict(target=LAYER + 5000)
    assert [each.repository for each in eviction.images] == ["library/b"]
    assert await names(engine) == ["a"]


async def test_what_was_used_within_the_last_minute_stays(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await cached(engine, source, clock, "a", "b")
    await engine.cache.manifest(Repository("library/a"), Tag("1"))
    clock.now += 59
    assert [each.repository for each in (await engine.maintenance.evict(target=0)).images] == [
        "library/b"
    ]
    clock.now += 2
    assert [each.repository for each in (await engine.maintenance.evict(target=0)).images] == [
        "library/a"
    ]


LOCKS: dict[str, Callable[[Engine, PlatformImage], Awaitable[None]]] = {
    "repository": lambda engine, _: engine.repositories.lock("library/a"),
    "tag": lambda engine, _: engine.repositories.lock_tag("library/a", "1"),
    "manifest": lambda engine, image: engine.repositories.lock_manifest("library/a", image.digest),
}


@pytest.mark.parametrize("kind", LOCKS)
async def test_what_is_locked_is_neither_evicted_nor_deleted(
    engine: Engine, source: FakeRegistry, clock: Clock, kind: str
) -> None:
    a, _ = await cached(engine, source, clock, "a", "b")
    await LOCKS[kind](engine, a)
    eviction = await engine.maintenance.evict(target=0)
    assert [each.repository for each in eviction.images] == ["library/b"]
    assert eviction.shortfall == a.size
    assert set(await engine.blobs.sizes()) == {blob.digest for blob in a.blobs}
    with pytest.raises(
        Locked, match=r"is locked\. Unlock it first: entrepot repository unlock library/a"
    ):
        await engine.repositories.delete("library/a")
    with pytest.raises(
        Locked, match=r"is locked\. Unlock it first: entrepot repository unlock library/a"
    ):
        await engine.repositories.delete_manifest("library/a", a.digest)
    if kind != "manifest":
        with pytest.raises(
            Locked, match=r"is locked\. Unlock it first: entrepot repository unlock library/a"
        ):
            await engine.repositories.delete_tag("library/a", "1")
    assert [tag.name for tag in (await engine.repositories.get("library/a")).tags] == ["1"]


async def test_what_is_unlocked_goes_again(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await cached(engine, source, clock, "a")
    await engine.repositories.lock_tag("library/a", "1")
    assert (await engine.maintenance.evict(target=0)).images == ()
    await engine.repositories.lock_tag("library/a", "1", locked=False)
    assert len((await engine.maintenance.evict(target=0)).images) == 1
    assert [each.kind for each in engine.events.recent()].count(EventKind.LOCKED) == 1


async def test_when_nothing_more_can_go_the_status_says_so_until_it_can(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """F34: what is pinned stays."""
    async with limited(directories, settings, clock, LAYER) as engine:
        source.add_image("library/a", "1", layers=[os.urandom(LAYER // 2)])
        await pull(engine, "library/a:1")
        await engine.repositories.lock("library/a")
        source.add_image("library/b", "1", layers=[os.urandom(LAYER // 2)])
        clock.now += HOUR
        async with event(engine, "eviction-impossible"):
            await pull(engine, "library/b:1")
            await engine.repositories.lock("library/b")
        [notice] = (await engine.status.get()).notices
        assert notice.startswith(
            "100.8 kB are cached, the limit is 100.0 kB, and nothing more can be evicted: the rest is "
            "locked or in use."
        )
        clock.now += HOUR
        async with event(engine, "evicted"):
            await engine.repositories.lock("library/a", locked=False)
        assert await names(engine) == ["b"]
        async with asyncio.timeout(30):
            while (await engine.status.get()).notices:
                await asyncio.sleep(0)
    warned = [each for each in engine.events.recent() if each.kind == "eviction-impossible"]
    assert len(warned) == 1


async def test_an_image_that_is_being_pulled_stays(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    """F41: what is held of it already is old, and the rest is on its way in."""
    first, second = os.urandom(LAYER), os.urandom(LAYER)
    image = source.add_image("library/a", "1", layers=[first, second]).platforms["linux/amd64"]
    gate = source.hold(str(Digest.of(second)), after_bytes=50_000)
    running = engine.cache.pulls.get(
        (await engine.pulls.start("library/a:1", "linux/amd64", "test")).id
    )
    async with asyncio.timeout(30):
        await gate.reached
        while (
            Digest.of(first) not in await engine.blobs.sizes()
            or await engine.catalog.blobs_size() < LAYER
        ):
            await asyncio.sleep(0)
    clock.now += HOUR
    eviction = await engine.maintenance.evict(target=0)
    assert (eviction.images, eviction.shortfall > 0) == ((), True)
    gate.open()
    async with asyncio.timeout(30):
        await running.finished.wait()
    assert running.state is PullState.COMPLETED
    assert set(await engine.blobs.sizes()) == {blob.digest for blob in image.blobs}


async def test_eviction_beside_fills_leaves_every_pull_whole(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """F41: many pulls through a cache that is too small for them, with eviction after each blob."""
    async with limited(directories, settings, clock, 3 * LAYER) as engine:
        base = os.urandom(LAYER // 2)
        made = {
            f"image-{number}": source.add_image(
                f"library/image-{number}", "1", layers=[base, os.urandom(LAYER)]
            )
            for number in range(12)
        }

        async def pull_and_read(name: str) -> None:
            await pull(engine, f"library/{name}:1")
            for blob in made[name].platforms["linux/amd64"].blobs:
                found = await engine.cache.blob(Repository(f"library/{name}"), blob.digest)
                body = (
                    fed(found)
                    if isinstance(found, Fill)
                    else engine.blobs.read(blob.digest, 0, blob.size)
                )
                assert b"".join([chunk async for chunk in body]) == blob.content
            clock.now += 40

        async with asyncio.timeout(60):
            for _ in range(2):
                for at in range(0, 12, 3):
                    await asyncio.gather(
                        *(pull_and_read(f"image-{number}") for number in range(at, at + 3))
                    )
        assert any(each.kind == "evicted" for each in engine.events.recent())


# Readers


async def test_a_reader_of_a_held_blob_gets_all_of_it_after_its_eviction(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    """F32."""
    content = os.urandom(2_000_000)
    [image] = await cached(engine, source, clock, "a", layers=[content])
    body = engine.blobs.read(Digest.of(content), 0, len(content))
    got = await anext(body)
    await engine.maintenance.evict(target=0)
    assert not engine.blobs.path(Digest.of(content)).exists()
    async for chunk in body:
        got += chunk
    assert got == content
    assert image.layers[1].content == content


async def test_a_slow_reader_of_a_fill_gets_all_of_it_after_its_eviction(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    """F32, for a blob that came in while it was read."""
    content = os.urandom(2_000_000)
    source.add_image("library/a", "1", layers=[content])
    repository = Repository("library/a")
    index = await engine.cache.manifest(repository, Tag("1"))
    await engine.cache.manifest(repository, index.manifest.children[0].digest)
    fill = await engine.cache.blob(repository, Digest.of(content))
    assert isinstance(fill, Fill)
    body = fed(fill)
    got = await anext(body)
    async with asyncio.timeout(30):
        await fill.finished.wait()
        for each in engine.cache.pulls.all():
            await each.finished.wait()
    clock.now += HOUR
    await engine.maintenance.evict(target=0)
    assert await engine.blobs.sizes() == {}
    async for chunk in body:
        got += chunk
    assert got == content


async def test_a_blob_that_was_just_promised_to_a_client_is_still_there_when_it_is_opened(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F32: the image may go between the decision to serve its blob and the opening of the file,
    which goes a minute later."""
    monkeypatch.setattr(maintenance_module, "LEASE_DURATION", 0.05)
    [image] = await cached(engine, source, clock, "a")
    blob = await engine.cache.blob(Repository("library/a"), image.layers[0].digest)
    assert isinstance(blob, CachedBlob)
    await engine.cache.usage.write()
    clock.now += HOUR
    eviction = await engine.maintenance.evict(target=0)
    assert len(eviction.images) == 1
    assert (
        b"".join([chunk async for chunk in engine.blobs.read(blob.digest, 0, blob.size)])
        == image.layers[0].content
    )
    assert list(await engine.blobs.sizes()) == [blob.digest]
    monkeypatch.setattr(blobs_module, "LEASE_DURATION", 0.0)
    async with asyncio.timeout(30):
        while await engine.blobs.sizes():
            await asyncio.sleep(0)


async def test_manifests_stay_in_memory_when_a_collection_removes_none(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [image] = await cached(engine, source, clock, "a")
    invalidated = []
    monkeypatch.setattr(
        engine.cache.index, "invalidate_manifests", lambda: invalidated.append(image.digest)
    )
    await engine.maintenance.collect()
    assert invalidated == []
    await engine.catalog.delete_manifest(Repository("library/a"), image.digest)
    await engine.maintenance.collect()
    assert invalidated == [image.digest]


async def test_a_manifest_that_is_evicted_while_it_is_asked_for_is_fetched_again(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    [image] = await cached(engine, source, clock, "a")
    repository = Repository("library/a")
    assert await engine.cache.index.manifest_of(repository, image.digest) is not None
    # What a request sees that looked at the index just before the eviction was done.
    await engine.catalog.delete_manifest(repository, image.digest)
    await engine.maintenance.collect()
    assert (
        await engine.cache.manifest(repository, image.digest)
    ).manifest.content == image.manifest.content
    assert image.digest in await engine.catalog.manifests_of(repository)


async def test_a_client_of_the_real_server_gets_the_rest_of_what_is_evicted_while_it_is_sent(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sends the file, and only its name goes."""
    monkeypatch.setattr(blobs_module, "LEASE_DURATION", 0.0)
    content = os.urandom(16_000_000)
    source.add_image("library/large", "1", layers=[content])
    await pull(engine, "library/large:1")
    [layer] = (await engine.repositories.get_tag("library/large", "1")).images[0].layers
    async with listening(engine):
        host, _, port = engine.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=65536)
        writer.write(
            f"GET /v2/library/large/blobs/{layer.digest} HTTP/1.1\r\nHost: {engine.address}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 OK" in head
        hasher, left = hashlib.sha256(), layer.size
        # So far the network takes only a part of it.
        path = engine.blobs.path(Digest.parse(layer.digest))
        assert path.exists()
        await engine.cache.usage.write()
        clock.now += HOUR
        await engine.maintenance.evict(target=0)
        assert not path.exists()
        assert await names(engine) == []
        while left:
            piece = await reader.read(min(left, 65536))
            assert piece
            hasher.update(piece)
            left -= len(piece)
        writer.close()
    assert f"sha256:{hasher.hexdigest()}" == layer.digest


async def test_what_was_read_before_an_eviction_is_not_believed_after_it(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [image] = await cached(engine, source, clock, "a")
    repository = Repository("library/a")
    engine.cache.index.invalidate(repository)
    read, go_on = asyncio.Event(), asyncio.Event()
    really = engine.catalog.lookup_manifest

    async def slow(name: Repository, digest: Digest) -> Lookup[Manifest]:
        found = await really(name, digest)
        read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(engine.catalog, "lookup_manifest", slow)
    asking = asyncio.create_task(engine.cache.index.manifest_of(repository, image.digest))
    await read.wait()
    await engine.maintenance.evict(target=0)
    go_on.set()
    await asking
    assert not engine.cache.index.is_manifest_in_memory(repository, image.digest)
    assert await engine.cache.index.manifest_of(repository, image.digest) is None


async def test_a_repository_of_which_a_part_was_evicted_keeps_what_clients_asked_of_it(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    repository = Repository("library/a")
    await cached(engine, source, clock, "a")
    newer = source.add_image("library/a", "2").platforms["linux/amd64"]
    told = await engine.cache.describe_manifest(repository, Tag("2"))
    await engine.maintenance.evict(target=0)
    await engine.cache.manifest(repository, told.digest)
    assert await engine.catalog.tag(repository, Tag("2")) is not None
    assert newer.digest not in await engine.catalog.manifests_of(repository)


async def test_an_engine_whose_eviction_fails_once_goes_on(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(maintenance_module, "SPACE_CHECK_INTERVAL", 0.01)
    async with limited(directories, settings, clock, 2 * LAYER) as engine:
        await cached(engine, source, clock, "a")
        really, failures = engine.catalog.inventory, 0

        async def broken() -> object:
            nonlocal failures
            failures += 1
            if failures == 1:
                raise OSError("The disk failed for a moment.")
            return await really()

        monkeypatch.setattr(engine.catalog, "inventory", broken)
        with caplog.at_level(logging.ERROR):
            async with event(engine, "evicted"):
                await cached(engine, source, clock, "b")
        assert "Eviction failed" in caplog.text
        assert await names(engine) == ["b"]


def test_the_settings_of_the_file_reach_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('size_limit = "3 MB"\nlow_water = "50 %"\n')
    settings = Settings.load(path)
    assert (settings.size_limit.within(10**12), settings.low_water) == (3_000_000, 0.5)


# Healing


def after_the_walk(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], Awaitable[None]]) -> None:
    """Let something *happen* when all files are listed and none is compared yet."""
    next_slice = BlobWalk.next_slice
    listed: dict[BlobWalk, list[BlobSlice]] = {}

    async def after_all(self: BlobWalk) -> BlobSlice | None:
        if not listed and self.directories_walked == 0:
            listed[self] = slices = []
            while (blobs := await next_slice(self)) is not None:
                slices.append(blobs)
            await happen()
        if (remaining := listed.get(self)) is None:
            return await next_slice(self)
        return remaining.pop(0) if remaining else None

    monkeypatch.setattr(BlobWalk, "next_slice", after_all)


async def test_s17_a_blob_that_comes_in_while_the_files_are_walked_keeps_its_row(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on the disk when the walk began is compared with the rows when it has ended, and
    clients are answered meanwhile."""

    async def cache() -> None:
        await cached(engine, source, clock, "a")

    with monkeypatch.context() as slow:
        after_the_walk(slow, cache)
        await engine.maintenance.reconcile()
    sizes = await engine.blobs.sizes()
    assert len(sizes) == 2
    assert (
        (await engine.status.get()).blobs_size
        == await engine.catalog.blobs_size()
        == sum(sizes.values())
    )
    assert [each for each in engine.events.recent() if each.kind == "catalog-healed"] == []
    assert len((await engine.maintenance.evict(target=0)).images) == 1


async def test_s17_a_blob_that_goes_while_the_files_are_walked_gets_no_row(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cached(engine, source, clock, "a")

    async def evict() -> None:
        await engine.maintenance.evict(target=0)

    with monkeypatch.context() as slow:
        after_the_walk(slow, evict)
        await engine.maintenance.reconcile()
    assert (await engine.blobs.sizes(), await engine.catalog.blobs_size()) == ({}, 0)


async def test_the_status_tells_how_far_a_reconciliation_is(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: dict[BlobWalk, list[tuple[int, int]]] = {}

    async def count_rows() -> int:
        return 64

    next_slice = BlobWalk.next_slice

    async def record(self: BlobWalk) -> BlobSlice | None:
        reconciliation = (await engine.status.get()).reconciliation
        assert reconciliation is not None
        progress.setdefault(self, []).append((reconciliation.checked, reconciliation.directories))
        return await next_slice(self)

    with monkeypatch.context() as patched:
        patched.setattr(BlobWalk, "next_slice", record)
        # A catalog of so many rows has a slice for each eight directories.
        patched.setattr("entrepot.store.blob_walk.BLOBS_PER_SLICE", 1)
        patched.setattr(engine.catalog, "blobs_count", count_rows)
        await engine.maintenance.reconcile()
    # The start's own may have been under way.
    assert [*progress.values()][-1] == [(checked, 512) for checked in range(0, 513, 8)]
    assert (await engine.status.get()).reconciliation is None


async def test_an_engine_that_ends_in_a_reconciliation_leaves_the_rest_to_the_next_one(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        [image] = await cached(engine, source, clock, "a")
    for blob in image.blobs:
        engine.blobs.path(blob.digest).unlink()
    stray = [Digest.of(b"%d" % number) for number in range(40)]
    for number, digest in enumerate(stray):
        engine.blobs.path(digest).parent.mkdir(exist_ok=True)
        engine.blobs.path(digest).write_bytes(b"%d" % number)
    reached, checked = asyncio.Event(), 0
    next_slice = BlobWalk.next_slice

    async def hang_in_the_middle(self: BlobWalk) -> BlobSlice | None:
        nonlocal checked
        checked = self.directories_walked
        if checked >= 128:
            reached.set()
            await asyncio.Event().wait()
        return await next_slice(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BlobWalk, "next_slice", hang_in_the_middle)
        patched.setattr("entrepot.store.blob_walk.BLOBS_PER_SLICE", 1)
        async with limited(directories, settings, clock, 50 * LAYER) as engine:
            await reached.wait()
            rows = {digest for digest, _ in await engine.catalog.blobs_after(None, 100)}
    assert 0 < len(rows & set(stray)) < len(stray)
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        async with event(engine, "catalog-healed"):
            pass
        rows = {digest for digest, _ in await engine.catalog.blobs_after(None, 100)}
        assert rows == set(stray)
        await engine.maintenance.reconcile()
        assert (await engine.status.get()).blobs_size == sum(
            len(b"%d" % number) for number in range(40)
        )


async def test_f84_foreign_names_do_not_end_healing_and_are_told(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    [image] = await cached(engine, source, clock, "a")
    (engine.directories.blobs / "lost+found").write_bytes(b"")
    (engine.directories.blobs / "sha256" / ".DS_Store").write_bytes(b"")
    engine.blobs.path(image.config.digest).unlink()
    await engine.maintenance.reconcile()
    messages = {each.kind: each.message for each in engine.events.recent()}
    assert "1 missing blob removed" in messages[EventKind.CATALOG_HEALED]
    told = messages[EventKind.FOREIGN_NAMES]
    assert told.startswith(
        f"{engine.directories.blobs} has 2 names in it that are no blobs and are ignored: "
    )
    assert "lost+found" in told
    assert "sha256/.DS_Store" in told
    # The image has a part left, and is evicted as ever.
    assert len((await engine.maintenance.evict(target=0)).images) == 1


async def test_f84_a_file_that_can_not_be_removed_ends_no_eviction(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [stubborn, _] = await cached(engine, source, clock, "stubborn", "other")
    unlink = os.unlink

    def refused(path: str) -> None:
        if path == str(engine.blobs.path(stubborn.layers[0].digest)):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr("entrepot.store.blobs.os.unlink", refused)
    eviction = await engine.maintenance.evict(target=0)
    assert len(eviction.images) == 2
    assert set(await engine.blobs.sizes()) == {stubborn.layers[0].digest}
    assert await engine.catalog.blobs_size() == LAYER


# The catalog is gone, or takes room


@pytest.mark.parametrize("loss", ["gone", "noise"])
async def test_when_the_catalog_is_lost_the_blobs_stay_and_the_next_pulls_use_them(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock, loss: str
) -> None:
    """L02: "20 blobs added", all deleted in the same second."""
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        images = await cached(engine, source, clock, "a", "b")
        before = await engine.blobs.sizes()
    (directories.catalog.with_name("catalog.sqlite.backup")).unlink()
    if loss == "gone":
        directories.catalog.unlink()
    else:
        directories.catalog.write_bytes(os.urandom(100_000))
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        async with event(engine, "catalog-healed"):
            pass
        await engine.maintenance.collect()
        assert await engine.blobs.sizes() == before
        if loss == "noise":
            [notice] = (await engine.status.get()).notices
            assert notice.startswith(
                "The catalog was damaged (file is not a database) and is set aside as catalog.sqlite.damaged-"
            )
            assert [
                each.message for each in engine.events.recent() if each.kind == "catalog-recovered"
            ] == [notice]
        for name in ("a", "b"):
            await pull(engine, f"library/{name}:1")
        # Nobody knows any more who gave them: their source proves with a part that it has them
        # (S20), and nothing is fetched again.
        assert {each.progress().from_source for each in engine.cache.pulls.all()} == {0}
        assert set(await engine.blobs.sizes()) == {
            blob.digest for image in images for blob in image.blobs
        }
        # They are no longer adopted: what needs them decides.
        await engine.repositories.delete("library/a")
        assert set(await engine.blobs.sizes()) == {blob.digest for blob in images[1].blobs}


async def test_after_a_loss_and_its_copy_everything_is_as_before(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """L02."""
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        await cached(engine, source, clock, "a", "b")
    os.truncate(directories.catalog, 10_000)
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        assert await names(engine) == ["a", "b"]
        await source.stop()
        assert (await engine.cache.manifest(Repository("library/a"), Tag("1"))).manifest.is_index


async def test_adopted_blobs_go_first_when_room_is_needed(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """L02."""
    async with limited(directories, settings, clock, 50 * LAYER) as engine:
        await cached(engine, source, clock, "lost")
    (directories.catalog.with_name("catalog.sqlite.backup")).unlink()
    directories.catalog.unlink()
    async with limited(directories, settings, clock, int(2.5 * LAYER)) as engine:
        async with event(engine, "catalog-healed"):
            pass
        await cached(engine, source, clock, "a")
        assert len(await engine.blobs.sizes()) == 4
        async with event(engine, "evicted"):
            await cached(engine, source, clock, "b")
        assert await names(engine) == ["a", "b"]
        [evicted] = [each for each in engine.events.recent() if each.kind == "evicted"]
        assert re.match(
            r"Removed [12] blobs? to which no manifest has referred since the catalog lost them, because space was needed: 10",
            evicted.message,
        )


async def test_manifests_count_within_the_limit_and_go_with_the_use(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S11: 40 manifests of 7 MB took 301 MB where 50 were allowed, and nothing was told of them."""
    monkeypatch.setattr(maintenance_module, "UNCOUNTED_CATALOG_BYTES", 500_000)
    limit = 2_000_000
    async with limited(directories, settings, clock, limit) as engine:
        for number in range(8):
            content = (
                b'{"schemaVersion": 2, "layers": [], "annotations": {"x": "%s"}}'
                % os.urandom(200_000).hex().encode()
            )
            manifest = Manifest.of(content, OCI_MANIFEST, Digest.of(content))
            await engine.catalog.add_manifest(
                Repository(f"library/r{number}"), "x", manifest, tags=[Tag("1")], now=clock.now
            )
            clock.now += HOUR
        before = await engine.maintenance.evict(dry_run=True)
        assert before.cached > limit
        assert (await engine.status.get()).blobs_size == before.cached
        await engine.maintenance.evict()
        kept = await names(engine)
        assert kept == [f"r{number}" for number in range(8 - len(kept), 8)]
        assert 0 < len(kept) < 6
        assert (await engine.maintenance.evict(dry_run=True)).cached <= limit
        await engine.maintenance.evict(target=0)
        assert await names(engine) == []
        assert (await engine.status.get()).blobs_size == 0


@pytest.mark.parametrize("hangs", [False, True])
async def test_what_would_go_is_told_while_nothing_can_be_written(
    engine: Engine, source: FakeRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """B4.4: on a read-only disk, and while an eviction hangs in one that does not answer."""
    await cached(engine, source, clock, "old", "new")
    await engine.cache.usage.write()
    await engine.cache.manifest(Repository("library/new"), Tag("1"))
    thaws = asyncio.Event()

    async def refuses(*_: object) -> None:
        if hangs:
            await thaws.wait()
        raise CatalogFailed("The catalog can't be written: it is read-only.")

    monkeypatch.setattr(engine.catalog, "record_usage", refuses)
    monkeypatch.setattr(maintenance_module, "USAGE_WRITE_TIMEOUT", 0.01)
    eviction = asyncio.create_task(engine.maintenance.evict(target=0))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(30):
            planned = await engine.maintenance.evict(dry_run=True, target=0)
        assert "library/old" in {each.repository for each in planned.images}
        if hangs:
            assert not eviction.done()
    finally:
        thaws.set()
        with pytest.raises(CatalogFailed):
            await eviction
