"""Look-ups of one tag, manifest or blob of a repository, by indexes of the database.

Each says too where the repository came from. Of a repository that is not cached, nothing has to be
looked up again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection, UnaryExpression, and_, bindparam, select
from sqlalchemy.sql.operators import custom_op

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.manifests import Descriptor, Manifest, ManifestUnreadable, ReferenceKind
from entrepot.store.records import TagEntry
from entrepot.store.rows import UNKNOWN_SIZE, stated_size, tag_entry

FEW_MANIFESTS = 1_000
"""Manifests of a repository up to which their references are searched for a blob. In a larger one
the manifests that refer to the blob are searched: a base layer may have more of them than a small
repository has references."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lookup(Generic[T]):
    """What the catalog has of one thing; *value* is None where it has nothing.

    *source* is the source of the repository, with its login server; None where the repository is
    not cached.
    """

    source: str | None
    value: T | None = None


@dataclass(frozen=True, slots=True)
class TagTarget:
    """Where a tag points, with the manifest there; None where the manifest can't be read."""

    entry: TagEntry
    manifest: Manifest | None


_repository = schema.repositories.c
_links = schema.repository_manifests.c
_contents = schema.manifests.c
_refers = schema.references.c
_tags = schema.tags.c

_is_repository = _repository.name == bindparam("repository")

_tag_query = (
    select(_repository.source, _tags.digest, _tags.cached, _tags.checked, _tags.gone)
    .select_from(schema.repositories)
    .join(
        schema.tags,
        and_(_tags.repository == _repository.name, _tags.name == bindparam("tag")),
        isouter=True,
    )
    .where(_is_repository)
)

_manifest_query = (
    select(_repository.source, _links.media_type, _contents.content)
    .select_from(schema.repositories)
    .join(
        schema.repository_manifests,
        and_(_links.repository == _repository.name, _links.digest == bindparam("digest")),
        isouter=True,
    )
    .join(schema.manifests, _contents.digest == _links.digest, isouter=True)
    .where(_is_repository)
)

_repository_query = select(_repository.source, _repository.manifests).where(_is_repository)

_references_query = select(_refers.kind, _refers.media_type, _refers.size).where(
    _links.repository == bindparam("repository"),
    _refers.manifest == _links.digest,
    _refers.kind != ReferenceKind.MANIFEST,
)

_blob_of_few_query = (
    # The sign keeps SQLite from the index of digests (sqlite.org/optoverview.html).
    _references_query.where(
        UnaryExpression(_refers.digest, operator=custom_op("+")) == bindparam("digest")
    )
    .order_by(_refers.size.desc())
    .limit(1)
)

_blob_of_many_query = _references_query.where(_refers.digest == bindparam("digest")).limit(1)

_sized_blob_of_many_query = _blob_of_many_query.where(_refers.size > UNKNOWN_SIZE)


def read_source(connection: Connection, repository: Repository) -> str | None:
    """The source of a repository, with its login server; None when it is not cached."""
    row = connection.execute(_repository_query, {"repository": repository}).one_or_none()
    return row.source if row is not None else None


def read_tag(connection: Connection, repository: Repository, tag: Tag) -> Lookup[TagTarget]:
    """Where a tag points, and the manifest, which is requested next."""
    row = connection.execute(_tag_query, {"repository": repository, "tag": tag}).one_or_none()
    if row is None:
        return Lookup(None)
    if row.digest is None:
        return Lookup(row.source)
    entry, manifest = tag_entry(row), None
    with suppress(ManifestUnreadable):
        manifest = read_manifest(connection, repository, entry.digest).value
    return Lookup(row.source, TagTarget(entry, manifest))


def read_manifest(
    connection: Connection, repository: Repository, digest: Digest
) -> Lookup[Manifest]:
    """A manifest of a repository, with the media type that the repository's source gave."""
    row = connection.execute(
        _manifest_query, {"repository": repository, "digest": str(digest)}
    ).one_or_none()
    if row is None:
        return Lookup(None)
    if row.content is None:
        return Lookup(row.source)
    return Lookup(row.source, Manifest.of(row.content, row.media_type, digest))


def read_blob(connection: Connection, repository: Repository, digest: Digest) -> Lookup[Descriptor]:
    """A blob to which manifests of a repository refer, cached or not.

    Where only some of them state its size, the size is a stated one (F82).
    """
    parameters = {"repository": repository, "digest": str(digest)}
    row = connection.execute(_repository_query, {"repository": repository}).one_or_none()
    if row is None:
        return Lookup(None)
    if row.manifests <= FEW_MANIFESTS:
        reference = connection.execute(_blob_of_few_query, parameters).one_or_none()
    else:
        reference = connection.execute(_blob_of_many_query, parameters).one_or_none()
        if reference is not None and stated_size(reference.size) is None:
            sized = connection.execute(_sized_blob_of_many_query, parameters).one_or_none()
            reference = sized if sized is not None else reference
    if reference is None:
        return Lookup(row.source)
    kind, size = ReferenceKind(reference.kind), stated_size(reference.size)
    return Lookup(row.source, Descriptor(digest, kind, reference.media_type, size))
