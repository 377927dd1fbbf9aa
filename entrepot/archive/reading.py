"""Reading archives: OCI layouts in directories and tar files, and docker's own tar files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from entrepot.archive.layout import (
    INDEX_FILE,
    INDEX_LIMIT,
    LAYOUT_FILE,
    REF_NAME,
    ArchiveEntry,
    ArchiveInvalid,
    read_index,
)
from entrepot.archive.tar_members import Member, TarMembers
from entrepot.core.media_types import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST
from entrepot.core.reference import Digest
from entrepot.formatting import printable

DOCKER_FILE: Final = "manifest.json"
"""The list of images in a tar file of ``docker save``."""

DOCKER_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of it."""

CONFIG_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of an image's config."""

LAYERS_LIMIT: Final = 1_000
"""Layers of an image; docker makes at most 127."""

IMAGES_LIMIT: Final = 10_000
"""Images of a tar file of docker."""

CHUNK: Final = 1024 * 1024
"""Bytes that are read at a time."""

PREFIXES: Final = ("oci:", "oci-archive:", "docker-archive:")
"""What may stand before a path, as for skopeo."""

_DOCKER_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
_ZSTD_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+zstd"


class Archive(Protocol):
    """An archive of images that is open."""

    entries: list[ArchiveEntry]

    def size(self, digest: Digest) -> int | None:
        """The size of a blob or manifest in bytes; None where it is not in the archive."""
        ...

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """At most *count* bytes of one from *offset* on."""
        ...


def content_of(archive: Archive, digest: Digest, limit: int) -> bytes | None:
    """A manifest; None where it is not in the archive.

    Raises `ArchiveInvalid` when it is larger than *limit*, or has another digest.
    """
    size = archive.size(digest)
    if size is None:
        return None
    if size > limit:
        raise ArchiveInvalid(
            f"The manifest {digest} has {size:,} bytes, and at most {limit:,} are accepted."
        )
    content = archive.read(digest, 0, size)
    if not digest.matches(content):
        raise ArchiveInvalid(
            f"The bytes of {digest} in the archive have another digest: the archive is damaged.",
            "Copy it again, or export it again.",
        )
    return content


@contextmanager
def open_archive(source: str) -> Iterator[Archive]:
    """Open the archive that a command names; raises `ArchiveInvalid`."""
    text = source
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    path = Path(text)
    if path.is_dir():
        yield LayoutDirectory(path)
        return
    with TarMembers(path) as members:
        if members.find(INDEX_FILE) is not None and members.find(LAYOUT_FILE) is not None:
            yield LayoutTar(members)
        elif members.find(DOCKER_FILE) is not None:
            yield DockerTar(members)
        else:
            raise ArchiveInvalid(
                f"{path} has neither an {INDEX_FILE} nor a {DOCKER_FILE}: it is no archive of "
                "images.",
                "Make one with: entrepot export, skopeo copy, or docker save.",
            )


class LayoutDirectory:
    """An OCI image layout in a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = self._small(INDEX_FILE, INDEX_LIMIT)
        if content is None:
            raise ArchiveInvalid(
                f"{path} has no {INDEX_FILE}: it is no OCI image layout.",
                "Make one with: entrepot export, or skopeo copy.",
            )
        self.entries = read_index(content, f"{path / INDEX_FILE}")

    def _small(self, name: str, limit: int) -> bytes | None:
        descriptor = self._open(self._path / name)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ArchiveInvalid(f"{self._path / name} has more than {limit:,} bytes.")
        return content

    def _open(self, path: Path) -> int | None:
        """Open a regular file; no link is followed, and no pipe waited for."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = "it is a link" if path.is_symlink() else error.strerror
            raise ArchiveInvalid(f"{path} can't be read: {reason}.") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArchiveInvalid(f"{path} is no regular file.")
        return descriptor

    def _blob(self, digest: Digest) -> Path:
        return self._path / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None where it is not there."""
        descriptor = self._open(self._blob(digest))
        if descriptor is None:
            return None
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """At most *count* bytes of a blob from *offset* on."""
        descriptor = self._open(self._blob(digest))
        if descriptor is None:
            return b""
        try:
            return os.pread(descriptor, count, offset)
        finally:
            os.close(descriptor)


class LayoutTar:
    """An OCI image layout in a tar file."""

    def __init__(self, members: TarMembers) -> None:
        self._members = members
        self.entries = read_index(
            _small(members, INDEX_FILE, INDEX_LIMIT), f"{INDEX_FILE} in {members.path}"
        )

    def _find(self, digest: Digest) -> Member | None:
        return self._members.find(f"blobs/{digest.algorithm}/{digest.hex}")

    def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None where it is not there."""
        member = self._find(digest)
        return None if member is None else member.size

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """At most *count* bytes of a blob from *offset* on."""
        member = self._find(digest)
        return b"" if member is None else self._members.read(member, offset, count)


class _SavedImage(msgspec.Struct):
    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers", default_factory=list)
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class DockerTar:
    """A tar file of ``docker save`` without an OCI layout in it.

    Its images have no manifests: they are made here, of the config and the layers as they are in
    the tar file. So an image has another digest than at its source.
    """

    def __init__(self, members: TarMembers) -> None:
        self._members = members
        self._places: dict[Digest, Member] = {}
        self._manifests: dict[Digest, bytes] = {}
        self._hashed: dict[str, tuple[Digest, Member]] = {}
        self.entries: list[ArchiveEntry] = []
        where = f"{DOCKER_FILE} in {members.path}"
        try:
            images = msgspec.json.decode(
                _small(members, DOCKER_FILE, DOCKER_LIMIT), type=list[_SavedImage]
            )
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise ArchiveInvalid(
                f"{where} can't be read: {printable(str(error), 200).rstrip('.')}."
            ) from error
        if len(images) > IMAGES_LIMIT:
            raise ArchiveInvalid(f"{where} lists more than {IMAGES_LIMIT:,} images.")
        for image in images:
            self._add(image)

    def _add(self, image: _SavedImage) -> None:
        if len(image.layers) > LAYERS_LIMIT:
            raise ArchiveInvalid(f"An image has more than {LAYERS_LIMIT:,} layers.")
        config, member = self._hash(image.config)
        if member.size > CONFIG_LIMIT:
            raise ArchiveInvalid(
                f"The config {printable(image.config, 100)} has more than {CONFIG_LIMIT:,} bytes."
            )
        layers = []
        for name in image.layers:
            digest, layer = self._hash(name)
            layers.append(
                {
                    "mediaType": _layer_type(self._members.read(layer, 0, 4)),
                    "size": layer.size,
                    "digest": str(digest),
                }
            )
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": {
                    "mediaType": DOCKER_CONFIG,
                    "size": member.size,
                    "digest": str(config),
                },
                "layers": layers,
            },
            separators=(",", ":"),
        ).encode()
        digest = Digest.of(manifest)
        self._manifests[digest] = manifest
        for name in image.repo_tags or ():
            self.entries.append(
                ArchiveEntry(digest, len(manifest), DOCKER_MANIFEST, {REF_NAME: name})
            )

    def _hash(self, name: str) -> tuple[Digest, Member]:
        member = self._members.find(name)
        if member is None:
            raise ArchiveInvalid(
                f"{self._members.path} has no {printable(name, 100)}, which its {DOCKER_FILE} "
                "names."
            )
        # By the place: several names may lead to it.
        if member.name not in self._hashed:
            hasher = Digest("sha256", "").hasher()
            offset = 0
            while chunk := self._members.read(member, offset, CHUNK):
                hasher.update(chunk)
                offset += len(chunk)
            digest = Digest("sha256", hasher.hexdigest())
            self._places[digest] = member
            self._hashed[member.name] = digest, member
        return self._hashed[member.name]

    def size(self, digest: Digest) -> int | None:
        """The size of a blob or manifest in bytes; None where it is not there."""
        if digest in self._manifests:
            return len(self._manifests[digest])
        member = self._places.get(digest)
        return None if member is None else member.size

    def read(self, digest: Digest, offset: int, count: int) -> bytes:
        """At most *count* bytes of one from *offset* on."""
        if digest in self._manifests:
            return self._manifests[digest][offset : offset + count]
        member = self._places.get(digest)
        return b"" if member is None else self._members.read(member, offset, count)


def _small(members: TarMembers, name: str, limit: int) -> bytes:
    member = members.find(name)
    if member is None:
        raise ArchiveInvalid(f"{members.path} has no {name}.")
    if member.size > limit:
        raise ArchiveInvalid(f"{name} in {members.path} has more than {limit:,} bytes.")
    return members.read(member, 0, member.size)


def _layer_type(begin: bytes) -> str:
    if begin.startswith(b"\x1f\x8b"):
        return DOCKER_LAYER
    return _ZSTD_LAYER if begin.startswith(b"\x28\xb5\x2f\xfd") else _DOCKER_TAR
