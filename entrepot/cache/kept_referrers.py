"""Lists of referrers that outlive their source: the catalog's, else those of cached manifests.

What a source sent is written to the catalog in the background, beside the manifest that it is
about. A client may ask for referrers before it pulls (an admission check does): such a list waits
in memory for its manifest.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import msgspec

from entrepot.cache.cached_referrers import CachedReferrers
from entrepot.cache.index import CacheIndex
from entrepot.cache.source_lists import ListedManifest, ReferrerIndex, SourceList
from entrepot.core.media_types import INDEXES, OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.encoding import first_json_value
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Manifest, ManifestUnreadable, parse_manifest
from entrepot.store.referrer_lists import StoredReferrers

WAITING_LISTS = 500
"""Lists that wait for their manifest, or to be written; the oldest are dropped."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the catalog has to take the last lists when the engine stops."""

Key = tuple[Repository, Digest, str | None]

_log = logging.getLogger("entrepot.cache")


class KeptReferrers:
    """Stores lists of referrers, and finds them where a source gives no answer.

    *clock* is in seconds since the epoch.
    """

    def __init__(self, catalog: Catalog, index: CacheIndex, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._index = index
        self._cached = CachedReferrers(catalog)
        self._clock = clock
        self._to_write: OrderedDict[Key, StoredReferrers] = OrderedDict()
        self._without_manifest: OrderedDict[Key, StoredReferrers] = OrderedDict()
        self._writing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Write what is not written yet, unless the catalog hangs."""
        writing = self._writing
        if writing is not None:
            await asyncio.wait({writing}, timeout=CLOSE_TIMEOUT)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def written(self) -> None:
        """Wait until all lists are written, or waiting for their manifests."""
        if self._writing is not None:
            await self._writing

    # What sources sent

    def record(
        self,
        repository: Repository,
        subject: Digest,
        source: str,
        artifact_type: str | None,
        content: bytes,
    ) -> None:
        """Store a list that a source has just sent; with *artifact_type* only those of that type.

        It is written in the background: no client waits for the catalog.
        """
        self._write_soon(
            (repository, subject, artifact_type),
            StoredReferrers(source, artifact_type, content, self._clock()),
        )

    def manifest_cached(self, repository: Repository, digest: Digest) -> None:
        """Store the lists of a manifest that came before the manifest itself."""
        if not self._without_manifest:
            return
        for key in [key for key in self._without_manifest if key[:2] == (repository, digest)]:
            self._write_soon(key, self._without_manifest.pop(key))

    async def record_fallback(
        self, repository: Repository, source: str, subject: Digest, content: bytes
    ) -> None:
        """Cache the index behind a fallback tag that was read for a list of referrers.

        Clients without the referrers API ask for the tag itself. Nothing is cached beside a
        manifest that is not cached.
        """
        tag, digest = fallback_tag(subject), Digest.of(content)
        entry = self._index.tag_in_memory(repository, tag)
        if (entry is not None and entry.digest == digest) or not await self._index.has_manifest(
            repository, subject
        ):
            return
        with suppress(ManifestUnreadable, OverflowError, UnicodeError):
            manifest = await parse_manifest(content, OCI_INDEX, digest)
            await self._index.add_manifest(
                repository, source, manifest, tags=[tag], now=self._clock()
            )

    def _write_soon(self, key: Key, referrers: StoredReferrers) -> None:
        self._to_write[key] = referrers
        self._to_write.move_to_end(key)
        while len(self._to_write) > WAITING_LISTS:
            self._to_write.popitem(last=False)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(
                self._write(), name="lists of referrers"
            )

    async def _write(self) -> None:
        while self._to_write:
            key, referrers = self._to_write.popitem(last=False)
            repository, subject, _ = key
            try:
                if await self._catalog.store_referrers(repository, subject, referrers):
                    continue
            except CatalogFailed as error:
                _log.debug("The referrers of %s are in memory only: %s", subject, error)
                continue
            except (OverflowError, UnicodeError):
                continue
            self._without_manifest[key] = referrers
            while len(self._without_manifest) > WAITING_LISTS:
                self._without_manifest.popitem(last=False)

    # Where a source gives no answer

    async def stored(
        self,
        repository: Repository,
        subject: Digest,
        artifact_type: str | None,
        source: str | None,
    ) -> tuple[str | None, SourceList] | None:
        """The last list of a manifest that has the referrers of a type, and the type of that list.

        The type is *artifact_type*, or None for a list of all referrers, whichever came last. Only
        a list of *source*; with None that of any. None where there is none or the catalog fails.
        """
        try:
            lists = await self._catalog.referrers(repository, subject)
        except CatalogFailed:
            return None
        for referrers in reversed(lists):
            if referrers.artifact_type in {artifact_type, None} and (
                source is None or referrers.source == source
            ):
                listing = SourceList(
                    referrers.content, filtered=referrers.artifact_type is not None
                )
                return referrers.artifact_type, listing
        return None

    async def of_cached_manifests(
        self, repository: Repository, subject: Digest
    ) -> SourceList | None:
        """An index of the cached manifests that refer to *subject*; None where there are none.

        Those whose ``subject`` it is, and those in the index behind its fallback tag. Raises
        `CatalogFailed`.
        """
        tagged = await self._tagged_index(repository, subject)
        cached = await self._cached.index(repository, subject)
        if tagged is None or cached is None:
            content = tagged.content if tagged is not None else cached
            return SourceList(content) if content is not None else None
        return SourceList(await asyncio.to_thread(_joined, tagged.content, cached))

    async def _tagged_index(self, repository: Repository, subject: Digest) -> Manifest | None:
        entry = await self._index.tag(repository, fallback_tag(subject))
        manifest = (
            await self._index.manifest_of(repository, entry.digest) if entry is not None else None
        )
        return manifest if manifest is not None and manifest.media_type in INDEXES else None


def fallback_tag(subject: Digest) -> Tag:
    """The tag of a manifest's referrers (distribution specification 1.1, "Referrers Tag Schema").

    A tag has at most 128 characters.
    """
    return Tag(f"{subject.algorithm}-{subject.hex}"[:128])


def _joined(tagged: bytes, cached: bytes) -> bytes:
    """The index behind a fallback tag with the cached referrers that it does not list.

    The former as it came where it lists all of them, the latter where it can't be read.
    """
    try:
        listed = msgspec.json.decode(first_json_value(tagged), type=ReferrerIndex).manifests or []
        digests = {msgspec.json.decode(entry, type=ListedManifest).digest for entry in listed}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return cached
    index = msgspec.json.decode(cached, type=dict[str, msgspec.Raw])
    further = [
        entry
        for entry in msgspec.json.decode(cached, type=ReferrerIndex).manifests or []
        if msgspec.json.decode(entry, type=ListedManifest).digest not in digests
    ]
    if not further:
        return tagged
    index["manifests"] = msgspec.Raw(msgspec.json.encode([*listed, *further]))
    return msgspec.json.encode(index)
