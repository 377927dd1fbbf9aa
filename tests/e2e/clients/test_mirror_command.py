"""Clients that are set up with what ``entrepot mirror`` prints pull unchanged image names."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from entrepot.config.private_authority import create_authority
from entrepot.core.mirror_configuration.clients import Client, configure
from entrepot.core.mirror_configuration.setup import Endpoint, MirroredRule, Setup
from tests.e2e.clients.container_clients import (
    Containerd,
    Docker,
    Podman,
    PullFailed,
    Skopeo,
)
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.e2e.clients.test_mirrors import Mirror, MirrorClient, mirror, names, publish
from tests.e2e.clients.test_sign_in import PASSWORD, PASSWORD_FILE, USER
from tests.fakes.images import FakeImage

__all__ = ["mirror", "publish"]
"""Fixtures of that module."""


def use(client: MirrorClient, content: str, mirror: Mirror) -> None:
    """Have a client read a file, in which the source registry of the test is that of the rule."""
    source = mirror.source
    if isinstance(client, Containerd):
        client.use_hosts({"docker.io": content.replace("https://registry-1.docker.io", source.url)})
    elif isinstance(client, Docker):
        client.use_settings(json.loads(content))
    else:
        location = f'location = "{source.address}/library"\ninsecure = true'
        client.use_registries(content.replace('location = "docker.io/library"', location))
    client.forget()


def pull(client: MirrorClient, image: FakeImage, mirror: Mirror) -> None:
    """Pull by the image's own name; it has to come through the engine."""
    typed, listed = names(client, image.repository)
    client.pull_by_name(typed)
    client.assert_holds(listed, image)
    target = image.repository.replace("library/", "hub/")
    mirror.engine.wait_for_pull(f"{target}:1 linux/amd64")


@pytest.mark.parametrize("name", ["containerd", "docker", "podman"])
def test_a_client_reads_what_is_printed(
    name: str, mirror: Mirror, publish: Any, request: pytest.FixtureRequest
) -> None:
    client: MirrorClient = request.getfixturevalue(name)
    image = publish(f"library/printed-{name}")
    [file] = mirror.engine.ask("mirror", name)["files"]
    use(client, file["content"], mirror)
    pull(client, image, mirror)


@pytest.mark.parametrize("name", ["podman", "skopeo"])
def test_without_a_mirror_names_lead_to_the_target_of_the_rule(
    name: str, mirror: Mirror, publish: Any, request: pytest.FixtureRequest
) -> None:
    client: Podman | Skopeo = request.getfixturevalue(name)
    image = publish(f"library/target-{name}")
    rule = MirroredRule.of("docker-library", "docker.io/library/*", "hub/*")
    [file] = configure(Client.PODMAN, Setup(Endpoint(mirror.engine.address), (rule,))).files
    [table] = tomllib.loads(file.text)["registry"]
    assert table["mirror"][0]["location"] == f"{mirror.engine.address}/hub"
    use(client, file.text, mirror)
    pull(client, image, mirror)


def test_containerd_over_tls_and_signed_in(
    containerd: Containerd,
    source: DockerRegistry,
    app: FakeImage,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = create_authority(tmp_path / "trust", ["localhost"])
    credentials = tmp_path / "credentials"
    credentials.write_text(f"{USER}:{PASSWORD}")
    credentials.chmod(0o600)
    settings = (
        f'certificate = "{files.server_certificate}"\nkey = "{files.server_key}"\n'
        '[readers]\nhtpasswd = "readers.htpasswd"\n'
    )
    image = f"{LOGIN_SERVER}/library/app:1"
    with Entrepot(tmp_path_factory.mktemp("e"), source.url, settings=settings) as engine:
        (engine.directories.config / "readers.htpasswd").write_text(PASSWORD_FILE)
        engine.address = "localhost:0"
        process = engine.launch()
        line = r"answers container clients on (\S+) over TLS with"
        engine.address = process.wait_for_line(line)[1]
        engine.create_rule("other-name", "library/*", "other/*")

        def set_up(*options: str | Path) -> None:
            directory = tmp_path / "certs.d"
            engine.run(
                "mirror", "containerd", "--directory", str(directory), "--write", *map(str, options)
            )
            hosts = (directory / LOGIN_SERVER / "hosts.toml").read_text()
            containerd.use_hosts({LOGIN_SERVER: hosts})
            containerd.forget()

        # The source registry has no such name outside of the engine.
        for too_little in (("--credentials", credentials), ("--ca", files.certificate)):
            set_up(*too_little, "--address", "localhost")
            with pytest.raises(PullFailed):
                containerd.pull_by_name(image)
        set_up("--credentials", credentials, "--ca", files.certificate, "--address", "localhost")
        containerd.pull_by_name(image)
        containerd.assert_holds(image, app)
