"""What a request counts, which requests begin a pull, and what a pull relies on (S33)."""

from __future__ import annotations

import asyncio
import json
import os
from io import FileIO
from typing import Any

import pytest

from entrepot.cache import pull as pull_module
from entrepot.cache.cache import NESTED_INDEXES
from entrepot.cache.fill import Fill
from entrepot.cache.pull import Pull, PullProgress
from entrepot.cache.results import CachedBlob, Origin
from entrepot.core.credentials import CredentialBook
from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import RuleBook, RuleDraft
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from entrepot.errors import BlobUnknown, ManifestUnknown, NotFound, RepositoryUnknown
from entrepot.source.errors import SourceUnreachable
from entrepot.store.manifests import Manifest
from tests.cache.conftest import ScriptedCache
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")
AMD64 = "linux/amd64"


def descriptor(content: bytes, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/octet-stream",
        "digest": str(Digest.of(content)),
        "size": len(content),
        **more,
    }


def image(*layers: bytes, config: bytes = b"{}") -> Manifest:
    document = {
        "schemaVersion": 2,
        "config": descriptor(config),
        "layers": [descriptor(layer) for layer in layers],
    }
    content = json.dumps(document).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


def index_of(manifest: Manifest, **more: Any) -> Manifest:
    child = {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.content),
        **more,
    }
    content = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode()
    return Manifest.of(content, OCI_INDEX, Digest.of(content))


def without_rules(scripted: ScriptedCache) -> None:
    registries = SourceRegistries()
    scripted.rules = RuleBook(registries, CredentialBook(registries))


async def ended(pull: Pull) -> Pull:
    async with asyncio.timeout(30):
        await pull.finished.wait()
    return pull


# What a request counts


async def test_a_fetched_manifest_is_a_miss_and_a_cached_one_a_hit(
    scripted: ScriptedCache,
) -> None:
    scripted.client.add(image(), "latest")
    first = await scripted.cache.manifest(NGINX, LATEST)
    second = await scripted.cache.manifest(NGINX, LATEST)
    assert (first.origin, second.origin) == (Origin.UPSTREAM, Origin.CACHE)
    assert (scripted.cache.misses, scripted.cache.hits) == (1, 1)
    assert scripted.cache.usage.requests_saved == 1


async def test_a_stale_manifest_is_a_hit(scripted: ScriptedCache) -> None:
    scripted.client.add(image(), "latest")
    await scripted.cache.manifest(NGINX, LATEST)
    scripted.clock.now += 1_000
    scripted.client.error = SourceUnreachable("It does not answer.")
    answer = await scripted.cache.manifest(NGINX, LATEST)
    assert (answer.origin, answer.warning) == (
        Origin.STALE,
        "It does not answer. (cache rule example-rule)",
    )
    assert (scripted.cache.misses, scripted.cache.hits) == (1, 1)


async def test_requests_with_head_count_neither_as_hits_nor_as_misses(
    scripted: ScriptedCache,
) -> None:
    manifest = image(b"layer")
    scripted.client.add(manifest, "latest")
    layer = scripted.client.add_blob(b"layer")
    assert (await scripted.cache.describe_manifest(NGINX, LATEST)).digest == manifest.digest
    assert (await scripted.cache.describe_blob(NGINX, layer)).size == len(b"layer")
    assert (scripted.cache.misses, scripted.cache.hits) == (0, 0)
    assert all(request.startswith("HEAD ") for request in scripted.client.requests)


async def test_a_head_on_a_cached_blob_is_a_use_that_keeps_its_image_from_eviction(
    scripted: ScriptedCache,
) -> None:
    manifest = image(b"layer")
    scripted.client.add(manifest, "latest")
    layer = scripted.client.add_blob(b"layer")
    await scripted.cache.manifest(NGINX, LATEST)
    blob = await scripted.cache.blob(NGINX, layer)
    assert isinstance(blob, Fill)
    await blob.wait()
    await scripted.fills_end()
    await scripted.cache.usage.write()
    assert (await scripted.cache.describe_blob(NGINX, layer)).origin is Origin.CACHE
    _, used_blobs = scripted.cache.usage.unwritten_uses()
    assert layer in used_blobs


# Which requests begin a pull


@pytest.fixture
async def layers(scripted: ScriptedCache) -> list[Digest]:
    """The layers of an image whose manifest is cached, and nothing else of it."""
    contents = [b"first", b"second"]
    scripted.client.add_blob(b"{}")
    digests = [scripted.client.add_blob(content) for content in contents]
    scripted.client.add(image(*contents), "latest")
    await scripted.cache.manifest(NGINX, LATEST)
    return digests


async def test_a_layer_that_is_not_cached_begins_one_pull_of_its_image(
    scripted: ScriptedCache, layers: list[Digest]
) -> None:
    for layer in layers:
        await scripted.cache.blob(NGINX, layer, asked_by="10.0.0.1")
    [pull] = scripted.cache.pulls.all()
    assert (await ended(pull)).state is PullState.COMPLETED
    assert (pull.tag, list(pull.asked_by)) == (LATEST, ["10.0.0.1"])
    assert all([await scripted.cache.copies.size(layer, None) for layer in layers])


async def test_a_cached_layer_begins_no_pull(scripted: ScriptedCache, layers: list[Digest]) -> None:
    await scripted.cache.blob(NGINX, layers[0])
    [pull] = scripted.cache.pulls.all()
    await ended(pull)
    await scripted.fills_end()
    blob = await scripted.cache.blob(NGINX, layers[0])
    assert isinstance(blob, CachedBlob)
    async with blob.open() as file:
        assert file.read() == b"first"
    assert scripted.cache.pulls.all() == [pull]


async def test_on_a_full_disk_a_layer_begins_no_pull(
    scripted: ScriptedCache, layers: list[Digest]
) -> None:
    scripted.fills.refusal = OSError(28, "No space left on device")
    assert isinstance(await scripted.cache.blob(NGINX, layers[0]), Fill)
    assert scripted.cache.pulls.all() == []


async def test_while_many_pulls_are_under_way_a_layer_begins_no_more(
    scripted: ScriptedCache, layers: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "MAX_RUNNING_PULLS", 0)
    assert isinstance(await scripted.cache.blob(NGINX, layers[0]), Fill)
    assert scripted.cache.pulls.all() == []


async def test_a_blob_that_no_manifest_names_begins_no_pull(scripted: ScriptedCache) -> None:
    blob = scripted.client.add_blob(b"alone")
    fill = await scripted.cache.blob(NGINX, blob)
    assert isinstance(fill, Fill)
    await fill.wait()
    assert scripted.cache.pulls.all() == []


async def test_a_layer_that_images_share_begins_the_pull_of_the_one_requested_last(
    scripted: ScriptedCache, layers: list[Digest]
) -> None:
    other = image(b"first", config=b'{"other": true}')
    scripted.client.add(other, "other")
    await scripted.cache.manifest(NGINX, Tag("other"))
    await scripted.cache.blob(NGINX, layers[0])
    [pull] = scripted.cache.pulls.all()
    assert pull.tag == "other"


# Without a cache rule


async def test_without_a_rule_a_cached_manifest_is_served_and_its_source_not_asked(
    scripted: ScriptedCache, layers: list[Digest]
) -> None:
    without_rules(scripted)
    scripted.clock.now += 1_000
    requests = list(scripted.client.requests)
    assert (await scripted.cache.manifest(NGINX, LATEST)).origin is Origin.CACHE
    assert scripted.client.requests == requests


async def test_without_a_rule_the_error_says_whether_the_repository_is_cached(
    scripted: ScriptedCache, layers: list[Digest]
) -> None:
    without_rules(scripted)
    with pytest.raises(ManifestUnknown, match="1 of library/nginx is not cached, and no cache"):
        await scripted.cache.manifest(NGINX, Tag("1"))
    with pytest.raises(BlobUnknown, match="is not cached, and no cache rule answers"):
        await scripted.cache.blob(NGINX, layers[0])
    with pytest.raises(RepositoryUnknown, match="No cache rule answers for library/redis"):
        await scripted.cache.manifest(Repository("library/redis"), LATEST)
    with pytest.raises(RepositoryUnknown):
        await scripted.cache.pull(ImageReference.parse("redis:7"), AMD64, asked_by=None)


# Asking a source on request


async def test_a_refresh_says_where_a_tag_pointed_before(scripted: ScriptedCache) -> None:
    old, new = image(b"old"), image(b"new")
    scripted.client.add(old, "latest")
    first = await scripted.cache.refresh(NGINX, LATEST)
    assert (first.before, first.digest) == (None, old.digest)
    scripted.client.add(new, "latest")
    second = await scripted.cache.refresh(NGINX, LATEST)
    assert (second.before, second.digest, second.gone) == (old.digest, new.digest, False)


async def test_a_refresh_flags_a_tag_that_is_gone_at_its_source(scripted: ScriptedCache) -> None:
    manifest = image()
    scripted.client.add(manifest, "latest")
    await scripted.cache.manifest(NGINX, LATEST)
    scripted.client.manifests.clear()
    result = await scripted.cache.refresh(NGINX, LATEST)
    assert (result.digest, result.gone, result.problem) == (manifest.digest, True, None)
    assert scripted.kinds().count("tag-gone") == 1


async def test_a_refresh_says_why_its_source_gave_no_answer(scripted: ScriptedCache) -> None:
    manifest = image()
    scripted.client.add(manifest, "latest")
    await scripted.cache.manifest(NGINX, LATEST)
    scripted.client.error = SourceUnreachable("It does not answer.")
    result = await scripted.cache.refresh(NGINX, LATEST)
    assert (result.digest, result.gone) == (manifest.digest, False)
    assert result.problem == "It does not answer. (cache rule example-rule)"


async def test_after_a_change_of_rules_what_failed_is_asked_for_again(
    scripted: ScriptedCache,
) -> None:
    with pytest.raises(ManifestUnknown):
        await scripted.cache.manifest(NGINX, LATEST)
    scripted.client.add(image(), "latest")
    with pytest.raises(ManifestUnknown):
        await scripted.cache.manifest(NGINX, LATEST)
    scripted.cache.forget_failures()
    assert (await scripted.cache.manifest(NGINX, LATEST)).origin is Origin.UPSTREAM


# What a pull completes


async def test_a_pull_takes_the_platform_of_an_index_that_leads_to_its_image(
    scripted: ScriptedCache,
) -> None:
    scripted.client.add_blob(b"{}")
    manifest = image()
    inner = index_of(manifest, platform={"os": "linux", "architecture": "amd64"})
    outer = index_of(inner, platform={"os": "linux", "architecture": "amd64"})
    scripted.client.add(manifest)
    scripted.client.add(inner)
    scripted.client.add(outer, "latest")
    reference = ImageReference.parse("library/nginx:latest")
    pull = await ended(await scripted.cache.pull(reference, AMD64, asked_by="cli"))
    assert (pull.state, pull.platform) == (PullState.COMPLETED, AMD64)
    assert scripted.kinds().count("pull-started") == scripted.kinds().count("pull-ended") == 1


async def test_a_pull_reads_the_platform_of_a_single_image_from_its_config(
    scripted: ScriptedCache,
) -> None:
    config = b'{"os": "linux", "architecture": "arm64"}'
    scripted.client.add_blob(config)
    scripted.client.add(image(config=config), "latest")
    reference = ImageReference.parse("library/nginx:latest")
    pull = await ended(await scripted.cache.pull(reference, AMD64, asked_by="cli"))
    assert (pull.state, pull.platform) == (PullState.COMPLETED, "linux/arm64")


async def test_a_pull_of_a_platform_that_an_image_lacks_names_those_that_it_has(
    scripted: ScriptedCache,
) -> None:
    manifest = image()
    index = index_of(manifest, platform={"os": "linux", "architecture": "s390x"})
    scripted.client.add(manifest)
    scripted.client.add(index, "latest")
    reference = ImageReference.parse("library/nginx:latest")
    pull = await ended(await scripted.cache.pull(reference, AMD64, asked_by="cli"))
    assert isinstance(pull.error, NotFound)
    assert pull.error.message.endswith("has no image for linux/amd64. It has: linux/s390x.")


async def test_a_pull_follows_a_bounded_number_of_nested_indexes(
    scripted: ScriptedCache,
) -> None:
    manifest = image()
    for _ in range(NESTED_INDEXES + 1):
        scripted.client.add(manifest)
        manifest = index_of(manifest, platform={"os": "linux", "architecture": "amd64"})
    scripted.client.add(manifest, "latest")
    reference = ImageReference.parse("library/nginx:latest")
    pull = await ended(await scripted.cache.pull(reference, AMD64, asked_by="cli"))
    assert isinstance(pull.error, NotFound)
    assert f"has more than {NESTED_INDEXES} indexes within each other" in pull.error.message


async def pulled(engine: Engine, image: str) -> PullProgress:
    pull = engine.cache.pulls.get((await engine.pulls.start(image, AMD64, "test")).id)
    return (await ended(pull)).progress()


async def test_s33_the_cached_layers_of_a_pull_stay_until_it_ends(
    engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image(
        "library/app", "1", layers=[os.urandom(50_000), os.urandom(50_000)], platforms=[AMD64]
    ).platforms[AMD64]
    first, second = image.layers
    assert (await pulled(engine, "library/app:1")).state is PullState.COMPLETED
    engine.blobs.path(second.digest).unlink()
    gate = source.hold(str(second.digest), method="GET")
    pull = engine.cache.pulls.get((await engine.pulls.start("library/app:1", AMD64, "test")).id)
    await gate.reached
    # Nothing refers to them any more but the pull.
    assert await engine.catalog.delete_repository(Repository("library/app"))
    await engine.maintenance.collect()
    assert set(await engine.blobs.sizes()) == {first.digest, image.config.digest}
    gate.open()
    await pull.finished.wait()
    assert pull.state is PullState.COMPLETED
    for fill in list(engine.fills.under_way):
        await fill.finished.wait()
    await engine.maintenance.collect()
    assert await engine.blobs.sizes() == {}


async def test_s33_a_pull_is_not_told_as_completed_without_all_its_blobs(
    engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image(
        "library/app", "1", layers=[os.urandom(1000), os.urandom(1000)], platforms=[AMD64]
    )
    first, second = image.platforms[AMD64].layers
    assert (await pulled(engine, "library/app:1")).state is PullState.COMPLETED
    engine.blobs.path(second.digest).unlink()
    gate = source.hold(str(second.digest), method="GET")
    pull = engine.cache.pulls.get((await engine.pulls.start("library/app:1", AMD64, "test")).id)
    await gate.reached
    async with asyncio.timeout(30):
        while not next(
            layer for layer in pull.layers if layer.descriptor.digest == first.digest
        ).cached_before:
            await asyncio.sleep(0)
    engine.blobs.path(first.digest).unlink()
    gate.open()
    await pull.finished.wait()
    progress = pull.progress()
    assert progress.state is PullState.COMPLETED
    assert engine.blobs.size(first.digest) == 1000, "It was fetched again before the pull ended."


async def test_a_config_that_can_not_be_opened_ends_a_pull_in_words(
    engine: Engine, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an engine that root ran once; it was an unforeseen failure."""
    await engine.rules.create(RuleDraft("example-rule", f"{LOGIN_SERVER}/*", "example/*"))
    source.add_image("app", "1", platforms=[AMD64], index=False)
    first = await pulled(engine, "example/app:1")
    assert first.state is PullState.COMPLETED

    def refused(digest: Digest) -> FileIO:
        raise FileNotFoundError(str(digest))

    monkeypatch.setattr(engine.blobs, "_open", refused)
    second = await pulled(engine, "example/app:1")
    assert second.state is PullState.FAILED
    assert "was removed while its image was pulled" in (second.error_message or "")
