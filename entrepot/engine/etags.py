"""ETags of listings, made from revisions.

A revision is a number that changes when a listing would change. A dashboard asks every two seconds,
and most often nothing changed: then the answer is 304, and the listing is not made. What changes a
revision is what was done to rules, credential sets, repositories or tags. The number of pulls
changes with every pull; a listing of ten thousand repositories is not sent again for that more
often than every `USAGE_INTERVAL` seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Protocol

USAGE_INTERVAL = 30.0
"""Seconds by which counts and times of pulls may be late for a client that has the listing."""


def entity_tag(revision: str) -> str:
    """The ETag of a listing with this revision (RFC 9110, section 8.8.3)."""
    return f'"{revision}"'


def matches_any(etag: str, if_none_match: str) -> bool:
    """Whether the header ``If-None-Match`` names *etag* (RFC 9110, section 13.1.2)."""
    return etag in {client.strip().removeprefix("W/") for client in if_none_match.split(",")}


class HasRevision(Protocol):
    """The documents: rules and credential sets."""

    @property
    def revision(self) -> int:
        """Grows with every change of what is in force."""


class HasChangeCounts(Protocol):
    """The catalog: repositories, tags, and their use."""

    @property
    def changes(self) -> int:
        """Grows with every change of repositories and tags."""

    @property
    def uses(self) -> int:
        """Grows with every pull that is written down."""

    @property
    def confirmations(self) -> int:
        """Grows whenever a source confirms where a tag points."""


class HasReaderRevision(Protocol):
    """The readers and personal tokens."""

    @property
    def revision(self) -> int:
        """Grows with every change of who can sign in, and of what is shown of them."""


class HasOldCounts(Protocol):
    """The counter of the rules' use."""

    @property
    def answers_with_old_counts(self) -> int:
        """Answers given while the catalog could not be read."""


class Revisions:
    """The revisions of one engine's listings.

    They mean nothing to another engine, nor to this one after a restart.
    """

    def __init__(
        self,
        *,
        documents: HasRevision,
        readers: HasReaderRevision,
        catalog: HasChangeCounts,
        usage: HasOldCounts,
        health: Callable[[], Hashable],
        clock: Callable[[], float],
    ) -> None:
        """*health* is that of all credential sets; *clock* is monotonic, in seconds."""
        self._documents = documents
        self._readers = readers
        self._catalog = catalog
        self._usage = usage
        self._health = health
        self._clock = clock
        # Small enough for a double, as some readers of JSON have it.
        self._start = random.getrandbits(48)
        self._last_health = health()
        self._last_use = self._use()
        self._use_counted_at: float | None = None
        self._health_changes = 0
        self._use_changes = 0

    @property
    def rules(self) -> str:
        """Of the listing of cache rules."""
        self._update()
        return self._text(self._documents.revision, self._use_changes, self._catalog.changes)

    @property
    def credential_sets(self) -> str:
        """Of the listing of credential sets."""
        self._update()
        return self._text(self._documents.revision, self._health_changes)

    @property
    def readers(self) -> str:
        """Of the listing of readers, and what each may read."""
        return self._text(self._documents.revision, self._readers.revision)

    @property
    def repositories(self) -> str:
        """Of the listing of cached repositories."""
        self._update()
        return self._text(self._documents.revision, self._use_changes, self._catalog.changes)

    @property
    def tags(self) -> str:
        """Of a cached repository with its tags, which say when their source confirmed them."""
        self._update()
        return self._text(
            self._documents.revision,
            self._use_changes,
            self._catalog.changes,
            self._catalog.confirmations,
        )

    @property
    def whole(self) -> int:
        """Another number whenever one of the others is another."""
        self._update()
        return (
            self._start
            + self._documents.revision
            + self._readers.revision
            + self._health_changes
            + self._use_changes
            + self._catalog.changes
        )

    def _text(self, *counts: int) -> str:
        return "-".join(f"{count:x}" for count in (self._start, *counts))

    def _use(self) -> int:
        return self._catalog.uses + self._usage.answers_with_old_counts

    def _update(self) -> None:
        health, use = self._health(), self._use()
        if health != self._last_health:
            self._last_health = health
            self._health_changes += 1
        if use != self._last_use and (
            self._use_counted_at is None or self._clock() >= self._use_counted_at + USAGE_INTERVAL
        ):
            self._last_use, self._use_counted_at = use, self._clock()
            self._use_changes += 1
