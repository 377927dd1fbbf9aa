"""Images as OCI image layouts on the disk, their way into a registry by skopeo, and what is there
then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from entrepot.demo.images import DOCKER, OCI
from tests.e2e.clients.processes import bare_environment, run
from tests.fakes.images import Content, FakeImage, PlatformImage
from tests.programs import require_program


def write_layout(image: FakeImage, directory: Path) -> Path:
    """Write an image as an OCI image layout (OCI image specification 1.1, "Image Layout")."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    contents = [image.manifest]
    for platform in image.platforms.values():
        contents += [platform.manifest, *platform.blobs]
    for content in contents:
        (blobs / content.digest.hex).write_bytes(content.content)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = image.manifest.descriptor.document() | {
        "annotations": {"org.opencontainers.image.ref.name": image.tag}
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return directory


def push(image: FakeImage, address: str, scratch: Path, *, options: tuple[str, ...] = ()) -> None:
    """Push an image with all its platforms to the registry at *address*; *options* go to ``skopeo
    copy``."""
    layout = scratch / f"{image.repository.replace('/', '-')}-{image.tag}"
    if not layout.exists():
        write_layout(image, layout)
    finished = run(
        [
            require_program("skopeo"),
            "--insecure-policy",
            "copy",
            "--all",
            "--dest-tls-verify=false",
            *options,
            f"oci:{layout}:{image.tag}",
            f"docker://{address}/{image.repository}:{image.tag}",
        ],
        environment=skopeo_environment(scratch / "skopeo-home"),
    )
    assert finished.status == 0, finished.output


def published(address: str, repository: str, tag: str) -> FakeImage:
    """What a registry without sign-in has under a tag, read raw."""
    with httpx.Client(
        base_url=f"http://{address}/v2/{repository}", trust_env=False, verify=False
    ) as registry:

        def manifest(reference: str) -> Content:
            answer = registry.get(
                f"/manifests/{reference}",
                headers={
                    "Accept": ", ".join((OCI.index, OCI.manifest, DOCKER.index, DOCKER.manifest))
                },
            )
            return Content.of(answer.headers["content-type"], answer.content)

        def blob(descriptor: dict[str, Any]) -> Content:
            return Content.of(
                descriptor["mediaType"], registry.get(f"/blobs/{descriptor['digest']}").content
            )

        def platform_image(content: Content) -> PlatformImage:
            document = json.loads(content.content)
            config = blob(document["config"])
            described = json.loads(config.content)
            return PlatformImage(
                f"{described['os']}/{described['architecture']}",
                content,
                config,
                tuple(blob(each) for each in document["layers"]),
            )

        top = manifest(tag)
        listed = json.loads(top.content).get("manifests")
        images = (
            [platform_image(top)]
            if listed is None
            else [platform_image(manifest(each["digest"])) for each in listed]
        )
        return FakeImage(
            repository,
            tag,
            None if listed is None else top,
            {each.platform: each for each in images},
        )


def skopeo_environment(home: Path) -> dict[str, str]:
    """An environment in which skopeo and podman remember blobs below *home*.

    For user id 0 they would do so in /var/lib/containers/cache, whatever the configuration says,
    and take what they remember for the next test.
    """
    (home / "run").mkdir(parents=True, exist_ok=True)
    return bare_environment(home) | {
        "_CONTAINERS_ROOTLESS_UID": "1000",
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_RUNTIME_DIR": str(home / "run"),
    }
