"""A walk through the files of all cached blobs, one slice of them after the other.

Blobs are in one directory for each algorithm and each first two digits of their digests. A walk
goes through these directories in the order of the digests, so that the files of a slice can be
compared with one range of rows in the catalog. Only the names of one slice are in memory.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from entrepot.core.reference import Digest
from entrepot.errors import DigestInvalid
from entrepot.formatting import counted, printable

ALGORITHMS = ("sha256", "sha512")
"""The algorithms of cached blobs, in the order of their digests."""

DIRECTORIES = tuple(
    (algorithm, f"{prefix:02x}") for algorithm in ALGORITHMS for prefix in range(256)
)
"""The directories of a walk in its order: algorithm, and the first two digits."""

BLOBS_PER_SLICE = 1_000
"""Rows or files of a slice, about: digests are spread evenly over the directories."""

MAX_FOREIGN_EXAMPLES = 3
"""Foreign names in the blob directory that a message shows."""

PREFIX = re.compile(r"[0-9a-f]{2}")
"""The name of a directory of blobs."""


@dataclass(frozen=True, slots=True)
class ForeignNames:
    """Entries of the blob directory that are no blobs.

    ``lost+found``, ``.DS_Store``, ``.nfs…``, or a directory that can't be listed.
    """

    count: int = 0
    examples: tuple[str, ...] = ()
    """At most `MAX_FOREIGN_EXAMPLES`, printable."""

    def __str__(self) -> str:
        more = (
            f" and {counted(self.count - len(self.examples), 'more', 'more')}"
            if self.count > len(self.examples)
            else ""
        )
        return f"{', '.join(self.examples)}{more}"


@dataclass(frozen=True, slots=True)
class BlobSlice:
    """The files of all blobs from *first* (inclusive) to *end* (exclusive), by digest as text."""

    first: str
    end: str
    sizes: dict[str, int]
    """Bytes of each file, by its digest."""


class BlobWalk:
    """One walk below *root*. *rows* is about the number of blobs that the catalog has."""

    def __init__(self, root: Path, *, rows: int = 0) -> None:
        self.directories_walked = 0
        """How many of `DIRECTORIES` the walk is through with."""
        self._root = str(root)
        # A small catalog is one slice.
        self._directories_per_slice = max(
            1, len(DIRECTORIES) * BLOBS_PER_SLICE // max(rows, BLOBS_PER_SLICE)
        )
        self._existing: frozenset[tuple[str, str]] | None = None
        self._foreign_count = 0
        self._foreign_examples: list[str] = []

    @property
    def foreign(self) -> ForeignNames:
        """What the walk met so far that is no blob."""
        return ForeignNames(self._foreign_count, tuple(self._foreign_examples))

    async def next_slice(self) -> BlobSlice | None:
        """The next slice, listed in a thread; None at the end.

        A file that can't be listed is in no slice: only its own status tells whether it exists.
        """
        if self.directories_walked == len(DIRECTORIES):
            return None
        return await asyncio.to_thread(self._list_next)

    def _list_next(self) -> BlobSlice:
        if self._existing is None:
            self._existing = frozenset(self._list_directories())
        start = self.directories_walked
        last = min(start + self._directories_per_slice, len(DIRECTORIES)) - 1
        sizes: dict[str, int] = {}
        for position in range(start, last + 1):
            directory = DIRECTORIES[position]
            if directory in self._existing:
                sizes.update(self._list_blobs(*directory))
            if len(sizes) >= BLOBS_PER_SLICE:
                last = position
                break
        self.directories_walked = last + 1
        # No hexadecimal digit comes behind "g".
        return BlobSlice(":".join(DIRECTORIES[start]), ":".join(DIRECTORIES[last]) + "g", sizes)

    def _list_directories(self) -> Iterator[tuple[str, str]]:
        for algorithm in self._scan(self._root):
            if algorithm.name not in ALGORITHMS:
                self._skip(algorithm.path)
                continue
            for directory in self._scan(algorithm.path):
                if PREFIX.fullmatch(directory.name):
                    yield algorithm.name, directory.name
                else:
                    self._skip(directory.path)

    def _list_blobs(self, algorithm: str, prefix: str) -> Iterator[tuple[str, int]]:
        for entry in self._scan(os.path.join(self._root, algorithm, prefix)):
            digest = f"{algorithm}:{entry.name}"
            try:
                Digest.parse(digest)
                status = entry.stat()
            except (DigestInvalid, OSError):
                self._skip(entry.path)
                continue
            if entry.name.startswith(prefix) and stat.S_ISREG(status.st_mode):
                yield digest, status.st_size
            else:
                self._skip(entry.path)

    def _scan(self, directory: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                yield from entries
        except OSError:
            # A file in the place of a directory, or a directory that can't be listed.
            self._skip(directory)

    def _skip(self, path: str) -> None:
        self._foreign_count += 1
        if len(self._foreign_examples) < MAX_FOREIGN_EXAMPLES:
            self._foreign_examples.append(printable(os.path.relpath(path, self._root), 80))
