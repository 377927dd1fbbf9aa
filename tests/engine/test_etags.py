"""A listing has another revision when it would show something else, and the same for as long as it
would not."""

from __future__ import annotations

import pytest

from entrepot.engine.etags import USAGE_INTERVAL, Revisions, entity_tag, matches_any


class Readers:
    """The readers of an engine."""

    revision = 0


class Engine:
    """What a revision depends on."""

    def __init__(self) -> None:
        self.revision = 1
        self.health = "healthy"
        self.changes = 0
        self.uses = 0
        self.confirmations = 0
        self.answers_with_old_counts = 0
        self.now = 1000.0
        self.readers = Readers()
        self.revisions = Revisions(
            documents=self,
            readers=self.readers,
            catalog=self,
            usage=self,
            health=lambda: self.health,
            clock=lambda: self.now,
        )

    def all(self) -> tuple[str, str, str]:
        return self.revisions.rules, self.revisions.credential_sets, self.revisions.repositories


@pytest.mark.parametrize(
    ("if_none_match", "matches"),
    [
        ('"1-2"', True),
        ('W/"1-2"', True),
        ('"0", W/"1-2"', True),
        ("1-2", False),
        ('"1-3"', False),
        ("", False),
    ],
)
def test_a_client_names_its_revisions_as_entity_tags(if_none_match: str, matches: bool) -> None:
    assert matches_any(entity_tag("1-2"), if_none_match) is matches


def test_nothing_happens_and_nothing_changes() -> None:
    engine = Engine()
    before, whole = engine.all(), engine.revisions.whole
    engine.now += 10 * USAGE_INTERVAL
    assert (engine.all(), engine.revisions.whole) == (before, whole)


def test_another_rule_is_told_in_every_listing_for_each_names_rules() -> None:
    engine = Engine()
    before, whole = engine.all(), engine.revisions.whole
    engine.revision += 1
    assert engine.revisions.whole != whole
    assert all(now != then for now, then in zip(engine.all(), before, strict=True))


def test_the_health_of_a_credential_set_changes_nothing_else() -> None:
    engine = Engine()
    (rules, sets, repositories), whole = engine.all(), engine.revisions.whole
    engine.health = "unhealthy"
    assert (engine.revisions.rules, engine.revisions.repositories) == (rules, repositories)
    assert engine.revisions.credential_sets != sets
    assert engine.revisions.whole != whole


def test_a_new_image_changes_the_repositories_and_what_is_held_through_rules() -> None:
    engine = Engine()
    (rules, sets, repositories), whole = engine.all(), engine.revisions.whole
    engine.changes += 1
    assert engine.revisions.credential_sets == sets
    assert engine.revisions.rules != rules
    assert engine.revisions.repositories != repositories
    assert engine.revisions.whole != whole


def test_pulls_are_told_at_once_where_none_were_told_lately_and_else_late_but_surely() -> None:
    engine = Engine()
    before = engine.revisions.repositories
    engine.uses += 1
    first, whole = engine.revisions.repositories, engine.revisions.whole
    assert first != before
    engine.uses += 1
    engine.now += USAGE_INTERVAL - 1
    assert (engine.revisions.repositories, engine.revisions.whole) == (first, whole)
    engine.now += 1
    assert engine.revisions.rules != before
    assert engine.revisions.repositories != first
    assert engine.revisions.whole != whole


def test_a_restarted_engine_knows_none_of_the_revisions_before() -> None:
    assert not set(Engine().all()) & set(Engine().all())


def test_a_confirmed_tag_is_told_in_the_listing_of_tags_alone() -> None:
    engine = Engine()
    before, tags = engine.all(), engine.revisions.tags
    engine.confirmations += 1
    assert engine.all() == before
    assert engine.revisions.tags != tags


def test_readers_have_another_revision_when_they_or_the_rules_change() -> None:
    engine = Engine()
    revisions = engine.revisions
    before, others, whole = revisions.readers, engine.all(), revisions.whole
    engine.uses += 1
    assert revisions.readers == before
    engine.readers.revision += 1
    changed = revisions.readers
    assert changed != before
    assert engine.all()[1] == others[1]
    assert revisions.whole != whole
    engine.revision += 1
    assert revisions.readers != changed
