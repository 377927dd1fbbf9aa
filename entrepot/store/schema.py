"""The tables of the catalog, and the migration of older catalogs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Executable,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    false,
    func,
    insert,
    select,
    text,
    true,
    update,
)
from sqlalchemy.schema import CreateColumn

from entrepot.errors import EngineError

SCHEMA_VERSION = 4
"""Stored in SQLite's ``user_version``; an engine refuses a catalog that is newer than itself."""

T = TypeVar("T")

_schema = MetaData()

repositories = Table(
    "repositories",
    _schema,
    Column("name", String(255), primary_key=True),
    Column("source", String(512), nullable=False),
    Column("created", Float, nullable=False),
    Column("last_pull", Float),
    Column("pulls", Integer, nullable=False, default=0),
    Column("locked", Boolean, nullable=False, server_default=false()),
    # Counters: see entrepot.store.counters.
    Column("tags", Integer, nullable=False, server_default="0"),
    Column("manifests", Integer, nullable=False, server_default="0"),
    Column("size", Integer, nullable=False, server_default="0"),
    # The use of a rule is one range of it, without a look at the rows.
    Index("repositories_by_usage", "name", "size", "pulls", "last_pull"),
)
manifests = Table(
    "manifests",
    _schema,
    Column("digest", String(135), primary_key=True),
    # As the first source gave it. Each repository has its own media type: see
    # repository_manifests.
    Column("media_type", String(255), nullable=False),
    Column("content", LargeBinary, nullable=False),
)
repository_manifests = Table(
    "repository_manifests",
    _schema,
    Column("repository", ForeignKey(repositories.c.name, ondelete="CASCADE"), primary_key=True),
    Column("digest", ForeignKey(manifests.c.digest), primary_key=True),
    Column("platform", String(255)),
    Column("cached", Float, nullable=False),
    Column("last_pull", Float),
    Column("last_used", Float),
    Column("locked", Boolean, nullable=False, server_default=false()),
    # As the source of this repository gave it; another source may name another type for the same
    # bytes.
    Column("media_type", String(255), nullable=False, server_default=""),
    Index("repository_manifests_by_digest", "digest"),
    # Pages of a repository's manifests in the order of time.
    Index("repository_manifests_by_time", "repository", "cached", "digest"),
    # The locks of a repository alone. With "locked", so that SQLite prefers it to other indexes.
    Index("locked_manifests", "repository", "digest", "locked", sqlite_where=text("locked = 1")),
)
references = Table(
    "manifest_references",
    _schema,
    Column("manifest", ForeignKey(manifests.c.digest, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", String(135), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("media_type", String(255), nullable=False),
    Column("size", Integer, nullable=False),
    Column("platform", String(255)),
    Column("optional", Boolean, nullable=False),
    Index("manifest_references_by_digest", "digest"),
)
tags = Table(
    "tags",
    _schema,
    Column("repository", ForeignKey(repositories.c.name, ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("digest", String(135), nullable=False),
    Column("cached", Float, nullable=False),
    Column("checked", Float, nullable=False),
    Column("last_pull", Float),
    Column("gone", Boolean, nullable=False, default=False),
    Column("locked", Boolean, nullable=False, server_default=false()),
    # The tags of a digest by name. Catalogs of earlier versions have an index without the name too:
    # with that one alone, SQLite rather reads all tags of the repository in their order.
    Index("tags_of_digest", "repository", "digest", "name"),
    # Pages of a repository's tags in the order of time.
    Index("tags_by_time", "repository", "cached", "name"),
    Index("locked_tags", "repository", "name", "locked", sqlite_where=text("locked = 1")),
)
blobs = Table(
    "blobs",
    _schema,
    Column("digest", String(135), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("cached", Float, nullable=False),
    Column("last_used", Float, nullable=False),
    # When its file was found without a row, until a manifest refers to it: such a blob stays for a
    # day (see entrepot.store.eviction).
    Column("adopted", Float),
)
blob_origins = Table(
    "blob_origins",
    _schema,
    Column("digest", ForeignKey(blobs.c.digest, ondelete="CASCADE"), primary_key=True),
    Column("login_server", String(255), primary_key=True),
    Column("with_credentials", Boolean, nullable=False),
)

rule_requests = Table(
    "rule_requests",
    _schema,
    Column("rule", String(50), primary_key=True),
    Column("answered", Integer, nullable=False),
    Column("made", Integer, nullable=False),
)

activity = Table(
    "activity",
    _schema,
    Column("began", Integer, primary_key=True),
    Column("hits", Integer, nullable=False),
    Column("misses", Integer, nullable=False),
    Column("served", Integer, nullable=False),
    Column("from_source", Integer, nullable=False),
    Column("requests_saved", Integer, nullable=False),
)

ended_pulls = Table(
    "ended_pulls",
    _schema,
    Column("number", Integer, primary_key=True),
    Column("ended", Float, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
    Index("ended_pulls_by_end", "ended"),
)

# The last lists of referrers that sources sent. Each goes with the manifest that it is about. The
# table needs no version of the schema: an older engine does not read it, and SQLite deletes its
# rows there too.
referrer_lists = Table(
    "referrer_lists",
    _schema,
    Column("repository", String(255), primary_key=True),
    Column("subject", String(135), primary_key=True),
    # That of the request; empty: all referrers.
    Column("artifact_type", String(255), primary_key=True),
    Column("source", String(512), nullable=False),
    Column("fetched", Float, nullable=False),
    Column("size", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    ForeignKeyConstraint(
        ["repository", "subject"],
        [repository_manifests.c.repository, repository_manifests.c.digest],
        ondelete="CASCADE",
    ),
    # The oldest lists go first where there are too many; their sizes are added up by it.
    Index("referrer_lists_by_age", "fetched", "size"),
)

_ADDED = {
    2: (
        repositories.c.locked,
        repository_manifests.c.last_used,
        repository_manifests.c.locked,
        tags.c.locked,
    ),
    3: (repositories.c.tags, repositories.c.manifests, repositories.c.size),
    4: (repository_manifests.c.media_type, blobs.c.adopted),
}
"""The columns added with each version of the schema: an older catalog gets them when opened."""

CHUNK_SIZE = 500
"""Names or digests in one statement: old versions of SQLite accept 999 variables."""


def create(connection: Connection, count: Executable) -> None:
    """Create the tables, or migrate an older catalog.

    Raises `EngineError` for a newer one. *count* is the statement that fills the counters of
    version 3.
    """
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise EngineError(
            f"The catalog was written by a newer Entrepot (its version is {version}, this one "
            f"knows {SCHEMA_VERSION}).",
            "Run that newer Entrepot, or move the catalog out of the way: the blobs stay for a "
            "day, and a new catalog uses them as images are pulled.",
        )
    if version:
        for added in (
            column for newer in range(version + 1, SCHEMA_VERSION + 1) for column in _ADDED[newer]
        ):
            _add_column(connection, added)
    _schema.create_all(connection)
    if 0 < version < 3:
        # This opens the transaction that writes the version too: after a kill here, the next start
        # counts again.
        connection.execute(count)
    if 0 < version < 4:
        fill_version_4(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def missing_indexes(connection: Connection) -> list[Index]:
    """The indexes that this version of Entrepot has and an existing catalog does not have yet.

    Every query works without them, but slower. They need no version of the schema: an older engine
    can use a catalog with more indexes than it knows.
    """
    names = {
        row[0]
        for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
    }
    return [
        index
        for table in _schema.sorted_tables
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if index.name not in names
    ]


def fill_version_4(connection: Connection) -> None:
    """Derive the columns of version 4.

    They are each repository's media types and each blob's origins.
    """
    connection.execute(_media_type_of_each_repository())
    connection.execute(origins_by_repository())


def _media_type_of_each_repository() -> Executable:
    """The statement that copies a manifest's media type to each of its repositories.

    Before version 4 there was one media type for all repositories.
    """
    links = repository_manifests.c
    shared_type = (
        select(manifests.c.media_type).where(manifests.c.digest == links.digest).scalar_subquery()
    )
    return update(repository_manifests).where(links.media_type == "").values(media_type=shared_type)


def origins_by_repository(
    digests: Sequence[str] | None = None, *, only_if_single: bool = False
) -> Insert:
    """The statement that derives the origins of cached blobs.

    It takes them from the repositories that refer to the blobs. *digests* limits it to some blobs,
    *only_if_single* to blobs with repositories of one login server alone. Whether credentials were
    used is unknown, so it says that they were.
    """
    source = repositories.c.source
    login_server = func.substr(source, 1, func.instr(source, "/") - 1)
    query = (
        select(blobs.c.digest, func.min(login_server) if only_if_single else login_server, true())
        .join(references, references.c.digest == blobs.c.digest)
        .join(repository_manifests, repository_manifests.c.digest == references.c.manifest)
        .join(repositories, repositories.c.name == repository_manifests.c.repository)
        .where(func.instr(source, "/") > 1)
    )
    if digests is not None:
        query = query.where(blobs.c.digest.in_(digests))
    is_single = func.count(login_server.distinct()) == 1
    query = query.group_by(blobs.c.digest).having(is_single) if only_if_single else query.distinct()
    # An engine that was killed in between may have inserted some of them.
    return (
        insert(blob_origins)
        .prefix_with("OR IGNORE")
        .from_select(["digest", "login_server", "with_credentials"], query)
    )


def _add_column(connection: Connection, column: Column[Any]) -> None:
    table = column.table.name
    # Each column is a transaction of its own: an engine that was killed in between may have added
    # some of them.
    if column.name in {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}:
        return
    connection.exec_driver_sql(
        f"ALTER TABLE {table} ADD COLUMN {CreateColumn(column).compile(dialect=connection.dialect)}"
    )


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """*values* in parts of `CHUNK_SIZE`."""
    return (values[start : start + CHUNK_SIZE] for start in range(0, len(values), CHUNK_SIZE))
