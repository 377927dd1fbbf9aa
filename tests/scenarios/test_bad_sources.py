"""Sources that fail as they did to other caches: through the real server, over real connections.

``docs/failures.md`` explains the codes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.core.states import LayerState, PullState
from entrepot.engine.engine import Engine
from entrepot.server.run import listening
from entrepot.store.blobs import MIN_RESUMABLE_SIZE
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import (
    DropAfter,
    FakeImage,
    FakeRegistry,
    FlipByte,
    Html,
    NoContentLength,
    Shorten,
    Status,
)
from tests.fakes.faults import Headers, IgnoreRange, TruncateAt
from tests.fakes.images import Content

SIZE = 3_000_000
REPOSITORY = "library/nginx"
AMD64 = "linux/amd64"


@pytest.fixture
async def served(engine: Engine) -> AsyncIterator[Engine]:
    async with listening(engine):
        yield engine


@pytest.fixture
async def client(served: Engine) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://{served.address}",
        timeout=30,
        trust_env=False,
        verify=False,
        limits=limits,
    ) as client:
        yield client


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image(REPOSITORY, "1", layers=[os.urandom(SIZE)], platforms=[AMD64])


@pytest.fixture
def layer(image: FakeImage) -> Content:
    return image.platforms[AMD64].layers[0]


@dataclass
class Transfer:
    """What one client got of a blob."""

    status: int = 0
    received: int = 0
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    broken: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, client: httpx.AsyncClient, content: Content) -> Transfer:
        try:
            async with client.stream("GET", f"/v2/{REPOSITORY}/blobs/{content.digest}") as answer:
                self.status = answer.status_code
                async for chunk in answer.aiter_raw():
                    self.received += len(chunk)
                    self.hasher.update(chunk)
                    self.begun.set()
        except httpx.RemoteProtocolError:
            self.broken = True
        return self

    def is_whole(self, content: Content) -> bool:
        return (self.status, self.broken, self.hasher.hexdigest()) == (
            200,
            False,
            content.digest.hex,
        )


async def get_manifests(client: httpx.AsyncClient, image: FakeImage) -> None:
    """As every client does before it asks for blobs."""
    for reference in (image.tag, str(image.platforms[AMD64].digest)):
        (await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")).raise_for_status()


async def filled(engine: Engine, content: Content) -> None:
    """Wait until a fill that may still go on has ended."""
    if (fill := engine.fills.any(content.digest)) is not None:
        await fill.finished.wait()


async def test_f02_when_the_first_client_disconnects_the_others_get_every_byte(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry, layer: Content
) -> None:
    gate = source.hold(str(layer.digest), after_bytes=SIZE // 10, method="GET")
    leader = Transfer()
    leading = asyncio.create_task(leader.get(client, layer))
    await leader.begun.wait()
    following = [asyncio.create_task(Transfer().get(client, layer)) for _ in range(10)]
    leading.cancel()
    await asyncio.wait([leading])
    gate.open()
    assert [each.is_whole(layer) for each in await asyncio.gather(*following)] == [True] * 10
    await filled(served, layer)
    assert source.count("GET", str(layer.digest)) == 1
    assert served.blobs.size(layer.digest) == layer.size


async def test_f03_every_waiter_on_a_source_that_stays_away_gets_a_definite_end(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    layer: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_pause(_: float) -> None: ...

    monkeypatch.setattr(served.fills, "_pause", no_pause)
    monkeypatch.setattr(served.sources, "_pause", no_pause)
    source.fault(str(layer.digest), DropAfter(SIZE // 2), method="GET")
    gate = source.hold(str(layer.digest), after_bytes=SIZE // 4, method="GET")
    waiting = [asyncio.create_task(Transfer().get(client, layer)) for _ in range(10)]
    await gate.reached
    # The answer that stands before the gate has its fault already; all that come after it are
    # refused.
    source.fault(str(layer.digest), Status(503), method="GET")
    gate.open()
    transfers = await asyncio.gather(*waiting)
    assert [(each.status, each.broken) for each in transfers] == [(200, True)] * 10
    assert served.blobs.size(layer.digest) is None
    source.clear_faults()
    source.requests.clear()
    assert (await Transfer().get(client, layer)).is_whole(layer)
    [again] = source.received("GET", str(layer.digest))
    left_over = int(again.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert MIN_RESUMABLE_SIZE <= left_over <= SIZE // 2
    assert again.bytes_sent == layer.size - left_over


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without ranges"])
async def test_f06_a_source_that_breaks_off_is_continued_within_the_same_answer(
    ranges: bool,
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    if not ranges:
        source.fault(str(layer.digest), IgnoreRange(), method="GET")
    source.fault(str(layer.digest), DropAfter(SIZE // 3, times=2), method="GET")
    assert (await Transfer().get(client, layer)).is_whole(layer)
    first, *others = source.received("GET", str(layer.digest))
    assert "range" not in first.headers
    assert len(others) == 2
    assert all(each.headers["if-range"] == f'"{layer.digest}"' for each in others)
    [pull] = served.cache.pulls.all()
    await pull.finished.wait()
    assert pull.state is PullState.COMPLETED
    [progress] = [each for each in pull.progress().layers if each.digest == str(layer.digest)]
    assert (progress.state, progress.resumed_at is not None) == (LayerState.VERIFIED, True)


@pytest.mark.parametrize(
    "fault",
    [Shorten(SIZE // 2), NoContentLength(close=True), NoContentLength()],
    ids=["length", "until the end of the connection", "chunked"],
)
async def test_f07_a_body_that_is_too_short_is_never_taken_for_the_blob(
    fault: Shorten | NoContentLength,
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    for blob_fault in (Shorten(SIZE // 2), fault):
        source.fault(str(layer.digest), blob_fault, method="GET")
    source.fault(str(layer.digest), IgnoreRange(), method="GET")
    transfer = await Transfer().get(client, layer)
    assert (transfer.status, transfer.broken) != (200, False)
    await filled(served, layer)
    assert served.blobs.size(layer.digest) is None
    source.clear_faults()
    assert (await Transfer().get(client, layer)).is_whole(layer)


async def test_f07_an_orderly_end_before_the_promised_length_is_continued(
    client: httpx.AsyncClient, source: FakeRegistry, image: FakeImage, layer: Content
) -> None:
    await get_manifests(client, image)
    source.fault(str(layer.digest), TruncateAt(SIZE // 2), method="GET")
    assert (await Transfer().get(client, layer)).is_whole(layer)
    assert source.count("GET", str(layer.digest)) == 2


@pytest.mark.parametrize("at", [0, SIZE // 2, -1])
async def test_f08_no_client_can_finish_a_blob_with_a_wrong_byte(
    at: int,
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    source.fault(str(layer.digest), FlipByte(at), method="GET")
    transfers = await asyncio.gather(*(Transfer().get(client, layer) for _ in range(5)))
    assert [(each.status, each.broken) for each in transfers] == [(200, True)] * 5
    assert all(each.received < layer.size for each in transfers)
    assert served.blobs.size(layer.digest) is None
    [pull] = served.cache.pulls.all()
    await pull.finished.wait()
    assert pull.error is not None
    assert "wrong bytes" in pull.error.message
    assert any(
        event.kind == "pull-ended" and "wrong bytes" in event.message
        for event in served.events.recent()
    )


async def test_f09_a_web_page_in_place_of_a_blob_is_refused(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    source.fault(str(layer.digest), Html(), method="GET")
    answer = await client.get(f"/v2/{REPOSITORY}/blobs/{layer.digest}")
    assert answer.status_code == 502
    assert "page" in answer.json()["errors"][0]["message"]
    assert served.blobs.size(layer.digest) is None


async def test_f10_eight_ranges_at_once_of_a_cold_blob_come_from_one_request(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    step = layer.size // 8

    async def part(start: int) -> httpx.Response:
        return await client.get(
            f"/v2/{REPOSITORY}/blobs/{layer.digest}",
            headers={"Range": f"bytes={start}-{start + step - 1}"},
        )

    answers = await asyncio.gather(*(part(start) for start in range(0, layer.size, step)))
    assert [answer.status_code for answer in answers] == [206] * len(answers)
    assert answers[3].headers["content-range"] == f"bytes {3 * step}-{4 * step - 1}/{layer.size}"
    assert b"".join(answer.content for answer in answers) == layer.content
    await filled(served, layer)
    assert source.count("GET", str(layer.digest)) == 1
    assert served.blobs.size(layer.digest) == layer.size


async def check_heads(client: httpx.AsyncClient, image: FakeImage, layer: Content) -> None:
    """A HEAD of a manifest and of a blob has the size and the digest."""
    for path, content in (
        (f"manifests/{image.tag}", image.manifest),
        (f"blobs/{layer.digest}", layer),
    ):
        answer = await client.head(f"/v2/{REPOSITORY}/{path}")
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(content.size)
        assert answer.headers["docker-content-digest"] == str(content.digest)


async def test_f11_a_head_of_an_uncached_blob_gives_its_size_and_fetches_no_body(
    client: httpx.AsyncClient, source: FakeRegistry, image: FakeImage, layer: Content
) -> None:
    await check_heads(client, image, layer)
    assert {request.method for request in source.requests} == {"HEAD"}


@pytest.mark.parametrize(
    "fault",
    [
        NoContentLength(),
        Headers(remove=("Docker-Content-Digest",)),
        Headers(set={"Content-Length": "0"}, remove=("Docker-Content-Digest",)),
    ],
    ids=["no length", "no digest", "a length of zero"],
)
async def test_f12_a_head_is_complete_where_the_head_of_the_source_is_not(
    fault: NoContentLength | Headers,
    client: httpx.AsyncClient,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    source.fault("", fault, method="HEAD")
    await check_heads(client, image, layer)
    assert source.bytes_sent <= image.manifest.size + 1


async def test_f15_a_cold_image_is_fetched_once(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    assert (await Transfer().get(client, layer)).is_whole(layer)
    [pull] = served.cache.pulls.all()
    await pull.finished.wait()
    everything = [image.manifest, image.platforms[AMD64].manifest, *image.platforms[AMD64].blobs]
    assert source.bytes_sent == sum(each.size for each in everything)


async def test_f39_a_blob_whose_file_is_gone_is_fetched_again(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    await Transfer().get(client, layer)
    await filled(served, layer)
    served.blobs.path(layer.digest).unlink()
    assert (await client.head(f"/v2/{REPOSITORY}/blobs/{layer.digest}")).headers[
        "entrepot-origin"
    ] == "upstream"
    assert (await Transfer().get(client, layer)).is_whole(layer)
    await filled(served, layer)
    assert source.count("GET", str(layer.digest)) == 2
    assert served.blobs.size(layer.digest) == layer.size


async def test_f39_a_start_adopts_a_file_without_a_row_and_drops_a_row_without_a_file(
    directories: Directories,
    settings: Settings,
    clock: Clock,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        pull = await engine.pulls.start(f"{REPOSITORY}:1", AMD64, "cli")
        await engine.cache.pulls.get(pull.id).finished.wait()
        config = image.platforms[AMD64].config
        path = engine.blobs.path(layer.digest)
        engine.blobs.path(config.digest).unlink()
    elsewhere = path.read_bytes()
    path.unlink()
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.maintenance.reconcile()
        assert (await engine.repositories.get(REPOSITORY)).repository.size < SIZE
    path.write_bytes(elsewhere)
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.maintenance.reconcile()
        assert (await engine.repositories.get(REPOSITORY)).repository.size > SIZE
        assert (await engine.status.get()).blobs_size == SIZE


async def test_f40_first_pulls_of_many_tags_at_once_lose_none(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry
) -> None:
    images = [
        source.add_image(REPOSITORY, f"v{number}", layers=[os.urandom(10_000)], platforms=[AMD64])
        for number in range(40)
    ]

    async def pull(image: FakeImage) -> None:
        for reference in (image.tag, str(image.platforms[AMD64].digest)):
            (await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")).raise_for_status()
        for blob in image.platforms[AMD64].blobs:
            assert (await Transfer().get(client, blob)).is_whole(blob)

    await asyncio.gather(*(pull(image) for image in images))
    expected = {(image.tag, str(image.digest)) for image in images}
    # A client does not wait longer than WRITE_TIMEOUT for the catalog, which gets the tag later.
    async with asyncio.timeout(60):
        while (await recorded_tags(served)) != expected:
            await asyncio.sleep(0)


async def recorded_tags(engine: Engine) -> set[tuple[str, str]]:
    """The tags of the repository in the catalog, and their digests."""
    detail = await engine.repositories.get(REPOSITORY)
    return {(tag.name, tag.digest) for tag in detail.tags}


async def test_f41_collecting_while_a_fill_goes_on_takes_nothing_from_it(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    image: FakeImage,
    layer: Content,
) -> None:
    await get_manifests(client, image)
    gate = source.hold(str(layer.digest), after_bytes=SIZE // 2, method="GET")
    transfer = Transfer()
    reading = asyncio.create_task(transfer.get(client, layer))
    await transfer.begun.wait()
    await served.maintenance.collect()
    gate.open()
    await reading
    assert transfer.is_whole(layer)
    await filled(served, layer)
    await served.maintenance.collect()
    assert served.blobs.size(layer.digest) == layer.size
