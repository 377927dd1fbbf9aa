"""Docker: ``registry-mirrors`` of ``daemon.json``, which is for Docker Hub only.

Docker does not say which source registry it means, so a mirror with the namespace ``docker.io`` is
needed.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from entrepot.core.mirror_configuration.authorities import authority_files
from entrepot.core.mirror_configuration.files import ClientFile, JsonFile
from entrepot.core.mirror_configuration.setup import MirrorConfigurationImpossible, Setup
from entrepot.core.registries import DOCKER_HUB

RECORD = ".entrepot-mirror"
"""What the name of the record beside ``daemon.json`` ends with."""


def configure(setup: Setup, place: str) -> tuple[tuple[ClientFile, ...], tuple[str, ...]]:
    """``daemon.json``, and the authority of the engine's certificate."""
    others = [each for each in setup.login_servers if each != DOCKER_HUB]
    if DOCKER_HUB not in setup.login_servers:
        raise MirrorConfigurationImpossible(
            "Docker uses mirrors for images of Docker Hub only, and these rules pull from "
            f"{', '.join(others)}.",
            "Pull by the address of the engine, or use containerd or Podman: they have mirrors "
            "for all registries.",
        )
    mirror = setup.mirrors.get(DOCKER_HUB)
    if mirror is None:
        raise MirrorConfigurationImpossible(
            "Docker needs an address at which every image is one of Docker Hub, and the engine has "
            "none.",
            "Add these lines to settings.toml, and start the engine again:\n[[mirrors]]\n"
            f'listen = "127.0.0.1:5002"\nnamespace = "{DOCKER_HUB}"',
        )
    lists = {"registry-mirrors": (mirror.url,)}
    if mirror.has_tls and setup.skip_verify:
        lists["insecure-registries"] = (mirror.address,)
    files: tuple[ClientFile, ...] = (
        JsonFile(place, "", lists=lists, record=f"{place}{RECORD}"),
        *authority_files(setup, mirror, str(PurePosixPath(place).parent / "certs.d")),
    )
    notes = ["Docker reads it after: sudo systemctl reload docker"]
    if others:
        notes.append(
            f"Docker uses mirrors for Docker Hub only: images of {', '.join(others)} still come "
            "from there."
        )
    if setup.sign_in_required:
        notes.append(
            "Docker does not sign in at a mirror: it gets only what the rules offer to everyone "
            "(anonymous = true)."
        )
    return files, tuple(notes)
