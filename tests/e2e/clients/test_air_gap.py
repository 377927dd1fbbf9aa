"""Images leave one engine in an archive and come into another, which reaches no source. Real
programs read what Entrepot writes, and Entrepot reads what they write."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from entrepot.archive.layout import REF_NAME, ArchiveEntry, write_index
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest
from entrepot.demo.images import OCI, build_config, build_manifest
from tests.e2e.clients.container_clients import (
    AMD64,
    ARM64,
    ContainerClient,
    Docker,
    Podman,
    Skopeo,
)
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot
from tests.e2e.clients.processes import Process, ProcessFailed
from tests.fakes.images import Content, FakeImage

NOWHERE = "http://127.0.0.1:1"
"""A source that no one answers at."""

IMAGE = "library/app:1"
SOURCE = f"{LOGIN_SERVER}/library/app:1"


@pytest.fixture(scope="module")
def layout(shared: Entrepot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``library/app:1`` for linux/amd64 in an OCI layout."""
    directory = tmp_path_factory.mktemp("layout") / "images"
    shared.run("export", IMAGE, f"oci:{directory}")
    return directory


@pytest.fixture(scope="module")
def docker_tar(shared: Entrepot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in a tar file for docker load."""
    path = tmp_path_factory.mktemp("docker") / "images.tar"
    shared.run("export", IMAGE, f"docker-archive:{path}", "--platform", AMD64)
    return path


@pytest.fixture
def island(new_engine: Callable[..., Entrepot]) -> Entrepot:
    """A running engine at a site without a network, with the same rule."""
    engine = new_engine(NOWHERE).start()
    engine.create_rule("example-library", "library/*", "library/*")
    return engine


def assert_tag_is_right(engine: Entrepot, image: FakeImage) -> None:
    answer = engine.get("/v2/library/app/manifests/1")
    assert answer.content == image.manifest.content
    for blob in image.platforms[AMD64].blobs:
        assert engine.get(f"/v2/library/app/blobs/{blob.digest}").content == blob.content


# Out


def test_skopeo_reads_a_layout(
    layout: Path, app: FakeImage, skopeo: Skopeo, tmp_path: Path
) -> None:
    copied = skopeo.copy(
        f"oci:{layout}:{IMAGE}", f"dir:{tmp_path}/copy", "--override-arch", "amd64"
    )
    assert copied.status == 0, copied.output
    amd64 = app.platforms[AMD64]
    assert (tmp_path / "copy/manifest.json").read_bytes() == amd64.manifest.content
    for blob in amd64.blobs:
        assert (tmp_path / "copy" / blob.digest.hex).read_bytes() == blob.content


def test_skopeo_reads_a_layout_in_a_tar_file(
    shared: Entrepot, app: FakeImage, skopeo: Skopeo, tmp_path: Path
) -> None:
    shared.run("export", IMAGE, f"{tmp_path}/images.tar")
    copied = skopeo.copy(
        f"oci-archive:{tmp_path}/images.tar:{IMAGE}",
        f"dir:{tmp_path}/copy",
        "--override-arch",
        "amd64",
    )
    assert copied.status == 0, copied.output
    assert (tmp_path / "copy/manifest.json").read_bytes() == app.platforms[AMD64].manifest.content


def test_docker_loads_an_image_under_its_unchanged_name(
    docker_tar: Path, app: FakeImage, docker: Docker
) -> None:
    docker.forget()
    loaded = docker.run("load", "--input", str(docker_tar))
    assert loaded.status == 0, loaded.output
    [details] = json.loads(docker.run("image", "inspect", SOURCE).output)
    assert details["Id"] == str(app.platforms[AMD64].config.digest)


def test_podman_loads_an_image_under_its_unchanged_name(
    docker_tar: Path, app: FakeImage, podman: Podman
) -> None:
    podman.forget()
    loaded = podman.run("load", "--input", docker_tar)
    assert loaded.status == 0, loaded.output
    [details] = json.loads(podman.run("image", "inspect", SOURCE).output)
    assert details["Id"] == app.platforms[AMD64].config.digest.hex


# In


def test_each_client_pulls_what_was_imported_with_no_source_in_reach(
    client: ContainerClient, layout: Path, app: FakeImage, island: Entrepot
) -> None:
    island.run("import", str(layout))
    reference = f"{island.address}/{IMAGE}"
    client.pull(reference)
    client.assert_holds(reference, app)


def test_both_platforms_go_to_the_other_site(
    shared: Entrepot, app: FakeImage, island: Entrepot, skopeo: Skopeo, tmp_path: Path
) -> None:
    shared.run("export", IMAGE, f"{tmp_path}/both/", "--platform", AMD64, "--platform", ARM64)
    island.run("import", f"{tmp_path}/both")
    for platform in (AMD64, ARM64):
        skopeo.pull(f"{island.address}/{IMAGE}", platform)
        skopeo.assert_holds(IMAGE, app, platform)


def test_a_tar_file_of_docker_save_is_imported(
    docker_tar: Path, docker: Docker, island: Entrepot, tmp_path: Path
) -> None:
    docker.forget()
    assert docker.run("load", "--input", str(docker_tar)).status == 0
    saved = docker.run("save", "--output", f"{tmp_path}/saved.tar", SOURCE)
    assert saved.status == 0, saved.output
    island.run("import", f"{tmp_path}/saved.tar")
    docker.forget()
    docker.pull(f"{island.address}/{IMAGE}")


def test_a_tar_file_of_podman_save_is_imported(
    docker_tar: Path, podman: Podman, island: Entrepot, skopeo: Skopeo, tmp_path: Path
) -> None:
    podman.forget()
    assert podman.run("load", "--input", docker_tar).status == 0
    for kind in ("docker-archive", "oci-archive"):
        path = tmp_path / f"{kind}.tar"
        saved = podman.run("save", "--format", kind, "--output", path, SOURCE)
        assert saved.status == 0, saved.output
        island.run("import", str(path))
        skopeo.pull(f"{island.address}/{IMAGE}")


def test_a_layout_of_skopeo_is_imported_where_it_is_said_to_belong(
    shared: Entrepot, app: FakeImage, island: Entrepot, skopeo: Skopeo, tmp_path: Path
) -> None:
    copied = skopeo.copy(
        f"docker://{shared.address}/{IMAGE}",
        f"oci:{tmp_path}/layout:7",
        "--override-arch",
        "amd64",
    )
    assert copied.status == 0, copied.output
    island.run("import", f"{tmp_path}/layout", "--repository", "library/app")
    answer = island.get("/v2/library/app/manifests/7")
    assert answer.content == app.platforms[AMD64].manifest.content


# Killed in the middle


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Content]]:
    """An OCI layout with an image of one large layer, and its blobs."""
    layer = Content.of(OCI.layer, os.urandom(1_000_000) * 200)
    config = Content.of(OCI.config, build_config(AMD64, [layer.digest], command=("/bin/sh",)))
    manifest = Content.of(OCI.manifest, build_manifest(config.descriptor, [layer.descriptor], OCI))
    directory = tmp_path_factory.mktemp("large")
    (directory / "blobs/sha256").mkdir(parents=True)
    for content in (layer, config, manifest):
        (directory / "blobs/sha256" / content.digest.hex).write_bytes(content.content)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = ArchiveEntry(manifest.digest, manifest.size, OCI_MANIFEST, {REF_NAME: "large:1"})
    (directory / "index.json").write_bytes(write_index([entry]))
    return directory, [config, layer]


@pytest.mark.parametrize("killed", ["command", "engine"])
def test_a_killed_import_goes_on_and_never_shows_a_part(
    killed: str, large: tuple[Path, list[Content]], island: Entrepot
) -> None:
    directory, blobs = large
    target = ("--repository", "library/large")
    arguments: list[str | Path] = [island.python, "-m", "entrepot", "import", directory, *target]
    process = Process(arguments, environment=island.environment)
    deadline = time.monotonic() + 60
    while sum(part.stat().st_size for part in island.unfinished()) < 5_000_000:
        if not process.is_running:
            raise ProcessFailed(process.output)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    if killed == "command":
        process.kill()
    else:
        island.kill()
        assert process.wait().status != 0
    if killed == "engine":
        island.start()
    assert island.get("/v2/library/large/manifests/1").status_code != 200
    told = island.run("import", str(directory), *target, "--json").output
    summary = json.loads(told[told.index("{") :])
    assert summary["size"] < sum(blob.size for blob in blobs)
    assert [image["outcome"] for image in summary["images"]] == ["imported"]
    for blob in blobs:
        answer = island.get(f"/v2/library/large/blobs/{blob.digest}")
        assert hashlib.sha256(answer.content).hexdigest() == blob.digest.hex
    assert island.unfinished() == []


def test_an_export_outlives_a_killed_engine(
    large: tuple[Path, list[Content]], island: Entrepot, tmp_path: Path
) -> None:
    directory, blobs = large
    island.run("import", str(directory), "--repository", "library/large")
    process = Process(
        [island.python, "-m", "entrepot", "export", "library/large:1", f"{tmp_path}/out/"],
        environment=island.environment,
    )
    parts = tmp_path / "out/.entrepot-parts"
    deadline = time.monotonic() + 60
    while sum(part.stat().st_size for part in parts.glob("*")) < 5_000_000:
        if not process.is_running:
            raise ProcessFailed(process.output)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    island.kill()
    island.start()
    assert process.wait().status == 0, process.output
    for blob in blobs:
        content = (tmp_path / "out/blobs/sha256" / blob.digest.hex).read_bytes()
        assert hashlib.sha256(content).hexdigest() == blob.digest.hex


def test_the_state_of_a_tag_is_in_the_layout_and_comes_along(
    shared: Entrepot, layout: Path, island: Entrepot, app: FakeImage
) -> None:
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    assert Digest.parse(entry["digest"]) == app.digest
    assert "vnd.entrepot.tag.checked" in entry["annotations"]
    island.run("import", str(layout))
    [here] = island.ask("repository", "show", "library/app")["tags"]
    [there] = shared.ask("repository", "show", "library/app")["tags"]
    assert here["digest"] == there["digest"]
    for field in ("cached", "checked"):
        assert here[field] == pytest.approx(there[field], abs=1e-5)
    assert_tag_is_right(island, app)
