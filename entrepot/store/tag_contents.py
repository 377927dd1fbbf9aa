"""The contents of a tag: its images and their layers.

Each is described with what of it is cached and what shares it. All queries follow the catalog's
indexes from the tag on: they take no longer in a large catalog, except for layers that very many
images share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, distinct, exists, func, literal, not_, select

from entrepot.core.media_types import INDEXES
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.states import CachedState
from entrepot.store import schema
from entrepot.store.artifact_kinds import kind_of
from entrepot.store.manifests import ReferenceKind, attestations
from entrepot.store.records import CachedTag, ImageBlobRecord, ImageRecord, TagEntry
from entrepot.store.rows import stated_size

MAX_OTHER_TAGS = 20
"""Other tags named that point at the same digest."""

_links = schema.repository_manifests.c
_refers = schema.references.c


@dataclass(frozen=True, slots=True)
class TagContents:
    """A tag and everything that it leads to.

    *own_size* is in bytes, of what only this tag needs; *shared_size* of what other tags, images
    or repositories need too.
    """

    tag: CachedTag
    media_type: str
    is_index: bool
    images: tuple[ImageRecord, ...]
    own_size: int
    shared_size: int
    also_tagged: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class _Sharing:
    """What else needs a blob."""

    images: int = 0
    repositories: int = 0
    examples: tuple[str, ...] = ()


def read_tag_contents(
    connection: Connection, repository: Repository, tag: Tag
) -> TagContents | None:
    """The contents of a tag; None when it is not cached."""
    tags = schema.tags.c
    top_query = (
        select(schema.tags, _links.media_type, schema.manifests.c.content)
        .join(schema.manifests, schema.manifests.c.digest == tags.digest)
        .join(
            schema.repository_manifests,
            (_links.digest == tags.digest) & (_links.repository == tags.repository),
        )
        .where(tags.repository == repository, tags.name == tag)
    )
    top = connection.execute(top_query).one_or_none()
    if top is None:
        return None
    reached = _reached(top.digest)
    below = select(reached.c.digest)
    links = {row.digest: row for row in connection.execute(_links_query(repository, below))}
    children: dict[str, list[Any]] = {}
    for row in connection.execute(_children_query(below)):
        if row.manifest in links:
            children.setdefault(row.manifest, []).append(row)
    blobs: dict[str, dict[str, Any]] = {}
    for row in connection.execute(_blobs_query(repository, below)):
        # A manifest may name a blob twice; it counts once.
        blobs.setdefault(row.manifest, {}).setdefault(row.digest, row)
    sharing = _sharing(connection, repository, below)
    # Manifests that other tags lead to stay needed when this tag goes.
    needed = set(connection.execute(_otherwise_tagged_query(repository, tag, below)).scalars())
    in_other_repositories = set(
        connection.execute(
            select(_links.digest)
            .where(_links.digest.in_(below), _links.repository != repository)
            .distinct()
        ).scalars()
    )
    same_digest = (
        select(tags.name)
        .where(tags.repository == repository, tags.digest == top.digest, tags.name != tag)
        .order_by(tags.name)
        .limit(MAX_OTHER_TAGS)
    )
    also_tagged = tuple(Tag(name) for name in connection.execute(same_digest).scalars())

    attested = attestations(top.content)
    is_index = top.media_type in INDEXES or top.digest in children
    images = [
        _image(row, links, blobs, sharing, attested)
        for row in (_images_of_index(top.digest, children) if is_index else [top])
    ]
    sizes: dict[str, tuple[int, bool]] = {}
    """By digest: the bytes cached, and whether something else needs them too."""
    for manifest, row in links.items():
        sizes[manifest] = row.size, manifest in needed or manifest in in_other_repositories
        for digest, blob in blobs.get(manifest, {}).items():
            if blob.cached_size is not None:
                _, already_shared = sizes.get(digest, (0, False))
                is_shared = already_shared or manifest in needed or digest in sharing
                sizes[digest] = blob.cached_size, is_shared
    total = sum(size for size, _ in sizes.values())
    shared = sum(size for size, is_shared in sizes.values() if is_shared)
    platforms = {
        row.platform
        for digest, row in links.items()
        if row.platform
        and any(blob.cached_size is not None for blob in blobs.get(digest, {}).values())
    }
    entry = TagEntry(
        digest=Digest.parse(top.digest), cached=top.cached, checked=top.checked, gone=top.gone
    )
    cached = CachedTag(
        name=tag,
        entry=entry,
        last_pull=top.last_pull,
        platforms=tuple(sorted(platforms)),
        size=total,
        locked=top.locked,
        kind=kind_of(top.content, top.media_type),
    )
    return TagContents(
        cached, top.media_type, is_index, tuple(images), total - shared, shared, also_tagged
    )


@dataclass(frozen=True, slots=True)
class RepositoryContents:
    """The contents of a repository.

    *own* is in bytes, of what only this repository needs; *shared* of what others need too.
    """

    tags: tuple[Tag, ...]
    tag_count: int
    manifests: int
    own: int
    shared: int


def read_repository_contents(
    connection: Connection, repository: Repository, limit: int
) -> RepositoryContents:
    """The contents of a repository, and how much of them other repositories need too.

    At most *limit* tags are named.
    """
    links, refers = schema.repository_manifests, schema.references
    of_repository = schema.tags.c.repository == repository
    names = (
        select(schema.tags.c.name).where(of_repository).order_by(schema.tags.c.name).limit(limit)
    )
    tags = tuple(Tag(name) for name in connection.execute(names).scalars())
    tags_query = select(func.count()).select_from(schema.tags).where(of_repository)
    tag_count = connection.execute(tags_query).scalar_one()
    other = links.alias()
    in_other_repositories = exists(
        select(other.c.digest).where(
            other.c.digest == _links.digest, other.c.repository != repository
        )
    )
    content_size = func.length(schema.manifests.c.content)
    manifests = (
        select(
            func.count(),
            func.coalesce(func.sum(content_size), 0),
            func.coalesce(func.sum(case((in_other_repositories, content_size))), 0),
        )
        .join(links, _links.digest == schema.manifests.c.digest)
        .where(_links.repository == repository)
    )
    referenced = (
        select(_refers.digest)
        .join(links, _links.digest == _refers.manifest)
        .where(_links.repository == repository, _refers.kind != ReferenceKind.MANIFEST)
    )
    others = refers.alias()
    needed = exists(
        select(others.c.digest)
        .join(other, other.c.digest == others.c.manifest)
        .where(others.c.digest == schema.blobs.c.digest, other.c.repository != repository)
    )
    size = schema.blobs.c.size
    blobs = select(
        func.coalesce(func.sum(size), 0), func.coalesce(func.sum(case((needed, size))), 0)
    ).where(schema.blobs.c.digest.in_(referenced))
    manifest_count, manifests_size, shared_manifests = connection.execute(manifests).one()
    blobs_size, shared_blobs = connection.execute(blobs).one()
    shared = shared_manifests + shared_blobs
    own = manifests_size + blobs_size - shared
    return RepositoryContents(tags, tag_count, manifest_count, own, shared)


def _reached(digest: str) -> Any:
    """A manifest and all manifests below it."""
    reached = select(literal(digest).label("digest")).cte("reached", recursive=True)
    below = (
        select(_refers.digest)
        .join(reached, _refers.manifest == reached.c.digest)
        .where(_refers.kind == ReferenceKind.MANIFEST)
    )
    return reached.union(below)


def _links_query(repository: Repository, below: Any) -> Any:
    content = schema.manifests.c
    return (
        select(schema.repository_manifests, func.length(content.content).label("size"))
        .join(schema.manifests, content.digest == _links.digest)
        .where(_links.repository == repository, _links.digest.in_(below))
    )


def _children_query(below: Any) -> Any:
    columns = (_refers.manifest, _refers.digest, _refers.media_type, _refers.platform)
    return (
        select(*columns)
        .where(_refers.manifest.in_(below), _refers.kind == ReferenceKind.MANIFEST)
        .order_by(_refers.manifest, _refers.position)
    )


def _of_images(repository: Repository, below: Any) -> Any:
    """Whether a reference is to a blob, and from an image of the repository."""
    cached = select(_links.digest).where(_links.repository == repository, _links.digest.in_(below))
    return and_(_refers.manifest.in_(cached), _refers.kind != ReferenceKind.MANIFEST)


def _blobs_query(repository: Repository, below: Any) -> Any:
    return (
        select(schema.references, schema.blobs.c.size.label("cached_size"))
        .join(schema.blobs, schema.blobs.c.digest == _refers.digest, isouter=True)
        .where(_of_images(repository, below))
        .order_by(_refers.manifest, _refers.position)
    )


def _otherwise_tagged_query(repository: Repository, tag: Tag, below: Any) -> Any:
    """The manifests among *below* that other tags of the repository lead to."""
    above = select(_links.digest.label("base"), _links.digest.label("digest")).where(
        _links.repository == repository, _links.digest.in_(below)
    )
    up = above.cte("above", recursive=True)
    in_repository = (_links.digest == _refers.manifest) & (_links.repository == repository)
    up = up.union(
        select(up.c.base, _refers.manifest)
        .join(schema.references, _refers.digest == up.c.digest)
        .join(schema.repository_manifests, in_repository)
        .where(_refers.kind == ReferenceKind.MANIFEST)
    )
    tags = schema.tags.c
    return (
        select(up.c.base)
        .join(schema.tags, (tags.digest == up.c.digest) & (tags.repository == repository))
        .where(tags.name != tag)
        .distinct()
    )


def _sharing(connection: Connection, repository: Repository, below: Any) -> dict[str, _Sharing]:
    """What else needs the blobs of a tag's images.

    Blobs that nothing else needs are left out.
    """
    blobs_of_tag = select(_refers.digest).where(_of_images(repository, below))
    others = (
        select(_refers.digest.label("blob"), _links.repository, _links.digest.label("manifest"))
        .join(schema.repository_manifests, _links.digest == _refers.manifest)
        .where(
            _refers.digest.in_(blobs_of_tag),
            _refers.kind != ReferenceKind.MANIFEST,
            not_(and_(_links.repository == repository, _links.digest.in_(below))),
        )
        .distinct()
        .subquery()
    )
    image = others.c.repository + literal("@") + others.c.manifest
    other_repository = case((others.c.repository != repository, others.c.repository))
    # The first and the last by name: two examples from one aggregation.
    query = select(
        others.c.blob,
        func.count(),
        func.count(distinct(other_repository)),
        func.min(image),
        func.max(image),
    ).group_by(others.c.blob)
    rows = connection.execute(query).all()
    names = _names(connection, {image for row in rows for image in row[3:]})
    return {
        blob: _Sharing(images, repositories, tuple(dict.fromkeys((names[first], names[last]))))
        for blob, images, repositories, first, last in rows
    }


def _names(connection: Connection, images: Iterable[str]) -> dict[str, str]:
    """Names to show for images given as ``library/nginx@sha256:…``.

    The name with a tag that leads there: ``library/nginx:1.27``; without one, the repository's.
    """
    pairs = {image: tuple(image.split("@", 1)) for image in images}
    parents: dict[str, set[str]] = {}
    for chunk in schema.chunks(sorted({digest for _, digest in pairs.values()})):
        query = select(_refers.digest, _refers.manifest).where(
            _refers.digest.in_(chunk), _refers.kind == ReferenceKind.MANIFEST
        )
        for child, parent in connection.execute(query):
            parents.setdefault(child, set()).add(parent)
    tags: dict[tuple[str, str], str] = {}
    column = schema.tags.c
    by_repository: dict[str, set[str]] = {}
    for repository, digest in pairs.values():
        by_repository.setdefault(repository, set()).update((digest, *parents.get(digest, ())))
    for chunk in schema.chunks(sorted(by_repository)):
        for part in schema.chunks(sorted(set().union(*(by_repository[each] for each in chunk)))):
            of_both = column.repository.in_(chunk) & column.digest.in_(part)
            tag_query = (
                select(column.repository, column.digest, func.min(column.name))
                .where(of_both)
                .group_by(column.repository, column.digest)
            )
            for repository, digest, name in connection.execute(tag_query):
                tags[repository, digest] = name
    names = {}
    for image, (repository, digest) in pairs.items():
        candidates = (digest, *sorted(parents.get(digest, ())))
        tag = next(
            (tags[repository, each] for each in candidates if (repository, each) in tags), None
        )
        names[image] = f"{repository}:{tag}" if tag is not None else repository
    return names


def _images_of_index(top: str, children: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The images of an index; an index within it is replaced by its own images."""
    images: dict[str, Any] = {}
    visited: set[str] = {top}
    # No recursion: a source may chain a thousand indexes, each within the one before (S34), which
    # is more than Python's own stack takes.
    under_way = [iter(children.get(top, ()))]
    while under_way:
        for row in under_way[-1]:
            if row.digest not in children:
                images.setdefault(row.digest, row)
            elif row.digest not in visited:
                visited.add(row.digest)
                under_way.append(iter(children[row.digest]))
                break
        else:
            under_way.pop()
    return list(images.values())


def _image(
    row: Any,
    links: Mapping[str, Any],
    blobs: Mapping[str, Mapping[str, Any]],
    sharing: Mapping[str, _Sharing],
    attested: Mapping[str, str],
) -> ImageRecord:
    link = links.get(row.digest)
    blob_rows = list(blobs.get(row.digest, {}).values()) if link is not None else []
    records = [_blob(blob, sharing.get(blob.digest, _Sharing())) for blob in blob_rows]
    needed = [blob for blob in blob_rows if not blob.optional]
    cached = [blob for blob in blob_rows if blob.cached_size is not None]
    state = CachedState.PARTLY_CACHED if cached else CachedState.NOT_CACHED
    if cached and all(blob.cached_size is not None for blob in needed):
        state = CachedState.CACHED
    # The size of a copy counts, whatever the manifest states (F82).
    sizes = [record.size for record in records]
    blobs_size = None if None in sizes else sum(size for size in sizes if size is not None)
    used = (
        []
        if link is None
        else [moment for moment in (link.last_pull, link.last_used) if moment is not None]
    )
    by_kind = [(blob.kind, record) for blob, record in zip(blob_rows, records, strict=True)]
    return ImageRecord(
        digest=row.digest,
        media_type=row.media_type,
        platform=(link.platform if link is not None else None) or getattr(row, "platform", None),
        size=None if link is None or blobs_size is None else link.size + blobs_size,
        cached_size=0 if link is None else link.size + sum(blob.cached_size for blob in cached),
        cached_state=state,
        last_used=max(used, default=None),
        locked=link is not None and bool(link.locked),
        attests=attested.get(row.digest),
        config=next((record for kind, record in by_kind if kind == ReferenceKind.CONFIG), None),
        layers=tuple(record for kind, record in by_kind if kind == ReferenceKind.LAYER),
    )


def _blob(row: Any, sharing: _Sharing) -> ImageBlobRecord:
    return ImageBlobRecord(
        digest=row.digest,
        media_type=row.media_type,
        size=row.cached_size if row.cached_size is not None else stated_size(row.size),
        cached=row.cached_size is not None,
        shared_images=sharing.images,
        shared_repositories=sharing.repositories,
        shared_with=sharing.examples,
    )
