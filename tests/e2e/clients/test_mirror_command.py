"""Clients that are set up with what ``entrepot mirror`` prints pull unchanged image names."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from entrepot.core.mirror_configuration.clients import Client, configure
from entrepot.core.mirror_configuration.setup import Endpoint, MirroredRule, Setup
from tests.e2e.clients.container_clients import Containerd, Docker, Podman, Skopeo
from tests.e2e.clients.test_mirrors import Mirror, MirrorClient, mirror, names, publish
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
