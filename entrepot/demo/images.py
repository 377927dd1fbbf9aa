"""Generated container images: the same bytes every time, real enough for podman to unpack.

A layer is a gzip-compressed tar archive with a few readable files and one file of bytes that no
compression can shrink; configs, manifests and indexes follow the OCI image specification 1.1, or
Docker's image manifest version 2, schema 2.
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
"""When every generated image was created, as its config has it: a real time would make each one
another image."""

_CREATED_SECONDS = 1_735_689_600
_BLOCK = 512
"""Bytes: a tar archive holds a header of one block before each file, pads the file to whole blocks,
and ends with two empty ones."""


_STORED_BLOCK = 0xFFFF
"""The most bytes that one stored block of a deflate stream holds (RFC 1951, 3.2.4)."""


@dataclass(frozen=True, slots=True)
class MediaTypes:
    """How one family of images names its parts."""

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
    """What a manifest or index says of a blob or manifest. *size* is in bytes."""

    media_type: str
    digest: Digest
    size: int

    @classmethod
    def of(cls, media_type: str, content: bytes) -> GeneratedDescriptor:
        """The descriptor of *content*."""
        return cls(media_type, Digest.of(content), len(content))

    def document(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that was built: its compressed bytes, and the digest of what they unpack to."""

    content: bytes
    digest: Digest
    diff_id: Digest

    @property
    def size(self) -> int:
        """Of the compressed bytes."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """How to build a layer; the same recipe always builds the same bytes.

    *size* is what the compressed layer takes, in bytes, to the next 10 KiB and a few bytes more.
    *files* are readable files by their path.
    """

    name: str
    size: int
    files: tuple[tuple[str, str], ...] = ()

    def build(self) -> Layer:
        """Build it: about 0.1 s for 20 MB, so not in an event loop."""
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
    """*content* as a gzip file (RFC 1952) of stored blocks: the ballast can't shrink, and what a
    compressor makes of it depends on its version."""
    pieces: list[bytes | memoryview] = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for at in range(0, len(content), _STORED_BLOCK):
        piece = content[at : at + _STORED_BLOCK]
        pieces += [
            struct.pack("<BHH", at + len(piece) == len(content), len(piece), len(piece) ^ 0xFFFF),
            piece,
        ]
    return b"".join((*pieces, struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)))


def split_platform(platform: str) -> dict[str, str]:
    """A platform such as ``linux/arm/v7`` as an index and a config have it."""
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
    """An image config for layers with these *diff_ids*; *created_by* are the lines of its history,
    one a layer."""
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
            "rootfs": {"type": "layers", "diff_ids": [str(each) for each in diff_ids]},
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
            "layers": [each.document() for each in layers],
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
                each.document() | {"platform": split_platform(platform)}
                for platform, each in manifests
            ],
        }
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
