"""Reading the inventory of the cache from the catalog: all of it, or that of some manifests."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import chain, count, groupby, islice
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Integer, Select, func, literal_column, select

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.inventory import Inventory, InventoryManifest, Key, digest_of_row
from entrepot.store.listed import keys_of, listed_digest, listed_keys, listed_repository
from entrepot.store.manifests import ReferenceKind

ROWS_AT_ONCE = 2000
"""Rows that are fetched from the database at a time."""

MAX_SPARSITY = 8
"""Row numbers per row up to which an array finds the rows; beyond it they are searched for."""

_links = schema.repository_manifests.c
_refers = schema.references.c
_blob_row = literal_column("blobs.rowid", Integer)


def read_inventory(connection: Connection) -> Inventory:
    """All cached manifests and blobs."""
    inventory = Inventory()
    blob_at = _read_blobs(connection, inventory)
    contents = _read_contents(connection, inventory)
    _read_references(connection, inventory, contents, blob_at)
    links = _read_links(connection, inventory, contents)
    _read_children(connection, inventory, contents, links)
    return inventory


def _rows(connection: Connection, query: Any) -> Iterator[Any]:
    """The rows of a long result as the driver gives them.

    There may be a million: an object of SQLAlchemy for each would take twice as long.
    """
    cursor: Any = connection.execute(query).cursor
    cursor.arraysize = ROWS_AT_ONCE
    return chain.from_iterable(iter(cursor.fetchmany, []))


def _read_blobs(connection: Connection, inventory: Inventory) -> Callable[[int], int]:
    """Add the blobs. Returns what finds a blob's number by the number of its row.

    The numbers of rows are those of this transaction only.
    """
    blobs = schema.blobs.c
    query = select(_blob_row, blobs.digest, blobs.size, blobs.last_used, blobs.adopted).order_by(
        _blob_row
    )
    row_numbers = array("q")
    rows = _rows(connection, query)
    while some := list(islice(rows, ROWS_AT_ONCE)):
        numbers, *columns = zip(*some, strict=True)
        row_numbers.extend(numbers)
        inventory.add_blobs(*columns)
    if not row_numbers or row_numbers[-1] > MAX_SPARSITY * len(row_numbers):
        return partial(bisect_left, row_numbers)
    positions = array("i", bytes(4 * (row_numbers[-1] + 1)))
    for position, row_number in enumerate(row_numbers):
        positions[row_number] = position
    return positions.__getitem__


def _read_contents(connection: Connection, inventory: Inventory) -> dict[str, int]:
    """Add the manifests of all repositories; returns their numbers."""
    columns = schema.manifests.c
    rows = _rows(connection, select(columns.digest, func.length(columns.content)))
    numbers: dict[str, int] = {}
    while some := list(islice(rows, ROWS_AT_ONCE)):
        digests, sizes = zip(*some, strict=True)
        numbers.update(zip(digests, count(len(numbers)), strict=False))
        inventory.add_contents(digests, sizes)
    return numbers


def _read_references(
    connection: Connection,
    inventory: Inventory,
    contents: dict[str, int],
    blob_at: Callable[[int], int],
) -> None:
    """Add the cached blobs of each manifest."""
    query = (
        select(_refers.manifest, _blob_row)
        .join(schema.blobs, schema.blobs.c.digest == _refers.digest)
        .where(_refers.kind != ReferenceKind.MANIFEST)
    )
    complete = bytearray(len(contents))
    for manifest, rows in groupby(_rows(connection, query), itemgetter(0)):
        # A manifest may name a blob twice. Its rows are mostly next to each other.
        blobs = dict.fromkeys([blob_at(row_number) for _, row_number in rows])
        content = contents[manifest]
        if complete[content]:
            blobs = dict.fromkeys([*inventory.blobs_of(content), *blobs])
        complete[content] = True
        inventory.set_blobs(content, list(blobs))


def _read_links(
    connection: Connection, inventory: Inventory, contents: dict[str, int]
) -> dict[tuple[str, str], int]:
    """Add the manifests of each repository; returns the numbers of the indexes among them."""
    locked = _read_locked(connection)
    locked_tags = _read_locked_tags(connection)
    indexes = set(
        connection.execute(
            select(_refers.manifest).where(_refers.kind == ReferenceKind.MANIFEST).distinct()
        ).scalars()
    )
    tags = _TagRuns(connection)
    inventory.links_are_sorted = True
    numbers: dict[tuple[str, str], int] = {}
    platforms: dict[str, str] = {}
    repository = ""
    for name, digest, platform, last_requested, is_locked in _rows(connection, _links_query):
        if name != repository:
            repository = name
        number = inventory.add_link(
            Repository(repository),
            contents[digest],
            # A few platforms stand in many rows.
            platform and platforms.setdefault(platform, platform),
            last_requested,
            bool(is_locked) or name in locked or (name, digest) in locked_tags,
            tags.of(name, digest),
        )
        if digest in indexes:
            numbers[name, digest] = number
    return numbers


def _read_locked(connection: Connection) -> set[str]:
    query = select(schema.repositories.c.name).where(schema.repositories.c.locked)
    return set(connection.execute(query).scalars())


def _read_locked_tags(connection: Connection) -> set[tuple[str, str]]:
    columns = schema.tags.c
    query = select(columns.repository, columns.digest).where(columns.locked)
    return {(row.repository, row.digest) for row in connection.execute(query)}


class _TagRuns:
    """The tags of each manifest, read in the order of their manifests."""

    def __init__(self, connection: Connection) -> None:
        columns = schema.tags.c
        query = select(
            columns.repository, columns.digest, func.aggregate_strings(columns.name, " ")
        )
        query = query.group_by(columns.repository, columns.digest)
        self._rows = _rows(connection, query.order_by(columns.repository, columns.digest))
        self._row = next(self._rows, None)

    def of(self, repository: str, digest: str) -> str:
        """The tags of a manifest, with spaces between them. Call it in the order of the keys."""
        row = self._row
        while row is not None and (
            row[0] < repository or (row[0] == repository and row[1] < digest)
        ):
            # It points at a manifest that is not cached.
            row = next(self._rows, None)
        self._row = row
        if row is None or row[1] != digest or row[0] != repository:
            return ""
        self._row = next(self._rows, None)
        return str(row[2])


def _read_children(
    connection: Connection,
    inventory: Inventory,
    contents: dict[str, int],
    indexes: dict[tuple[str, str], int],
) -> None:
    """Add the cached children of each index."""
    if not indexes:
        return
    children: dict[int, dict[int, None]] = {}
    for repository, parent, child in _rows(connection, _children_query):
        children.setdefault(indexes[repository, parent], {})[contents[child]] = None
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


def _select_children() -> Select[Any]:
    """The children of indexes that are cached in the same repository."""
    child = schema.repository_manifests.alias()
    return (
        select(_links.repository, _refers.manifest, _refers.digest)
        .join(schema.references, _refers.manifest == _links.digest)
        .join(child, (child.c.digest == _refers.digest) & (child.c.repository == _links.repository))
        .where(_refers.kind == ReferenceKind.MANIFEST)
        .distinct()
    )


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
_links_query = select(
    _links.repository, _links.digest, _links.platform, _last_requested, _links.locked
).order_by(_links.repository, _links.digest)
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
_children_query = _select_children()
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
