"""Reconciliation of the catalog's blobs with the files of the blob store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest
from entrepot.store import counters, schema

StatSize = Callable[[Digest], int | None]
"""The size of a blob's file, None where there is none; raises OSError where that is unknown."""

RemoveDamaged = Callable[[Digest, int], bool]
"""Removes the file of a blob unless it has this size; returns whether the file is gone."""


@dataclass(frozen=True, slots=True)
class BlobDifferences:
    """Where the rows of blobs and a walk through the files differ; digests are text."""

    without_file: list[str]
    without_row: list[str]
    other_size: list[tuple[str, int]]
    """Digest, and the size of the row."""

    def __bool__(self) -> bool:
        return bool(self.without_file or self.without_row or self.other_size)


def read_differences(connection: Connection, file_sizes: Mapping[Digest, int]) -> BlobDifferences:
    """Compare all rows with all files.

    Runs in a thread: there may be some hundred thousand.
    """
    on_disk = {str(digest): size for digest, size in file_sizes.items()}
    without_file: list[str] = []
    other_size: list[tuple[str, int]] = []
    for digest, recorded_size in connection.execute(
        select(schema.blobs.c.digest, schema.blobs.c.size)
    ):
        size = on_disk.pop(digest, None)
        if size is None:
            without_file.append(digest)
        elif size != recorded_size:
            other_size.append((digest, recorded_size))
    return BlobDifferences(without_file, list(on_disk), other_size)


async def resolve_differences(
    connection: AsyncConnection,
    differences: BlobDifferences,
    *,
    now: float,
    stat_size: StatSize,
    remove_damaged: RemoveDamaged,
) -> tuple[int, int]:
    """Adopt files without a row and delete rows without a file; returns both counts.

    Blobs come and go after the walk, so *stat_size* is asked again, in a thread and within the
    transaction; a blob for which it raises stays as it is. *remove_damaged* gets each blob whose
    file has another size than its row, with the size of the row; where it removes the file, the row
    is deleted too, and not counted.
    """
    adopted: list[str] = []
    dropped: list[str] = []
    for chunk in schema.chunks(differences.without_file):
        sizes = await asyncio.to_thread(_stat_sizes, stat_size, chunk)
        missing = [digest for digest in chunk if sizes.get(digest, 0) is None]
        dropped += missing
        if missing:
            await connection.execute(delete(schema.blobs).where(schema.blobs.c.digest.in_(missing)))
    for chunk in schema.chunks(differences.without_row):
        sizes = await asyncio.to_thread(_stat_sizes, stat_size, chunk)
        present = {digest: size for digest, size in sizes.items() if size is not None}
        adopted += await _adopt(connection, present, now)
    damaged = [
        digest
        for digest, recorded_size in differences.other_size
        if remove_damaged(Digest.parse(digest), recorded_size)
    ]
    for chunk in schema.chunks(damaged):
        await connection.execute(delete(schema.blobs).where(schema.blobs.c.digest.in_(chunk)))
    changed = {*dropped, *adopted, *damaged}
    if changed:
        await counters.recount_with_blobs(connection, changed)
    return len(adopted), len(dropped)


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
