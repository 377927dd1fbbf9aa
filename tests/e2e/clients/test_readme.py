"""The lines and files of ``docs/clients.md``, with the real programs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.documents import block
from tests.e2e.clients.container_clients import Containerd, Docker, Podman
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.layouts import skopeo_environment
from tests.e2e.clients.processes import run
from tests.fakes.images import FakeImage
from tests.test_documents_examples import CLIENTS, HOSTS_TOML, REGISTRIES_CONF

ADDRESS, IMAGE = "127.0.0.1:5000", "library/nginx:1.27"
"""As they stand on the page."""


def typed(program: str, entrepot: Entrepot) -> list[str]:
    """What the page has a user type for a program, for the engine and the image of the tests,
    without sudo: root runs these tests."""
    [line] = [
        line
        for line in block(CLIENTS).text.splitlines()
        if program in shlex.split(line, comments=True)[:2]
    ]
    line = line.replace(f"{ADDRESS}/{IMAGE}", f"{entrepot.address}/library/app:1")
    words = shlex.split(line, comments=True)
    return words[words.index(program) + 1 :]


def test_its_lines_for_container_clients_are_those_that_are_tried_here() -> None:
    programs = [
        shlex.split(line.removeprefix("sudo "))[0] for line in block(CLIENTS).text.splitlines()
    ]
    assert programs == ["docker", "podman", "skopeo", "ctr"]


def test_its_line_for_docker(docker: Docker, entrepot: Entrepot, app: FakeImage) -> None:
    docker.forget()
    pull = docker.run(*typed("docker", entrepot))
    assert pull.status == 0, pull.output
    docker.assert_holds(f"{entrepot.address}/library/app:1", app)


def test_its_line_for_podman(podman: Podman, entrepot: Entrepot, app: FakeImage) -> None:
    podman.forget()
    pull = podman.run(*typed("podman", entrepot))
    assert pull.status == 0, pull.output
    podman.assert_holds(f"{entrepot.address}/library/app:1", app)


@pytest.mark.usefixtures("skopeo", "app")
def test_its_line_for_skopeo(entrepot: Entrepot, tmp_path: Path) -> None:
    *words, target = typed("skopeo", entrepot)
    assert target == "dir:nginx"
    pull = run(
        ["skopeo", *words, f"dir:{tmp_path / 'nginx'}"],
        environment=skopeo_environment(tmp_path / "home"),
    )
    assert pull.status == 0, pull.output
    assert (tmp_path / "nginx/manifest.json").is_file()


def test_its_line_for_containerd(
    containerd: Containerd, entrepot: Entrepot, app: FakeImage
) -> None:
    containerd.forget()
    *words, image = typed("ctr", entrepot)
    # The snapshotter of the tests works in every container, and its platform is that of the tests'
    # images.
    pull = containerd.run(*words, "--snapshotter", "native", "--platform", "linux/amd64", image)
    assert pull.status == 0, pull.output
    containerd.assert_holds(f"{entrepot.address}/library/app:1", app)


def test_its_file_for_podman_makes_the_option_needless(
    podman: Podman, entrepot: Entrepot, app: FakeImage
) -> None:
    podman.forget()
    podman.use_registries("")
    words = [word for word in typed("podman", entrepot) if word != "--tls-verify=false"]
    assert "HTTP response to HTTPS client" in podman.run(*words).output
    podman.use_registries(block(REGISTRIES_CONF).text.replace(ADDRESS, entrepot.address))
    pull = podman.run(*words)
    assert pull.status == 0, pull.output
    podman.assert_holds(f"{entrepot.address}/library/app:1", app)


def test_its_file_for_containerd_makes_the_option_needless(
    containerd: Containerd, entrepot: Entrepot, app: FakeImage, tmp_path: Path
) -> None:
    containerd.forget()
    (tmp_path / entrepot.address).mkdir()
    (tmp_path / entrepot.address / "hosts.toml").write_text(
        block(HOSTS_TOML).text.replace(ADDRESS, entrepot.address)
    )
    *words, image = [word for word in typed("ctr", entrepot) if word != "--plain-http"]
    pull = containerd.run(
        *words,
        "--hosts-dir",
        str(tmp_path),
        "--snapshotter",
        "native",
        "--platform",
        "linux/amd64",
        image,
    )
    assert pull.status == 0, pull.output
    containerd.assert_holds(f"{entrepot.address}/library/app:1", app)
