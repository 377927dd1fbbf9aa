"""Reading the inventory of the cache from the catalog: all of it, or that of some manifests."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, MutableSequence
from functools import partial
from itertools import count, repeat
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.inventory import Inventory, InventoryManifest, Key, digest_of_row
from entrepot.store.listed import keys_of, listed_digest, listed_keys, listed_repository
from entrepot.store.manifests import ReferenceKind

ROWS_AT_ONCE = 500
"""Rows that are fetched from the database at a time."""

MAX_SPARSITY = 8
"""Row numbers per row up to which an array has a place for each of them; beyond it, rows are
searched for."""

ABSENT = -1
"""The number of a row without one."""

_links = schema.repository_manifests.c
_refers = schema.references.c


def read_inventory(connection: Connection) -> Inventory:
    """All cached manifests and blobs.

    Nothing is looked up by a digest for each row: each query walks along one or two indexes in
    their order, and gives row numbers, which arrays turn into the numbers of the inventory. That
    takes half as long, and no dictionary of a hundred thousand digests.
    """
    inventory = Inventory()
    blobs = _read_blobs(connection, inventory)
    contents = _read_contents(connection, inventory)
    has_indexes = _read_references(connection, inventory, contents, blobs)
    links = _read_links(connection, inventory, contents)
    if has_indexes:
        _read_children(connection, inventory, contents, links)
    return inventory


def _columns(connection: Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """The columns of the next rows of a long result, as the driver gives them.

    There may be a million rows: an object of SQLAlchemy for each would take twice as long.
    """
    cursor: Any = connection.exec_driver_sql(query).cursor
    cursor.arraysize = ROWS_AT_ONCE
    return (tuple(zip(*rows, strict=True)) for rows in iter(cursor.fetchmany, []))


class _RowNumbers:
    """Numbers of the rows of a table, by their row numbers.

    Row numbers are those of one transaction only.
    """

    def __init__(self, connection: Connection, table: Table) -> None:
        [[first, last, count]] = connection.exec_driver_sql(
            f"SELECT (SELECT min(rowid) FROM {table.name}), (SELECT max(rowid) FROM {table.name}), "
            f"(SELECT count(*) FROM {table.name})"
        )
        self._place: Callable[[int], int]
        if not count or last - first >= MAX_SPARSITY * count:
            rows = array("q")
            for (row_numbers,) in _columns(
                connection, f"SELECT rowid FROM {table.name} ORDER BY rowid"
            ):
                rows.extend(row_numbers)
            self._place = partial(bisect_left, rows)
            places = len(rows)
        else:
            self._place = (-first).__add__
            places = last - first + 1
        self._numbers = array("i", [ABSENT]) * places

    def set(self, rows: Iterable[int], numbers: Iterable[int]) -> None:
        """Set the numbers of some rows."""
        _set_all(self._numbers, map(self._place, rows), numbers)

    def of(self, rows: Iterable[int]) -> Iterator[int]:
        """The numbers of some rows; `ABSENT` for a row that has none."""
        return map(self._numbers.__getitem__, map(self._place, rows))


def _set_all(column: MutableSequence[Any], places: Iterable[int], values: Iterable[Any]) -> None:
    """Set many values of a column; a loop takes twice as long."""
    deque(map(column.__setitem__, places, values), maxlen=0)


def _read_blobs(connection: Connection, inventory: Inventory) -> _RowNumbers:
    """Add the blobs."""
    numbers = _RowNumbers(connection, schema.blobs)
    for rows, *columns in _columns(connection, _BLOBS):
        numbers.set(rows, count(len(inventory.blob_sizes)))
        inventory.add_blobs(*columns)
    return numbers


def _read_contents(connection: Connection, inventory: Inventory) -> _RowNumbers:
    """Add the manifests of all repositories."""
    numbers = _RowNumbers(connection, schema.manifests)
    for rows, digests, sizes in _columns(connection, _MANIFESTS):
        numbers.set(rows, count(len(inventory.content_sizes)))
        inventory.add_contents(digests, sizes)
    return numbers


def _read_references(
    connection: Connection, inventory: Inventory, contents: _RowNumbers, blobs: _RowNumbers
) -> bool:
    """Add the cached blobs of each manifest; returns whether one of them is an index."""
    blob_of_reference = _RowNumbers(connection, schema.references)
    for references, blob_rows in _columns(connection, _REFERENCES_TO_BLOBS):
        blob_of_reference.set(references, blobs.of(blob_rows))
    has_indexes = False
    for (references,) in _columns(connection, _REFERENCES_OF_INDEXES):
        has_indexes = True
        blob_of_reference.set(references, repeat(ABSENT))
    for manifest_rows, lists in _columns(connection, _REFERENCES_OF_MANIFESTS):
        for content, references in zip(contents.of(manifest_rows), lists, strict=True):
            if references is not None:
                # A manifest may name a blob twice.
                cached = dict.fromkeys(blob_of_reference.of(map(int, references.split(","))))
                cached.pop(ABSENT, None)
                inventory.set_blobs(content, cached)
    return has_indexes


def _read_links(connection: Connection, inventory: Inventory, contents: _RowNumbers) -> _RowNumbers:
    """Add the manifests of each repository, in the order of their keys."""
    numbers = _RowNumbers(connection, schema.repository_manifests)
    inventory.links_are_sorted = True
    for rows, names, tags in _columns(connection, _LINKS_BY_KEY):
        numbers.set(rows, count(len(inventory)))
        inventory.add_links(names, [of_link or "" for of_link in tags])
    for rows, manifest_rows in _columns(connection, _MANIFESTS_OF_LINKS):
        _set_all(inventory.contents, numbers.of(rows), contents.of(manifest_rows))
    distinct: dict[str | None, str | None] = {}
    for rows, platforms, last_requested, locked in _columns(connection, _LINKS):
        links = list(numbers.of(rows))
        # A few platforms stand in many rows.
        _set_all(inventory.platforms, links, map(distinct.setdefault, platforms, platforms))
        _set_all(inventory.last_requested, links, last_requested)
        _set_all(inventory.locked, links, locked)
    for (rows,) in _columns(connection, _LOCKED_LINKS):
        _set_all(inventory.locked, numbers.of(rows), repeat(True))
    return numbers


def _read_children(
    connection: Connection, inventory: Inventory, contents: _RowNumbers, links: _RowNumbers
) -> None:
    """Add the cached children of each index."""
    children: dict[int, dict[int, None]] = {}
    for rows, manifest_rows in _columns(connection, _CHILDREN):
        for link, child in zip(links.of(rows), contents.of(manifest_rows), strict=True):
            children.setdefault(link, {})[child] = None
    for link, numbers in children.items():
        inventory.children[link] = tuple(numbers)


def read_repository_inventory(
    connection: Connection, repository: Repository
) -> list[InventoryManifest]:
    """The manifests of a repository with their locks, tags and children.

    The blobs of the manifests are not read.
    """
    query = select(_links.repository, _links.digest).where(_links.repository == repository)
    return _read_manifests(connection, [tuple(row) for row in connection.execute(query)])


def read_lineage(connection: Connection, keys: Collection[Key]) -> list[InventoryManifest]:
    """Some manifests and all indexes above them, with their locks, tags and children.

    The blobs of the manifests are not read.
    """
    lineage = {(str(repository), str(digest)): None for repository, digest in keys}
    ahead = list(lineage)
    while ahead:
        rows = connection.execute(_above_query, {"keys": keys_of(ahead)})
        ahead = [key for row in rows if (key := (row.repository, row.digest)) not in lineage]
        lineage.update(dict.fromkeys(ahead))
    return _read_manifests(connection, list(lineage))


def _read_manifests(
    connection: Connection, keys: Collection[tuple[str, str]]
) -> list[InventoryManifest]:
    bound = {"keys": keys_of(keys)}
    tags: dict[tuple[str, str], list[Tag]] = {}
    locked: set[tuple[str, str]] = set()
    for repository, digest, name, is_locked in connection.execute(_listed_tags_query, bound):
        tags.setdefault((repository, digest), []).append(Tag(name))
        if is_locked:
            locked.add((repository, digest))
    children: dict[tuple[str, str], list[Digest]] = {}
    for repository, parent, child in connection.execute(_listed_children_query, bound):
        children.setdefault((repository, parent), []).append(digest_of_row(child))
    return [
        InventoryManifest(
            repository=Repository(repository),
            digest=digest_of_row(digest),
            platform=platform,
            last_requested=last_requested,
            locked=bool(is_locked or is_repository_locked) or (repository, digest) in locked,
            tags=tuple(sorted(tags.get((repository, digest), ()))),
            children=tuple(children.get((repository, digest), ())),
        )
        for (
            repository,
            digest,
            platform,
            last_requested,
            is_locked,
            is_repository_locked,
        ) in connection.execute(_listed_links_query, bound)
    ]


def _select_listed_children() -> Select[Any]:
    child = schema.repository_manifests.alias()
    return (
        select(child.c.repository, _refers.manifest, _refers.digest)
        .select_from(listed_keys)
        .join(schema.references, _refers.manifest == listed_digest)
        .join(child, (child.c.digest == _refers.digest) & (child.c.repository == listed_repository))
        .where(_refers.kind == ReferenceKind.MANIFEST)
        .distinct()
    )


_is_listed_link = (_links.repository == listed_repository) & (_links.digest == listed_digest)
_last_requested = func.max(
    _links.cached, func.coalesce(_links.last_pull, 0), func.coalesce(_links.last_used, 0)
)
_listed_links_query = (
    select(
        _links.repository,
        _links.digest,
        _links.platform,
        _last_requested,
        _links.locked,
        schema.repositories.c.locked,
    )
    .select_from(listed_keys)
    .join(schema.repository_manifests, _is_listed_link)
    .join(schema.repositories, schema.repositories.c.name == _links.repository)
)
_listed_tags_query = (
    select(schema.tags.c.repository, schema.tags.c.digest, schema.tags.c.name, schema.tags.c.locked)
    .select_from(listed_keys)
    .join(
        schema.tags,
        (schema.tags.c.repository == listed_repository) & (schema.tags.c.digest == listed_digest),
    )
)
_listed_children_query = _select_listed_children()
_above_query = (
    select(_links.repository, _links.digest)
    .select_from(listed_keys)
    .join(schema.references, _refers.digest == listed_digest)
    .join(
        schema.repository_manifests,
        (_links.repository == listed_repository) & (_links.digest == _refers.manifest),
    )
    .where(_refers.kind == ReferenceKind.MANIFEST)
    .distinct()
)

# CROSS JOIN: SQLite takes the tables in the order in which they are written.
_BLOBS = "SELECT rowid, digest, size, last_used, adopted FROM blobs ORDER BY rowid"
_MANIFESTS = "SELECT rowid, digest, length(content) FROM manifests ORDER BY rowid"
_REFERENCES_TO_BLOBS = (
    "SELECT reference.rowid, blobs.rowid FROM blobs "
    "CROSS JOIN manifest_references AS reference ON reference.digest = blobs.digest"
)
_REFERENCES_OF_INDEXES = (
    f"SELECT rowid FROM manifest_references WHERE kind = '{ReferenceKind.MANIFEST}'"
)
_REFERENCES_OF_MANIFESTS = (
    "SELECT rowid, (SELECT group_concat(reference.rowid) FROM manifest_references AS reference "
    "WHERE reference.manifest = manifests.digest) FROM manifests ORDER BY digest"
)
_LINKS_BY_KEY = (
    "SELECT rowid, repository, (SELECT group_concat(tags.name, ' ') FROM tags "
    "WHERE tags.repository = link.repository AND tags.digest = link.digest) "
    "FROM repository_manifests AS link ORDER BY repository, digest"
)
_MANIFESTS_OF_LINKS = (
    "SELECT link.rowid, manifests.rowid FROM manifests "
    "CROSS JOIN repository_manifests AS link ON link.digest = manifests.digest"
)
_LINKS = (
    "SELECT rowid, platform, max(cached, coalesce(last_pull, 0), coalesce(last_used, 0)), locked "
    "FROM repository_manifests ORDER BY rowid"
)
_LOCKED_LINKS = (
    "SELECT link.rowid FROM repositories CROSS JOIN repository_manifests AS link "
    "ON link.repository = repositories.name WHERE repositories.locked UNION ALL "
    "SELECT link.rowid FROM tags CROSS JOIN repository_manifests AS link "
    "ON link.repository = tags.repository AND link.digest = tags.digest WHERE tags.locked = 1"
)
_CHILDREN = (
    "SELECT link.rowid, manifests.rowid FROM manifest_references AS reference "
    "CROSS JOIN repository_manifests AS link ON link.digest = reference.manifest "
    "CROSS JOIN repository_manifests AS child "
    "ON child.repository = link.repository AND child.digest = reference.digest "
    "CROSS JOIN manifests ON manifests.digest = reference.digest "
    f"WHERE reference.kind = '{ReferenceKind.MANIFEST}'"
)
