"""Cached files that were cut, emptied or flipped on the disk, as container clients see them: L01,
F90 and B4.1."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from entrepot.cache import blob_copies as copies_module
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.reference import Digest
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from entrepot.httpd import sendfile as files_module
from entrepot.server.run import listening
from entrepot.store import blobs as blobs_module
from tests.conftest import LOGIN_SERVER, Clock
from tests.engine.waiting import event
from tests.fakes import FakeImage, FakeRegistry
from tests.fakes.images import Content
from tests.server.test_registry import error_of, pull_all, pulls_end

AMD64 = "linux/amd64"
RULE = "example-library"
LAYER = 300_000


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image("library/nginx", "1", layers=[os.urandom(LAYER)], platforms=[AMD64])


@pytest.fixture
def layer(image: FakeImage) -> Content:
    return image.platforms[AMD64].layers[0]


@pytest.fixture
async def cached(registry: httpx.AsyncClient, engine: Engine, image: FakeImage) -> FakeImage:
    await pull_all(registry, image)
    await pulls_end(engine)
    for fill in list(engine.fills.under_way):
        await fill.finished.wait()
    return image


def path_of(layer: Content) -> str:
    return f"/v2/library/nginx/blobs/{layer.digest}"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def events_of(engine: Engine, kind: str) -> list[str]:
    return [each.message for each in engine.events.recent() if each.kind == kind]


DAMAGES: list[Callable[[Path], None]] = [
    lambda file: os.truncate(file, LAYER // 2),
    lambda file: os.truncate(file, 0),
    lambda file: os.truncate(file, LAYER + 1),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["cut", "emptied", "longer"])
async def test_f90_a_file_of_another_size_is_not_served_but_fetched_again(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    cached: FakeImage,
    layer: Content,
    damage: Callable[[Path], None],
) -> None:
    before = (await engine.status.get()).blobs_size
    damage(engine.blobs.path(layer.digest))
    response = await registry.get(path_of(layer))
    assert (response.status_code, response.content == layer.content) == (200, True)
    assert source.count("GET", str(layer.digest)) == 2
    [message] = events_of(engine, "blob-damaged")
    assert f"The cached copy of {layer.digest} is damaged: its file has" in message
    await pulls_end(engine)
    assert (await registry.get(path_of(layer))).headers["entrepot-origin"] == "cache"
    assert (await engine.status.get()).blobs_size == before == await engine.catalog.blobs_size()
    assert list(engine.directories.fills.iterdir()) == []


async def test_f90_a_head_gives_the_right_size_of_a_damaged_copy(
    registry: httpx.AsyncClient, engine: Engine, cached: FakeImage, layer: Content
) -> None:
    os.truncate(engine.blobs.path(layer.digest), 5)
    response = await registry.head(path_of(layer))
    assert (response.headers["content-length"], response.headers["entrepot-origin"]) == (
        str(LAYER),
        "upstream",
    )


async def test_f90_where_no_rule_answers_any_more_a_damaged_copy_is_an_unknown_blob(
    registry: httpx.AsyncClient, engine: Engine, cached: FakeImage, layer: Content
) -> None:
    await engine.rules.delete(RULE)
    assert (await registry.get(path_of(layer))).content == layer.content
    os.truncate(engine.blobs.path(layer.digest), 5)
    for _ in range(2):
        status, code, message = error_of(await registry.get(path_of(layer)))
        assert (status, code) == (404, "BLOB_UNKNOWN")
        assert (
            "was damaged and is removed, and no cache rule answers for library/nginx any more"
            in message
        )


async def test_l01_a_start_finds_a_file_of_another_size(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
    clock: Clock,
) -> None:
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        await engine.cache.pulls.get(
            (await engine.pulls.start("library/nginx:1", AMD64, "test")).id
        ).finished.wait()
        os.truncate(engine.blobs.path(layer.digest), 7)
    async with Engine.open(directories, settings, clock=clock) as engine:
        async with asyncio.timeout(30):
            while not events_of(engine, "blob-damaged"):
                await asyncio.sleep(0)
        assert (
            events_of(engine, "blob-damaged")[0].count(
                "its file had 7 bytes and should have 300,000"
            )
            == 1
        )
        assert engine.blobs.size(layer.digest) is None
        await engine.maintenance.collect()
        assert (
            (await engine.status.get()).blobs_size
            == await engine.catalog.blobs_size()
            == image.platforms[AMD64].size - LAYER
        )


async def test_l01_a_pull_fetches_a_damaged_layer_again(
    engine: Engine, cached: FakeImage, layer: Content
) -> None:
    os.truncate(engine.blobs.path(layer.digest), 7)
    pull = engine.cache.pulls.get((await engine.pulls.start("library/nginx:1", AMD64, "test")).id)
    await pull.finished.wait()
    assert pull.state is PullState.COMPLETED
    assert engine.blobs.path(layer.digest).read_bytes() == layer.content


async def test_l01_a_config_with_wrong_bytes_is_not_read_for_the_platform(
    engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image(
        "library/single", "1", platforms=["linux/arm64"], index=False
    ).platforms["linux/arm64"]

    async def pulled() -> PullState:
        pull = engine.cache.pulls.get(
            (await engine.pulls.start("library/single:1", "linux/arm64", "test")).id
        )
        await pull.finished.wait()
        return pull.state

    assert await pulled() is PullState.COMPLETED
    flip(engine.blobs.path(image.config.digest))
    assert await pulled() is PullState.FAILED
    assert len(events_of(engine, "blob-damaged")) == 1
    assert await pulled() is PullState.COMPLETED
    assert engine.blobs.path(image.config.digest).read_bytes() == image.config.content


async def test_l01_a_manifest_that_lies_about_a_size_takes_no_right_copy_away(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    cached: FakeImage,
    layer: Content,
) -> None:
    """The digest decides: the copy is hashed once, and served with its own size."""
    wrong = json.loads(cached.platforms[AMD64].manifest.content)
    wrong["layers"][0]["size"] = 1234
    manifest = source.add_manifest(
        "library/liar",
        Content.of(cached.platforms[AMD64].manifest.media_type, json.dumps(wrong).encode()),
        "1",
    )
    assert (await registry.get("/v2/library/liar/manifests/1")).content == manifest.content
    for _ in range(2):
        response = await registry.get(f"/v2/library/liar/blobs/{layer.digest}")
        assert (response.headers["entrepot-origin"], response.content == layer.content) == (
            "cache",
            True,
        )
    assert events_of(engine, "blob-damaged") == []


async def test_l01_a_file_without_a_row_is_hashed_before_it_is_served(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    cached: FakeImage,
    layer: Content,
) -> None:
    await engine.cache.copies.drop(layer.digest)
    assert (await registry.get(path_of(layer))).content == layer.content
    assert (await engine.catalog.blob(layer.digest)) is not None
    assert (
        (await engine.status.get()).blobs_size
        == await engine.catalog.blobs_size()
        == cached.platforms[AMD64].size
    )
    await engine.catalog.remove_blob(layer.digest)
    engine.cache.copies.invalidate_all()
    flip(engine.blobs.path(layer.digest))
    assert (await registry.get(path_of(layer))).content == layer.content
    assert len(events_of(engine, "blob-damaged")) == 1


async def test_f90_wrong_bytes_that_a_client_asks_for_again_at_once_are_found(
    registry: httpx.AsyncClient, engine: Engine, cached: FakeImage, layer: Content
) -> None:
    flip(engine.blobs.path(layer.digest))
    assert (await registry.get(path_of(layer))).content != layer.content
    async with event(engine, "blob-damaged"):
        await registry.get(path_of(layer))
    assert events_of(engine, "blob-damaged")[0].count("its bytes have another digest") == 1
    assert (await registry.get(path_of(layer))).content == layer.content


async def test_f90_a_popular_blob_is_hashed_once_in_ten_minutes(
    registry: httpx.AsyncClient,
    engine: Engine,
    cached: FakeImage,
    layer: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(engine.cache.copies, "_monotonic", clock)
    hashed: list[Digest] = []
    check = blobs_module.BlobStore.check

    async def counted(self: blobs_module.BlobStore, digest: Digest, **options: object) -> object:
        hashed.append(digest)
        return await check(self, digest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(blobs_module.BlobStore, "check", counted)

    async def get(count: int) -> None:
        for _ in range(count):
            assert (await registry.get(path_of(layer))).content == layer.content
            while engine.cache.copies._background:
                await asyncio.sleep(0)

    await get(1)
    clock.now += copies_module.REPEAT_WINDOW + 1
    await get(1)
    assert hashed == []
    await get(10)
    assert hashed == [layer.digest]
    for _ in range(20):
        clock.now += copies_module.CHECK_TTL / 20
        await get(1)
    assert hashed == [layer.digest] * 2


async def test_f90_a_reader_of_a_truncated_file_is_cut_off_with_one_line_in_the_log(
    engine: Engine, source: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    size = 40_000_000
    content = os.urandom(1_000_000) * (size // 1_000_000)
    layer = (
        source.add_image("library/large", "1", layers=[content], platforms=[AMD64])
        .platforms[AMD64]
        .layers[0]
    )
    await engine.cache.pulls.get(
        (await engine.pulls.start("library/large:1", AMD64, "test")).id
    ).finished.wait()
    received = 0

    async def get(client: httpx.AsyncClient) -> None:
        nonlocal received
        async with client.stream("GET", f"/v2/library/large/blobs/{layer.digest}") as answer:
            async for chunk in answer.aiter_raw():
                if not received:
                    os.truncate(engine.blobs.path(layer.digest), 1_000_000)
                received += len(chunk)

    async with listening(engine):
        logging.getLogger("entrepot").propagate = True
        async with httpx.AsyncClient(
            base_url=f"http://{engine.address}", timeout=30, trust_env=False, verify=False
        ) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await get(client)
            assert received < size
            async with asyncio.timeout(30):
                while not (
                    lines := [
                        each
                        for each in caplog.records
                        if "became shorter while it was sent" in each.message
                    ]
                ):
                    await asyncio.sleep(0)
            assert [each.exc_info for each in lines] == [None]
            again = await client.get(f"/v2/library/large/blobs/{layer.digest}")
            assert again.content == content
    assert [each for each in caplog.records if each.exc_info] == []


async def test_f90_a_copy_that_can_not_be_moved_away_is_not_served_either(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    cached: FakeImage,
    layer: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flip(engine.blobs.path(layer.digest))

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as disk:
        disk.setattr(os, "rename", refused)
        assert not await engine.cache.copies.check(layer.digest)
        assert engine.blobs.size(layer.digest) is None
        assert (await registry.head(path_of(layer))).headers["entrepot-origin"] == "upstream"
    response = await registry.get(path_of(layer))
    assert response.content == layer.content
    await pulls_end(engine)
    assert engine.blobs.size(layer.digest) == LAYER


async def test_a_blob_whose_file_is_gone_is_fetched_again_and_counts_once(
    registry: httpx.AsyncClient, engine: Engine, cached: FakeImage, layer: Content
) -> None:
    before = (await engine.status.get()).blobs_size
    engine.blobs.path(layer.digest).unlink()
    assert (await registry.get(path_of(layer))).content == layer.content
    await pulls_end(engine)
    assert (await engine.status.get()).blobs_size == await engine.catalog.blobs_size() == before
    assert events_of(engine, "blob-damaged") == []


async def test_f90_a_file_truncated_between_check_and_open_is_fetched_again(
    registry: httpx.AsyncClient,
    engine: Engine,
    cached: FakeImage,
    layer: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = engine.cache.blob

    async def cut_after(*arguments: object, **options: object) -> object:
        opened_blob = await blob(*arguments, **options)  # type: ignore[arg-type]
        monkeypatch.undo()
        os.truncate(engine.blobs.path(layer.digest), 5)
        return opened_blob

    monkeypatch.setattr(engine.cache, "blob", cut_after)
    response = await registry.get(path_of(layer))
    assert (
        response.status_code,
        response.content == layer.content,
        response.headers["entrepot-origin"],
    ) == (200, True, "upstream")


async def test_f90_a_file_that_the_disk_can_not_read_is_removed_without_a_traceback(
    registry: httpx.AsyncClient,
    engine: Engine,
    cached: FakeImage,
    layer: Content,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failed(*_: object, **__: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(files_module, "_is_cached", lambda *_: False)
        disk.setattr(files_module, "_fetch", failed)
        disk.setattr(blobs_module.BlobStore, "check", failed)
        async with event(engine, "blob-damaged"):
            assert (await registry.get(path_of(layer))).content == b""
    assert [each for each in caplog.records if each.exc_info] == []
    assert (await registry.get(path_of(layer))).content == layer.content
