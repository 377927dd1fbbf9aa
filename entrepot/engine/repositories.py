"""Cached repositories.

Their contents, their deletion and what it would remove, and their locks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from entrepot.api.models import (
    DeletionPlan,
    RepositoryDetail,
    RepositorySnapshot,
    TagDetail,
    TagSnapshot,
)
from entrepot.cache.cache import ArtifactCache
from entrepot.cache.pull import Pull
from entrepot.config.documents import Documents
from entrepot.config.settings import Settings
from entrepot.core.freshness import NEVER
from entrepot.core.pages import ListPosition, Page
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import Route, RuleBook
from entrepot.engine.api_models import tag_image
from entrepot.engine.maintenance import MaintenanceService
from entrepot.errors import Locked, NotFound
from entrepot.event_kinds import EventKind
from entrepot.events import EventLog
from entrepot.store.catalog import Catalog
from entrepot.store.eviction import locked_above
from entrepot.store.records import CachedManifest as CachedManifest
from entrepot.store.records import CachedRepository as CachedRepository
from entrepot.store.records import CachedTag
from entrepot.store.records import ListedTag as ListedTag

NAMES_IN_PREVIEW = 100
"""Names in the preview of a deletion; the rest is counted."""

ENTRIES_AT_ONCE = 500
"""Repositories or tags that a listing of all reads at once: they take the event loop a millisecond,
and a reading thread some twenty."""


class RepositoryService:
    """The cached repositories of one engine."""

    def __init__(
        self,
        *,
        settings: Settings,
        documents: Documents,
        catalog: Catalog,
        cache: ArtifactCache,
        maintenance: MaintenanceService,
        events: EventLog,
    ) -> None:
        self._settings = settings
        self._documents = documents
        self._catalog = catalog
        self._cache = cache
        self._maintenance = maintenance
        self._events = events

    async def names(self, *, after: str | None, limit: int) -> Sequence[str]:
        """The names of at most *limit* cached repositories in order, those behind *after*."""
        return await self._catalog.repository_names(after=after, limit=limit)

    async def pages(self) -> AsyncGenerator[Sequence[RepositorySnapshot]]:
        """All cached repositories, by name, a page at a time."""
        rules = self._documents.rules
        after: Repository | None = None
        while True:
            page = await self._catalog.repositories(after=after, limit=ENTRIES_AT_ONCE)
            yield [_repository_snapshot(repository, rules) for repository in page]
            if len(page) < ENTRIES_AT_ONCE:
                break
            after = page[-1].name

    async def list(self) -> Sequence[RepositorySnapshot]:
        """All cached repositories, by name."""
        return [repository async for page in self.pages() for repository in page]

    async def get(self, name: str) -> RepositoryDetail:
        """A cached repository with all its tags; raises `NotFound`."""
        return RepositoryDetail(
            repository=await self.summary(name),
            tags=tuple([tag async for page in self.tag_pages(name) for tag in page]),
        )

    async def summary(self, name: str) -> RepositorySnapshot:
        """A cached repository without its tags; raises `NotFound`."""
        repositories = await self._catalog.repositories(Repository(name))
        if not repositories:
            raise _no_repository(name)
        return _repository_snapshot(repositories[0], self._documents.rules)

    async def tag_pages(self, name: str) -> AsyncGenerator[Sequence[TagSnapshot]]:
        """The tags of a cached repository, by name, a page at a time."""
        route = self._documents.rules.route(name)
        after: ListPosition | None = None
        while True:
            page = await self._catalog.tags(Repository(name), Page(ENTRIES_AT_ONCE, after))
            yield [self._tag_snapshot(tag, route) for tag in page]
            if len(page) < ENTRIES_AT_ONCE:
                break
            after = ListPosition(page[-1].name)

    async def describe(self, name: str) -> tuple[CachedRepository, float]:
        """A cached repository, and when a tag of it last moved; raises `NotFound`."""
        repository = await self._catalog.repository_with_change(Repository(name))
        if repository is None:
            raise _no_repository(name)
        return repository

    async def listed_tags(
        self, name: str, page: Page, *, digest: Digest | None = None
    ) -> Sequence[ListedTag]:
        """A page of the tags of a cached repository; raises `NotFound`.

        With *digest*, only those that point there.
        """
        tags = await self._catalog.listed_tags(Repository(name), page, digest=digest)
        if not tags:
            await self._check_cached(name)
        return tags

    async def listed_tag(self, name: str, tag: Tag) -> ListedTag:
        """A tag of a cached repository, without what is behind it; raises `NotFound`."""
        listed = await self._catalog.listed_tag(Repository(name), tag)
        if listed is None:
            await self._check_cached(name)
            raise not_in_repository(name, f"tag {tag}")
        return listed

    async def listed_manifests(self, name: str, page: Page) -> Sequence[CachedManifest]:
        """A page of the manifests of a cached repository; raises `NotFound`."""
        manifests = await self._catalog.manifests(Repository(name), page)
        if not manifests:
            await self._check_cached(name)
        return manifests

    async def listed_manifest(self, name: str, digest: Digest) -> CachedManifest:
        """A manifest of a cached repository; raises `NotFound`."""
        manifest = await self._catalog.listed_manifest(Repository(name), digest)
        if manifest is None:
            await self._check_cached(name)
            raise not_in_repository(name, f"manifest {digest}")
        return manifest

    async def _check_cached(self, name: str) -> None:
        """Raise `NotFound` when nothing of a repository is cached."""
        if not await self._catalog.is_cached(Repository(name)):
            raise _no_repository(name)

    async def get_tag(self, name: str, tag: str) -> TagDetail:
        """A tag of a cached repository with its images and layers; raises `NotFound`."""
        repository = Repository(name)
        contents = await self._catalog.tag_contents(repository, Tag(tag))
        if contents is None:
            raise await self._no_tag(repository, tag)
        return TagDetail(
            repository=name,
            tag=self._tag_snapshot(contents.tag, self._documents.rules.route(name)),
            media_type=contents.media_type,
            is_index=contents.is_index,
            images=tuple(tag_image(image) for image in contents.images),
            own_size=contents.own_size,
            shared_size=contents.shared_size,
            also_tagged=contents.also_tagged,
        )

    async def _no_tag(self, repository: Repository, tag: str) -> NotFound:
        if not await self._catalog.is_cached(repository):
            return _no_repository(repository)
        return NotFound(
            f"{repository} has no cached tag {tag}.",
            f"See its tags with: entrepot repository show {repository}",
        )

    def _tag_snapshot(self, tag: CachedTag, route: Route | None) -> TagSnapshot:
        freshness = self._settings.freshness if route is None else self._cache.tag_lifetime(route)
        return TagSnapshot(
            name=tag.name,
            digest=str(tag.entry.digest),
            platforms=tag.platforms,
            size=tag.size,
            cached=tag.entry.cached,
            checked=tag.entry.checked,
            last_pull=tag.last_pull,
            fresh_until=None if freshness == NEVER else tag.entry.checked + freshness,
            gone=tag.entry.gone,
            locked=tag.locked,
            kind=tag.kind.name,
            artifact_type=tag.kind.artifact_type,
        )

    async def delete(self, name: str) -> tuple[Sequence[Digest], Sequence[Tag]]:
        """Delete a cached repository with all that only it needs, and cancel its pulls.

        Returns the deleted manifests and tags. Raises `NotFound`, or `Locked` when it or a part of
        it is locked.
        """
        repository = Repository(name)
        digests, tags = await self._catalog.names_in(repository)
        await self._check_unlocked(repository)
        await self._cancel_pulls(lambda pull: pull.repository == repository)
        if not await self._catalog.delete_repository(repository):
            raise _no_repository(name)
        self._cache.index.invalidate(repository)
        self._cache.forget_failures()
        self._events.record(
            EventKind.REPOSITORY_DELETED, f"The cached repository {name} is deleted.", name
        )
        await self._maintenance.collect_contents(digests)
        return digests, tags

    async def _check_unlocked(self, repository: Repository, tag: str | None = None) -> None:
        """Raise `Locked` when a repository, or one of its tags, is locked.

        Without a tag, also when a part of the repository is locked.
        """
        locks = await self._catalog.locks(repository)
        if locks.repository:
            raise _locked(repository, repository)
        if tag is not None:
            if tag in locks.tags:
                raise _locked(f"{repository}:{tag}", f"{repository}:{tag}")
        elif locks.tags or locks.manifests:
            part = (
                f"{repository}:{min(locks.tags)}"
                if locks.tags
                else f"{repository}@{min(locks.manifests)}"
            )
            raise _locked(f"A part of {repository}, {part},", part)

    async def preview_delete(self, name: str) -> DeletionPlan:
        """What is removed and what stays when a cached repository is deleted.

        Raises `NotFound`.
        """
        repository = Repository(name)
        if not await self._catalog.is_cached(repository):
            raise _no_repository(name)
        refusal = await _refusal_of(self._check_unlocked(repository))
        contents = await self._catalog.repository_contents(repository, NAMES_IN_PREVIEW)
        route = self._documents.rules.route(name)
        return DeletionPlan(
            kind="repository",
            name=name,
            refused_code=refusal.code if refusal else None,
            refused=refusal.message if refusal else None,
            tags=contents.tags,
            tag_count=contents.tag_count,
            manifest_count=contents.manifests,
            freed=contents.own,
            shared=contents.shared,
            pulls=sum(
                not pull.state.ended and pull.repository == repository
                for pull in self._cache.pulls.all()
            ),
            fetched_again_by=route.rule.name if route is not None else None,
        )

    async def preview_delete_tag(self, name: str, tag: str) -> DeletionPlan:
        """What is removed and what stays when a tag is deleted.

        All but the tag stays until it is evicted. Raises `NotFound`.
        """
        repository = Repository(name)
        contents = await self._catalog.tag_contents(repository, Tag(tag))
        if contents is None:
            raise await self._no_tag(repository, tag)
        refusal = await _refusal_of(self._check_unlocked(repository, tag))
        route = self._documents.rules.route(name)
        return DeletionPlan(
            kind="tag",
            name=f"{name}:{tag}",
            refused_code=refusal.code if refusal else None,
            refused=refusal.message if refusal else None,
            tags=(tag,),
            tag_count=1,
            shared=contents.shared_size,
            untagged=contents.own_size,
            fetched_again_by=route.rule.name if route is not None else None,
        )

    async def delete_tag(self, name: str, tag: str) -> None:
        """Delete a tag; the next pull fetches it again.

        Raises `NotFound`, or `Locked` when it or its repository is locked.
        """
        repository = Repository(name)
        await self._check_unlocked(repository, tag)
        if not await self._catalog.delete_tag(repository, Tag(tag)):
            raise not_in_repository(name, f"tag {tag}")
        self._cache.index.invalidate(repository)
        self._events.record(
            EventKind.TAG_DELETED, f"The tag {name}:{tag} is deleted.", f"{name}:{tag}"
        )

    async def delete_manifest(self, name: str, digest: Digest) -> None:
        """Delete a manifest of a repository, and what only it needed.

        The tags that point at it are deleted, and the blobs that only it needed.

        Raises `NotFound`, or `Locked` when its repository, it, or a tag or an index that needs it
        is locked.
        """
        repository = Repository(name)
        locks = await self._catalog.locks(repository)
        if locks.repository:
            raise _locked(name, name)
        key = repository, digest
        for above in locked_above(await self._catalog.lineage([key]), key):
            tag = next((each for each in above.tags if each in locks.tags), None)
            part = f"{name}:{tag}" if tag is not None else f"{name}@{above.digest}"
            raise _locked(
                part if above.digest == digest else f"{part}, which needs the manifest {digest},",
                part,
            )
        await self._cancel_pulls(
            lambda pull: (
                pull.repository == repository
                and pull.manifest is not None
                and pull.manifest.digest == digest
            )
        )
        if not await self._catalog.delete_manifest(repository, digest):
            raise not_in_repository(name, f"manifest {digest}")
        self._cache.index.invalidate(repository)
        self._events.record(
            EventKind.MANIFEST_DELETED,
            f"The manifest {name}@{digest} is deleted.",
            f"{name}@{digest}",
        )
        await self._maintenance.collect_contents([digest])

    async def _cancel_pulls(self, concerns: Callable[[Pull], bool]) -> None:
        pulls = [
            pull for pull in self._cache.pulls.all() if not pull.state.ended and concerns(pull)
        ]
        for pull in pulls:
            self._cache.pulls.cancel(pull.id)
        for pull in pulls:
            await pull.finished.wait()

    async def lock(self, name: str, *, locked: bool = True) -> None:
        """Lock a cached repository (ACR's ``deleteEnabled: false``) or unlock it.

        While it is locked, nothing of it is evicted or deleted. Raises `NotFound`.
        """
        if not await self._catalog.lock_repository(Repository(name), locked):
            raise _no_repository(name)
        self._lock_changed(name, locked)

    async def lock_tag(self, name: str, tag: str, *, locked: bool = True) -> None:
        """Lock a tag with all that is cached behind it, or unlock it.

        The lock stays with the tag when the tag moves at its source. Raises `NotFound`.
        """
        if not await self._catalog.lock_tag(Repository(name), Tag(tag), locked):
            raise not_in_repository(name, f"tag {tag}")
        self._lock_changed(f"{name}:{tag}", locked)

    async def lock_manifest(self, name: str, digest: Digest, *, locked: bool = True) -> None:
        """Lock a manifest with all that is cached below it, or unlock it.

        Raises `NotFound`.
        """
        if not await self._catalog.lock_manifest(Repository(name), digest, locked):
            raise not_in_repository(name, f"manifest {digest}")
        self._lock_changed(f"{name}@{digest}", locked)

    def _lock_changed(self, what: str, locked: bool) -> None:
        self._maintenance.check_space_soon()
        self._events.record(
            EventKind.LOCKED if locked else EventKind.UNLOCKED,
            f"{what} is {'locked: it is not evicted or deleted' if locked else 'unlocked'}.",
            what,
        )


async def _refusal_of(check: Awaitable[None]) -> Locked | None:
    try:
        await check
    except Locked as refusal:
        return refusal
    return None


def _repository_snapshot(repository: CachedRepository, rules: RuleBook) -> RepositorySnapshot:
    rule = rules.rule_of(repository.name)
    return RepositorySnapshot(
        name=repository.name,
        rule=rule.name if rule is not None else None,
        source_repository=repository.source,
        tags=repository.tags,
        manifests=repository.manifests,
        size=repository.size,
        created=repository.created,
        last_pull=repository.last_pull,
        pulls=repository.pulls,
        locked=repository.locked,
    )


def _locked(what: str, unlock: str) -> Locked:
    return Locked(f"{what} is locked.", f"Unlock it first: entrepot repository unlock {unlock}")


def not_in_repository(name: str, what: str) -> NotFound:
    """A repository has no such tag or manifest: *what* names it."""
    return NotFound(f"{name} has no cached {what}.", "See its tags with: entrepot repository show")


def _no_repository(name: str) -> NotFound:
    return NotFound(
        f"There is no cached repository {name}.", "See them with: entrepot repository list"
    )
