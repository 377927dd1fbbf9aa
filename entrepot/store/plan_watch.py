"""What was written to the catalog since an eviction was planned.

A plan of a hundred thousand images is carried out in steps. Nothing that it was made from has
changed in most of them, and then no image has to be looked up again.
"""

from __future__ import annotations

from entrepot.core.reference import Digest
from entrepot.store.eviction import UsesSincePlan
from entrepot.store.inventory import Key
from entrepot.store.usage import Usage


class PlanWatch:
    """The changes and the uses since a plan. It begins before the inventory is read."""

    def __init__(self, changes: int) -> None:
        self.changes = changes
        """The catalog's count of changes when the plan was right, which the eviction itself moves
        on."""
        self._manifests: set[tuple[str, str]] = set()
        self._blobs: set[str] = set()

    def record(self, usage: Usage) -> None:
        """Record uses that are about to be written."""
        self._manifests.update(map(_text_key, usage.manifests))
        self._manifests.update(map(_text_key, usage.head_requests))
        self._blobs.update(map(str, usage.blobs))

    def with_written(self, uses: UsesSincePlan) -> UsesSincePlan:
        """Some uses that are not written yet, and all that were written since the plan."""
        return UsesSincePlan(self._manifests | uses.manifests, self._blobs | uses.blobs)


def _text_key(key: Key) -> tuple[str, str]:
    repository, digest = key
    return str(repository), str(digest)


def uses_of(manifests: list[Key], blobs: list[Digest]) -> UsesSincePlan:
    """Uses by the names of their manifests and blobs."""
    return UsesSincePlan(frozenset(map(_text_key, manifests)), frozenset(map(str, blobs)))
