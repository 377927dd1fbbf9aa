"""Names of source registries, as clients in mirror mode use them, and the repositories here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from entrepot.cache.cache import ArtifactCache
from entrepot.config.documents import Documents
from entrepot.core.mirrors import MayRead, SourceIndex, every_rule, target_of
from entrepot.core.patterns import NameRange
from entrepot.core.reference import Repository
from entrepot.core.rules import CacheRule
from entrepot.errors import RepositoryUnknown
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed

Admits: TypeAlias = Callable[[str], bool]
"""Whether a reader may read a target repository."""


def every_repository(_: str) -> bool:
    """The `Admits` of a reader who may read everything."""
    return True


class SourceNames:
    """Resolves the names of images at their source registries by the rules in force."""

    def __init__(self, documents: Documents, catalog: Catalog, cache: ArtifactCache) -> None:
        self._documents = documents
        self._catalog = catalog
        self._cache = cache
        self._current = SourceIndex(documents.rules)

    @property
    def _index(self) -> SourceIndex:
        rules = self._documents.rules
        if self._current.rules is not rules:
            self._current = SourceIndex(rules)
        return self._current

    async def resolve(
        self,
        namespace: str,
        name: str,
        may_read: MayRead = every_rule,
        admits: Admits = every_repository,
    ) -> Repository:
        """The target repository for *name* at the source registry *namespace*.

        Raises `RepositoryUnknown` where no rule that *may_read* allows leads to one that *admits*
        allows. No source is asked.
        """
        target = self._index.find(namespace, name, may_read)
        if target is None or not admits(target[0]):
            raise RepositoryUnknown(
                f"No cache rule pulls from {namespace}/{name}.",
                "Create one in the dashboard or with: entrepot rule create",
            )
        repository, route = target
        cached_source = None
        with suppress(CatalogFailed):
            cached_source = await self._cache.index.source_of(repository)
        if cached_source is not None and cached_source != route.source:
            # A rule that was deleted had cached another registry's repository there. Its name may
            # be none of this reader's business.
            raise RepositoryUnknown(
                f"The cache rule {route.rule.name} keeps {route.source} in {repository}, and what "
                "is cached there came from another repository.",
                f"Delete that: entrepot repository delete {repository}",
            )
        return repository

    async def cached(
        self,
        namespace: str,
        *,
        after: str | None,
        limit: int,
        may_read: MayRead = every_rule,
        admits: Admits = every_repository,
    ) -> list[str]:
        """Cached repositories of a source registry by their names there, in order.

        At most *limit*, those behind *after*; only such ones to which `resolve` leads.
        """
        names: list[str] = []
        index = self._index
        while len(names) < limit:
            ranges = {
                rule: name_range
                for rule in index.rules_of(namespace)
                if may_read(rule) and (name_range := _targets_after(rule, after)) is not None
            }
            pages = await self._catalog.first_sources(list(ranges.values()), limit)
            candidates: list[tuple[str, Repository, str]] = []
            ends: list[str] = []
            for rule, page in zip(ranges, pages, strict=True):
                candidates += [
                    (_source_path(rule, repository), repository, source)
                    for repository, source in page
                ]
                if len(page) == limit:
                    ends.append(candidates[-1][0])
            # Behind the end of its page a rule may have more.
            end = min(ends, default=None)
            for path, repository, source in sorted(candidates):
                if len(names) == limit or (end is not None and path > end):
                    break
                target = index.find(namespace, path, may_read)
                if (
                    target is not None
                    and (target[0], target[1].source) == (repository, source)
                    and admits(repository)
                ):
                    names.append(path)
            if end is None:
                break
            after = end
        return names


def _source_path(rule: CacheRule, repository: str) -> str:
    """The path at the source of a repository that a rule's target covers."""
    if not rule.target.wildcard:
        return rule.source.path
    rest = repository[len(rule.target.path) + 1 :] if rule.target.path else repository
    return f"{rule.source.path}/{rest}" if rule.source.path else rest


def _targets_after(rule: CacheRule, after: str | None) -> NameRange | None:
    """The targets of a rule whose source paths are behind *after*; None: there are none."""
    names = rule.target.names
    if after is None:
        return names
    if not rule.source.wildcard:
        return names if rule.source.path > after else None
    prefix = f"{rule.source.path}/" if rule.source.path else ""
    if after < prefix:
        return names
    if not after.startswith(prefix):
        return None
    # No character of a name sorts before a blank.
    return names._replace(first=f"{target_of(rule, after)} ")
