"""Sources that mislead, trickle or break every parser: real server, real connections.

``docs/failures.md`` explains the codes. `tests/cache/test_fill.py` and
`tests/cache/test_fetch_queue.py` test each case by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import httpx
import pytest

from entrepot.cache import pull as pull_module
from entrepot.cache.fill_buffer import FillBuffer
from entrepot.cache.fills import PACE_INTERVAL
from entrepot.cache.pace import MAX_CRAWL_TIME, RATE_WINDOW
from entrepot.cache.transfer import Transfer
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState, SignIn
from entrepot.engine.engine import Engine
from entrepot.server.run import listening
from tests.conftest import LOGIN_SERVER
from tests.fakes import DropAfter, FakeImage, FakeRegistry, FlipByte, Status
from tests.fakes.faults import Fault, Headers

AMD64 = "linux/amd64"
SIZE = 400_000
BAD_LOCATIONS = [
    "http://127.0.0.1:99999/x",
    f"http://{'a' * 64}.example/x",
    "http://a..b/x",
    "https://xn--/x",
    "http://[::1/x",
    f"http://127.0.0.1:{'9' * 5000}/x",
]


@pytest.fixture
async def other_source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as source:
        yield source


@pytest.fixture
async def served(
    directories: Directories, settings: Settings, other_source: FakeRegistry
) -> AsyncIterator[Engine]:
    """An engine with two sources, of which each sends two blobs at once at the most."""
    other = DeclaredRegistry("other.example.com", "Other", SignIn.OPTIONAL, other_source.url)
    settings = replace(settings, upstreams=(*settings.upstreams, other), parallel_per_source=2)
    async with Engine.open(directories, settings) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        await engine.rules.create(
            RuleDraft("example-other", "other.example.com/library/*", "other/*")
        )
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


async def get_manifests(client: httpx.AsyncClient, repository: str, image: FakeImage) -> None:
    for reference in (image.tag, str(image.platforms[AMD64].digest)):
        (await client.get(f"/v2/{repository}/manifests/{reference}")).raise_for_status()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def redirect(location: str) -> list[Fault]:
    return [Status(307, {"Location": location})]


@pytest.mark.parametrize(
    "faults",
    [
        *(pytest.param(redirect(each), id=f"redirect to {each[:28]}") for each in BAD_LOCATIONS),
        pytest.param(
            [Status(400, body=b'{"errors":' + b"[" * 30_000 + b"]" * 30_000 + b"}")],
            id="a body nested deeply",
        ),
        pytest.param(
            [
                DropAfter(SIZE // 2, times=1),
                Headers(set={"Content-Range": f"bytes {'1' * 5000}-2/3"}),
            ],
            id="a number of 5,000 digits",
        ),
    ],
)
async def test_s02_what_no_parser_takes_is_an_invalid_answer_for_client_and_pull(
    faults: list[Fault], client: httpx.AsyncClient, served: Engine, source: FakeRegistry
) -> None:
    """Clients hung for ever, and the pull was shown as completed without its blob."""
    image = source.add_image("library/nginx", "1", layers=[os.urandom(SIZE)], platforms=[AMD64])
    layer = image.platforms[AMD64].layers[0]
    await get_manifests(client, "library/nginx", image)
    for fault in faults:
        source.fault(str(layer.digest), fault, method="GET")
    resumed = len(faults) > 1
    try:
        answer = await client.get(f"/v2/library/nginx/blobs/{layer.digest}")
        assert answer.status_code == 502
        assert not resumed
    except httpx.RemoteProtocolError:
        # It had begun already.
        assert resumed
    [pull] = served.cache.pulls.all()
    async with asyncio.timeout(30):
        await pull.finished.wait()
    assert (pull.state, pull.progress().error_code) == (PullState.FAILED, "SourceAnswerInvalid")
    assert served.blobs.size(layer.digest) is None
    assert not served.fills.is_under_way(layer.digest)
    # And when the source is right again, so is the answer.
    source.clear_faults()
    assert (await client.get(f"/v2/library/nginx/blobs/{layer.digest}")).content == layer.content


async def test_s07_a_slow_or_hostile_source_delays_no_client_of_another_source(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry, other_source: FakeRegistry
) -> None:
    """One slow source made a base layer impossible to pull for all clients."""
    base = os.urandom(SIZE)
    hostile, good = (
        each.add_image("library/app", "1", layers=[base], platforms=[AMD64])
        for each in (source, other_source)
    )
    layer = good.platforms[AMD64].layers[0]
    await get_manifests(client, "library/app", hostile)
    await get_manifests(client, "other/app", good)
    gate = source.hold(str(layer.digest), after_bytes=SIZE // 4, method="GET")
    source.fault(str(layer.digest), FlipByte(0), method="GET")
    held_up = asyncio.create_task(client.get(f"/v2/library/app/blobs/{layer.digest}"))
    await gate.reached
    assert (await client.get(f"/v2/other/app/blobs/{layer.digest}")).content == base
    assert not held_up.done()
    gate.open()
    with pytest.raises(httpx.RemoteProtocolError):
        await held_up
    await until(lambda: not served.fills.under_way)
    assert served.blobs.size(layer.digest) == SIZE
    assert (await served.status.get()).blobs_size == sum(
        {each.digest: each.size for each in (*good.platforms[AMD64].blobs,)}.values()
    )


async def test_s07_a_blob_that_came_twice_counts_once(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry, other_source: FakeRegistry
) -> None:
    base = os.urandom(SIZE)
    images = [
        each.add_image("library/app", "1", layers=[base], platforms=[AMD64])
        for each in (source, other_source)
    ]
    layer = images[0].platforms[AMD64].layers[0]
    gates = [
        each.hold(str(layer.digest), after_bytes=1, method="GET") for each in (source, other_source)
    ]
    pulls = [
        await served.pulls.start(f"{repository}/app:1", AMD64, "test")
        for repository in ("library", "other")
    ]
    for gate in gates:
        await gate.reached
    for gate in gates:
        gate.open()
    for pull in pulls:
        await served.cache.pulls.get(pull.id).finished.wait()
        assert served.cache.pulls.get(pull.id).state is PullState.COMPLETED
    await until(lambda: not served.fills.under_way)
    assert (
        source.count("GET", str(layer.digest)) == other_source.count("GET", str(layer.digest)) == 1
    )
    blobs = {each.digest: each.size for image in images for each in image.platforms[AMD64].blobs}
    assert (
        served.maintenance.cached_size == await served.catalog.blobs_size() == sum(blobs.values())
    )


async def test_l05_blobs_that_trickle_do_not_stop_a_source_and_the_status_shows_them(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry
) -> None:
    """Six blobs at a byte a second occupied all places of a source for good, without a sign."""
    now = 0.0
    served.fills._clock = served.health._clock = lambda: now
    slow = [
        source.add_image("library/slow", str(number), layers=[os.urandom(SIZE)], platforms=[AMD64])
        for number in range(2)
    ]
    quick = source.add_image("library/quick", "1", layers=[os.urandom(SIZE)], platforms=[AMD64])
    gates = [
        source.hold(str(image.platforms[AMD64].layers[0].digest), after_bytes=100, method="GET")
        for image in slow
    ]
    pulls = [
        served.cache.pulls.get(
            (await served.pulls.start(f"library/slow:{image.tag}", AMD64, "test")).id
        )
        for image in slow
    ]
    for gate in gates:
        await gate.reached
    await until(lambda: sum(fill.received for fill in served.fills.under_way) == 200)
    layer = quick.platforms[AMD64].layers[0]
    await get_manifests(client, "library/quick", quick)
    waiting = asyncio.create_task(client.get(f"/v2/library/quick/blobs/{layer.digest}"))
    await until(
        lambda: served.fills.is_under_way(layer.digest) and len(served.fills.under_way) >= 3
    )
    now += RATE_WINDOW
    served.fills.check_pace()
    [notice] = (await served.status.get()).notices
    assert notice.startswith(f"2 blobs from {LOGIN_SERVER} come in at less than 1.0 kB/s")
    assert (await client.get("/readyz")).status_code == 200
    now += PACE_INTERVAL
    served.fills.check_pace()
    assert (await waiting).content == layer.content
    for gate in gates:
        gate.open()
    for pull in pulls:
        async with asyncio.timeout(30):
            await pull.finished.wait()
        assert pull.state is PullState.COMPLETED
    assert (await served.status.get()).notices == ()


async def test_l13_blobs_come_in_by_threads_with_one_request_each_and_clients_get_the_file(
    client: httpx.AsyncClient,
    served: Engine,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop read, decrypted, copied and handed on every byte."""
    transferred: list[int] = []
    run = Transfer.run

    def counted(transfer: Transfer, buffer: bytearray) -> None:
        run(transfer, buffer)
        transferred.append(transfer.fetched)

    monkeypatch.setattr(Transfer, "run", counted)
    monkeypatch.setattr(
        FillBuffer, "add", lambda *_: pytest.fail("the blob came through the event loop")
    )
    image = source.add_image("library/app", "1", layers=[os.urandom(SIZE)], platforms=[AMD64])
    blobs = image.platforms[AMD64].blobs
    await get_manifests(client, "library/app", image)
    for blob in blobs:
        assert (await client.get(f"/v2/library/app/blobs/{blob.digest}")).content == blob.content
    assert sorted(transferred) == sorted(blob.size for blob in blobs)
    assert len(source.received("GET", "/blobs/")) == len(blobs)


async def test_l05_one_repository_with_many_cold_blobs_leaves_a_turn_to_another(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry
) -> None:
    """One client's pulls kept another client's only blob waiting until all of them had ended."""
    large = source.add_image(
        "library/large", "1", layers=[os.urandom(SIZE) for _ in range(12)], platforms=[AMD64]
    )
    small = source.add_image("library/small", "1", layers=[os.urandom(SIZE)], platforms=[AMD64])
    layers = large.platforms[AMD64].layers
    gates = [source.hold(str(layer.digest), after_bytes=100, method="GET") for layer in layers]
    await get_manifests(client, "library/large", large)
    await get_manifests(client, "library/small", small)
    blobs = [
        asyncio.create_task(client.get(f"/v2/library/large/blobs/{layer.digest}"))
        for layer in layers
    ]
    await until(lambda: all(served.fills.is_under_way(layer.digest) for layer in layers))
    layer = small.platforms[AMD64].layers[0]
    waiting = asyncio.create_task(client.get(f"/v2/library/small/blobs/{layer.digest}"))
    await until(lambda: served.fills.is_under_way(layer.digest))
    await until(lambda: any(gate.reached.done() for gate in gates))
    next(gate for gate in gates if gate.reached.done()).open()
    assert (await waiting).content == layer.content
    assert sum(task.done() for task in blobs) <= 2
    for gate in gates:
        gate.open()
    assert [(await task).content for task in blobs] == [layer.content for layer in layers]


async def test_l05_a_pull_from_a_source_that_crawls_for_ten_minutes_fails(
    served: Engine, source: FakeRegistry
) -> None:
    now = 0.0
    served.fills._clock = lambda: now
    image = source.add_image("library/slow", "1", layers=[os.urandom(SIZE)], platforms=[AMD64])
    gate = source.hold(str(image.platforms[AMD64].layers[0].digest), after_bytes=100, method="GET")
    pull = served.cache.pulls.get((await served.pulls.start("library/slow:1", AMD64, "test")).id)
    await gate.reached
    await until(lambda: any(fill.received == 100 for fill in served.fills.under_way))
    while now < MAX_CRAWL_TIME:
        now += RATE_WINDOW
        served.fills.check_pace()
    async with asyncio.timeout(30):
        await pull.finished.wait()
    assert pull.state is PullState.FAILED
    assert "less than 1.0 kB/s" in (pull.progress().error_message or "")
    assert not served.fills.under_way


async def test_s37_at_the_limit_of_pulls_a_client_gets_its_layer_and_no_pull_begins(
    client: httpx.AsyncClient, served: Engine, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One GET of a layer by a client that disconnects fetched a whole image; pulls had no limit."""
    monkeypatch.setattr(pull_module, "MAX_RUNNING_PULLS", 1)
    first, second = (
        source.add_image(
            "library/app", tag, layers=[os.urandom(SIZE), os.urandom(SIZE)], platforms=[AMD64]
        )
        for tag in ("1", "2")
    )
    gate = source.hold(str(first.platforms[AMD64].layers[0].digest), method="GET")
    running = await served.pulls.start("library/app:1", AMD64, "test")
    await gate.reached
    await get_manifests(client, "library/app", second)
    layer = second.platforms[AMD64].layers[0]
    assert (await client.get(f"/v2/library/app/blobs/{layer.digest}")).content == layer.content
    assert [pull.id for pull in served.cache.pulls.all()] == [running.id]
    gate.open()
    await served.cache.pulls.get(running.id).finished.wait()
    # When there is room, the rest of an image comes again with its first layer.
    layer = second.platforms[AMD64].layers[1]
    assert (await client.get(f"/v2/library/app/blobs/{layer.digest}")).content == layer.content
    assert len(served.cache.pulls.all()) == 2
