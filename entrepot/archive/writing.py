"""Writing archives: an OCI layout in a directory or a tar file, and docker's tar files.

An archive that is being written has a temporary name, or files with temporary names in it. An
export that was interrupted goes on: blobs that are whole stay, and in a directory a part of one
too. Everything is flushed to the disk before it gets its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from entrepot.archive.layout import (
    INDEX_FILE,
    INDEX_LIMIT,
    LAYOUT_CONTENT,
    LAYOUT_FILE,
    ArchiveEntry,
    ArchiveInvalid,
    merged,
    read_index,
    write_index,
)
from entrepot.archive.reading import CHUNK, DOCKER_FILE
from entrepot.archive.tar_members import headers, normal_name
from entrepot.causes import disk_cause
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.files import file_system, sync_directory

PARTS: Final = ".entrepot-parts"
"""The directory within a layout for blobs that are not whole yet."""

_BLOCK: Final = tarfile.BLOCKSIZE


class ArchiveNotWritten(EntrepotError):
    """The disk does not take an archive."""

    code = "ArchiveNotWritten"


class DigestDiffers(Exception):
    """The bytes of a blob that was written have another digest."""


class SavedImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An image in the list that ``docker load`` reads."""

    config: str
    repo_tags: list[str] | None
    layers: list[str]


class BlobWriter(Protocol):
    """A blob on its way into an archive; its first *offset* bytes are there."""

    offset: int

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        ...

    def commit(self) -> None:
        """Give the blob its name; raises `DigestDiffers`, and then nothing of it stays."""
        ...

    def abandon(self) -> None:
        """End before the blob is whole; what can be used again stays."""
        ...


class ArchiveDestination(Protocol):
    """An archive that is being written."""

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is there already."""
        ...

    def begin(self, digest: Digest, size: int) -> BlobWriter:
        """Begin a blob of *size* bytes, or go on with it."""
        ...

    def add(self, entries: list[ArchiveEntry]) -> None:
        """Add images that are whole."""
        ...

    def finish(self) -> None:
        """Complete the archive."""
        ...


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say why the disk does not take *path*."""
    try:
        yield
    except OSError as error:
        directory = path if path.is_dir() else path.parent
        if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.ENOENT}:
            raise ArchiveNotWritten(
                f"{path} can't be written: {error.strerror}.",
                "Name a directory that can be created, or a file in one that exists.",
            ) from error
        cause = disk_cause(error, directory, file_system(directory))
        raise ArchiveNotWritten(
            f"{path} can't be written. {cause.what}",
            "When that is put right, run the same command again: it goes on where it ended.",
        ) from error


class LayoutWriter:
    """Writes an OCI image layout in a directory, which may hold one already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(self._lock, path)
            self._entries = self._read_entries()
            others = [name for name in os.listdir(path) if name != PARTS]
            if others and not (path / LAYOUT_FILE).exists() and not (path / INDEX_FILE).exists():
                raise ArchiveInvalid(
                    f"{path} is not empty, and is no OCI image layout.",
                    "Name another directory.",
                )
            _replace(path / LAYOUT_FILE, LAYOUT_CONTENT)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other exports write here."""
        os.close(self._lock)

    def _read_entries(self) -> list[ArchiveEntry]:
        index = self.path / INDEX_FILE
        try:
            with index.open("rb") as file:
                content = file.read(INDEX_LIMIT + 1)
        except FileNotFoundError:
            return []
        if len(content) > INDEX_LIMIT:
            raise ArchiveInvalid(f"{index} has more than {INDEX_LIMIT:,} bytes.")
        return read_index(content, str(index))

    def _blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is there with its size."""
        try:
            return self._blob(digest).stat().st_size == size
        except OSError:
            return False

    def begin(self, digest: Digest, size: int) -> BlobWriter:
        """Begin a blob of *size* bytes, or go on with it."""
        parts = self.path / PARTS
        parts.mkdir(exist_ok=True)
        path = self._blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _FileWriter(parts / f"{digest.algorithm}-{digest.hex}", path, digest, size)

    def add(self, entries: list[ArchiveEntry]) -> None:
        """Add images that are whole to ``index.json``."""
        self._entries = merged(self._entries, entries)
        content = write_index(self._entries)
        if len(content) > INDEX_LIMIT:
            raise ArchiveInvalid(
                f"{self.path / INDEX_FILE} would have more than {INDEX_LIMIT:,} bytes.",
                "Export into several directories.",
            )
        _replace(self.path / INDEX_FILE, content)

    def finish(self) -> None:
        """Write an index without images where none was added, and remove empty directories."""
        self.add([])
        # Parts of blobs that belong to an image which failed stay for the next export.
        with suppress(OSError):
            (self.path / PARTS).rmdir()


class _FileWriter:
    """A blob in a file of its own."""

    def __init__(self, part: Path, path: Path, digest: Digest, size: int) -> None:
        self._part, self._path, self._digest = part, path, digest
        self._hasher = digest.hasher()
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self.offset = 0
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, 0)
        # A part is hashed again: a crash may have left anything in it.
        while chunk := self._file.read(CHUNK):
            self._hasher.update(chunk)
            self.offset += len(chunk)

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        self._hasher.update(chunk)
        self.offset += len(chunk)
        _write_all(self._file, chunk)

    def commit(self) -> None:
        """Give the blob its name."""
        with self._file:
            if self._hasher.hexdigest() != self._digest.hex:
                os.unlink(self._part)
                raise DigestDiffers
            os.fsync(self._file.fileno())
        os.rename(self._part, self._path)
        sync_directory(self._path.parent)

    def abandon(self) -> None:
        """Keep the part."""
        self._file.close()


class TarWriter:
    """Writes an OCI image layout in a tar file, with docker's list of images where there is one.

    Until it is complete its name ends in ``.part``.
    """

    def __init__(self, path: Path, *, for_docker: bool = False) -> None:
        self.path = path
        self.for_docker = for_docker
        """Whether it has the list of images that ``docker load`` reads."""
        self._saved: list[SavedImage] = []
        self._names: dict[str, dict[str, str]] = {}
        self._entries: list[ArchiveEntry] = []
        self._blobs: dict[str, int] = {}
        if path.exists():
            raise ArchiveInvalid(
                f"{path} exists already.", "Remove it, or name another file or a directory."
            )
        self._part = path.with_name(f"{path.name}.part")
        descriptor = os.open(
            self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            _lock(descriptor, path)
            self._end = self._usable_end()
            # It cuts what is behind, or adds the padding of the last one.
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; what is in it stays for the next export."""
        with self._file:
            if self._end == 0:
                with suppress(OSError):
                    os.unlink(self._part)

    def _usable_end(self) -> int:
        """Where the blobs that an earlier export wrote whole end."""
        end = 0
        with suppress(ArchiveInvalid):
            for header in headers(self._file, self._part):
                name = normal_name(header.name) or ""
                _, _, rest = name.partition("blobs/")
                algorithm, _, value = rest.partition("/")
                if header.offset != end or not header.isreg() or algorithm not in _ALGORITHMS:
                    break
                digest = Digest(algorithm, value)
                hasher = digest.hasher()
                offset, last = header.offset_data, header.offset_data + header.size
                while offset < last:
                    chunk = os.pread(self._file.fileno(), min(CHUNK, last - offset), offset)
                    if not chunk:
                        break
                    hasher.update(chunk)
                    offset += len(chunk)
                if hasher.hexdigest() != value:
                    break
                self._blobs[name] = header.size
                end = _padded(last)
        return end

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is in the file."""
        return self._blobs.get(blob_name(digest)) == size

    def begin(self, digest: Digest, size: int) -> BlobWriter:
        """Begin a blob of *size* bytes."""
        return _MemberWriter(self, digest, size)

    def append(self, content: bytes) -> None:
        """Write bytes at the end."""
        os.lseek(self._file.fileno(), self._end, os.SEEK_SET)
        _write_all(self._file, content)
        self._end += len(content)

    @property
    def end(self) -> int:
        """Where the next byte goes."""
        return self._end

    def cut(self, end: int) -> None:
        """Remove what is behind a place."""
        self._file.truncate(end)
        self._end = end

    def committed(self, digest: Digest, size: int) -> None:
        """Record a blob that is whole."""
        self._blobs[blob_name(digest)] = size

    def add(self, entries: list[ArchiveEntry]) -> None:
        """Add images that are whole."""
        self._entries = merged(self._entries, entries)

    def add_for_docker(self, image: SavedImage) -> None:
        """Add an image to the list that ``docker load`` reads."""
        for other in self._saved:
            if other.config == image.config and other.layers == image.layers:
                tags = [*(other.repo_tags or ()), *(image.repo_tags or ())]
                self._saved.remove(other)
                image = SavedImage(image.config, list(dict.fromkeys(tags)), image.layers)
                break
        self._saved.append(image)
        top = (image.layers or [image.config])[-1].rpartition("/")[2]
        for name in image.repo_tags or ():
            repository, _, tag = name.rpartition(":")
            self._names.setdefault(repository, {})[tag] = top

    def finish(self) -> None:
        """Write the index, and give the file its name."""
        content = write_index(self._entries)
        self._member(LAYOUT_FILE, LAYOUT_CONTENT)
        self._member(INDEX_FILE, content)
        if self.for_docker:
            self._member(DOCKER_FILE, msgspec.json.encode(self._saved))
            self._member("repositories", msgspec.json.encode(self._names))
        self.append(bytes(2 * _BLOCK))
        os.fsync(self._file.fileno())
        os.rename(self._part, self.path)
        with suppress(OSError):
            sync_directory(self.path.parent)

    def _member(self, name: str, content: bytes) -> None:
        self.append(tar_header(name, len(content)) + content + _padding(len(content)))


class _MemberWriter:
    """A blob in a tar file."""

    def __init__(self, tar: TarWriter, digest: Digest, size: int) -> None:
        self._tar, self._digest, self._size = tar, digest, size
        self._begin = tar.end
        self._hasher = digest.hasher()
        self.offset = 0
        tar.append(tar_header(blob_name(digest), size))

    def write(self, chunk: bytes) -> None:
        """Write the next bytes."""
        self._hasher.update(chunk)
        self.offset += len(chunk)
        self._tar.append(chunk)

    def commit(self) -> None:
        """Complete the member."""
        if self._hasher.hexdigest() != self._digest.hex or self.offset != self._size:
            self.abandon()
            raise DigestDiffers
        self._tar.append(_padding(self._size))
        self._tar.committed(self._digest, self._size)

    def abandon(self) -> None:
        """Remove the member."""
        self._tar.cut(self._begin)


_ALGORITHMS: Final = frozenset({"sha256", "sha512"})


def blob_name(digest: Digest) -> str:
    """The name of a blob in an OCI image layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def tar_header(name: str, size: int) -> bytes:
    """The header of a regular file of *size* bytes."""
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o644
    # GNU's format has sizes beyond 8 GiB in the header itself, and all programs read it.
    return header.tobuf(tarfile.GNU_FORMAT)


def _padded(end: int) -> int:
    return -(-end // _BLOCK) * _BLOCK


def _padding(size: int) -> bytes:
    return bytes(_padded(size) - size)


def _write_all(file: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step that a crash can't halve."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with suppress(OSError):
        sync_directory(path.parent)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArchiveInvalid(
            f"Another export writes to {path}.", "Wait until it ends, or name another target."
        ) from None
