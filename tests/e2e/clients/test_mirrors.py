"""Clients that pull images by their own names, with Entrepot set up as a mirror of the source
registry."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.clients.container_clients import Containerd, Docker, Podman
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage

BLOBS = 4
"""Of ``library/app:1`` for one platform: three layers and the config."""


def test_podman_pulls_by_the_name_of_the_source_registry(
    podman: Podman, entrepot: Entrepot, app: FakeImage
) -> None:
    podman.forget()
    podman.use_mirror(LOGIN_SERVER, entrepot.address)
    reference = f"{LOGIN_SERVER}/library/app:1"
    podman.pull(reference)
    podman.assert_holds(reference, app)
    entrepot.wait_for_pull("library/app:1 linux/amd64")
    assert len(entrepot.cached_blobs()) == BLOBS


def test_containerd_pulls_by_the_name_of_the_source_registry(
    containerd: Containerd, entrepot: Entrepot, app: FakeImage
) -> None:
    containerd.forget()
    containerd.use_mirror(LOGIN_SERVER, entrepot.address)
    reference = f"{LOGIN_SERVER}/library/app:1"
    containerd.pull_through_mirror(reference)
    containerd.assert_holds(reference, app)
    entrepot.wait_for_pull("library/app:1 linux/amd64")
    assert len(entrepot.cached_blobs()) == BLOBS


def test_docker_pulls_official_images_by_their_short_names(
    docker: Docker, new_engine: Callable[..., Entrepot], source: DockerRegistry, app: FakeImage
) -> None:
    engine = new_engine(
        source.url,
        login_server="docker.io",
        sign_in=None,
        variables={"HUB_USER": "user", "HUB_PASSWORD": "password"},
    ).start()
    engine.create_credential_set("example-hub", "env:HUB_USER", "env:HUB_PASSWORD")
    engine.create_rule("docker-library", "library/*", "library/*", "example-hub")
    docker.forget()
    docker.use_mirror(engine.address)
    docker.pull("app:1")
    docker.assert_holds("app:1", app)
    engine.wait_for_pull("library/app:1 linux/amd64")
    assert len(engine.cached_blobs()) == BLOBS
