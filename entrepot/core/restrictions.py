"""Who may read which repository, also after its rule was deleted. Pure: no I/O.

What a rule cached stays when the rule is deleted. If only some readers could read it, that stays
too, for as long as anything of it is cached: a repository must not become public because its rule
is gone (`entrepot.config.restrictions` writes it down).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from entrepot.core.patterns import TargetRepository
from entrepot.core.readers import OPEN, ReaderAccess
from entrepot.core.rules import RuleBook


@dataclass(frozen=True, slots=True)
class Restriction:
    """Who may read what is cached below a target."""

    target: TargetRepository
    access: ReaderAccess


class Restrictions:
    """The restricted targets of all rules, and of deleted rules of which something is cached.

    An immutable value.
    """

    __slots__ = ("_by_target",)

    def __init__(self, restrictions: Iterable[Restriction] = ()) -> None:
        self._by_target = {restriction.target: restriction.access for restriction in restrictions}

    def __iter__(self) -> Iterator[Restriction]:
        for target in sorted(self._by_target, key=str):
            yield Restriction(target, self._by_target[target])

    def __len__(self) -> int:
        return len(self._by_target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Restrictions) and self._by_target == other._by_target

    __hash__ = None  # type: ignore[assignment]

    def with_rules(self, rules: RuleBook) -> Restrictions:
        """These, with those of *rules*; a rule's own replaces what its target had before."""
        by_target = dict(self._by_target)
        for rule in rules:
            if rule.access.is_restricted:
                by_target[rule.target] = rule.access
            else:
                by_target.pop(rule.target, None)
        return Restrictions(Restriction(*item) for item in by_target.items())

    def without_rule(self, rules: RuleBook) -> Restrictions:
        """Those whose target no rule has: what deleted rules left."""
        targets = {rule.target for rule in rules}
        return Restrictions(
            restriction for restriction in self if restriction.target not in targets
        )

    def needed(
        self, rules: RuleBook, is_cached: Callable[[TargetRepository], bool]
    ) -> Restrictions:
        """These without those of deleted rules of which nothing is cached any more."""
        targets = {rule.target for rule in rules}
        return Restrictions(
            restriction
            for restriction in self
            if restriction.target in targets or is_cached(restriction.target)
        )

    def access(self, repository: str, rules: RuleBook) -> ReaderAccess:
        """Who may read a repository: what the nearest target says.

        That is the target of the rule that answers for it, or a narrower one of a deleted rule.
        """
        rule = rules.rule_of(repository)
        if not self._by_target:
            return rule.access if rule is not None else OPEN
        for target in _targets_around(repository):
            if rule is not None and rule.target == target:
                return rule.access
            access = self._by_target.get(target)
            if access is not None:
                return access
        return OPEN


NO_RESTRICTIONS: Final = Restrictions()
"""Those of an engine whose rules are open to all."""


def _targets_around(repository: str) -> Iterator[TargetRepository]:
    """The targets that could cover a repository, the nearest first."""
    yield TargetRepository(repository, wildcard=False)
    path = repository
    while path:
        path = path.rpartition("/")[0]
        yield TargetRepository(path, wildcard=True)
