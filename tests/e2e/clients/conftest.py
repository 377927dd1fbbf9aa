"""A real source registry with images, a real engine in front of it, and the container clients of
users."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients.container_clients import (
    AMD64,
    ARM64,
    ContainerClient,
    Containerd,
    Docker,
    Podman,
    Skopeo,
)
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.layouts import push
from tests.e2e.clients.source_registry import DockerRegistry
from tests.e2e.registries.certificates import Authority
from tests.fakes.images import FakeImage, build_image


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """The source registry: one for all tests, who count from a mark on."""
    with DockerRegistry(tmp_path_factory.mktemp("source")) as registry:
        yield registry


@pytest.fixture(scope="session")
def app(source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> FakeImage:
    """``library/app:1``: an index of two platforms with three layers each."""
    image = build_image(
        "library/app", "1", [3_000_000, 300_000, 20_000], [AMD64, ARM64], index=True
    )
    push(image, source.address, tmp_path_factory.mktemp("images"))
    return image


@pytest.fixture
def new_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Entrepot]]:
    """Makes engines, which do not run yet; they are ended after the test."""
    with ExitStack() as engines:

        def make(source: str, **options: Any) -> Entrepot:
            return engines.enter_context(Entrepot(tmp_path_factory.mktemp("e"), source, **options))

        yield make


@pytest.fixture
def entrepot(new_engine: Callable[..., Entrepot], source: DockerRegistry) -> Entrepot:
    """A running engine on which everything below ``library/`` comes from the source registry."""
    engine = new_engine(source.url).start()
    engine.create_rule("example-library", "library/*", "library/*")
    return engine


@pytest.fixture
def forgetful(new_engine: Callable[..., Entrepot], source: DockerRegistry) -> Entrepot:
    """The same with a freshness that is over at once: it asks the source about a tag each time."""
    engine = new_engine(source.url, settings="freshness = 0.001").start()
    engine.create_rule("example-library", "library/*", "library/*")
    return engine


@pytest.fixture(scope="session")
def skopeo(tmp_path_factory: pytest.TempPathFactory) -> Skopeo:
    return Skopeo(tmp_path_factory.mktemp("skopeo"))


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    # podman refuses a run directory whose path has more than 50 characters, and pytest's
    # directories are long when tests run in parallel.
    with tempfile.TemporaryDirectory(prefix="podman-") as directory:
        yield Podman(Path(directory))


@pytest.fixture(scope="session")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with closing(Containerd(tmp_path_factory.mktemp("containerd"))) as client:
        yield client


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """It signs certificates of engines."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Docker]:
    with closing(Docker(tmp_path_factory.mktemp("docker"), authority.path)) as client:
        yield client


@pytest.fixture(params=["skopeo", "podman", "containerd", "docker"])
def client(request: pytest.FixtureRequest) -> ContainerClient:
    """Each container client in turn, with nothing pulled yet."""
    client: ContainerClient = request.getfixturevalue(request.param)
    client.forget()
    return client


@pytest.fixture(scope="session")
def shared(
    source: DockerRegistry, app: FakeImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Entrepot]:
    """One engine for tests that change nothing; ``library/app:1`` is cached for linux/amd64."""
    with Entrepot(tmp_path_factory.mktemp("e"), source.url) as engine:
        engine.start()
        engine.create_rule("example-library", "library/*", "library/*")
        engine.run("pull", "library/app:1", "--platform", AMD64)
        yield engine
