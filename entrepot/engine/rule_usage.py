"""The usage of each cache rule.

Repositories, bytes, pulls and requests to the rule's source.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from entrepot.core.patterns import NameRange, TargetRepository
from entrepot.core.rules import CacheRule, RuleBook
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.records import UsageTotals

COUNT_TIMEOUT = 5.0
"""Seconds that a listing of the rules waits for their counts; to count 100,000 repositories takes
tens of milliseconds."""

_log = logging.getLogger("entrepot.engine")


class RuleUsage(Struct, frozen=True):
    """What came through one rule."""

    repositories: int = 0
    size: int = 0
    """Bytes that its repositories hold."""
    pulls: int = 0
    last_pull: float | None = None
    """In seconds since the epoch."""
    manifests_answered: int = 0
    """Manifests that clients got."""
    requests_made: int = 0
    """Requests for manifests that the source counted."""


class RuleUsageCounter:
    """Counts the use of all rules; counts again only when something changed."""

    def __init__(self, catalog: Catalog) -> None:
        self.answers_with_old_counts = 0
        """Answers given while the catalog could not be read: a client that has one of them must not
        take it for the answer of a catalog that works again."""
        self._catalog = catalog
        self._counted_at: tuple[RuleBook, int, int] | None = None
        """The rules, and the catalog's numbers of changes and uses, of the last count of all."""
        self._totals: dict[str, UsageTotals] = {}
        self._requests: dict[str, tuple[int, int]] = {}

    async def count(self, rules: RuleBook) -> Mapping[str, RuleUsage]:
        """The use of the rules, by their names.

        The last known counts while the catalog fails or its disk hangs: rules are in memory, and
        must still be listed (F79).
        """
        async with self._or_last_known():
            changes = (rules, self._catalog.changes, self._catalog.uses)
            if not self._is_counted(changes):
                self._totals = await self._catalog.aggregate_usage(name_ranges(rules, rules))
                self._counted_at = changes
            self._requests = await self._catalog.rule_requests()
        return {rule.name: self._use(rule) for rule in rules}

    async def count_rule(self, rules: RuleBook, rule: CacheRule) -> RuleUsage:
        """The use of one rule; the last known one while the catalog fails."""
        async with self._or_last_known():
            self._totals |= await self._catalog.aggregate_usage(name_ranges(rules, [rule]))
            self._requests = await self._catalog.rule_requests()
        return self._use(rule)

    @asynccontextmanager
    async def _or_last_known(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(COUNT_TIMEOUT):
                yield
        except (CatalogFailed, TimeoutError) as error:
            _log.debug("The use of the rules can't be counted: %s", error)
            self.answers_with_old_counts += 1

    def _is_counted(self, changes: tuple[RuleBook, int, int]) -> bool:
        counted = self._counted_at
        return counted is not None and counted[0] is changes[0] and counted[1:] == changes[1:]

    def _use(self, rule: CacheRule) -> RuleUsage:
        totals = self._totals.get(rule.name, _NEVER_USED)
        manifests_answered, requests_made = self._requests.get(rule.name, (0, 0))
        return RuleUsage(
            repositories=totals.repositories,
            size=totals.size,
            pulls=totals.pulls,
            last_pull=totals.last_pull,
            manifests_answered=manifests_answered,
            requests_made=requests_made,
        )


_NEVER_USED = UsageTotals()


def name_ranges(rules: RuleBook, counted: Iterable[CacheRule]) -> dict[str, list[NameRange]]:
    """The names of the repositories for which the *counted* rules answer, by the rule's name.

    No wildcard target lies within another, but targets of one repository lie within wildcards:
    there the range of the wildcard has a gap.
    """
    single = sorted(rule.target.path for rule in rules if not rule.target.wildcard)
    ranges: dict[str, list[NameRange]] = {}
    for rule in counted:
        first, before = rule.target.names
        parts = []
        if rule.target.wildcard:
            for path in single[bisect_left(single, first) : bisect_left(single, before)]:
                gap = TargetRepository(path, wildcard=False).names
                parts.append(NameRange(first, gap.first))
                first = gap.before
        ranges[rule.name] = [*parts, NameRange(first, before)]
    return ranges
