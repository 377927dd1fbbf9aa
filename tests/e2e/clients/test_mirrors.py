"""Clients that pull images by their own names, with Entrepot set up as their mirror.

They are set up with the blocks of ``docs/clients.md``. Images of ``docker.io/library`` are below
``hub/`` here, so that no name at the mirror is by chance that of a target repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.documents import block
from tests.e2e.clients.container_clients import (
    AMD64,
    ARM64,
    Buildah,
    Containerd,
    Docker,
    Podman,
    PullFailed,
    Skopeo,
)
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.layouts import push
from tests.e2e.clients.source_registry import DockerRegistry
from tests.e2e.registries.certificates import Authority
from tests.fakes.images import FakeImage, build_image
from tests.test_documents_examples import (
    MIRROR_DAEMON_JSON,
    MIRROR_HOSTS_TOML,
    MIRROR_REGISTRIES_CONF,
    MIRROR_SETTINGS,
)

REGISTRY, MIRROR = "127.0.0.1:5000", "127.0.0.1:5002"
"""As they stand on the page."""

MirrorClient = Skopeo | Podman | Buildah | Containerd | Docker


@dataclass(frozen=True, slots=True)
class Mirror:
    """An engine that is a mirror of Docker Hub, which is `source`."""

    engine: Entrepot
    address: str
    """Where every image is one of Docker Hub."""
    source: DockerRegistry
    authority: Path | None = None
    """What clients have to trust, if the engine speaks TLS."""

    def page(self, first: str) -> str:
        """A block of the page, for this engine."""
        text = block(first).text
        text = text.replace(REGISTRY, self.engine.address).replace(MIRROR, self.address)
        if self.authority is None:
            return text
        # The certificate is for a name.
        text = text.replace("http://127.0.0.1", "https://localhost")
        text = text.replace("127.0.0.1", "localhost").replace("insecure = true\n", "")
        return f'{text}ca = "{self.authority}"\n' if first == MIRROR_HOSTS_TOML else text

    def set_up(self, client: MirrorClient) -> None:
        """Have a client ask the mirror first, and then the source registry."""
        if isinstance(client, Docker):
            client.use_settings(json.loads(self.page(MIRROR_DAEMON_JSON)))
        elif isinstance(client, Containerd):
            client.use_hosts({"docker.io": self.hosts_toml(self.source)})
        else:
            # The page has the real one.
            if self.authority is not None:
                client.trust(self.address.replace("127.0.0.1", "localhost"), self.authority)
            location = f'location = "{self.source.address}"\ninsecure = true\n'
            text = self.page(MIRROR_REGISTRIES_CONF)
            client.use_registries(text.replace('location = "docker.io"\n', location))

    def hosts_toml(self, source: DockerRegistry) -> str:
        """What the page has for containerd, with this source registry behind the mirror."""
        return self.page(MIRROR_HOSTS_TOML).replace("https://registry-1.docker.io", source.url)


@contextmanager
def running_mirror(
    root: Path, source: DockerRegistry, settings: str = "", authority: Path | None = None
) -> Iterator[Mirror]:
    """An engine that asks its source about a tag each time."""
    mirrors = block(MIRROR_SETTINGS).text.replace(MIRROR, "127.0.0.1:0")
    with Entrepot(
        root,
        source.url,
        login_server="docker.io",
        sign_in="none",
        settings=f"freshness = 0.001\n{settings}{mirrors}",
    ) as engine:
        engine.start()
        address = engine.process.wait_for_line(r"those of docker\.io on ([0-9.:]+)")[1]
        engine.create_rule("docker-library", "library/*", "hub/*")
        yield Mirror(engine, address, source, authority)


@pytest.fixture(scope="module")
def mirror(source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with running_mirror(tmp_path_factory.mktemp("e"), source) as mirror:
        yield mirror


@pytest.fixture(scope="module")
def tls_mirror(
    source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Mirror]:
    """The same over TLS."""
    authority.server("localhost")
    certificate = authority.path.with_name("localhost.pem")
    certificate.chmod(0o600)
    settings = f'certificate = "{certificate}"\nkey = "{certificate}"\n'
    root = tmp_path_factory.mktemp("e")
    with running_mirror(root, source, settings, authority.path) as mirror:
        yield mirror


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    return Buildah(tmp_path_factory.mktemp("b"))


@pytest.fixture(scope="module")
def publish(
    source: DockerRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., FakeImage]:
    """Makes small images, of two platforms and with two layers, and pushes them."""
    scratch = tmp_path_factory.mktemp("images")

    def make(repository: str, registry: DockerRegistry = source) -> FakeImage:
        image = build_image(repository, "1", [200_000, 10_000], [AMD64, ARM64], index=True)
        push(image, registry.address, scratch)
        return image

    return make


@pytest.fixture(params=["containerd", "docker", "podman", "skopeo", "buildah"])
def client(request: pytest.FixtureRequest) -> MirrorClient:
    """Each client in turn, with nothing pulled yet."""
    client: MirrorClient = request.getfixturevalue(request.param)
    client.forget()
    return client


def names(client: MirrorClient, repository: str) -> tuple[str, str]:
    """The name that a user gives the client, and that under which it lists the image."""
    if isinstance(client, Docker):
        short = repository.removeprefix("library/")
        return f"{short}:1", f"{short}:1"
    return (f"docker.io/{repository}:1",) * 2


def test_unchanged_names_are_pulled_cold_warm_and_while_the_source_is_gone(
    client: MirrorClient, mirror: Mirror, publish: Callable[..., FakeImage]
) -> None:
    mirror.set_up(client)
    image = publish(f"library/app-{type(client).__name__.lower()}")
    typed, listed = names(client, image.repository)
    source = mirror.source
    before = source.mark()
    client.pull_by_name(typed)
    client.assert_holds(listed, image)
    target = image.repository.replace("library/", "hub/")
    mirror.engine.wait_for_pull(f"{target}:1 linux/amd64")
    for blob in image.platforms[AMD64].blobs:
        assert source.count("GET", str(blob.digest), before) == 1
    client.forget()
    before = source.mark()
    client.pull_by_name(typed)
    client.assert_holds(listed, image)
    assert {method for method, _ in source.requests_since(before)} == {"HEAD"}
    client.forget()
    output = mirror.engine.process.mark()
    with source.stopped():
        client.pull_by_name(typed)
        client.assert_holds(listed, image)
    # Else the next client would go on to the source itself.
    mirror.engine.process.wait_for_line(r"docker\.io .*can be reached again", since=output)


def test_unchanged_names_are_pulled_over_tls(
    client: MirrorClient, tls_mirror: Mirror, publish: Callable[..., FakeImage]
) -> None:
    tls_mirror.set_up(client)
    image = publish(f"library/tls-{type(client).__name__.lower()}")
    typed, listed = names(client, image.repository)
    client.pull_by_name(typed)
    client.assert_holds(listed, image)
    target = image.repository.replace("library/", "hub/")
    tls_mirror.engine.wait_for_pull(f"{target}:1 linux/amd64")


def test_without_a_rule_the_client_pulls_from_the_source_registry_itself(
    client: MirrorClient, mirror: Mirror, publish: Callable[..., FakeImage]
) -> None:
    mirror.set_up(client)
    image = publish("team/app")
    typed, listed = names(client, image.repository)
    repositories = mirror.engine.ask("repository", "list")
    if isinstance(client, Docker):
        # It has no other address for Docker Hub, which this machine does not reach.
        with pytest.raises(PullFailed, match=r"registry-1\.docker\.io"):
            client.pull_by_name(typed)
    else:
        client.pull_by_name(typed)
        client.assert_holds(listed, image)
    assert [each["name"] for each in mirror.engine.ask("repository", "list")] == [
        each["name"] for each in repositories
    ]


def test_images_of_two_registries_with_one_path_are_never_mixed_up(
    containerd: Containerd,
    mirror: Mirror,
    publish: Callable[..., FakeImage],
    tmp_path: Path,
) -> None:
    """containerd kept Docker Hub's image as quay.io/library/small."""
    hubs = publish("library/small")
    with DockerRegistry(tmp_path / "quay") as quay:
        quays = build_image("library/small", "1", [30_000], [AMD64], index=True)
        assert quays.digest != hubs.digest
        push(quays, quay.address, tmp_path)
        containerd.use_hosts(
            {"docker.io": mirror.hosts_toml(mirror.source), "quay.io": mirror.hosts_toml(quay)}
        )
        containerd.forget()
        containerd.pull_by_name("docker.io/library/small:1")
        containerd.assert_holds("docker.io/library/small:1", hubs)
        containerd.forget()
        containerd.pull_by_name("quay.io/library/small:1")
        containerd.assert_holds("quay.io/library/small:1", quays)


def test_one_file_of_containerd_is_for_all_source_registries(
    containerd: Containerd, mirror: Mirror, publish: Callable[..., FakeImage]
) -> None:
    image = publish("library/small")
    without_first_line = mirror.page(MIRROR_HOSTS_TOML).partition("\n")[2]
    containerd.use_hosts({"_default": without_first_line})
    containerd.forget()
    containerd.pull_by_name("docker.io/library/small:1")
    containerd.assert_holds("docker.io/library/small:1", image)
