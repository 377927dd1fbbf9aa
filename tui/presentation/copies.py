"""Commands to copy, with which container clients pull an image from here.

The registry speaks plain HTTP.

Each part of a command is quoted for a shell (S03): a platform is text of a source's manifest.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from entrepot.core.hosts import is_loopback

_DOCKER_NEEDS = (
    "docker accepts plain HTTP from there only if its daemon.json has: "
    '"insecure-registries": ["{}"]'
)


@dataclass(frozen=True, slots=True)
class CopyLine:
    """A command line for a *tool*, and what else it needs."""

    tool: str
    line: str
    needs: str = ""


def image_name(address: str, repository: str, reference: str) -> str:
    """The name by which a client pulls an image from here."""
    separator = "@" if reference.startswith("sha") and ":" in reference else ":"
    return f"{address}/{repository}{separator}{reference}"


def pull_command(address: str, repository: str, reference: str) -> str:
    """The command to pull an image from here with docker."""
    return shlex.join(["docker", "pull", image_name(address, repository, reference)])


def copy_lines(
    address: str,
    repository: str,
    reference: str,
    platform: str | None = None,
    digest: str | None = None,
) -> tuple[CopyLine, ...]:
    """A command line for each container client.

    *platform* is named where it is another than that of the client's machine. docker accepts plain
    HTTP from 127.0.0.1, and from other addresses that daemon.json lists under
    ``insecure-registries``; the other clients have an option for it. skopeo's platform options come
    before its command.
    """
    image = image_name(address, repository, reference)
    for_platform = ["--platform", platform] if platform else []
    name = repository.rpartition("/")[2]
    archive = f"oci:{name}" if ":" in reference else f"oci:{name}:{reference}"
    skopeo = [
        "skopeo",
        *_skopeo_platform(platform),
        "copy",
        "--src-tls-verify=false",
        f"docker://{image}",
        archive,
    ]
    needs = (
        "" if is_loopback(address.rpartition(":")[0].strip("[]")) else _DOCKER_NEEDS.format(address)
    )
    lines = [
        CopyLine("docker", shlex.join(["docker", "pull", *for_platform, image]), needs),
        CopyLine(
            "podman", shlex.join(["podman", "pull", "--tls-verify=false", *for_platform, image])
        ),
        CopyLine("skopeo", shlex.join(skopeo)),
        CopyLine(
            "containerd",
            shlex.join(["ctr", "images", "pull", "--plain-http", *for_platform, image]),
        ),
        CopyLine(
            "nerdctl", shlex.join(["nerdctl", "pull", "--insecure-registry", *for_platform, image])
        ),
        CopyLine("the name", shlex.quote(image)),
    ]
    if digest is not None and digest != reference:
        lines.append(CopyLine("by digest", shlex.quote(image_name(address, repository, digest))))
    return tuple(lines)


def _skopeo_platform(platform: str | None) -> list[str]:
    if not platform:
        return []
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    options = ["--override-os", system, "--override-arch", architecture]
    return [*options, "--override-variant", variant] if variant else options
