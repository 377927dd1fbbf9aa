"""Manifests that are a little odd, and that clients use nevertheless (F82), and platforms as people
name them (F74): through a real engine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from entrepot.api.models import PullSnapshot
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.reference import Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.core.states import CachedState, LayerState, PullState, VerificationState
from entrepot.demo.images import OCI
from entrepot.engine.engine import Engine
from entrepot.server.run import listening, registry_app
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry, NoContentLength
from tests.fakes.faults import Headers, IgnoreRange
from tests.fakes.images import Content

REPOSITORY = "library/odd"
BOM = b"\xef\xbb\xbf"

CONFIG = b'{"os":"linux","architecture":"amd64","rootfs":{}}'
SMALL = os.urandom(5_000)
LARGE = os.urandom(300_000)


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(engine),
        httpx.AsyncClient(
            base_url=f"http://{engine.address}", timeout=60, trust_env=False, verify=False
        ) as client,
    ):
        yield client


def descriptor(
    source: FakeRegistry, content: bytes, media_type: str, **fields: Any
) -> dict[str, Any]:
    """A descriptor of a blob that the source has. A field that is given as ... is left out."""
    blob = source.add_blob(REPOSITORY, content)
    whole = {"mediaType": media_type, "digest": str(blob.digest), "size": len(content)} | fields
    return {name: value for name, value in whole.items() if value is not ...}


def add_image(
    source: FakeRegistry, edit: Callable[[dict[str, Any]], None] = lambda _: None, **fields: Any
) -> Content:
    """An image of one platform under the tag ``1``; *fields* replace those of its config and
    layers, *edit* changes the document."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": descriptor(source, CONFIG, OCI.config, **fields),
        "layers": [descriptor(source, content, OCI.layer, **fields) for content in (SMALL, LARGE)],
    }
    edit(document)
    return source.add_manifest(
        REPOSITORY, Content.of(OCI.manifest, json.dumps(document).encode()), "1"
    )


async def get_image(client: httpx.AsyncClient, image: Content, *, reference: str = "1") -> None:
    """As a client does it that goes by digests: every byte is right, and every length is true."""
    answer = await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")
    assert (answer.status_code, answer.content) == (200, image.content), answer.text
    assert answer.headers["docker-content-digest"] == str(image.digest)
    for content in (CONFIG, SMALL, LARGE):
        await get_blob(client, content)


async def get_blob(client: httpx.AsyncClient, content: bytes) -> None:
    digest = Content.of("", content).digest
    answer = await client.get(f"/v2/{REPOSITORY}/blobs/{digest}")
    assert (answer.status_code, answer.content == content) == (200, True), answer.text
    assert answer.headers["content-length"] == str(len(content))


async def pulled(
    engine: Engine, platform: str | None = "linux/amd64", tag: str = "1"
) -> PullSnapshot:
    started = await engine.pulls.start(f"{REPOSITORY}:{tag}", platform, "test")
    await engine.cache.pulls.get(started.id).finished.wait()
    return await engine.pulls.get(started.id)


async def check_accounts(engine: Engine) -> None:
    """What is shown and counted are the sizes of the copies, whatever the manifest states."""
    sizes = [len(CONFIG), len(SMALL), len(LARGE)]
    detail = await engine.repositories.get_tag(REPOSITORY, "1")
    [image] = detail.images
    assert image.config is not None
    assert [each.size for each in (image.config, *image.layers)] == sizes
    assert (image.cached_state, image.size) == (CachedState.CACHED, image.cached_size)
    assert image.cached_size is not None
    assert image.cached_size > sum(sizes)
    [repository] = await engine.repositories.list()
    assert (repository.size, detail.tag.size) == (detail.own_size + detail.shared_size,) * 2
    assert await engine.catalog.blobs_size() == sum(sizes)
    assert (await engine.rules.match(f"{REPOSITORY}:1")).cached_state is CachedState.CACHED


SIZES: dict[str, Any] = {
    "-1": -1,
    "null": None,
    "missing": ...,
    "a text": "a lot",
    "a number as text": "7",
    "a float": 1.5,
    "a bool": True,
    "0": 0,
    "-2^63": -(2**63),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_f82_a_size_that_is_none_stops_no_client_and_no_pull(
    size: Any, client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = add_image(source, size=size)
    await get_image(client, image)
    pull = await pulled(engine)
    assert (pull.state, pull.error_message) == (PullState.COMPLETED, None)
    assert [(each.size, each.received) for each in pull.layers] == [
        (len(content), len(content)) for content in (CONFIG, SMALL, LARGE)
    ]
    await check_accounts(engine)
    source.requests.clear()
    await get_image(client, image, reference=str(image.digest))
    assert source.requests == []


@pytest.mark.parametrize("more", [-1, 1, 1000])
@pytest.mark.parametrize("length", [True, False], ids=["with a length", "without a length"])
async def test_f82_a_size_that_is_off_is_set_right_by_the_digest(
    more: int, length: bool, client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    if not length:
        source.fault("/blobs/", NoContentLength())

    def edit(document: dict[str, Any]) -> None:
        for descriptor in (document["config"], *document["layers"]):
            descriptor["size"] += more

    image = add_image(source, edit)
    if length:
        await get_image(client, image)
    else:
        answer = await client.get(f"/v2/{REPOSITORY}/manifests/1")
        assert answer.status_code == 200
        # The answer begins before its length is known to be wrong: it is cut, and the next one is
        # right.
        with pytest.raises(httpx.RemoteProtocolError):
            await get_blob(client, LARGE)
        for content in (LARGE, CONFIG, SMALL):
            await get_blob(client, content)
    assert (await pulled(engine)).state is PullState.COMPLETED
    await check_accounts(engine)


@pytest.mark.parametrize("more", [-1, 1])
async def test_f82_a_pull_of_an_image_with_wrong_sizes_completes_with_the_real_ones(
    more: int, engine: Engine, source: FakeRegistry
) -> None:
    def edit(document: dict[str, Any]) -> None:
        for descriptor in (document["config"], *document["layers"]):
            descriptor["size"] += more

    add_image(source, edit)
    pull = await pulled(engine)
    assert (pull.state, pull.platform) == (PullState.COMPLETED, "linux/amd64")
    assert [(each.size, each.received, each.state) for each in pull.layers] == [
        (len(content), len(content), LayerState.VERIFIED) for content in (CONFIG, SMALL, LARGE)
    ]
    assert len(source.received("GET", "/blobs/")) == 3
    assert source.received("HEAD", "/blobs/") == []
    await check_accounts(engine)


async def test_f82_ranges_and_heads_of_a_blob_without_a_size_are_right(
    client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    add_image(source, size=None)
    assert (await client.get(f"/v2/{REPOSITORY}/manifests/1")).status_code == 200
    digest = Content.of("", LARGE).digest
    head = await client.head(f"/v2/{REPOSITORY}/blobs/{digest}")
    assert (head.status_code, head.headers["content-length"], head.headers["entrepot-origin"]) == (
        200,
        str(len(LARGE)),
        "upstream",
    )
    part = await client.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        LARGE[100:200],
        f"bytes 100-199/{len(LARGE)}",
    )
    # What was asked of the source is not asked again for each request.
    assert len(source.received("HEAD", str(digest))) == 1


@pytest.mark.parametrize("more", [-1, 1])
async def test_f82_the_first_range_of_a_blob_whose_size_is_off_names_the_right_size(
    more: int, client: httpx.AsyncClient, source: FakeRegistry
) -> None:
    add_image(source, lambda document: document["layers"][1].update(size=len(LARGE) + more))
    assert (await client.get(f"/v2/{REPOSITORY}/manifests/1")).status_code == 200
    part = await client.get(
        f"/v2/{REPOSITORY}/blobs/{Content.of('', LARGE).digest}", headers={"Range": "bytes=-10"}
    )
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        LARGE[-10:],
        f"bytes {len(LARGE) - 10}-{len(LARGE) - 1}/{len(LARGE)}",
    )


@pytest.mark.parametrize("size", [-1, len(LARGE) + 1])
async def test_f82_wrong_bytes_are_refused_whatever_the_size_says(
    size: int, client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    other = source.add_blob(REPOSITORY, os.urandom(len(LARGE)))

    def edit(document: dict[str, Any]) -> None:
        document["layers"][1]["size"] = size

    add_image(source, edit)
    digest = Content.of("", LARGE).digest
    source._blobs[REPOSITORY][str(digest)] = other
    assert (await client.get(f"/v2/{REPOSITORY}/manifests/1")).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(f"/v2/{REPOSITORY}/blobs/{digest}")
    assert engine.blobs.size(digest) is None
    assert (await pulled(engine)).state is PullState.FAILED


async def test_f82_a_blob_whose_size_is_stated_nowhere_is_explained_in_one_sentence(
    client: httpx.AsyncClient, source: FakeRegistry
) -> None:
    """Each answer has a length: containerd and older docker stop without (containerd #3110)."""
    add_image(source, size=-1)
    source.fault("/blobs/", NoContentLength())
    source.fault("/blobs/", IgnoreRange())
    assert (await client.get(f"/v2/{REPOSITORY}/manifests/1")).status_code == 200
    answer = await client.get(f"/v2/{REPOSITORY}/blobs/{Content.of('', LARGE).digest}")
    assert answer.status_code == 502
    assert "does not say how large" in answer.json()["errors"][0]["message"]


ODD_DOCUMENTS: dict[str, Callable[[bytes], bytes]] = {
    "a byte order mark": lambda content: BOM + content,
    "line ends after it": lambda content: content + b"\r\n\n",
    "zeros after it": lambda content: content + b"\0" * 10,
    "text after it": lambda content: content + b" // end",
    "another document after it": lambda content: content + content,
    "a byte order mark and bytes after it": lambda content: BOM + content + b"\xff\xfe",
    "keys that come twice": lambda content: content.replace(
        b"{", b'{"mediaType": "a/b", "layers": [], "size": -1, ', 1
    ),
    "no schemaVersion": lambda content: content.replace(b'"schemaVersion": 2, ', b""),
    "a schemaVersion as text": lambda content: content.replace(
        b'"schemaVersion": 2', b'"schemaVersion": "2"'
    ),
    "a schemaVersion that is null": lambda content: content.replace(
        b'"schemaVersion": 2', b'"schemaVersion": null'
    ),
    "a schemaVersion that is a float": lambda content: content.replace(
        b'"schemaVersion": 2', b'"schemaVersion": 2.0'
    ),
    "no mediaType": lambda content: content.replace(
        b'"mediaType": "application/vnd.oci.image.manifest.v1+json", ', b""
    ),
    "an empty mediaType": lambda content: content.replace(
        b"application/vnd.oci.image.manifest.v1+json", b""
    ),
    "half of a pair of surrogates": lambda content: (
        content[:-1] + b', "annotations": {"a": "\\ud800", "b": "\\\\udc00\\udc00"}}'
    ),
    "annotations that are null": lambda content: (
        content[:-1] + b', "annotations": null, "subject": null}'
    ),
}


@pytest.mark.parametrize("odd", ODD_DOCUMENTS.values(), ids=ODD_DOCUMENTS)
async def test_f82_an_odd_document_passes_byte_by_byte_and_its_image_is_pulled(
    odd: Callable[[bytes], bytes], client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_manifest(
        REPOSITORY, Content.of(OCI.manifest, odd(add_image(source).content)), "1"
    )
    await get_image(client, image)
    assert (await pulled(engine)).state is PullState.COMPLETED
    await check_accounts(engine)


FIELDS: dict[str, dict[str, Any]] = {
    "null beside the digest": {
        "mediaType": None,
        "annotations": None,
        "urls": None,
        "platform": None,
        "data": None,
    },
    "an empty mediaType": {"mediaType": ""},
    "no mediaType": {"mediaType": ...},
    "a mediaType that is a number": {"mediaType": 7},
    "urls that are a text": {"urls": "https://example.com/layer"},
    "annotations of odd types": {"annotations": {"a": None, "b": 1, "c": ["x"]}},
    "a platform that is a text": {"platform": "linux/amd64"},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
async def test_f82_fields_that_are_odd_say_nothing(
    fields: dict[str, Any], client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = add_image(source, **fields)
    await get_image(client, image)
    assert (await pulled(engine)).state is PullState.COMPLETED
    await check_accounts(engine)


async def test_f82_a_layer_that_comes_twice_with_different_sizes_is_one(
    client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = add_image(
        source, lambda document: document["layers"].append(document["layers"][1] | {"size": -1})
    )
    await get_image(client, image)
    assert (await pulled(engine)).state is PullState.COMPLETED
    detail = await engine.repositories.get_tag(REPOSITORY, "1")
    assert detail.tag.size == len(image.content) + len(CONFIG) + len(SMALL) + len(LARGE)


async def test_f82_an_empty_config_is_a_blob_like_any_other(
    client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    add_image(source, lambda document: document.update(config=descriptor(source, b"", OCI.config)))
    assert (await pulled(engine)).state is PullState.COMPLETED
    await get_blob(client, b"")


GOOD_PLATFORM = {"os": "linux", "architecture": "amd64"}
ODD_ENTRIES: dict[str, Any] = {
    "no digest": {"size": 5, "platform": GOOD_PLATFORM},
    "a digest that is null": {"digest": None, "size": 5, "platform": GOOD_PLATFORM},
    "a digest that is none": {"digest": "sha256:../../etc", "size": 5, "platform": GOOD_PLATFORM},
    "a digest that is a number": {"digest": 7, "size": 5},
    "another algorithm": {"digest": "blake3:" + "a" * 64, "size": 5, "platform": GOOD_PLATFORM},
    "null": None,
    "a number": 7,
    "a text": "sha256:" + "a" * 64,
    "a list": [],
    "an empty object": {},
}


@pytest.mark.parametrize("entry", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
async def test_f82_one_odd_entry_of_an_index_hides_no_other(
    entry: Any, client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = add_image(source)
    good = image.descriptor.document() | {
        "platform": GOOD_PLATFORM | {"variant": None, "os.version": None, "os.features": None},
        "annotations": None,
    }
    content = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI.index, "manifests": [entry, good, entry]}
    ).encode()
    index = source.add_manifest(REPOSITORY, Content.of(OCI.index, content), "1")
    answer = await client.get(f"/v2/{REPOSITORY}/manifests/1")
    assert (answer.status_code, answer.content) == (200, index.content)
    pull = await pulled(engine)
    assert (pull.state, pull.platform, pull.digest) == (
        PullState.COMPLETED,
        "linux/amd64",
        str(image.digest),
    )
    await check_accounts(engine)


async def test_f82_an_index_of_which_nothing_can_be_used_is_refused_in_one_sentence(
    client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    content = json.dumps(
        {"schemaVersion": 2, "manifests": [ODD_ENTRIES["a digest that is none"], None]}
    ).encode()
    source.add_manifest(REPOSITORY, Content.of(OCI.index, content), "1")
    answer = await client.get(f"/v2/{REPOSITORY}/manifests/1")
    assert answer.status_code == 502
    assert "is not a manifest that Entrepot knows" in answer.json()["errors"][0]["message"]
    assert await engine.catalog.repository_names() == []


@pytest.mark.parametrize(("edit", "reason"), [
    ({"layers": [{"digest": "sha256:x", "size": 1}]}, "sha256:x"),
    ({"layers": [{"size": 1}]}, "is not a digest"),
    ({"layers": [None]}, "is not a digest"),
    ({"layers": 7}, "array"),
    ({"config": 7}, "its config is not an object"),
    ({"schemaVersion": 1}, "schema version 1"),
    ({"schemaVersion": 3}, "schema version 3"),
    ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 2**63}]}, "9,223,372,036,854,775,808 bytes"),
    ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 10**400}]}, "of more than 1,000,000,000,000,000,000,000,000 bytes"),
])  # fmt: skip
async def test_f82_f67_an_unusable_manifest_is_502_with_the_reason_and_one_request(
    edit: dict[str, Any],
    reason: str,
    client: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
) -> None:
    """A number of 2^63 stands in no client's memory, and in no database."""
    add_image(source, lambda document: document.update(edit))
    for _ in range(3):
        answer = await client.get(f"/v2/{REPOSITORY}/manifests/1")
        assert answer.status_code == 502
        message = answer.json()["errors"][0]["message"]
        assert reason in message
        assert (".." in message, len(message) < 1_000) == (False, True)
    assert source.count("GET", "/manifests/1") == 1
    assert await engine.catalog.repository_names() == []


@pytest.mark.parametrize("media_type", ["application/x\r\nX-Evil: 1", "application/x\0y"])
async def test_f67_a_media_type_that_can_not_be_sent_is_502_and_not_kept(
    media_type: str, client: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    add_image(source, lambda document: document.update(mediaType=media_type))
    source.fault("/manifests/", Headers({"Content-Type": "application/json"}))
    for _ in range(3):
        answer = await client.get(f"/v2/{REPOSITORY}/manifests/1")
        assert (answer.status_code, "x-evil" in answer.headers) == (502, False)
        assert "mediaType that is none" in answer.json()["errors"][0]["message"]
    assert source.count("GET", "/manifests/1") == 1
    assert await engine.catalog.tag(Repository(REPOSITORY), Tag("1")) is None
    clock.now += engine.settings.negative_freshness
    add_image(source)
    source.clear_faults()
    assert (await client.get(f"/v2/{REPOSITORY}/manifests/1")).status_code == 200


async def test_f82_a_size_is_shown_as_unknown_until_the_blob_is_cached(
    client: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    add_image(source, size=None)
    assert (await client.get(f"/v2/{REPOSITORY}/manifests/1")).status_code == 200
    [image] = (await engine.repositories.get_tag(REPOSITORY, "1")).images
    assert (image.size, [each.size for each in image.layers], image.cached_state) == (
        None,
        [None, None],
        CachedState.NOT_CACHED,
    )


@pytest.mark.parametrize("size", [-1, 7])
async def test_f82_a_restarted_engine_serves_verifies_and_evicts_the_image(
    size: int, directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    """The catalog takes a size that is not known. The digest decides once more, and what came is
    what is freed."""
    rule = RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
    image = add_image(source, size=size)
    async with Engine.open(directories, settings, clock=clock) as first:
        await first.rules.create(rule)
        assert (await pulled(first)).state is PullState.COMPLETED
    await source.stop()
    async with Engine.open(directories, settings, clock=clock) as engine:
        transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client:
            await get_image(client, image)
        await check_accounts(engine)
        engine.verification.start()
        async with asyncio.timeout(60):
            while engine.verification.is_under_way:
                await asyncio.sleep(0)
        verified = engine.verification.snapshot()
        assert (verified.state, verified.checked, verified.wrong) == (
            VerificationState.COMPLETED,
            3,
            0,
        )
        clock.now += 3600
        planned = await engine.maintenance.evict(target=0, dry_run=True)
        assert planned.freed == len(CONFIG) + len(SMALL) + len(LARGE)


# Platforms


def add_index(source: FakeRegistry, *platforms: str) -> dict[str, Content]:
    """An index under the tag ``1``, with an image for each platform."""
    images, entries = {}, []
    for platform in platforms:
        os_part, architecture, *variant = platform.split("/")
        os_name, _, version = os_part.rstrip(")").partition("(")
        image = Content.of(
            OCI.manifest,
            json.dumps(
                {"schemaVersion": 2, "layers": [descriptor(source, platform.encode(), OCI.layer)]}
            ).encode(),
        )
        images[platform] = source.add_manifest(REPOSITORY, image)
        stated = {"os": os_name, "architecture": architecture, "variant": "".join(variant)} | (
            {"os.version": version} if version else {}
        )
        entries.append(image.descriptor.document() | {"platform": stated})
    source.add_manifest(
        REPOSITORY,
        Content.of(OCI.index, json.dumps({"schemaVersion": 2, "manifests": entries}).encode()),
        "1",
    )
    return images


PLATFORMS = (
    "unknown/unknown",
    "linux/386",
    "linux/arm/v6",
    "linux/arm/v5",
    "linux/arm64/v8",
    "linux/amd64/v3",
    "linux/amd64",
    "windows(10.0.20348.2340)/amd64",
    "windows(10.0.17763.5576)/amd64",
)


@pytest.mark.parametrize(
    ("named", "pulls"),
    [
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm64", "linux/arm64/v8"),
        ("arm64", "linux/arm64/v8"),
        ("aarch64", "linux/arm64/v8"),
        ("x86_64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64"),
        ("linux/amd64/v4", "linux/amd64/v3"),
        ("linux/arm/v7", "linux/arm/v6"),
        ("armhf", "linux/arm/v6"),
        ("armel", "linux/arm/v6"),
        ("linux/arm/v5", "linux/arm/v5"),
        ("i386", "linux/386"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763.5576)/amd64"),
        ("windows/amd64", "windows(10.0.20348.2340)/amd64"),
    ],
)
async def test_f74_a_pull_takes_the_best_image_for_a_platform_as_people_name_it(
    named: str, pulls: str, engine: Engine, source: FakeRegistry
) -> None:
    images = add_index(source, *PLATFORMS)
    pull = await pulled(engine, named)
    assert (pull.state, pull.digest) == (PullState.COMPLETED, str(images[pulls].digest))


@pytest.mark.parametrize("named", ["linux/s390x", "macos", "windows(10.0.26100)/arm64"])
async def test_f74_where_no_image_runs_the_pull_says_what_there_is(
    named: str, engine: Engine, source: FakeRegistry
) -> None:
    add_index(source, *PLATFORMS)
    pull = await pulled(engine, named)
    assert pull.state is PullState.FAILED
    assert pull.error_message is not None
    assert (
        "It has: linux/386, linux/amd64, linux/amd64/v3, linux/arm/v5, linux/arm/v6, linux/arm64/v8, windows(10.0.17763.5576)/amd64"
        in pull.error_message
    )
    assert "unknown" not in pull.error_message


async def test_f74_an_index_within_an_index_leads_to_the_image(
    engine: Engine, source: FakeRegistry
) -> None:
    images = add_index(source, "linux/amd64", "linux/arm64")
    inner = source.right_manifest(REPOSITORY, "1")
    entry = inner.descriptor.document()
    source.add_manifest(
        REPOSITORY,
        Content.of(OCI.index, json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()),
        "1",
    )
    pull = await pulled(engine, "arm64")
    assert (pull.state, pull.platform, pull.digest) == (
        PullState.COMPLETED,
        "linux/arm64",
        str(images["linux/arm64"].digest),
    )


async def test_f74_an_index_whose_only_image_names_no_platform_is_that_image(
    engine: Engine, source: FakeRegistry
) -> None:
    image = add_image(source)
    source.add_manifest(
        REPOSITORY,
        Content.of(OCI.index, json.dumps({"manifests": [image.descriptor.document()]}).encode()),
        "1",
    )
    pull = await pulled(engine)
    assert (pull.state, pull.platform, pull.digest) == (
        PullState.COMPLETED,
        "linux/amd64",
        str(image.digest),
    )
