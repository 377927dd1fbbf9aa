"""The lists that source registries give, of tags and of referrers: encoded once for all clients,
and kept for a short while.

A list that is older than that is kept on for a source that fails: then it is the last that is
known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from entrepot.core.reference import Repository
from entrepot.encoding import first_json_value

LIST_FRESHNESS = 60.0
"""Seconds for which a list is trusted at the most; a rule with a shorter freshness has its own."""

LISTS = 1_000
"""Lists that are kept, those used last."""

LISTS_BYTES = 32 * 1024 * 1024
"""What they take together, in bytes."""

LIST_MAX_AGE = 86_400.0
"""Seconds after which a list is too old to be served in the place of a source that fails."""


class ListKey(NamedTuple):
    """Which list: *what* of a repository (``tags/list``, ``referrers/sha256:…``), and which page or
    selection of it."""

    source: str
    repository: Repository
    what: str
    selection: str | None = None


@dataclass(frozen=True, slots=True)
class SourceList:
    """A list as clients get it. *next_last* is where the next page of tags begins; *filtered*: only
    referrers of the type that was asked for are in it."""

    body: bytes
    next_last: str | None = None
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    list: SourceList
    time: float
    is_trusted: bool


class SourceLists:
    """The lists that are kept. *clock* is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lists: OrderedDict[ListKey, _Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lists)

    def fresh(self, key: ListKey, freshness: float) -> SourceList | None:
        """A list that came within *freshness* seconds."""
        kept = self._lists.get(key)
        if (
            kept is None
            or not kept.is_trusted
            or self._clock() - kept.time >= min(freshness, LIST_FRESHNESS)
        ):
            return None
        self._lists.move_to_end(key)
        return kept.list

    def last_known(self, key: ListKey) -> SourceList | None:
        """A list that came within the last day."""
        kept = self._lists.get(key)
        return kept.list if kept is not None and self._clock() - kept.time < LIST_MAX_AGE else None

    def put(self, key: ListKey, listing: SourceList) -> None:
        """A list came from its source just now."""
        self._store(key, _Kept(listing, self._clock(), True))

    def derive(
        self, key: ListKey, whole: ListKey, select: Callable[[SourceList], SourceList | None]
    ) -> None:
        """Put a selection of another list, which is as old as that one, in the place of an older
        one or of none."""
        kept, before = self._lists.get(whole), self._lists.get(key)
        if kept is None or (before is not None and before.time >= kept.time):
            return
        if (selected := select(kept.list)) is not None:
            self._store(key, _Kept(selected, kept.time, kept.is_trusted))

    def discard(self, key: ListKey) -> None:
        """Its source has no such list any more."""
        kept = self._lists.pop(key, None)
        if kept is not None:
            self._bytes -= _size(key, kept.list)

    def distrust(self) -> None:
        """A rule or credential set has changed: ask anew, but keep what is known for a source that
        fails."""
        for key, kept in self._lists.items():
            self._lists[key] = _Kept(kept.list, kept.time, False)

    def drop_expired(self) -> None:
        """Let go of what is too old for anybody."""
        now = self._clock()
        for key in [key for key, kept in self._lists.items() if now - kept.time >= LIST_MAX_AGE]:
            self.discard(key)

    def _store(self, key: ListKey, kept: _Kept) -> None:
        self.discard(key)
        self._lists[key] = kept
        self._bytes += _size(key, kept.list)
        while self._lists and (len(self._lists) > LISTS or self._bytes > LISTS_BYTES):
            self.discard(next(iter(self._lists)))


def _size(key: ListKey, listing: SourceList) -> int:
    return len(listing.body) + sum(len(part) for part in key if part is not None)


class _Referrer(msgspec.Struct, rename="camel"):
    artifact_type: str | None = None


def of_artifact_type(index: SourceList, artifact_type: str) -> SourceList | None:
    """Only those referrers of an index that have an artifact type, each as it stands there; None
    where the index can't be read."""
    try:
        document = msgspec.json.decode(first_json_value(index.body), type=dict[str, msgspec.Raw])
        referrers = msgspec.json.decode(document["manifests"], type=list[msgspec.Raw])
        wanted = [
            each
            for each in referrers
            if msgspec.json.decode(each, type=_Referrer).artifact_type == artifact_type
        ]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return None
    document["manifests"] = msgspec.Raw(msgspec.json.encode(wanted))
    return SourceList(msgspec.json.encode(document), filtered=True)
