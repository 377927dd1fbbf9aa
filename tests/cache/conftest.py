"""A cache with a real catalog and a real blob store, whose source is scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from entrepot.cache.cache import ArtifactCache
from entrepot.cache.fills import Fills
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialBook
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import Route, RuleBook, RuleDraft
from entrepot.events import EventLog
from entrepot.source.blobs import BlobStream
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceError, SourceNotFound
from entrepot.source.lists import TagPage
from entrepot.source.manifests import FetchedManifest, ManifestHead
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest
from entrepot.store.records import BlobOrigin
from tests.conftest import Clock

SOURCE = "mcr.microsoft.com"


@dataclass
class ScriptedClient:
    """A source registry as the cache sees it. *error* fails each request; while *answers* is
    cleared, no request is answered."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    """By tag and by digest."""
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    tag_names: tuple[str, ...] = ()
    error: SourceError | None = None
    requests: list[str] = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    is_suspected: bool = False

    def __post_init__(self) -> None:
        self.answers.set()

    def add(self, manifest: Manifest, *tags: str) -> None:
        for reference in (*tags, str(manifest.digest)):
            self.manifests[reference] = manifest

    def add_blob(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.blobs[digest] = content
        return digest

    def suspect(self) -> None:
        self.is_suspected = True

    async def head_manifest(self, repository: Repository, reference: Tag | Digest) -> ManifestHead:
        manifest = await self._manifest("HEAD", repository, reference)
        return ManifestHead(manifest.digest, manifest.media_type, len(manifest.content))

    async def manifest(self, repository: Repository, reference: Tag | Digest) -> FetchedManifest:
        manifest = await self._manifest("GET", repository, reference)
        return FetchedManifest(manifest.content, manifest.media_type, manifest.digest)

    async def _manifest(
        self, method: str, repository: Repository, reference: Tag | Digest
    ) -> Manifest:
        await self._answer(f"{method} {reference}")
        if str(reference) not in self.manifests:
            raise SourceNotFound(f"{SOURCE}/{repository} has no {reference}.")
        return self.manifests[str(reference)]

    async def head_blob(self, repository: Repository, digest: Digest) -> int:
        await self._answer(f"HEAD {digest}")
        if digest not in self.blobs:
            raise SourceNotFound(f"{SOURCE}/{repository} has no blob {digest}.")
        return len(self.blobs[digest])

    @asynccontextmanager
    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        offset: int,
        validator: str | None,
        size: int | None,
    ) -> AsyncIterator[BlobStream]:
        await self._answer(f"GET {digest} from {offset}")
        if digest not in self.blobs:
            raise SourceNotFound(f"{SOURCE}/{repository} has no blob {digest}.")
        content = self.blobs[digest]

        async def chunks() -> AsyncIterator[bytes]:
            yield content[offset:]

        yield BlobStream(chunks(), offset=offset, size=size or len(content), validator=validator)

    async def tags(self, repository: Repository, *, n: int | None, last: str | None) -> TagPage:
        await self._answer(f"GET tags n={n} last={last}")
        if not self.tag_names:
            raise SourceNotFound(f"{SOURCE} has no {repository}.")
        return TagPage(self.tag_names, None)

    async def _answer(self, request: str) -> None:
        self.requests.append(request)
        await self.answers.wait()
        if self.error is not None:
            raise self.error


@dataclass
class ScriptedCache:
    """A cache, what it is made of, and its only cache rule: ``*`` comes from `SOURCE`."""

    cache: ArtifactCache
    client: ScriptedClient
    catalog: Catalog
    blobs: BlobStore
    fills: Fills
    events: EventLog
    clock: Clock
    rules: RuleBook

    def kinds(self) -> list[str]:
        """The kinds of the events so far, oldest first."""
        return [event.kind for event in self.events.recent()]

    async def fills_end(self) -> None:
        for fill in list(self.fills.under_way):
            await fill.finished.wait()


READS_OF_REQUESTS = (
    "lookup_tag",
    "lookup_manifest",
    "lookup_blob",
    "source_of",
    "latest_image_with",
    "manifest",
    "manifests_of",
)
"""What requests of clients read of the catalog. An engine reads more in the background."""


def counted_reads(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads of a catalog for requests, by name."""
    reads: list[str] = []

    def counting(name: str) -> Callable[..., Awaitable[Any]]:
        read = getattr(catalog, name)

        async def count(*arguments: Any, **options: Any) -> Any:
            reads.append(name)
            return await read(*arguments, **options)

        return count

    for name in READS_OF_REQUESTS:
        monkeypatch.setattr(catalog, name, counting(name))
    return reads


@pytest.fixture
async def scripted(tmp_path: Path, clock: Clock) -> AsyncIterator[ScriptedCache]:
    registries = SourceRegistries()
    empty = RuleBook(registries, CredentialBook(registries))
    draft = RuleDraft("example-rule", f"{SOURCE}/*", "*")
    rules = empty.with_rule(empty.parse(draft, created=datetime(2026, 5, 28, tzinfo=UTC)))
    client, events = ScriptedClient(), EventLog(clock)
    blobs = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    await blobs.open()
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:

        async def record_blob(digest: Digest, size: int, login_server: str) -> None:
            await place.cache.copies.add(digest, size, BlobOrigin(login_server, False))

        fills = Fills(blobs, clock=asyncio.get_running_loop().time, on_stored=record_blob)

        def route(repository: str) -> Route | None:
            return place.rules.route(repository)

        cache = ArtifactCache(
            settings=Settings(),
            catalog=catalog,
            blobs=blobs,
            fills=fills,
            events=events,
            route=route,
            client=lambda _: cast(SourceClient, client),
            clock=clock,
            monotonic=clock,
        )
        place = ScriptedCache(cache, client, catalog, blobs, fills, events, clock, rules)
        async with fills.running(), cache.pulls.running():
            yield place
        await cache.close()
    blobs.close()
