"""The last lists of referrers that sources sent, stored beside the manifests that they are about.

A signature is found by a list alone: with the source gone, a client that gets no list takes the
image for unsigned. A list goes with its manifest, however that is removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import schema
from entrepot.store.database import CatalogDatabase
from entrepot.store.rows import is_link

LARGEST_LIST = 2**20
"""Bytes of a list that is stored: some 2,500 referrers. A longer one is in memory only."""

LISTS = 50_000
"""Lists that are stored, those fetched last."""

LISTS_BYTES = 64 * 2**20
"""Bytes of all stored lists together."""

LISTS_BETWEEN_TRIMS = 500
"""Lists that are written until their number and bytes are checked again."""

BYTES_BETWEEN_TRIMS = 4 * 2**20
"""Bytes of lists that are written until their number and bytes are checked again."""

ARTIFACT_TYPE_LENGTH = 255
"""Characters of an artifact type whose list is stored; media types have no more (RFC 6838)."""

CONFIRMED_AGAIN = 3600.0
"""Seconds after which an unchanged list is written again with its new time."""

_lists = schema.referrer_lists.c


@dataclass(frozen=True, slots=True)
class StoredReferrers:
    """The index of a manifest's referrers, as a source sent it.

    *artifact_type* is that of the request, None for all referrers. *fetched* is in seconds since
    the epoch.
    """

    source: str
    artifact_type: str | None
    content: bytes
    fetched: float


class ReferrerLists(CatalogDatabase):
    """The queries of a catalog about referrers."""

    _lists_until_trim = 0
    _bytes_until_trim = 0

    async def referrers(self, repository: Repository, subject: Digest) -> list[StoredReferrers]:
        """The stored lists of a manifest's referrers, the oldest first."""
        query = (
            select(schema.referrer_lists)
            .where(_lists.repository == repository, _lists.subject == str(subject))
            .order_by(_lists.fetched)
        )
        return await self._read(
            lambda connection: [_stored(row) for row in connection.execute(query)]
        )

    async def store_referrers(
        self, repository: Repository, subject: Digest, referrers: StoredReferrers
    ) -> bool:
        """Store a list in place of the last one of its kind.

        False when its manifest is not cached in the repository, so that nothing was stored. A list
        beyond `LARGEST_LIST` only removes the last one, which is no longer right.
        """
        artifact_type = referrers.artifact_type or ""
        key = {
            "repository": repository,
            "subject": str(subject),
            "artifact_type": artifact_type[:ARTIFACT_TYPE_LENGTH],
        }
        is_list = (
            (_lists.repository == repository)
            & (_lists.subject == str(subject))
            & (_lists.artifact_type == key["artifact_type"])
        )
        size = len(referrers.content)
        is_stored = size <= LARGEST_LIST and len(artifact_type) <= ARTIFACT_TYPE_LENGTH
        async with self._write() as connection:
            is_cached = select(1).where(is_link(repository, subject))
            if (await connection.execute(is_cached)).first() is None:
                return False
            before = (
                await connection.execute(
                    select(_lists.source, _lists.fetched, _lists.content).where(is_list)
                )
            ).one_or_none()
            if (
                before is not None
                and (before.source, before.content) == (referrers.source, referrers.content)
                and 0 <= referrers.fetched - before.fetched < CONFIRMED_AGAIN
            ):
                return True
            values = {
                "source": referrers.source,
                "fetched": referrers.fetched,
                "size": size,
                "content": referrers.content,
            }
            if not is_stored:
                await connection.execute(delete(schema.referrer_lists).where(is_list))
            elif before is not None:
                await connection.execute(
                    update(schema.referrer_lists).where(is_list).values(**values)
                )
            else:
                await connection.execute(insert(schema.referrer_lists).values(**key, **values))
            await self._trim(connection, size if is_stored else 0)
        return True

    async def _trim(self, connection: AsyncConnection, written: int) -> None:
        """Remove the oldest lists beyond `LISTS` and `LISTS_BYTES`, from time to time.

        The first write after a start checks them.
        """
        self._lists_until_trim -= 1
        self._bytes_until_trim -= written
        if self._lists_until_trim > 0 and self._bytes_until_trim > 0:
            return
        await connection.run_sync(_remove_oldest, LISTS, LISTS_BYTES)
        self._lists_until_trim = LISTS_BETWEEN_TRIMS
        self._bytes_until_trim = BYTES_BETWEEN_TRIMS


def _stored(row: Any) -> StoredReferrers:
    return StoredReferrers(row.source, row.artifact_type or None, row.content, row.fetched)


def _remove_oldest(connection: Connection, limit: int, limit_bytes: int) -> None:
    count, total = connection.execute(
        select(func.count(), func.coalesce(func.sum(_lists.size), 0))
    ).one()
    if count <= limit and total <= limit_bytes:
        return
    rowid: ColumnElement[int] = literal_column("rowid")
    removed = []
    oldest = select(rowid, _lists.size).order_by(_lists.fetched)
    for row in connection.execute(oldest):
        if count <= limit and total <= limit_bytes:
            break
        removed.append(row[0])
        count, total = count - 1, total - row.size
    for chunk in schema.chunks(removed):
        connection.execute(delete(schema.referrer_lists).where(rowid.in_(chunk)))
