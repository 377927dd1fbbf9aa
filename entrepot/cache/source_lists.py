"""Lists of tags and referrers from sources, encoded once for all clients.

They are cached for a short while. An older list stays for a source that fails: then it is the last
that is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from entrepot.core.reference import Digest, Repository
from entrepot.encoding import first_json_value
from entrepot.errors import DigestInvalid
from entrepot.source.warnings import NO_NOTE, SourceNote

LIST_FRESHNESS = 60.0
"""Seconds for which a list is trusted at most; the tag lifetime of a rule may be shorter."""

LISTS = 1_000
"""Lists in memory, those used last."""

LISTS_BYTES = 32 * 1024 * 1024
"""Bytes of all lists together."""

LIST_MAX_AGE = 86_400.0
"""Seconds after which a list is too old to be served for a source that fails."""


class ListKey(NamedTuple):
    """The key of a list.

    *what* is the list of a repository (``tags/list``, ``referrers/sha256:…``); *selection* says
    which page or part of it.
    """

    source: str
    repository: Repository
    what: str
    selection: str | None = None


@dataclass(frozen=True, slots=True)
class SourceList:
    """A list as clients get it.

    *next_last* is where the next page of tags begins; *filtered* says that it has only the
    referrers of the requested type.
    """

    body: bytes
    next_last: str | None = None
    filtered: bool = False
    note: SourceNote = NO_NOTE
    """What the source said beside it."""


@dataclass(frozen=True, slots=True)
class _CachedList:
    list: SourceList
    time: float
    is_trusted: bool


class SourceLists:
    """The lists in memory. *clock* is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lists: OrderedDict[ListKey, _CachedList] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lists)

    def fresh(self, key: ListKey, freshness: float) -> SourceList | None:
        """A list that came within *freshness* seconds."""
        cached = self._lists.get(key)
        if (
            cached is None
            or not cached.is_trusted
            or self._clock() - cached.time >= min(freshness, LIST_FRESHNESS)
        ):
            return None
        self._lists.move_to_end(key)
        return cached.list

    def last_known(self, key: ListKey) -> SourceList | None:
        """A list that came within the last day."""
        cached = self._lists.get(key)
        return (
            cached.list
            if cached is not None and self._clock() - cached.time < LIST_MAX_AGE
            else None
        )

    def put(self, key: ListKey, listing: SourceList) -> None:
        """Store a list that has just come from its source."""
        self._store(key, _CachedList(listing, self._clock(), True))

    def load(self, key: ListKey, listing: SourceList) -> None:
        """Store a list of an earlier run, for a source that fails, unless one is in memory."""
        if self.last_known(key) is None:
            self._store(key, _CachedList(listing, self._clock(), False))

    def derive(
        self, key: ListKey, whole: ListKey, select: Callable[[SourceList], SourceList | None]
    ) -> None:
        """Store a selection of another list, as old as that list.

        Does nothing where a newer one is stored.
        """
        cached, before = self._lists.get(whole), self._lists.get(key)
        if cached is None or (before is not None and before.time >= cached.time):
            return
        if (selected := select(cached.list)) is not None:
            self._store(key, _CachedList(selected, cached.time, cached.is_trusted))

    def discard(self, key: ListKey) -> None:
        """Drop a list that its source no longer has."""
        cached = self._lists.pop(key, None)
        if cached is not None:
            self._bytes -= _size(key, cached.list)

    def distrust(self) -> None:
        """Serve the present lists only for a source that fails.

        Called when a rule or credential set has changed.
        """
        for key, cached in self._lists.items():
            self._lists[key] = _CachedList(cached.list, cached.time, False)

    def drop_expired(self) -> None:
        """Drop the lists that are too old to be served."""
        now = self._clock()
        for key in [
            key for key, cached in self._lists.items() if now - cached.time >= LIST_MAX_AGE
        ]:
            self.discard(key)

    def _store(self, key: ListKey, cached: _CachedList) -> None:
        self.discard(key)
        self._lists[key] = cached
        self._bytes += _size(key, cached.list)
        while self._lists and (len(self._lists) > LISTS or self._bytes > LISTS_BYTES):
            self.discard(next(iter(self._lists)))


def _size(key: ListKey, listing: SourceList) -> int:
    return len(listing.body) + sum(len(part) for part in key if part is not None)


class _Referrer(msgspec.Struct, rename="camel"):
    artifact_type: str | None = None


def of_artifact_type(index: SourceList, artifact_type: str) -> SourceList | None:
    """The referrers of an index that have an artifact type, each byte for byte.

    None where the index can't be read.
    """
    try:
        document = msgspec.json.decode(first_json_value(index.body), type=dict[str, msgspec.Raw])
        referrers = msgspec.json.decode(document["manifests"], type=list[msgspec.Raw])
        selected = [
            referrer
            for referrer in referrers
            if msgspec.json.decode(referrer, type=_Referrer).artifact_type == artifact_type
        ]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return None
    document["manifests"] = msgspec.Raw(msgspec.json.encode(selected))
    return SourceList(msgspec.json.encode(document), filtered=True, note=index.note)


class ListedManifest(msgspec.Struct):
    """What a list of referrers says of one: here its digest only, which may be malformed."""

    digest: str = ""


class ReferrerIndex(msgspec.Struct):
    """A list of referrers, its entries as they came."""

    manifests: list[msgspec.Raw] | None = None


class _ListedManifests(msgspec.Struct):
    manifests: list[ListedManifest] | None = None


def listed_digests(index: bytes) -> list[Digest]:
    """The digests that an index lists; what can't be read is left out."""
    try:
        entries = msgspec.json.decode(first_json_value(index), type=_ListedManifests).manifests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    digests = []
    for entry in entries or ():
        with suppress(DigestInvalid):
            digests.append(Digest.parse(entry.digest))
    return digests


def has_no_entries(index: SourceList) -> bool:
    """Whether an index lists nothing, or can't be read."""
    try:
        return not msgspec.json.decode(first_json_value(index.body), type=ReferrerIndex).manifests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
