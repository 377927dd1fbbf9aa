"""Drops the readers of deleted rules when nothing of those is cached any more."""

from __future__ import annotations

from collections.abc import Callable

from entrepot.config.documents import Documents
from entrepot.core.patterns import TargetRepository
from entrepot.store.catalog import Catalog

MIN_AGE = 120.0
"""Seconds for which nothing of a deleted rule is cached before its readers are dropped. A manifest
that was requested before the rule was deleted has arrived by then."""


class RestrictionUpkeep:
    """The upkeep of one engine. *clock* is monotonic, in seconds."""

    def __init__(self, documents: Documents, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._documents = documents
        self._catalog = catalog
        self._clock = clock
        self._empty_since: dict[TargetRepository, float] = {}

    async def run_once(self) -> None:
        """Look at what deleted rules left; raises `CatalogFailed`."""
        if not self._documents.left_restrictions:
            self._empty_since.clear()
            return
        await self._documents.prune_restrictions(self._is_needed)

    def _is_needed(self, target: TargetRepository) -> bool:
        """Whether something of a target is cached, or was a moment ago. Blocks."""
        if target.find_covered(self._catalog, 1)[1]:
            self._empty_since.pop(target, None)
            return True
        since = self._empty_since.setdefault(target, self._clock())
        return self._clock() - since < MIN_AGE
