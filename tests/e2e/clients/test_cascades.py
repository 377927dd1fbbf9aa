"""Caches in a row: Entrepot behind the proxy of docker-registry, and in front of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.e2e.clients.container_clients import AMD64, Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import FakeImage

MIRROR = '[[mirrors]]\nlisten = "127.0.0.1:0"\nnamespace = "docker.io"\n'


def every_byte(image: FakeImage) -> set[str]:
    """The digests of all that an image has."""
    contents = [image.manifest]
    for platform in image.platforms.values():
        contents += [platform.manifest, *platform.blobs]
    return {str(content.digest) for content in contents}


def test_the_proxy_of_docker_registry_pulls_through_a_mirror(
    new_engine: Callable[..., Entrepot],
    source: DockerRegistry,
    app: FakeImage,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    engine = new_engine(source.url, login_server="docker.io", sign_in="none", settings=MIRROR)
    engine.start()
    address = engine.process.wait_for_line(r"those of docker\.io on ([0-9.:]+)")[1]
    engine.create_rule("docker-hub", "*", "hub/*")
    before = source.mark()
    with DockerRegistry(tmp_path / "proxy", proxy_of=f"http://{address}") as proxy:
        reference = f"{proxy.address}/library/app:1"
        assert every_byte(app) <= set(skopeo.pull_all_platforms(reference))
        for blob in app.platforms[AMD64].blobs:
            assert source.count("GET", str(blob.digest), before) == 1
        names = [repository["name"] for repository in engine.ask("repository", "list")]
        assert names == ["hub/library/app"]
        assert "manifest unknown" in skopeo.copy(f"docker://{reference}x", "dir:/none").output
    empty = DockerRegistry(tmp_path / "empty", proxy_of=f"http://{address}")
    with empty, source.stopped():
        pulled = skopeo.pull_all_platforms(f"{empty.address}/library/app:1")
        assert every_byte(app) <= set(pulled)


def test_the_proxy_of_docker_registry_is_a_source(
    new_engine: Callable[..., Entrepot],
    source: DockerRegistry,
    app: FakeImage,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    with DockerRegistry(tmp_path / "proxy", proxy_of=source.url) as proxy:
        engine = new_engine(proxy.url).start()
        engine.create_rule("example-library", "library/*", "library/*")
        reference = f"{engine.address}/library/app:1"
        assert every_byte(app) <= set(skopeo.pull_all_platforms(reference))
        missing = engine.get("/v2/library/app/manifests/none")
        assert (missing.status_code, missing.json()["errors"][0]["code"]) == (
            404,
            "MANIFEST_UNKNOWN",
        )
    assert every_byte(app) <= set(skopeo.pull_all_platforms(reference))
