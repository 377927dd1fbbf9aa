"""Generated container images.

They have the same bytes every time, and are real enough for podman to unpack. A layer is a
gzip-compressed tar archive with a few readable files and one file of incompressible bytes; configs,
manifests and indexes follow the OCI image specification 1.1, or Docker's image manifest version 2,
schema 2.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from entrepot.core import media_types
from entrepot.core.reference import Digest

CREATED = "2025-01-01T00:00:00Z"
"""The time of creation in every generated config: a real time would change the image's digest."""

_CREATED_SECONDS = 1_735_689_600
_BLOCK = 512
"""Bytes of a block: a tar archive has a header of one block before each file, pads the file to
whole blocks, and ends with two empty ones."""

_STORED_BLOCK = 0xFFFF
"""Most bytes of a stored block of a deflate stream (RFC 1951, 3.2.4)."""


@dataclass(frozen=True, slots=True)
class MediaTypes:
    """The media types of a family of images."""

    index: str
    manifest: str
    config: str
    layer: str


OCI = MediaTypes(
    index=media_types.OCI_INDEX,
    manifest=media_types.OCI_MANIFEST,
    config=media_types.OCI_CONFIG,
    layer=media_types.OCI_LAYER,
)
DOCKER = MediaTypes(
    index=media_types.DOCKER_LIST,
    manifest=media_types.DOCKER_MANIFEST,
    config=media_types.DOCKER_CONFIG,
    layer=media_types.DOCKER_LAYER,
)


@dataclass(frozen=True, slots=True)
class GeneratedDescriptor:
    """The descriptor of a generated blob or manifest. *size* is in bytes."""

    media_type: str
    digest: Digest
    size: int

    @classmethod
    def of(cls, media_type: str, content: bytes) -> GeneratedDescriptor:
        """The descriptor of *content*."""
        return cls(media_type, Digest.of(content), len(content))

    def document(self) -> dict[str, Any]:
        """The descriptor as a JSON object."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


@dataclass(frozen=True, slots=True)
class Layer:
    """A generated layer: its compressed bytes, and the digest of the unpacked ones."""

    content: bytes
    digest: Digest
    diff_id: Digest

    @property
    def size(self) -> int:
        """Number of compressed bytes."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """How to build a layer; the same recipe always builds the same bytes.

    *size* is that of the compressed layer in bytes, to the next 10 KiB and a few bytes more.
    *files* are readable files: path and content.
    """

    name: str
    size: int
    files: tuple[tuple[str, str], ...] = ()

    def build(self) -> Layer:
        """Build the layer. Takes about 0.1 s for 20 MB: not for an event loop."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path, text in self.files:
                _add_file(tar, path, text.encode())
            # The archive ends at a multiple of tar's records of 10 KiB.
            whole = max(1, round(self.size / tarfile.RECORDSIZE)) * tarfile.RECORDSIZE
            ballast = max(0, whole - archive.tell() - 3 * _BLOCK)
            _add_file(
                tar,
                f"usr/share/entrepot-demo/{self.name.replace('/', '-')}.bin",
                hashlib.shake_128(self.name.encode()).digest(ballast),
            )
        unpacked = archive.getbuffer()
        content = _stored(unpacked)
        return Layer(
            content, Digest.of(content), Digest("sha256", hashlib.sha256(unpacked).hexdigest())
        )


def _add_file(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    entry.mtime = _CREATED_SECONDS
    entry.mode = 0o644
    tar.addfile(entry, io.BytesIO(content))


def _stored(content: memoryview) -> bytes:
    """*content* as a gzip file (RFC 1952) of stored blocks.

    The ballast can't be compressed, and the output of a compressor depends on its version.
    """
    pieces: list[bytes | memoryview] = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for at in range(0, len(content), _STORED_BLOCK):
        piece = content[at : at + _STORED_BLOCK]
        pieces += [
            struct.pack("<BHH", at + len(piece) == len(content), len(piece), len(piece) ^ 0xFFFF),
            piece,
        ]
    return b"".join((*pieces, struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)))


def split_platform(platform: str) -> dict[str, str]:
    """A platform such as ``linux/arm/v7`` as the JSON object of an index or config."""
    system, architecture, *variant = platform.split("/")
    document = {"architecture": architecture, "os": system}
    return document | {"variant": variant[0]} if variant else document


def build_config(
    platform: str,
    diff_ids: Sequence[Digest],
    *,
    created_by: Sequence[str] = (),
    command: Sequence[str] = ("/bin/sh",),
) -> bytes:
    """An image config for layers with *diff_ids*.

    *created_by* are the lines of its history, one for each layer.
    """
    lines = [
        *created_by,
        *(f"COPY layer-{number} /" for number in range(len(created_by) + 1, len(diff_ids) + 1)),
    ]
    return _json(
        {
            "created": CREATED,
            **split_platform(platform),
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": list(command),
            },
            "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
            "history": [{"created": CREATED, "created_by": line} for line in lines],
        }
    )


def build_manifest(
    config: GeneratedDescriptor,
    layers: Iterable[GeneratedDescriptor],
    media_types: MediaTypes = OCI,
) -> bytes:
    """An image manifest."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": media_types.manifest,
            "config": config.document(),
            "layers": [layer.document() for layer in layers],
        }
    )


def build_index(
    manifests: Iterable[tuple[str, GeneratedDescriptor]], media_types: MediaTypes = OCI
) -> bytes:
    """An index, or Docker's manifest list, of manifests by their platform."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": media_types.index,
            "manifests": [
                manifest.document() | {"platform": split_platform(platform)}
                for platform, manifest in manifests
            ],
        }
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
