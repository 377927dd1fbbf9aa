"""The members of a tar file, by their place in it. Nothing is ever extracted.

The file may come from anywhere. `tarfile` reads the headers alone, through a file that gives it few
bytes at a time and lets it go only forward: headers that state gigabytes, endless chains of headers
and negative sizes end in `ArchiveInvalid`. Contents are read from the places where the headers say
they are, each within the file.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self, cast

from entrepot.archive.layout import ArchiveInvalid
from entrepot.formatting import printable

HEADER_LIMIT: Final = 256 * 1024
"""Bytes that one header of a member may have: a long name has 4 kB."""

MEMBERS_LIMIT: Final = 200_000
"""Members of a tar file."""

NAME_LIMIT: Final = 1_024
"""Characters of a member's name; longer ones are left out, as no image needs them."""

_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"BZh", "bzip2", "bunzip2"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file within a tar file: *size* bytes from *offset* on.

    *header* is where its header begins.
    """

    name: str
    offset: int
    size: int
    header: int


class _BoundedFile:
    """A file of which no read gives more than `HEADER_LIMIT` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= HEADER_LIMIT:
            raise ArchiveInvalid(
                f"A header in the tar file states {count:,} bytes, and at most {HEADER_LIMIT:,} "
                "are accepted."
            )
        return self._file.read(count)

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


class TarMembers:
    """The regular files and links of a tar file, by their names. Use it as ``with``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        try:
            self._members: dict[str, Member] = {}
            self._links: dict[str, str] = {}
            self._odd: dict[str, str] = {}
            """By name: why a member can't be used."""
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> None:
        for number, header in enumerate(headers(self._file, self.path), start=1):
            if number > MEMBERS_LIMIT:
                raise ArchiveInvalid(f"{self.path} has more than {MEMBERS_LIMIT:,} members.")
            name = normal_name(header.name)
            if name is None or header.isdir():
                continue
            if name in self._members or name in self._links:
                self._odd[name] = "is there twice"
            if header.issparse():
                self._odd[name] = "is a sparse file"
            elif header.isreg():
                self._members[name] = Member(name, header.offset_data, header.size, header.offset)
            elif header.issym() or header.islnk():
                base = posixpath.dirname(name) if header.issym() else ""
                self._links[name] = posixpath.normpath(posixpath.join(base, header.linkname))
            else:
                self._odd[name] = "is a device or another special file"

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def find(self, name: str) -> Member | None:
        """A regular file, or the one that a link points at; raises `ArchiveInvalid`.

        docker links layers that several images have.
        """
        target = self._links.get(name, name)
        for used in (name, target):
            if used in self._odd:
                raise ArchiveInvalid(f"{printable(used, 100)} in {self.path} {self._odd[used]}.")
        if target in self._links:
            raise ArchiveInvalid(f"{printable(name, 100)} in {self.path} is a link to a link.")
        return self._members.get(target)

    def read(self, member: Member, offset: int, count: int) -> bytes:
        """At most *count* bytes of a member from *offset* on."""
        count = min(count, member.size - offset)
        return os.pread(self._file.fileno(), count, member.offset + offset) if count > 0 else b""


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file; raises `ArchiveInvalid` for anything else.

    A pipe would wait for its other end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArchiveInvalid(f"{path} can't be read: {error.strerror}.") from error
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ArchiveInvalid(
            f"{path} is no regular file.", "Give a tar file, or a directory with an OCI layout."
        )
    return file


def headers(file: IO[bytes], path: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar file, in their order; raises `ArchiveInvalid`."""
    size = os.fstat(file.fileno()).st_size
    begin = file.read(8)
    file.seek(0)
    for magic, name, program in _COMPRESSED:
        if begin.startswith(magic):
            raise ArchiveInvalid(
                f"{path} is compressed with {name}.",
                f"Decompress it first: {program} {path.name}",
            )
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", _BoundedFile(file)), mode="r:", errorlevel=0
        ) as tar:
            last = -1
            while (header := tar.next()) is not None:
                if header.size < 0 or header.offset <= last:
                    raise ArchiveInvalid(f"{path} has a member of a negative size.")
                if (
                    header.isreg()
                    and not header.issparse()
                    and header.offset_data + header.size > size
                ):
                    raise ArchiveInvalid(
                        f"{path} ends within {printable(header.name, 100)}: it is incomplete.",
                        "Copy it again.",
                    )
                last = header.offset
                # tarfile collects the members, and the values of global headers.
                tar.members = []  # type: ignore[attr-defined]
                tar.pax_headers = {}
                yield header
    except ArchiveInvalid:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise ArchiveInvalid(
            f"{path} is no tar file, or is damaged: {printable(str(error), 200).rstrip('.')}."
        ) from error
    except OSError as error:
        raise ArchiveInvalid(f"{path} can't be read: {error.strerror or error}.") from error


def normal_name(name: str) -> str | None:
    """A member's name without ``./`` before it; None for one that leads out of the archive."""
    if len(name) > NAME_LIMIT or name.startswith("/"):
        return None
    normal = posixpath.normpath(name)
    return None if normal == ".." or normal.startswith("../") else normal
