"""Conversions between rows and records, and shared statements.

Several modules of the store use the statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import schema
from entrepot.store.manifests import Manifest
from entrepot.store.records import TagEntry

UNKNOWN_SIZE = -1
"""The size of a reference whose manifest states none: the column takes no NULL."""


def stated_size(row_size: int) -> int | None:
    """The size of a reference's row in bytes; None where its manifest states none."""
    return row_size if row_size >= 0 else None


def reference_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """A row of ``manifest_references`` for each reference of a manifest, in their order."""
    digest = str(manifest.digest)
    return [
        {
            "manifest": digest,
            "position": position,
            "digest": str(reference.digest),
            "kind": reference.kind,
            "media_type": reference.media_type,
            "size": UNKNOWN_SIZE if reference.size is None else reference.size,
            "platform": reference.platform,
            "optional": reference.optional,
        }
        for position, reference in enumerate(manifest.references)
    ]


def tag_entry(row: Any) -> TagEntry:
    """The record of a row of ``tags``."""
    return TagEntry(
        digest=Digest.parse(row.digest), cached=row.cached, checked=row.checked, gone=row.gone
    )


def is_link(repository: Repository, digest: Digest) -> ColumnElement[bool]:
    """The condition for the row that links a manifest to a repository."""
    return (schema.repository_manifests.c.repository == repository) & (
        schema.repository_manifests.c.digest == str(digest)
    )


async def insert_missing(
    connection: AsyncConnection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> bool:
    """Insert a row unless one with its *key* exists; returns whether it was inserted.

    Writes wait for each other, so no other write comes in between.
    """
    matches_key = [table.c[name] == value for name, value in key.items()]
    if (await connection.execute(select(1).select_from(table).where(*matches_key))).first():
        return False
    await connection.execute(insert(table).values(**key, **values))
    return True


async def fetch_all(connection: AsyncConnection, query: Any) -> list[Any]:
    """Fetch all rows of a long result, a thousand at a time.

    Other tasks run in between.
    """
    rows: list[Any] = []
    async for partition in (await connection.stream(query)).partitions(1000):
        rows.extend(partition)
    return rows
