"""Cached repositories: their names, a page of them, one of them, and their use.

Each method is one query that follows an index to the rows that it returns; none reads all rows
unless its caller asks for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, func, select

from entrepot.core.patterns import NameRange
from entrepot.core.reference import Repository
from entrepot.store import schema
from entrepot.store.database import CatalogDatabase
from entrepot.store.lookups import read_source
from entrepot.store.records import CachedRepository, UsageTotals

_column = schema.repositories.c


class RepositoryListings(CatalogDatabase):
    """The queries of a catalog about its repositories."""

    async def is_cached(self, repository: Repository) -> bool:
        """Whether anything of the repository is cached."""
        return await self.source_of(repository) is not None

    async def source_of(self, repository: Repository) -> str | None:
        """The source of a repository, with its login server; None when not cached."""
        return await self._read(lambda connection: read_source(connection, repository))

    async def repositories_count(self) -> int:
        """How many repositories are cached."""
        query = select(func.count()).select_from(schema.repositories)
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    async def repository_names(
        self, *, after: str | None = None, limit: int | None = None
    ) -> list[Repository]:
        """The names of cached repositories in order, at most *limit* of them.

        With *after*, only the names behind that one.
        """
        query = select(_column.name).order_by(_column.name).limit(limit)
        if after is not None:
            query = query.where(_column.name > after)
        return await self._read(
            lambda connection: [Repository(name) for name in connection.execute(query).scalars()],
            long=limit is None,
        )

    async def names_within(self, ranges: Sequence[NameRange], limit: int) -> tuple[list[str], int]:
        """The first *limit* names within some ranges, and how many names are within them."""
        return await self._read(
            lambda connection: _read_names_within(connection, ranges, limit), long=True
        )

    async def first_sources(
        self, ranges: Sequence[NameRange], limit: int
    ) -> list[list[tuple[Repository, str]]]:
        """For each range of names its first *limit* cached repositories, with their sources."""

        def read(connection: Connection) -> list[list[tuple[Repository, str]]]:
            return [
                [
                    (Repository(row.name), row.source)
                    for row in connection.execute(
                        _SOURCES, {**name_range._asdict(), "limit": limit}
                    )
                ]
                for name_range in ranges
            ]

        return await self._read(read, long=True)

    def find_within(self, names: NameRange, limit: int) -> tuple[list[str], int]:
        """The same of one range, for a thread: blocks it, so never call it on the event loop.

        For `entrepot.core.patterns.RepositoryLookup`. Raises `CatalogFailed`.
        """
        return self._read_blocking(
            lambda connection: _read_names_within(connection, [names], limit)
        )

    async def repositories(
        self,
        name: Repository | None = None,
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[CachedRepository]:
        """Cached repositories by name: the one named, or at most *limit* behind *after*."""
        query = select(*(_column[field] for field in CachedRepository.__struct_fields__))
        if name is not None:
            query = query.where(_column.name == name)
        if after is not None:
            query = query.where(_column.name > after)
        query = query.order_by(_column.name).limit(limit)
        return await self._read(
            lambda connection: [CachedRepository(*row) for row in connection.execute(query)],
            long=name is None and limit is None,
        )

    async def repository_with_change(
        self, name: Repository
    ) -> tuple[CachedRepository, float] | None:
        """A cached repository, and when one of its tags last moved; None when not cached.

        The time is in seconds since the epoch; without tags it is that of the creation.
        """
        tags = schema.tags.c
        last_moved = select(func.max(tags.cached)).where(tags.repository == name)
        moved = func.coalesce(last_moved.scalar_subquery(), _column.created)
        fields = [_column[field] for field in CachedRepository.__struct_fields__]
        query = select(*fields, moved).where(_column.name == name)

        def read(connection: Connection) -> tuple[CachedRepository, float] | None:
            row = connection.execute(query).one_or_none()
            return (CachedRepository(*row[:-1]), row[-1]) if row is not None else None

        return await self._read(read)

    async def aggregate_usage(
        self, ranges: Mapping[str, Sequence[NameRange]]
    ) -> dict[str, UsageTotals]:
        """The use of the repositories within some ranges of names, by the key of the ranges.

        A range is added up from an index that has all that is added. SQLite takes 13 ms of
        processor time for 100,000 repositories, without Python's lock. Counters for each rule would
        be exact only if each pull, eviction and change of a rule moved them too: the ranges of a
        rule change with its neighbours.
        """

        def read(connection: Connection) -> dict[str, UsageTotals]:
            return {
                key: UsageTotals.total(
                    UsageTotals(*connection.execute(_USAGE, name_range._asdict()).one())
                    for name_range in name_ranges
                )
                for key, name_ranges in ranges.items()
            }

        return await self._read(read, long=True)


_WITHIN = (_column.name >= bindparam("first"), _column.name < bindparam("before"))
_NAMES = select(_column.name).where(*_WITHIN).order_by(_column.name).limit(bindparam("limit"))
_SOURCES = (
    select(_column.name, _column.source)
    .where(*_WITHIN)
    .order_by(_column.name)
    .limit(bindparam("limit"))
)
_COUNT = select(func.count()).select_from(schema.repositories).where(*_WITHIN)
_USAGE = select(
    func.count(),
    func.coalesce(func.sum(_column.size), 0),
    func.coalesce(func.sum(_column.pulls), 0),
    func.max(_column.last_pull),
).where(*_WITHIN)


def _read_names_within(
    connection: Connection, ranges: Sequence[NameRange], limit: int
) -> tuple[list[str], int]:
    names: list[str] = []
    count = 0
    for name_range in ranges:
        bounds = name_range._asdict()
        missing = limit - len(names)
        page = list(connection.execute(_NAMES, bounds | {"limit": missing}).scalars())
        names += page
        count += (
            len(page)
            if len(page) < missing
            else int(connection.execute(_COUNT, bounds).scalar_one())
        )
    return names, count
