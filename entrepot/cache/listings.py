"""Tags and referrers: whether a list is served from memory or fetched.

All clients share one request to the source and its answer (`entrepot.cache.source_lists`). Where
the source gives no answer, a client gets the last list that is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec

from entrepot.cache.failures import SourceFailures
from entrepot.cache.index import CacheIndex
from entrepot.cache.kept_referrers import KeptReferrers, fallback_tag
from entrepot.cache.results import ListAnswer, Origin
from entrepot.cache.source_lists import (
    ListKey,
    SourceList,
    SourceLists,
    has_no_entries,
    of_artifact_type,
)
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import Route
from entrepot.errors import ReferrersUnknown, RegistryError, RepositoryUnknown
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceAnswerInvalid, SourceError, SourceNotFound
from entrepot.source.singleflight import SingleFlight
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed


class ListResolver:
    """Finds lists of tags and referrers.

    See `entrepot.cache.cache.ArtifactCache` for *route*, *client* and *monotonic*; *tag_lifetime*
    gives that of a rule in seconds.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        index: CacheIndex,
        failures: SourceFailures,
        kept: KeptReferrers,
        route: Callable[[str], Route | None],
        client: Callable[[Route], SourceClient],
        tag_lifetime: Callable[[Route], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._index = index
        self._failures = failures
        self._route = route
        self._client = client
        self._tag_lifetime = tag_lifetime
        self.kept = kept
        """The lists of referrers that stay when their source has gone."""
        self._fetches: SingleFlight[SourceList] = SingleFlight()
        self._lists = SourceLists(monotonic)

    async def close(self) -> None:
        """Cancel what is being fetched."""
        await self._fetches.close()
        await self.kept.close()

    def drop_expired(self) -> None:
        """Drop the lists that are too old to be served."""
        self._lists.drop_expired()

    def distrust(self) -> None:
        """Fetch each list again before it is served: a rule or credential set has changed."""
        self._lists.distrust()

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> ListAnswer:
        """A page of the tags at the source, in its order: *n* of them, those after *last*.

        Where there is no source or it gives no answer: the last list that is known, else the cached
        tags. Raises `RepositoryUnknown` or a `SourceError`.
        """
        route = self._route(repository)
        if n == 0:
            # One tag is still requested: a repository that does not exist has no empty list.
            return replace(
                await self.tags(repository, n=1, last=last), listing=_tag_list(repository, ())
            )
        if route is None:
            page = await self._cached_tags(repository, n, last, _without_rule(repository))
            if page is None:
                raise await self._failures.unknown(repository, Tag("latest"))
            return page
        key = ListKey(route.source, repository, "tags/list", f"n={n} last={last}")

        async def fetch() -> SourceList:
            page = await self._client(route).tags(route.repository, n=n, last=last)
            return replace(_tag_list(repository, page.tags, page.next_last), note=page.note)

        has_copy = self._lists.last_known(key) is not None or await self._is_cached(repository)
        try:
            return await self._resolve(
                route, key, fetch, has_copy=has_copy, unknown=RepositoryUnknown
            )
        except (SourceError, RepositoryUnknown) as error:
            page = await self._cached_tags(repository, n, last, error.what) if has_copy else None
            if page is None:
                raise
            return page

    async def _is_cached(self, repository: Repository) -> bool:
        """Whether the repository is cached, as far as the catalog can tell.

        Where the catalog fails, the source is still asked.
        """
        try:
            return await self._index.is_cached(repository)
        except CatalogFailed:
            return False

    async def _cached_tags(
        self, repository: Repository, n: int | None, last: str | None, warning: str
    ) -> ListAnswer | None:
        """A page of the cached tags; None where the repository is cached without tags."""
        names = await self._catalog.tag_names(
            repository, after=last, limit=None if n is None else n + 1
        )
        if not names and last is None:
            return None
        page = names if n is None else names[:n]
        return ListAnswer(
            _tag_list(repository, page, page[-1] if page and len(page) < len(names) else None),
            Origin.STALE,
            warning,
        )

    async def referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ListAnswer:
        """The index of a manifest's referrers at the source.

        With *artifact_type* only those of that type. Where the source gives no answer: the last
        index that is known, of an earlier run too, else what is cached of it. Where nothing is, the
        failure of the source: an empty index would say that there are no referrers (F73). Raises
        `RepositoryUnknown`, `ReferrersUnknown` or a `SourceError`.
        """
        route = self._route(repository)
        if route is None:
            return await self._kept_referrers(repository, digest, artifact_type)
        whole = ListKey(route.source, repository, f"referrers/{digest}")
        key = whole._replace(selection=artifact_type)

        def derive() -> None:
            if artifact_type is not None:
                self._lists.derive(
                    key, whole, lambda listing: of_artifact_type(listing, artifact_type)
                )

        derive()
        if self._lists.last_known(key) is None:
            stored = await self.kept.stored(repository, digest, artifact_type, route.source)
            if stored is not None:
                self._lists.load(whole._replace(selection=stored[0]), stored[1])
            derive()

        async def fetch() -> SourceList:
            index = await self._client(route).referrers(route.repository, digest, artifact_type)
            listing = _selected(
                SourceList(index.content, filtered=index.filtered, note=index.note), artifact_type
            )
            if index.note.is_stale:
                return listing
            if index.is_assumed:
                await self._check_api_was_not_lost(route, key, digest)
            if index.tagged:
                self.kept.record(repository, digest, route.source, None, index.content)
                await self.kept.record_fallback(repository, route.source, digest, index.content)
            elif listing.filtered == (artifact_type is not None):
                self.kept.record(repository, digest, route.source, artifact_type, listing.body)
            return listing

        try:
            return await self._resolve(
                route, key, fetch, has_copy=self._lists.last_known(key) is not None, unknown=None
            )
        except (SourceError, RegistryError) as error:
            with suppress(CatalogFailed):
                cached = await self.kept.of_cached_manifests(repository, digest)
                answer = _incomplete(cached, artifact_type, error.what)
                if answer is not None:
                    return answer
            raise

    async def _check_api_was_not_lost(self, route: Route, key: ListKey, digest: Digest) -> None:
        """Raise `SourceAnswerInvalid` where a source had a list by its referrers API, and has none.

        Distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema": the API
        answers 200 with an empty index where no referrers are left, and never 404. So two 404 say
        that the API is gone, and not that the signatures were deleted. A list behind a fallback tag
        ends with its tag; one of a manifest that is not cached is not kept.
        """
        last_known = self._lists.last_known(key)
        if last_known is None or has_no_entries(last_known):
            return
        # A catalog that fails takes no list away either.
        with suppress(CatalogFailed):
            if (
                not await self._index.has_manifest(key.repository, digest)
                or await self._index.tag(key.repository, fallback_tag(digest)) is not None
            ):
                return
        raise SourceAnswerInvalid(
            f"{route.source} listed the referrers of {digest}, and has no such list any more: its "
            "referrers API answers 404.",
            "Ask its administrator. Deleted referrers leave an empty list there.",
        )

    async def _kept_referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ListAnswer:
        """Without a rule: the last index that is known, else what is cached of it.

        Raises `ReferrersUnknown` where there is neither.
        """
        if not await self._index.is_cached(repository):
            raise await self._failures.unknown(repository, digest)
        why = _without_rule(repository)
        stored = await self.kept.stored(repository, digest, artifact_type, None)
        if stored is not None:
            return ListAnswer(_selected(stored[1], artifact_type), Origin.STALE, why)
        cached = await self.kept.of_cached_manifests(repository, digest)
        answer = _incomplete(cached, artifact_type, why)
        if answer is None:
            raise ReferrersUnknown(
                f"{why} Nothing that refers to {digest} is cached.",
                "Create a cache rule for it to ask its source.",
            )
        return answer

    async def _resolve(
        self,
        route: Route,
        key: ListKey,
        fetch: Callable[[], Awaitable[SourceList]],
        *,
        has_copy: bool,
        unknown: type[RegistryError] | None,
    ) -> ListAnswer:
        """A fresh list, else that of the source, else the last known one.

        Raises the error for the client when there is none of them. With *has_copy* something can be
        served instead, and the client does not wait longer than `SourceFailures.timeout`.
        """
        listing = self._lists.fresh(key, self._tag_lifetime(route))
        if listing is not None:
            return _answer(listing, Origin.CACHE)
        client = self._client(route)
        try:
            self._failures.check(key.repository, key.what)
            async with asyncio.timeout(self._failures.timeout(client) if has_copy else None):
                fetched = self._fetches.join(
                    key,
                    lambda: self._fetch(route, key, fetch, unknown),
                    group=route.registry.login_server,
                )
                return _answer(await fetched, Origin.UPSTREAM)
        except TimeoutError:
            slow = self._failures.too_slow(client, route)
            self._failures.remember(key.repository, key.what, slow, has_copy=True)
            listing = self._lists.last_known(key)
            if listing is None:
                raise slow from None
            return ListAnswer(listing, Origin.STALE, slow.what)
        except (SourceError, RegistryError) as error:
            listing = self._lists.last_known(key)
            if listing is None:
                raise
            return ListAnswer(listing, Origin.STALE, error.what)

    async def _fetch(
        self,
        route: Route,
        key: ListKey,
        fetch: Callable[[], Awaitable[SourceList]],
        unknown: type[RegistryError] | None,
    ) -> SourceList:
        try:
            listing = await fetch()
        except SourceError as error:
            if isinstance(error, SourceNotFound):
                self._lists.discard(key)
            raise self._failures.failed(key.repository, key.what, error, route, unknown) from error
        self._lists.put(key, listing)
        self._failures.forget(key.repository, key.what)
        return listing


def _answer(listing: SourceList, origin: Origin) -> ListAnswer:
    """An answer with a list that the source confirms, unless the source itself could not."""
    note = listing.note
    return ListAnswer(listing, Origin.STALE if note.is_stale else origin, note.warning)


def _tag_list(
    repository: Repository, tags: Sequence[str], next_last: str | None = None
) -> SourceList:
    return SourceList(msgspec.json.encode({"name": repository, "tags": tags}), next_last)


def _selected(index: SourceList, artifact_type: str | None) -> SourceList:
    """The referrers of a type.

    What a source did not filter is filtered here; clients then know that they need not do it.
    """
    if artifact_type is None or index.filtered:
        return replace(index, filtered=artifact_type is not None)
    return of_artifact_type(index, artifact_type) or index


def _incomplete(index: SourceList | None, artifact_type: str | None, why: str) -> ListAnswer | None:
    """The answer with what is cached, though the source may have more.

    None where nothing of the requested type is cached: an empty list would say that there is none.
    """
    if index is None:
        return None
    listing = _selected(index, artifact_type)
    if artifact_type is not None and has_no_entries(listing):
        return None
    return ListAnswer(
        listing,
        Origin.STALE,
        f"{why} These are the cached referrers only: there may be more.",
    )


def _without_rule(repository: Repository) -> str:
    return f"No cache rule answers for {repository} any more: its source was not asked."
