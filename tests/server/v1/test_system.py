"""Status, pulls, source registries and the event stream of a running engine."""

from __future__ import annotations

import asyncio
import json
import os

import httpx
import pytest

from entrepot import __version__
from entrepot.engine.engine import Engine
from entrepot.event_kinds import EventKind, Severity
from entrepot.server.run import listening
from entrepot.server.v1 import system
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeImage, FakeRegistry
from tests.server.v1.pulling import PULLS, end_of_pull


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image("library/nginx", "1.27", layers=[os.urandom(300_000)])


async def test_the_status_is_the_engine_in_one_look(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    document = (await management.get("/entrepot/v1/status")).json()
    assert (
        document["version"],
        document["address"],
        document["rules"],
        document["rulesLimit"],
    ) == (
        __version__,
        engine.address,
        1,
        1000,
    )
    assert (document["pullsRunning"], document["blobsSize"], document["notices"]) == (0, 0, [])


async def test_the_last_24_hours_in_steps_of_five_minutes(
    management: httpx.AsyncClient, engine: Engine, image: FakeImage
) -> None:
    started = (
        await management.post(
            PULLS, json={"image": "library/nginx:1.27", "platform": "linux/amd64"}
        )
    ).json()
    await end_of_pull(engine, started["id"])
    document = (await management.get("/entrepot/v1/activity")).json()
    assert (document["interval"], len(document["buckets"])) == (300, 288)
    last, total = document["buckets"][-1], document["total"]
    assert (last["misses"], last["fromSource"]) == (2, image.platforms["linux/amd64"].size)
    assert total == {name: last[name] for name in total}
    assert (await management.get("/entrepot/v1/status")).json()["lastDay"] == total


async def test_source_registries_are_listed_with_how_they_let_us_in(
    management: httpx.AsyncClient,
) -> None:
    answer = {
        each["loginServer"]: each
        for each in (await management.get("/entrepot/v1/upstreams")).json()
    }
    assert (answer["docker.io"]["name"], answer["docker.io"]["signIn"]) == (
        "Docker Hub",
        "required",
    )
    assert answer["mcr.microsoft.com"]["signIn"] == "none"
    assert (
        answer[LOGIN_SERVER]["declared"],
        answer[LOGIN_SERVER]["rules"],
        answer[LOGIN_SERVER]["signIn"],
    ) == (True, 1, "optional")


# Events


async def test_what_happened_lately_is_listed_oldest_first(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    await engine.rules.delete("example-library")
    document = (await management.get("/entrepot/v1/events?recent=1")).json()
    assert [each["kind"] for each in document] == ["rule-created", "rule-deleted"]
    assert document[1].keys() == {"time", "kind", "message", "subject", "severity"}


async def test_events_are_streamed_until_the_engine_ends(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "KEEP_ALIVE", 0.05)
    async with listening(engine), asyncio.timeout(30):
        transport = httpx.AsyncHTTPTransport(uds=str(engine.directories.socket))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client,
            client.stream("GET", "/entrepot/v1/events") as response,
        ):
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            assert await anext(lines) == ": entrepot"
            assert await anext(lines) == ""
            assert await anext(lines) == ": still here"
            engine.events.record(EventKind.RULE_CREATED, "One.", "a")
            engine.events.record(EventKind.RULE_DELETED, "Two.", severity=Severity.WARNING)
            events = []
            async for line in lines:
                if line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
                if len(events) == 2:
                    break
            assert [
                (each["kind"], each["message"], each.get("subject"), each["severity"])
                for each in events
            ] == [
                ("rule-created", "One.", "a", "info"),
                ("rule-deleted", "Two.", None, "warning"),
            ]
            engine.stopping.set()
            assert [line async for line in lines if line and not line.startswith(":")] == []


async def test_at_most_ten_events_a_second_are_sent(engine: Engine) -> None:
    stream = system.event_stream(engine.events, engine.stopping)
    async with asyncio.timeout(60):
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for number in range(4):
            engine.events.record(EventKind.RULE_UPDATED, str(number))
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        lines = [await waiting] + [await anext(stream) for _ in range(3)]
    assert loop.time() - started_at >= 3 * system.EVENT_INTERVAL - 0.01
    assert [json.loads(each.removeprefix(b"data: "))["message"] for each in lines] == [
        "0",
        "1",
        "2",
        "3",
    ]
    await stream.aclose()


async def test_a_request_to_stop_is_taken(management: httpx.AsyncClient, engine: Engine) -> None:
    assert (await management.post("/entrepot/v1/stop")).status_code == 202
    assert engine.stopping.is_set()


async def test_an_eviction_is_shown_first_and_then_done(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27")
    pull = engine.cache.pulls.get(
        (await engine.pulls.start("library/nginx:1.27", "linux/amd64", "test")).id
    )
    async with asyncio.timeout(30):
        await pull.finished.wait()
    clock.now += 3600
    size = image.platforms["linux/amd64"].size
    planned = (await management.post("/entrepot/v1/checks/eviction", json={"target": 0})).json()
    [planned_image] = planned["images"]
    assert planned_image == {
        "repository": "library/nginx",
        "tags": ["1.27"],
        "digest": str(image.platforms["linux/amd64"].digest),
        "platform": "linux/amd64",
        "freed": size,
        "lastUsed": clock.now - 3600,
    }
    assert {name: planned[name] for name in ("dryRun", "freed", "held", "goal", "shortfall")} == {
        "dryRun": True,
        "freed": size,
        "held": size,
        "goal": 0,
        "shortfall": 0,
    }
    assert (await management.get("/entrepot/v1/status")).json()["blobsSize"] == size
    document = (await management.post("/entrepot/v1/evict", json={"target": 0})).json()
    assert (document["dryRun"], document["images"], document["freed"]) == (
        False,
        planned["images"],
        size,
    )
    status = (await management.get("/entrepot/v1/status")).json()
    assert (status["blobsSize"], status["repositories"]) == (0, 0)
    assert status["spaceLimit"] > 0


async def test_an_eviction_of_many_images_is_sent_in_pieces(
    management: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a", "b", "c"):
        source.add_image(f"library/{name}", "1")
        pulled = await engine.pulls.start(f"library/{name}:1", "linux/amd64", "test")
        async with asyncio.timeout(30):
            await engine.cache.pulls.get(pulled.id).finished.wait()
        clock.now += 3600
    whole = await management.post("/entrepot/v1/checks/eviction", json={"target": 0})
    monkeypatch.setattr(system, "IMAGES_PER_PIECE", 2)
    pieces = await management.post("/entrepot/v1/checks/eviction", json={"target": 0})
    # The limit follows the free space of the disk.
    assert list(pieces.json()) == list(whole.json())
    assert {**pieces.json(), "limit": 0} == {**whole.json(), "limit": 0}
    assert len(pieces.json()["images"]) == 3
    assert pieces.headers["content-type"] == whole.headers["content-type"]
    assert "content-length" not in pieces.headers


async def test_an_eviction_can_be_watched_and_cancelled(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    for method in ("GET", "DELETE"):
        answer = await management.request(method, "/entrepot/v1/evict")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")
    source.add_image("library/a", "1")
    pulled = await engine.pulls.start("library/a:1", "linux/amd64", "test")
    async with asyncio.timeout(30):
        await engine.cache.pulls.get(pulled.id).finished.wait()
    clock.now += 3600
    await management.post("/entrepot/v1/evict", json={"target": 0})
    for method in ("GET", "DELETE"):
        document = (await management.request(method, "/entrepot/v1/evict")).json()
        assert (document["state"], document["total"], document["evicted"]) == ("completed", 1, 1)


@pytest.mark.parametrize(
    "body",
    [
        "",
        '{"target": -1}',
        '{"target": "50 GB"}',
        '{"dry": true}',
        pytest.param('{"target": ' + "1" * 5000 + "}", id="S25"),
        pytest.param('{"target": ' + "[" * 200_000, id="S25 nested"),
        pytest.param('{"target": "\\ud800"}', id="S25 surrogate"),
    ],
)
async def test_an_eviction_that_can_not_be_read_is_refused(
    body: str, management: httpx.AsyncClient
) -> None:
    answer = await management.post("/entrepot/v1/evict", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    ("limit", "count"),
    [("2", 2), ("100", 5), ("0", 5), ("many", 5), pytest.param("1" * 5000, 5, id="S25")],
)
async def test_the_last_events_can_be_few(
    management: httpx.AsyncClient, engine: Engine, limit: str, count: int
) -> None:
    for number in range(4):
        engine.events.record(EventKind.RULE_UPDATED, f"event {number}")
    document = (await management.get(f"/entrepot/v1/events?recent=1&limit={limit}")).json()
    assert len(document) == count
    assert document[-1]["message"] == "event 3"
