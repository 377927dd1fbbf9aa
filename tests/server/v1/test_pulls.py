"""``/entrepot/v1/pulls``: pulls and where a tag points."""

from __future__ import annotations

import os
from typing import Any

import httpx
import pytest

from entrepot.engine.engine import Engine
from entrepot.engine.pulls import own_platform
from entrepot.server.request_body import BODY_LIMIT
from tests.fakes import FakeImage, FakeRegistry
from tests.server.v1.pulling import PULLS, end_of_pull


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image("library/nginx", "1.27", layers=[os.urandom(300_000)])


@pytest.mark.parametrize(
    "platform",
    ["library/nginx:1.27", "amd46", "linux/amd64/v2/x", "linux/\x1b]0;x\x07", 'a"b', "x" * 5000],
)
async def test_f74_a_pull_for_what_is_no_platform_is_400_and_none_begins(
    platform: str, management: httpx.AsyncClient, engine: Engine
) -> None:
    answer = await management.post(
        PULLS, json={"image": "library/nginx:1.27", "platform": platform}
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["target"]) == ("PlatformInvalid", "platform")
    assert (
        "is not a platform. A platform is an operating system and an architecture, such as linux/amd64"
        in error["message"]
    )
    assert len(error["message"]) < 400
    assert engine.pulls.list() == []


async def test_a_pull_from_its_start_to_its_end(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry, image: FakeImage
) -> None:
    layer = image.platforms["linux/arm64"].layers[0]
    gate = source.hold(str(layer.digest), after_bytes=100_000, method="GET")
    answer = await management.post(
        PULLS,
        json={"image": "library/nginx:1.27", "platform": "linux/arm64", "askedBy": "dashboard"},
    )
    assert answer.status_code == 201
    started = answer.json()
    assert (started["repository"], started["tag"], started["askedBy"]) == (
        "library/nginx",
        "1.27",
        ["dashboard"],
    )
    await gate.reached
    path = f"{PULLS}/{started['id']}"
    running = (await management.get(path)).json()
    assert (running["state"], running["platform"]) == ("running", "linux/arm64")
    assert running["digest"] == str(image.platforms["linux/arm64"].digest)
    assert (await management.get("/entrepot/v1/status")).json()["pullsRunning"] == 1
    gate.open()
    await end_of_pull(engine, started["id"])
    document = (await management.get(path)).json()
    assert (document["state"], document["received"]) == (
        "completed",
        image.platforms["linux/arm64"].size,
    )
    assert [each["id"] for each in (await management.get(PULLS)).json()] == [started["id"]]


async def test_a_pull_that_asks_for_no_platform_gets_this_machine_s(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=[own_platform(), "linux/s390x"])
    started = (await management.post(PULLS, json={"image": "library/nginx:1.27"})).json()
    await end_of_pull(engine, started["id"])
    document = (await management.get(f"{PULLS}/{started['id']}")).json()
    assert (document["state"], document["platform"], document["askedBy"]) == (
        "completed",
        own_platform(),
        ["api"],
    )


async def test_a_cancelled_pull_has_ended_when_the_answer_comes(
    management: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    gate = source.hold("/blobs/", after_bytes=10, method="GET")
    started = (
        await management.post(
            PULLS, json={"image": "library/nginx:1.27", "platform": "linux/amd64"}
        )
    ).json()
    await gate.reached
    answer = await management.delete(f"{PULLS}/{started['id']}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    again = await management.delete(f"{PULLS}/{started['id']}")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"image": "unknown/app:1"}, 404, "NameUnknown"),
        ({"image": "library/Nginx:1"}, 400, "GenericRepositoryNameInvalid"),
        ({"image": "library/nginx:-1"}, 400, "ReferenceInvalid"),
        ({"image": "library/nginx@sha256:0"}, 400, "DigestInvalid"),
        ({"image": ""}, 400, "GenericRepositoryNameInvalid"),
        ({"image": 5}, 400, "InvalidRequest"),
        ({"image": "library/nginx:1", "colour": "red"}, 400, "InvalidRequest"),
        ({}, 400, "InvalidRequest"),
        ([], 400, "InvalidRequest"),
        ("a" * BODY_LIMIT, 400, "InvalidRequest"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_pull_that_can_not_begin_is_refused(
    asked: Any, status: int, code: str, management: httpx.AsyncClient, engine: Engine
) -> None:
    answer = await management.post(PULLS, json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert list(engine.cache.pulls.all()) == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_pull_that_is_not_known(method: str, management: httpx.AsyncClient) -> None:
    answer = await management.request(method, f"{PULLS}/999")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")


@pytest.mark.usefixtures("image")
async def test_pulls_that_go_on_can_be_asked_for_alone(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    document = (
        await management.post(
            PULLS, json={"image": "library/nginx:1.27", "platform": "linux/amd64"}
        )
    ).json()
    await end_of_pull(engine, document["id"])
    other = source.add_image("library/alpine", "3", layers=[os.urandom(300_000)]).platforms[
        "linux/amd64"
    ]
    gate = source.hold(str(other.layers[0].digest), after_bytes=100_000, method="GET")
    running = (
        await management.post(PULLS, json={"image": "library/alpine:3", "platform": "linux/amd64"})
    ).json()
    await gate.reached
    assert [each["id"] for each in (await management.get(f"{PULLS}?running=1")).json()] == [
        running["id"]
    ]
    gate.open()
    await end_of_pull(engine, running["id"])
    assert (await management.get(f"{PULLS}?running=1")).json() == []


@pytest.mark.parametrize("id", ["1" * 5000, "9" * 19, "0", "-1", "x", "%D9%A3"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_number_that_no_pull_has_is_not_there(
    management: httpx.AsyncClient, method: str, id: str
) -> None:
    """S25: a number of 5,000 digits in the path was a 500 with a traceback."""
    answer = await management.request(method, f"{PULLS}/{id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")
