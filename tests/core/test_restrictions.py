"""Who may read what is cached, also after a rule was deleted."""

from __future__ import annotations

from entrepot.core.credentials import CredentialBook
from entrepot.core.patterns import TargetRepository
from entrepot.core.readers import OPEN, ReaderAccess
from entrepot.core.registries import SourceRegistries
from entrepot.core.restrictions import NO_RESTRICTIONS, Restriction, Restrictions
from entrepot.core.rules import RuleBook, RuleDraft

REGISTRIES = SourceRegistries()
PRIVATE = ReaderAccess(("ci",))
OTHER = ReaderAccess(("@ops",))


def book(*rules: tuple[str, ReaderAccess]) -> RuleBook:
    rules_so_far = RuleBook(REGISTRIES, CredentialBook(REGISTRIES))
    for number, (target, access) in enumerate(rules):
        draft = RuleDraft(
            f"rule-{number}",
            f"mcr.microsoft.com/{target}",
            target,
            readers=access.readers,
            anonymous=access.anonymous,
        )
        rules_so_far = rules_so_far.with_rule(rules_so_far.parse(draft))
    return rules_so_far


def left(target: str, access: ReaderAccess = PRIVATE) -> Restrictions:
    return Restrictions([Restriction(TargetRepository.parse(target), access)])


def test_a_repository_has_the_readers_of_its_rule() -> None:
    rules = book(("acme/*", PRIVATE), ("acme/open", ReaderAccess(anonymous=True)))
    for restrictions in (NO_RESTRICTIONS, NO_RESTRICTIONS.with_rules(rules)):
        assert restrictions.access("acme/app", rules) == PRIVATE
        assert restrictions.access("acme/open", rules) == ReaderAccess(anonymous=True)
        assert restrictions.access("other", rules) == OPEN


def test_what_a_deleted_rule_cached_keeps_its_readers() -> None:
    restrictions = NO_RESTRICTIONS.with_rules(book(("acme/*", PRIVATE))).with_rules(book())
    assert restrictions.access("acme/app", book()) == PRIVATE
    assert restrictions.access("acme", book()) == OPEN
    assert restrictions.access("acmes/app", book()) == OPEN


def test_a_wider_rule_does_not_open_what_a_deleted_rule_kept() -> None:
    rules = book(("acme/*", OPEN))
    restrictions = left("acme/secret").with_rules(rules)
    assert restrictions.access("acme/secret", rules) == PRIVATE
    assert restrictions.access("acme/app", rules) == OPEN


def test_a_new_rule_of_the_same_target_or_within_it_decides() -> None:
    rules = book(("acme/*", OTHER), ("base/inner/*", OPEN))
    restrictions = Restrictions([*left("acme/*"), *left("base/*")]).with_rules(rules)
    assert restrictions.access("acme/app", rules) == OTHER
    assert restrictions.access("base/inner/app", rules) == OPEN
    assert restrictions.access("base/app", rules) == PRIVATE


def test_a_restriction_of_everything_covers_everything() -> None:
    assert left("*").access("any/thing", book()) == PRIVATE


def test_a_rule_that_is_opened_is_open() -> None:
    restrictions = NO_RESTRICTIONS.with_rules(book(("acme/*", PRIVATE)))
    rules = book(("acme/*", OPEN))
    assert restrictions.with_rules(rules) == NO_RESTRICTIONS
    assert restrictions.with_rules(rules).access("acme/app", rules) == OPEN


def test_a_restriction_goes_when_nothing_of_it_is_cached() -> None:
    rules = book(("acme/*", PRIVATE))
    restrictions = Restrictions([*left("old"), *left("gone")]).with_rules(rules)
    needed = restrictions.needed(rules, lambda target: str(target) == "old")
    assert [str(restriction.target) for restriction in needed] == ["acme/*", "old"]
    assert [str(each.target) for each in needed.without_rule(rules)] == ["old"]
