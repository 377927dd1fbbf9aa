from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.config.settings import Settings
from entrepot.core.reference import Digest, Repository, Tag, parse_repository, parse_tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.states import SignIn
from entrepot.demo import DEMO_IMAGES
from entrepot.demo.images import LayerRecipe
from entrepot.demo.registry import (
    CHUNK_SIZE,
    IMAGES,
    LAYERS_IN_MEMORY,
    DemoImage,
    demo_registry_app,
    served_on_loopback,
)
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceNotFound
from entrepot.source.sources import Sources

SHARED = LayerRecipe("shared", 200_000)
SMALL = (
    DemoImage(
        "library/one",
        ("1", "latest"),
        {
            "linux/amd64": (LayerRecipe("a", 300_000), SHARED),
            "linux/arm64": (LayerRecipe("b", 100_000), SHARED),
        },
    ),
    DemoImage("library/one", ("2",), {"linux/amd64": (LayerRecipe("c", 50_000), SHARED)}),
    DemoImage(
        "acme/two",
        ("1",),
        {
            "linux/amd64": tuple(
                LayerRecipe(f"d{number}", 30_000) for number in range(LAYERS_IN_MEMORY + 2)
            )
        },
    ),
)
ONE = Repository("library/one")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(demo_registry_app(SMALL, speed=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[SourceClient]:
    """Our own client, over a real socket."""
    async with (
        served_on_loopback(demo_registry_app(SMALL, speed=None)) as port,
        Sources(Settings()) as sources,
    ):
        yield sources.client(
            SourceRegistry("Demo", "docker.io", SignIn.OPTIONAL, f"http://127.0.0.1:{port}"), None
        )


async def read(
    client: SourceClient, repository: Repository, digest: Digest, offset: int = 0
) -> bytes:
    async with client.blob(repository, digest, offset=offset) as stream:
        assert stream.offset == offset
        return b"".join([chunk async for chunk in stream])


def test_the_images_that_a_newcomer_is_told_of_are_all_that_there_are() -> None:
    assert sorted(DEMO_IMAGES) == sorted(f"{image.repository}:{image.tags[0]}" for image in IMAGES)


async def test_an_image_is_pulled_from_tag_to_layer(client: SourceClient) -> None:
    await client.verify_credentials()
    head = await client.head_manifest(ONE, Tag("latest"))
    index = await client.manifest(ONE, Tag("latest"))
    assert (head.digest, head.media_type, head.size) == (
        index.digest,
        index.media_type,
        len(index.content),
    )
    for child in json.loads(index.content)["manifests"]:
        manifest = json.loads((await client.manifest(ONE, Digest.parse(child["digest"]))).content)
        for blob in (manifest["config"], *manifest["layers"]):
            digest = Digest.parse(blob["digest"])
            assert await client.head_blob(ONE, digest) == blob["size"]
            content = await read(client, ONE, digest)
            assert digest.matches(content)
            assert await read(client, ONE, digest, offset=100) == content[100:]


async def test_layers_that_are_no_longer_in_memory_are_built_again(client: SourceClient) -> None:
    two = Repository("acme/two")
    index = json.loads((await client.manifest(two, Tag("1"))).content)
    manifest = json.loads(
        (await client.manifest(two, Digest.parse(index["manifests"][0]["digest"]))).content
    )
    for layer in manifest["layers"]:
        assert Digest.parse(layer["digest"]).matches(
            await read(client, two, Digest.parse(layer["digest"]))
        )


async def test_tags_are_listed_in_pages(client: SourceClient) -> None:
    page = await client.tags(ONE, n=2, last=None)
    assert (page.tags, page.next_last) == (("1", "2"), "2")
    page = await client.tags(ONE, n=2, last="2")
    assert (page.tags, page.next_last) == (("latest",), None)


async def test_what_is_not_there_is_not_found(client: SourceClient) -> None:
    absent = Digest("sha256", "0" * 64)
    with pytest.raises(SourceNotFound):
        await client.manifest(ONE, Tag("9"))
    with pytest.raises(SourceNotFound):
        await client.manifest(Repository("no/such"), Tag("1"))
    with pytest.raises(SourceNotFound):
        await client.head_blob(ONE, absent)
    with pytest.raises(SourceNotFound):
        await client.tags(Repository("no/such"), n=None, last=None)
    assert json.loads((await client.referrers(ONE, absent, None)).content)["manifests"] == []


async def test_a_digest_opens_nothing_in_another_repository(http: httpx.AsyncClient) -> None:
    index = (await http.get("/v2/library/one/manifests/2")).json()
    assert (
        await http.get(f"/v2/acme/two/manifests/{index['manifests'][0]['digest']}")
    ).status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ("bytes=5-9", 206, "bytes 5-9/{size}"),
        ("bytes={size}-", 416, "bytes */{size}"),
        ("lines=1-", 200, None),
    ],
)
async def test_ranges_are_answered(
    http: httpx.AsyncClient, asked: str, status: int, told: str | None
) -> None:
    index = (await http.get("/v2/library/one/manifests/2")).json()
    manifest = (
        await http.get(f"/v2/library/one/manifests/{index['manifests'][0]['digest']}")
    ).json()
    layer = manifest["layers"][0]
    path = f"/v2/library/one/blobs/{layer['digest']}"
    whole = (await http.get(path)).content
    part = await http.get(path, headers={"Range": asked.format(size=layer["size"])})
    assert part.status_code == status
    assert part.headers.get("content-range") == (told.format(size=layer["size"]) if told else None)
    assert status != 206 or part.content == whole[5:10]
    changed = await http.get(path, headers={"Range": "bytes=5-9", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_nothing_can_be_written(http: httpx.AsyncClient, method: str) -> None:
    assert (await http.request(method, "/v2/library/one/manifests/1")).status_code == 405


async def test_a_blob_is_sent_no_faster_than_it_should() -> None:
    now = 0.0

    async def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    app = demo_registry_app(SMALL, speed=100_000.0, pause=pause, clock=lambda: now)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://demo"
    ) as http:
        index = (await http.get("/v2/library/one/manifests/1")).json()
        manifest = (
            await http.get(f"/v2/library/one/manifests/{index['manifests'][0]['digest']}")
        ).json()
        layer = manifest["layers"][0]
        assert now == 0.0, "only blobs are slow"
        assert (
            len((await http.get(f"/v2/library/one/blobs/{layer['digest']}")).content)
            == layer["size"]
            > 2 * CHUNK_SIZE
        )
    assert now == pytest.approx(layer["size"] / 100_000.0)


def test_the_demo_has_images_to_choose_from() -> None:
    assert {each.repository for each in IMAGES} == {
        "library/alpine",
        "library/nginx",
        "library/postgres",
        "dotnet/sdk",
        "acme/api",
    }
    tags = [(each.repository, tag) for each in IMAGES for tag in each.tags]
    assert len(tags) == len(set(tags)), "a tag points to one image"
    for repository, tag in tags:
        parse_repository(repository)
        parse_tag(tag)
        assert (repository, "latest") in tags
    assert all(set(each.layers) == {"linux/amd64", "linux/arm64"} for each in IMAGES)


def test_some_layers_are_shared_between_images_and_platforms() -> None:
    by_repository: dict[str, set[LayerRecipe]] = {}
    for image in IMAGES:
        by_repository.setdefault(image.repository, set()).update(*image.layers.values())
    assert by_repository["library/nginx"] & by_repository["library/postgres"]
    assert by_repository["library/alpine"] & by_repository["acme/api"]
    nginx = next(each for each in IMAGES if each.repository == "library/nginx")
    assert set(nginx.layers["linux/amd64"]) & set(nginx.layers["linux/arm64"])
    assert nginx.layers["linux/amd64"][0] != nginx.layers["linux/arm64"][0]
