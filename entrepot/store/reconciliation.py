"""Reconciliation of the catalog's blobs with the files of the blob store.

It goes slice by slice (`entrepot.store.blob_walk`): the files of a slice are compared with the
range of their rows, and what differs is resolved in short transactions. So the memory is that of
one slice, other writes get their turn, and an engine that is killed in between has done a part of
the work, which the next one does again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest
from entrepot.store import counters, schema
from entrepot.store.blob_walk import BlobSlice

StatSize = Callable[[Digest], int | None]
"""The size of a blob's file, None where there is none; raises OSError where that is unknown."""

RemoveDamaged = Callable[[Digest, int], bool]
"""Removes the file of a blob unless it has this size; returns whether the file is gone.

Called in a thread."""


@dataclass(frozen=True, slots=True)
class BlobDifferences:
    """Where the rows of blobs and a walk through the files differ; digests are text."""

    without_file: Sequence[str] = ()
    without_row: Sequence[str] = ()
    other_size: Sequence[tuple[str, int]] = ()
    """Digest, and the size of the row."""

    def parts(self) -> Iterator[BlobDifferences]:
        """The same in parts of at most `entrepot.store.schema.CHUNK_SIZE` blobs."""
        for chunk in schema.chunks(self.without_file):
            yield BlobDifferences(without_file=chunk)
        for chunk in schema.chunks(self.without_row):
            yield BlobDifferences(without_row=chunk)
        for sizes in schema.chunks(self.other_size):
            yield BlobDifferences(other_size=sizes)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciliation changed, as numbers of blobs."""

    adopted: int = 0
    """Files that got a row."""
    dropped: int = 0
    """Rows without a file, which are deleted."""
    damaged: int = 0
    """Rows that are deleted with a file of another size."""

    def __add__(self, other: Reconciled) -> Reconciled:
        return Reconciled(
            self.adopted + other.adopted,
            self.dropped + other.dropped,
            self.damaged + other.damaged,
        )

    def __bool__(self) -> bool:
        return self != Reconciled()


def read_differences(connection: Connection, blobs: BlobSlice) -> BlobDifferences:
    """Compare the rows and the files of a slice. Runs in a thread."""
    file_sizes = dict(blobs.sizes)
    column = schema.blobs.c
    rows = connection.execute(
        select(column.digest, column.size)
        .where(column.digest >= blobs.first, column.digest < blobs.end)
        .order_by(column.digest)
    )
    without_file: list[str] = []
    other_size: list[tuple[str, int]] = []
    for digest, recorded_size in rows:
        size = file_sizes.pop(digest, None)
        if size is None:
            without_file.append(digest)
        elif size != recorded_size:
            other_size.append((digest, recorded_size))
    return BlobDifferences(without_file, list(file_sizes), other_size)


async def resolve_differences(
    connection: AsyncConnection,
    differences: BlobDifferences,
    *,
    now: float,
    stat_size: StatSize,
    remove_damaged: RemoveDamaged,
) -> Reconciled:
    """Adopt files without a row and delete rows without a file, within one transaction.

    Blobs come and go after the walk, so *stat_size* is asked again, in a thread and within the
    transaction; a blob for which it raises stays as it is. *remove_damaged* gets each blob whose
    file has another size than its row, with the size of the row; where it removes the file, the row
    is deleted too.
    """
    sizes = await asyncio.to_thread(
        _stat_sizes, stat_size, [*differences.without_file, *differences.without_row]
    )
    missing = [digest for digest in differences.without_file if sizes.get(digest, 0) is None]
    present = {
        digest: size
        for digest in differences.without_row
        if (size := sizes.get(digest)) is not None
    }
    damaged = await asyncio.to_thread(_remove_damaged, remove_damaged, differences.other_size)
    for chunk in schema.chunks([*missing, *damaged]):
        await connection.execute(delete(schema.blobs).where(schema.blobs.c.digest.in_(chunk)))
    adopted = await _adopt(connection, present, now) if present else []
    changed = {*missing, *adopted, *damaged}
    if changed:
        await counters.recount_with_blobs(connection, changed)
    return Reconciled(len(adopted), len(missing), len(damaged))


async def _adopt(connection: AsyncConnection, sizes: Mapping[str, int], now: float) -> list[str]:
    """Insert a row for each of some files that has none yet; returns their digests."""
    digests = list(sizes)
    recorded = set(
        (
            await connection.execute(
                select(schema.blobs.c.digest).where(schema.blobs.c.digest.in_(digests))
            )
        ).scalars()
    )
    rows = [
        {"digest": digest, "size": size, "cached": now, "last_used": now, "adopted": now}
        for digest, size in sizes.items()
        if digest not in recorded
    ]
    if not rows:
        return []
    await connection.execute(insert(schema.blobs), rows)
    adopted = [str(row["digest"]) for row in rows]
    needed = exists(
        select(schema.references.c.digest).where(
            schema.references.c.digest == schema.blobs.c.digest
        )
    )
    await connection.execute(
        update(schema.blobs).where(schema.blobs.c.digest.in_(adopted), needed).values(adopted=None)
    )
    # An engine that was killed between the file and its row: the origin is known only where one
    # source alone can have given the blob.
    await connection.execute(schema.origins_by_repository(adopted, only_if_single=True))
    return adopted


def _stat_sizes(stat_size: StatSize, digests: Iterable[str]) -> dict[str, int | None]:
    """The size of each file, None where there is none; unknown sizes are left out.

    Runs in a thread.
    """
    sizes: dict[str, int | None] = {}
    for digest in digests:
        with suppress(OSError):
            sizes[digest] = stat_size(Digest.parse(digest))
    return sizes


def _remove_damaged(remove_damaged: RemoveDamaged, blobs: Iterable[tuple[str, int]]) -> list[str]:
    """The blobs whose damaged files are gone. Runs in a thread."""
    return [
        digest
        for digest, recorded_size in blobs
        if remove_damaged(Digest.parse(digest), recorded_size)
    ]
