"""The clients, and the configuration of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from entrepot.core.mirror_configuration import buildkit, containerd, containers, docker, k3s
from entrepot.core.mirror_configuration.files import ClientFile
from entrepot.core.mirror_configuration.setup import Setup


class Client(StrEnum):
    """A container client, by the name on the command line."""

    CONTAINERD = "containerd"
    DOCKER = "docker"
    PODMAN = "podman"
    BUILDKIT = "buildkit"
    K3S = "k3s"
    CRIO = "crio"


@dataclass(frozen=True, slots=True)
class ClientKind:
    """What is known of a client."""

    title: str
    """The name as people write it, with the programs that read the same files."""
    place: str
    """The directory or file that the client reads."""
    is_directory: bool
    owned: tuple[str, ...]
    """Where files that entrepot mirror wrote may be: patterns below the directory of *place*."""
    configure: Callable[[Setup, str], tuple[tuple[ClientFile, ...], tuple[str, ...]]]
    """Files and notes, for a place."""


@dataclass(frozen=True, slots=True)
class ClientConfiguration:
    """The files of a client, and what else there is to do."""

    client: Client
    files: tuple[ClientFile, ...]
    notes: tuple[str, ...]


KINDS: Final = {
    Client.CONTAINERD: ClientKind(
        "containerd, Kubernetes",
        "/etc/containerd/certs.d",
        True,
        ("*/hosts.toml",),
        containerd.configure,
    ),
    Client.DOCKER: ClientKind(
        "Docker", "/etc/docker/daemon.json", False, ("certs.d/*/ca.crt",), docker.configure
    ),
    Client.PODMAN: ClientKind(
        "Podman, skopeo, Buildah",
        "/etc/containers/registries.conf.d",
        True,
        (containers.DROP_IN, "../certs.d/*/ca.crt"),
        containers.configure_podman,
    ),
    Client.BUILDKIT: ClientKind(
        "BuildKit", "/etc/buildkit/buildkitd.toml", False, (), buildkit.configure
    ),
    Client.K3S: ClientKind("k3s", "/etc/rancher/k3s/registries.yaml", False, (), k3s.configure),
    Client.CRIO: ClientKind(
        "CRI-O, OpenShift",
        "/etc/containers/registries.conf.d",
        True,
        (containers.DROP_IN, "../certs.d/*/ca.crt"),
        containers.configure_crio,
    ),
}


def configure(client: Client, setup: Setup, place: str | None = None) -> ClientConfiguration:
    """The configuration of *client*, whose directory or file is at *place*.

    None stands for the usual one. Raises `MirrorConfigurationImpossible`.
    """
    kind = KINDS[client]
    files, notes = kind.configure(setup, place or kind.place)
    return ClientConfiguration(client, files, notes)
