"""Container clients pull through the cache: cold, warm, and when the source registry is gone."""

from __future__ import annotations

import pytest

from entrepot.demo.images import DOCKER
from tests.e2e.clients.container_clients import AMD64, ARM64, ContainerClient, PullFailed, Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.layouts import published, push
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage, build_image


def test_the_harness_sees_what_a_client_pulls_straight_from_the_source(
    client: ContainerClient, source: DockerRegistry, app: FakeImage
) -> None:
    reference, before = f"{source.address}/library/app:1", source.mark()
    client.pull(reference)
    client.assert_holds(reference, app)
    for blob in app.platforms[AMD64].blobs:
        assert source.count("GET", str(blob.digest), before) == 1


def test_a_cold_pull_gives_every_byte_and_asks_the_source_for_each_once(
    client: ContainerClient, entrepot: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    reference, before = f"{entrepot.address}/library/app:1", source.mark()
    client.pull(reference)
    client.assert_holds(reference, app)
    entrepot.wait_for_pull("library/app:1 linux/amd64")
    for blob in app.platforms[AMD64].blobs:
        assert source.count("GET", str(blob.digest), before) == 1
    assert source.count("GET", "/manifests/", before) == 2  # the index and the image


def test_a_warm_pull_asks_the_source_for_nothing(
    client: ContainerClient, entrepot: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    reference = f"{entrepot.address}/library/app:1"
    client.pull(reference)
    entrepot.wait_for_pull("library/app:1 linux/amd64")
    client.forget()
    before = source.mark()
    client.pull(reference)
    client.assert_holds(reference, app)
    assert source.requests_since(before) == []


def test_after_the_freshness_one_look_at_the_tag_is_all_that_the_source_sees(
    client: ContainerClient, forgetful: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    reference = f"{forgetful.address}/library/app:1"
    client.pull(reference)
    forgetful.wait_for_pull("library/app:1 linux/amd64")
    client.forget()
    before = source.mark()
    client.pull(reference)
    client.assert_holds(reference, app)
    assert source.requests_since(before) == [("HEAD", "/v2/library/app/manifests/1")]


def test_with_the_source_gone_a_cached_image_is_pulled(
    client: ContainerClient, forgetful: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    reference = f"{forgetful.address}/library/app:1"
    client.pull(reference)
    forgetful.wait_for_pull("library/app:1 linux/amd64")
    client.forget()
    with source.stopped():
        client.pull(reference)
        client.assert_holds(reference, app)
        stale = forgetful.get("/v2/library/app/manifests/1")
    assert stale.headers["entrepot-origin"] == "stale"
    assert "registry.example.com" in stale.headers["warning"]


def test_with_the_source_gone_an_uncached_image_is_an_unreachable_source(
    client: ContainerClient, entrepot: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    with source.stopped():
        # Of an answer with a 5xx status most clients show no more than that.
        with pytest.raises(PullFailed, match="503 Service Unavailable"):
            client.pull(f"{entrepot.address}/library/app:1")
        refused = entrepot.get("/v2/library/app/manifests/1")
    assert refused.json()["errors"][0]["detail"] == {
        "code": "SourceUnreachable",
        "cause": "connection-refused",
        "atFault": "source",
    }
    assert "registry.example.com" in refused.json()["errors"][0]["message"]


def test_an_image_that_the_source_does_not_have_is_not_found(
    client: ContainerClient, entrepot: Entrepot, app: FakeImage
) -> None:
    with pytest.raises(PullFailed, match=r"(?i)not found|unknown"):
        client.pull(f"{entrepot.address}/library/app:none")


def test_only_the_platform_that_was_asked_for_comes_into_the_cache(
    client: ContainerClient, entrepot: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    reference, before = f"{entrepot.address}/library/app:1", source.mark()
    client.pull(reference, ARM64)
    client.assert_holds(reference, app, ARM64)
    entrepot.wait_for_pull("library/app:1 linux/arm64")
    requested_paths = " ".join(target for _, target in source.requests_since(before))
    for content in (app.platforms[AMD64].manifest, *app.platforms[AMD64].blobs):
        assert str(content.digest) not in requested_paths
    assert entrepot.cached_blobs() == {str(each.digest) for each in app.platforms[ARM64].blobs}
    assert entrepot.unfinished() == []


def test_an_image_that_was_pulled_survives_a_restart_of_the_engine(
    skopeo: Skopeo, entrepot: Entrepot, source: DockerRegistry, app: FakeImage
) -> None:
    reference = f"{entrepot.address}/library/app:1"
    skopeo.pull(reference)
    entrepot.wait_for_pull("library/app:1 linux/amd64")
    entrepot.stop()
    with source.stopped():
        entrepot.start()
        skopeo.pull(reference)
        skopeo.assert_holds(reference, app)


def test_an_index_is_pulled_with_all_its_platforms(
    skopeo: Skopeo, entrepot: Entrepot, app: FakeImage
) -> None:
    everything = skopeo.pull_all_platforms(f"{entrepot.address}/library/app:1")
    expected = [
        app.manifest,
        *(
            each
            for platform in app.platforms.values()
            for each in (platform.manifest, *platform.blobs)
        ),
    ]
    assert {str(each.digest): each.content for each in expected}.items() <= everything.items()


@pytest.fixture(scope="session")
def docker_image(source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> FakeImage:
    """``library/docker:1``: a manifest list of two platforms in Docker's own format, schema 2."""
    built = build_image("library/docker", "1", [200_000, 20_000], [AMD64, ARM64], index=True)
    push(
        built,
        source.address,
        tmp_path_factory.mktemp("docker-images"),
        options=("--format", "v2s2"),
    )
    return published(source.address, "library/docker", "1")


@pytest.fixture(scope="session")
def single_image(source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> FakeImage:
    """``library/single:1``: an image in Docker's own format that no index names."""
    built = build_image("library/single", "1", [200_000, 20_000], [AMD64], index=False)
    push(
        built,
        source.address,
        tmp_path_factory.mktemp("single-images"),
        options=("--format", "v2s2"),
    )
    return published(source.address, "library/single", "1")


def test_an_image_in_dockers_format_comes_with_its_bytes_and_media_types(
    client: ContainerClient, entrepot: Entrepot, docker_image: FakeImage
) -> None:
    assert docker_image.manifest.media_type == DOCKER.index
    reference = f"{entrepot.address}/library/docker:1"
    client.pull(reference)
    client.assert_holds(reference, docker_image)
    assert published(entrepot.address, "library/docker", "1") == docker_image


def test_an_image_without_an_index_comes_whole(
    client: ContainerClient, entrepot: Entrepot, single_image: FakeImage
) -> None:
    assert single_image.manifest.media_type == DOCKER.manifest
    reference = f"{entrepot.address}/library/single:1"
    client.pull(reference)
    client.assert_holds(reference, single_image)
    entrepot.wait_for_pull("library/single:1")
    assert entrepot.ask("repository", "show", "library/single")["tags"][0]["platforms"] == [AMD64]


def test_an_image_is_pulled_by_its_digest(
    client: ContainerClient, entrepot: Entrepot, app: FakeImage
) -> None:
    client.pull(f"{entrepot.address}/library/app@{app.digest}")
    entrepot.wait_for_pull("library/app@")
    assert entrepot.cached_blobs() == {str(each.digest) for each in app.platforms[AMD64].blobs}
