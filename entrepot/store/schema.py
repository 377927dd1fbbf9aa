"""The tables of the catalog, and how an older catalog gets what came later."""

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
    true,
    update,
)
from sqlalchemy.schema import CreateColumn

from entrepot.errors import EngineError

SCHEMA_VERSION = 4
"""Kept in SQLite's ``user_version``; an engine refuses a catalog that is newer than itself."""

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
    # What is counted of it: see entrepot.store.tallies.
    Column("tags", Integer, nullable=False, server_default="0"),
    Column("manifests", Integer, nullable=False, server_default="0"),
    Column("size", Integer, nullable=False, server_default="0"),
)
manifests = Table(
    "manifests",
    _schema,
    Column("digest", String(135), primary_key=True),
    # What the source gave that brought it first. Each repository has its own: see
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
    # As the source of this repository gave it; another source may call the same bytes something
    # else.
    Column("media_type", String(255), nullable=False, server_default=""),
    Index("repository_manifests_by_digest", "digest"),
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
    Index("tags_by_digest", "repository", "digest"),
)
blobs = Table(
    "blobs",
    _schema,
    Column("digest", String(135), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("cached", Float, nullable=False),
    Column("last_used", Float, nullable=False),
    # When its file was found without a row, and no manifest refers to it yet: such a blob stays for
    # a day (see entrepot.store.eviction).
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
"""The columns that came with each version of the schema: an older catalog gets them when it is
opened."""


AT_ONCE = 500
"""Names or digests in one statement: SQLite takes 999 variables where it is old."""


def create(connection: Connection, count: Executable) -> None:
    """Make the tables, or add what an older catalog lacks; raises `EngineError` for one that is
    newer.

    *count* fills the columns of version 3, which follow from the other tables.
    """
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise EngineError(
            f"The catalog was written by a newer Entrepot (its version is {version}, this one knows {SCHEMA_VERSION}).",
            "Run that newer Entrepot, or move the catalog out of the way: the blobs stay for a day, and a new catalog knows them again as images are pulled.",
        )
    if version:
        for added in (
            column for newer in range(version + 1, SCHEMA_VERSION + 1) for column in _ADDED[newer]
        ):
            _add_column(connection, added)
    _schema.create_all(connection)
    if 0 < version < 3:
        # It opens the transaction in which the version is written too: an engine that is killed
        # here counts again.
        connection.execute(count)
    if 0 < version < 4:
        fill_version_4(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def fill_version_4(connection: Connection) -> None:
    """Derive what version 4 knows beyond older ones: the media type that each repository gave, and
    who gave each blob."""
    connection.execute(_media_type_of_each_repository())
    connection.execute(origins_by_repository())


def _media_type_of_each_repository() -> Executable:
    """The statement that gives each repository, as its own, the media type that was one for all
    repositories before version 4."""
    links = repository_manifests.c
    common = (
        select(manifests.c.media_type).where(manifests.c.digest == links.digest).scalar_subquery()
    )
    return update(repository_manifests).where(links.media_type == "").values(media_type=common)


def origins_by_repository(
    digests: Sequence[str] | None = None, *, only_if_single: bool = False
) -> Insert:
    """The statement that derives who gave each cached blob from the repositories whose manifests
    refer to it.

    *digests* limits it to some blobs, *only_if_single* to those to which the repositories of one
    login server refer and no others. Nobody knows whether credentials were used, so it says that
    they were.
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
    # An engine that was killed in between has inserted some of them.
    return (
        insert(blob_origins)
        .prefix_with("OR IGNORE")
        .from_select(["digest", "login_server", "with_credentials"], query)
    )


def _add_column(connection: Connection, column: Column[Any]) -> None:
    table = column.table.name
    # Each column is a transaction of its own: an engine that was killed in between has added some
    # of them.
    if column.name in {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}:
        return
    connection.exec_driver_sql(
        f"ALTER TABLE {table} ADD COLUMN {CreateColumn(column).compile(dialect=connection.dialect)}"
    )


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """*values* in parts of `AT_ONCE`."""
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
