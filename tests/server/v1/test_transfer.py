"""``/entrepot/v1/content``: what an export reads and an import writes."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings, parse_size_limit
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import management_app, registry_app
from entrepot.store.manifests import Manifest
from entrepot.store.records import BlobOrigin
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeImage, FakeRegistry
from tests.fakes.images import Content
from tests.server.cached_images import cache

CONTENT = "/entrepot/v1/content"
NGINX = Repository("library/nginx")


@pytest.fixture
async def other(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> AsyncIterator[Engine]:
    """An engine at another site, with the same rule."""
    async with Engine.open(Directories.under(tmp_path / "o"), settings, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        yield engine


@pytest.fixture
async def there(other: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """The management API of the other site."""
    transport = httpx.ASGITransport(management_app(other), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://entrepot", timeout=30
    ) as client:
        yield client


@pytest.fixture
async def image(engine: Engine, source: FakeRegistry) -> FakeImage:
    """``library/nginx:1.27``, cached for linux/amd64; it has linux/arm64 too."""
    return (await cache(engine, source, "library/nginx:1.27"))[0]


async def plan(management: httpx.AsyncClient, image: str, **options: Any) -> Any:
    answer = await management.post(f"{CONTENT}/plan", json={"image": image} | options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def move(management: httpx.AsyncClient, there: httpx.AsyncClient, planned: Any) -> Any:
    """Carry an image from one engine to the other, as the commands do."""
    base = f"{CONTENT}/{planned['repository']}"
    for manifest in planned["manifests"]:
        answer = await there.put(
            f"{base}/_manifests/{manifest['digest']}",
            content=base64.b64decode(manifest["content"]),
            headers={"content-type": manifest["mediaType"]},
            params={"source": planned["source"]},
        )
        assert answer.status_code == 200, answer.text
        for blob in answer.json()["missing"]:
            content = (await management.get(f"{base}/_blobs/{blob['digest']}")).content
            answer = await there.put(
                f"{base}/_blobs/{blob['digest']}", params={"size": len(content)}, content=content
            )
            assert answer.status_code == 201, answer.text
    return await there.put(
        f"{base}/_images/{planned['digest']}",
        json={
            "tag": planned["tag"],
            "state": planned["state"],
            "source": planned["source"],
            "manifests": [manifest["digest"] for manifest in planned["manifests"]],
        },
    )


async def test_a_plan_has_what_is_cached_of_an_image(
    management: httpx.AsyncClient, image: FakeImage
) -> None:
    planned = await plan(management, "library/nginx:1.27")
    amd64 = image.platforms["linux/amd64"]
    assert [manifest["digest"] for manifest in planned["manifests"]] == [
        str(image.digest),
        str(amd64.digest),
    ]
    assert {blob["digest"] for blob in planned["blobs"]} == {
        str(blob.digest) for blob in amd64.blobs
    }
    assert all(blob["cached"] for blob in planned["blobs"])
    assert planned["leftOut"] == ["linux/arm64"]
    assert planned["source"] == f"{LOGIN_SERVER}/library/nginx"


async def test_a_named_platform_is_fetched_for_an_export(
    management: httpx.AsyncClient, image: FakeImage
) -> None:
    planned = await plan(management, "library/nginx:1.27", platforms=["linux/arm64"])
    arm64 = image.platforms["linux/arm64"]
    assert str(arm64.digest) in {manifest["digest"] for manifest in planned["manifests"]}
    for blob in arm64.blobs:
        answer = await management.get(f"{CONTENT}/library/nginx/_blobs/{blob.digest}")
        assert answer.content == blob.content


async def test_what_is_not_cached_is_left_out_on_request(
    management: httpx.AsyncClient, image: FakeImage, source: FakeRegistry
) -> None:
    before = len(source.requests)
    answer = await management.post(
        f"{CONTENT}/plan",
        json={"image": "library/nginx:1.27", "platforms": ["linux/arm64"], "cachedOnly": True},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")
    assert (
        "No image of library/nginx:1.27 for linux/arm64 is cached whole."
        in answer.json()["error"]["message"]
    )
    assert len(source.requests) == before


async def test_a_blob_is_sent_from_an_offset_on(
    management: httpx.AsyncClient, image: FakeImage
) -> None:
    layer = image.platforms["linux/amd64"].layers[0]
    answer = await management.get(
        f"{CONTENT}/library/nginx/_blobs/{layer.digest}", params={"offset": 7}
    )
    assert answer.content == layer.content[7:]
    beyond = await management.get(
        f"{CONTENT}/library/nginx/_blobs/{layer.digest}", params={"offset": layer.size + 1}
    )
    assert beyond.status_code == 400


async def test_an_imported_image_is_served_with_its_state_and_the_source_gone(
    management: httpx.AsyncClient,
    there: httpx.AsyncClient,
    engine: Engine,
    other: Engine,
    image: FakeImage,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    await engine.repositories.lock_tag("library/nginx", Tag("1.27"))
    planned = await plan(management, "library/nginx:1.27")
    await source.stop()
    clock.now += 10 * 86_400
    answer = await move(management, there, planned)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "imported")
    before = await engine.catalog.tag_state(NGINX, Tag("1.27"))
    assert before is not None
    assert await other.catalog.tag_state(NGINX, Tag("1.27")) == before
    assert before[1].locked
    transport = httpx.ASGITransport(registry_app(other))
    async with httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client:
        manifest = await client.get("/v2/library/nginx/manifests/1.27")
        assert manifest.content == image.manifest.content
        # Its lifetime is over: the source was asked, and is gone.
        assert manifest.headers["entrepot-origin"] == "stale"
        for blob in image.platforms["linux/amd64"].blobs:
            got = await client.get(f"/v2/library/nginx/blobs/{blob.digest}")
            assert got.content == blob.content
    again = await move(management, there, planned)
    assert again.json()["outcome"] == "unchanged"


async def test_a_tag_is_not_set_while_a_blob_of_its_image_is_missing(
    management: httpx.AsyncClient, there: httpx.AsyncClient, other: Engine, image: FakeImage
) -> None:
    planned = await plan(management, "library/nginx:1.27")
    for manifest in planned["manifests"]:
        await there.put(
            f"{CONTENT}/library/nginx/_manifests/{manifest['digest']}",
            content=base64.b64decode(manifest["content"]),
            headers={"content-type": manifest["mediaType"]},
        )
    answer = await there.put(
        f"{CONTENT}/library/nginx/_images/{planned['digest']}",
        json={"tag": "1.27", "manifests": [entry["digest"] for entry in planned["manifests"]]},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ImportIncomplete")
    assert "2 blobs of it are neither in the archive nor cached here" in answer.text
    assert await other.catalog.tag_state(NGINX, Tag("1.27")) is None


async def test_an_index_without_any_of_its_images_gets_no_tag(
    there: httpx.AsyncClient, other: Engine, image: FakeImage
) -> None:
    await there.put(
        f"{CONTENT}/library/nginx/_manifests/{image.digest}",
        content=image.manifest.content,
        headers={"content-type": image.manifest.media_type},
    )
    answer = await there.put(
        f"{CONTENT}/library/nginx/_images/{image.digest}",
        json={"tag": "1.27", "manifests": [str(image.digest)]},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ImportIncomplete")
    assert await other.catalog.tag_state(NGINX, Tag("1.27")) is None


async def test_wrong_bytes_are_refused_and_never_visible(
    management: httpx.AsyncClient, there: httpx.AsyncClient, other: Engine, image: FakeImage
) -> None:
    planned = await plan(management, "library/nginx:1.27")
    root = planned["manifests"][0]
    answer = await there.put(
        f"{CONTENT}/library/nginx/_manifests/{root['digest']}",
        content=base64.b64decode(root["content"]) + b" ",
        headers={"content-type": root["mediaType"]},
    )
    assert "have another digest: the archive is damaged" in answer.text
    for manifest in planned["manifests"]:
        await there.put(
            f"{CONTENT}/library/nginx/_manifests/{manifest['digest']}",
            content=base64.b64decode(manifest["content"]),
            headers={"content-type": manifest["mediaType"]},
        )
    layer = image.platforms["linux/amd64"].layers[0]
    path = f"{CONTENT}/library/nginx/_blobs/{layer.digest}"
    for content in (
        layer.content[:-1] + b"x",  # other bytes
        layer.content + b"x",  # more than stated
    ):
        answer = await there.put(path, params={"size": layer.size}, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            400,
            "ImportedContentInvalid",
        )
        assert other.blobs.size(layer.digest) is None


async def test_a_blob_that_no_imported_manifest_names_is_refused(
    there: httpx.AsyncClient, other: Engine
) -> None:
    content = b"a blob of nobody"
    digest = Digest.of(content)
    answer = await there.put(
        f"{CONTENT}/library/nginx/_blobs/{digest}", params={"size": len(content)}, content=content
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ImportedContentInvalid")
    assert other.blobs.size(digest) is None


async def test_a_transfer_that_broke_off_goes_on_where_it_ended(
    management: httpx.AsyncClient, there: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    content = os.urandom(3_000_000)
    image = source.add_image("library/big", "1", layers=[content], platforms=["linux/amd64"])
    pull = await engine.pulls.start("library/big:1", "linux/amd64", "test")
    await engine.cache.pulls.get(pull.id).finished.wait()
    planned = await plan(management, "library/big:1")
    layer = image.platforms["linux/amd64"].layers[0]
    path = f"{CONTENT}/library/big/_blobs/{layer.digest}"

    async def manifests() -> list[Any]:
        missing = []
        for manifest in planned["manifests"]:
            answer = await there.put(
                f"{CONTENT}/library/big/_manifests/{manifest['digest']}",
                content=base64.b64decode(manifest["content"]),
                headers={"content-type": manifest["mediaType"]},
            )
            missing += answer.json()["missing"]
        return missing

    await manifests()
    answer = await there.put(path, params={"size": layer.size}, content=content[:2_000_000])
    assert "2,000,000 of the 3,000,000 bytes" in answer.text
    [offset] = [blob["offset"] for blob in await manifests() if blob["digest"] == str(layer.digest)]
    assert offset == 2_000_000
    wrong = await there.put(path, params={"size": layer.size, "offset": 5}, content=content[5:])
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "ImportOffsetMismatch")
    done = await there.put(
        path, params={"size": layer.size, "offset": offset}, content=content[offset:]
    )
    assert done.status_code == 201


async def test_a_repository_without_a_rule_is_refused_in_words(
    there: httpx.AsyncClient, image: FakeImage
) -> None:
    answer = await there.put(
        f"{CONTENT}/apps/web/_manifests/{image.digest}",
        content=image.manifest.content,
        headers={"content-type": image.manifest.media_type},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ImportWithoutRule")
    assert "No cache rule covers apps/web" in answer.text


async def test_another_source_is_refused_unless_the_rule_is_named(
    there: httpx.AsyncClient, image: FakeImage
) -> None:
    async def put(**query: str) -> httpx.Response:
        return await there.put(
            f"{CONTENT}/library/nginx/_manifests/{image.digest}",
            content=image.manifest.content,
            headers={"content-type": image.manifest.media_type},
            params={"source": "quay.io/acme/nginx", **query},
        )

    refused = await put()
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ImportSourceMismatch")
    assert "--rule example-library" in refused.text
    assert (await put(rule="other-rule")).json()["error"]["code"] == "ImportWithoutRule"
    assert (await put(rule="example-library")).json()["rule"] == "example-library"


async def test_what_is_imported_opens_nothing_for_other_login_servers(
    management: httpx.AsyncClient, there: httpx.AsyncClient, other: Engine, image: FakeImage
) -> None:
    await move(management, there, await plan(management, "library/nginx:1.27"))
    record = await other.cache.copies.record(image.platforms["linux/amd64"].layers[0].digest)
    assert record is not None
    assert not record.is_public
    assert record.may_be_served_for({LOGIN_SERVER})
    assert not record.may_be_served_for({"quay.io"})


async def test_an_archive_that_names_a_private_blob_does_not_get_it(
    management: httpx.AsyncClient, there: httpx.AsyncClient, other: Engine, image: FakeImage
) -> None:
    layer = image.platforms["linux/amd64"].layers[0]
    partial = await other.blobs.begin(layer.digest, layer.size)
    await other.blobs.append(partial, [layer.content])
    await other.blobs.commit(partial)
    partial.release()
    private = BlobOrigin("private.example.com", with_credentials=True)
    await other.cache.copies.add(layer.digest, layer.size, private)
    manifest = image.platforms["linux/amd64"].manifest
    await other.catalog.add_manifest(
        Repository("private/app"),
        "private.example.com/app",
        Manifest.of(manifest.content, manifest.media_type, manifest.digest),
        now=1.0,
    )
    base = f"{CONTENT}/library/nginx"

    async def put_manifest() -> None:
        answer = await there.put(
            f"{base}/_manifests/{manifest.digest}",
            content=manifest.content,
            headers={"content-type": manifest.media_type},
        )
        assert str(layer.digest) in {blob["digest"] for blob in answer.json()["missing"]}

    await put_manifest()
    config = image.platforms["linux/amd64"].config
    await there.put(
        f"{base}/_blobs/{config.digest}", params={"size": config.size}, content=config.content
    )
    finished = await there.put(f"{base}/_images/{manifest.digest}", json={"tag": "stolen"})
    assert finished.json()["error"]["code"] == "ImportIncomplete"
    # Who has the bytes may send them; the refusal took the manifest away.
    await put_manifest()
    sent = await there.put(
        f"{base}/_blobs/{layer.digest}", params={"size": layer.size}, content=layer.content
    )
    assert sent.status_code == 201
    record = await other.cache.copies.record(layer.digest)
    assert record is not None
    assert record.origins == {private, BlobOrigin(LOGIN_SERVER, with_credentials=True)}


async def test_an_image_of_a_rule_for_some_readers_stays_theirs(
    management: httpx.AsyncClient,
    there: httpx.AsyncClient,
    engine: Engine,
    other: Engine,
    source: FakeRegistry,
) -> None:
    private = RuleDraft("private-ci", f"{LOGIN_SERVER}/ci/*", "ci/*", readers=("ci",))
    for each in (engine, other):
        await each.rules.create(private)
    image = source.add_image("ci/app", "1", layers=[b"private"], platforms=["linux/amd64"])
    planned = await plan(management, "ci/app:1", platforms=["linux/amd64"])
    assert (await move(management, there, planned)).json()["outcome"] == "imported"
    record = await other.cache.copies.record(image.platforms["linux/amd64"].layers[0].digest)
    assert record is not None
    assert record.origins == {BlobOrigin(f"{LOGIN_SERVER}/ci/*", with_credentials=True)}
    # The other rule of the login server does not open it.
    assert not record.may_be_served_for({LOGIN_SERVER})


async def test_what_does_not_fit_is_refused_before_anything_is_evicted(
    management: httpx.AsyncClient,
    tmp_path: Path,
    settings: Settings,
    clock: Clock,
    image: FakeImage,
) -> None:
    small = replace(settings, size_limit=parse_size_limit("1 kB"))
    async with Engine.open(Directories.under(tmp_path / "s"), small, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        transport = httpx.ASGITransport(management_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client:
            planned = await plan(management, "library/nginx:1.27")
            manifest = planned["manifests"][1]
            answer = await client.put(
                f"{CONTENT}/library/nginx/_manifests/{manifest['digest']}",
                content=base64.b64decode(manifest["content"]),
                headers={"content-type": manifest["mediaType"]},
            )
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "ImportTooLarge")
    assert "Raise size_limit in settings.toml" in answer.text


async def test_what_was_just_imported_is_not_evicted(
    management: httpx.AsyncClient, there: httpx.AsyncClient, other: Engine, image: FakeImage
) -> None:
    await move(management, there, await plan(management, "library/nginx:1.27"))
    assert (await other.maintenance.evict(target=0)).count == 0
    assert other.blobs.size(image.platforms["linux/amd64"].layers[0].digest) is not None


async def test_an_inventory_names_each_cached_blob_and_for_whom(
    management: httpx.AsyncClient,
    there: httpx.AsyncClient,
    image: FakeImage,
) -> None:
    await move(management, there, await plan(management, "library/nginx:1.27"))
    lines = (await there.get(f"{CONTENT}/inventory")).text.splitlines()
    assert len(lines) == 2
    assert all(f'"loginServers":["{LOGIN_SERVER}"]' in line for line in lines)
    public = (await management.get(f"{CONTENT}/inventory")).text
    assert public.count('"loginServers":null') == 2


async def test_referrers_come_along_and_so_does_the_signature_of_cosign(
    management: httpx.AsyncClient,
    there: httpx.AsyncClient,
    engine: Engine,
    other: Engine,
    image: FakeImage,
    source: FakeRegistry,
) -> None:
    sbom = source.add_blob("library/nginx", b'{"spdx": 1}')
    empty = source.add_blob("library/nginx", b"{}")
    referrer = Content.of(
        "application/vnd.oci.image.manifest.v1+json",
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"artifactType":"application/spdx+json",'
        b'"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%b","size":2},'
        b'"layers":[{"mediaType":"application/spdx+json","digest":"%b","size":%d}],'
        b'"subject":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"%b","size":1}}'
        % (
            str(empty.digest).encode(),
            str(sbom.digest).encode(),
            sbom.size,
            str(image.digest).encode(),
        ),
    )
    source.add_referrer("library/nginx", image.digest, referrer, "application/spdx+json")
    signature = f"sha256-{image.digest.hex}.sig"
    source.add_image(
        "library/nginx", signature, layers=[b"signature"], platforms=["linux/amd64"], index=False
    )
    planned = await plan(management, "library/nginx:1.27")
    [exported] = [manifest for manifest in planned["manifests"] if manifest["isReferrer"]]
    assert exported["digest"] == str(referrer.digest)
    assert exported["artifactType"] == "application/spdx+json"
    assert str(sbom.digest) in {blob["digest"] for blob in planned["blobs"]}
    assert planned["relatedTags"] == [signature]
    # Cached now, they come along while the source is gone.
    for blob in (sbom, empty):
        await management.get(f"{CONTENT}/library/nginx/_blobs/{blob.digest}")
    for fill in list(engine.fills.under_way):
        await fill.finished.wait()
    await source.stop()
    planned = await plan(management, "library/nginx:1.27", cachedOnly=True)
    assert str(referrer.digest) in {manifest["digest"] for manifest in planned["manifests"]}
    await move(management, there, planned)
    transport = httpx.ASGITransport(registry_app(other))
    async with httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client:
        path = f"/v2/library/nginx/referrers/{image.digest}"
        found = await client.get(path)
        assert found.headers["entrepot-origin"] == "stale"
        [descriptor] = found.json()["manifests"]
        assert descriptor["digest"] == str(referrer.digest)
        assert descriptor["artifactType"] == "application/spdx+json"
        none = await client.get(path, params={"artifactType": "application/other"})
        # The source may have some of that type.
        assert none.status_code == 503


async def test_a_blob_that_was_evicted_meanwhile_is_named_or_fetched_again(
    management: httpx.AsyncClient, engine: Engine, image: FakeImage
) -> None:
    layer = image.platforms["linux/amd64"].layers[0]
    engine.blobs.path(layer.digest).unlink()
    engine.cache.copies.invalidate(layer.digest)
    path = f"{CONTENT}/library/nginx/_blobs/{layer.digest}"
    told = await management.get(path, params={"cachedOnly": 1})
    assert told.status_code == 404
    assert "was evicted" in told.text
    assert (await management.get(path)).content == layer.content


async def test_a_blob_whose_file_vanishes_as_it_is_opened_is_fetched_again(
    management: httpx.AsyncClient,
    engine: Engine,
    image: FakeImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = image.platforms["linux/amd64"].layers[0]
    lease = engine.blobs.lease

    def vanish(digest: Digest) -> Path:
        path = lease(digest)
        path.unlink(missing_ok=True)
        return path

    monkeypatch.setattr(engine.blobs, "lease", vanish)
    path = f"{CONTENT}/library/nginx/_blobs/{layer.digest}"
    assert (await management.get(path)).content == layer.content


@pytest.mark.parametrize("size", ["", "-1", "1e9", "9" * 30, "x"])
async def test_a_size_that_is_none_is_refused(there: httpx.AsyncClient, size: str) -> None:
    digest = Digest.of(b"x")
    answer = await there.put(
        f"{CONTENT}/library/nginx/_blobs/{digest}", params={"size": size}, content=b"x"
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequest")
