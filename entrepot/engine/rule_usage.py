"""The usage of each cache rule.

Repositories, bytes, pulls and requests to the rule's source.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from msgspec import Struct

from entrepot.core.rules import RuleBook
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed

COUNT_TIMEOUT = 5.0
"""Seconds that a listing of the rules waits for their counts; to count 10,000 repositories takes
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
        self._counted_for: tuple[RuleBook, int, int] | None = None
        """The rules, and the catalog's numbers of changes and uses, of the last count."""
        self._repositories: dict[str, _RepositoryTotals] = {}
        self._requests: dict[str, tuple[int, int]] = {}

    async def count(self, rules: RuleBook) -> Mapping[str, RuleUsage]:
        """The use of the rules, by their names.

        The last known counts while the catalog fails or its disk hangs: rules are in memory, and
        must still be listed (F79).
        """
        try:
            async with asyncio.timeout(COUNT_TIMEOUT):
                totals = await self._count_repositories(rules)
                self._requests = await self._catalog.rule_requests()
        except (CatalogFailed, TimeoutError) as error:
            _log.debug("The use of the rules can't be counted: %s", error)
            self.answers_with_old_counts += 1
            totals = self._repositories
        return {
            rule.name: _usage(
                totals.get(rule.name, _NEVER_USED), *self._requests.get(rule.name, (0, 0))
            )
            for rule in rules
        }

    async def _count_repositories(self, rules: RuleBook) -> dict[str, _RepositoryTotals]:
        before = self._counted_for
        now = (rules, self._catalog.changes, self._catalog.uses)
        if before is None or before[0] is not rules or before[1:] != now[1:]:
            self._repositories = await self._catalog.aggregate_usage(
                lambda rows: _sum_by_rule(rules, rows)
            )
            self._counted_for = now
        return self._repositories


class _RepositoryTotals(Struct):
    """The repositories of one rule, added up."""

    repositories: int = 0
    size: int = 0
    pulls: int = 0
    last_pull: float | None = None


_NEVER_USED = _RepositoryTotals()


def _usage(totals: _RepositoryTotals, answered: int, made: int) -> RuleUsage:
    return RuleUsage(
        repositories=totals.repositories,
        size=totals.size,
        pulls=totals.pulls,
        last_pull=totals.last_pull,
        manifests_answered=answered,
        requests_made=made,
    )


def _sum_by_rule(
    rules: RuleBook, repositories: Iterable[tuple[str, int, int, float | None]]
) -> dict[str, _RepositoryTotals]:
    """*repositories* are names with their bytes, pulls and last pull."""
    totals: dict[str, _RepositoryTotals] = {}
    for repository, size, pulls, last_pull in repositories:
        rule = rules.rule_of(repository)
        if rule is None:
            continue
        total = totals.setdefault(rule.name, _RepositoryTotals())
        total.repositories += 1
        total.size += size
        total.pulls += pulls
        if last_pull is not None:
            total.last_pull = max(total.last_pull or 0.0, last_pull)
    return totals
