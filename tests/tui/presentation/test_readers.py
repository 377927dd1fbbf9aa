"""Readers and their tokens in rows, sentences and facts."""

from __future__ import annotations

from typing import Any

import pytest

from entrepot.api.models import RuleSnapshot
from entrepot.api.reader_models import ReaderList, ReaderSnapshot, TokenSnapshot
from entrepot.core.readers import Reader
from tests.tui.scripted import NOW, changed
from tui.presentation.reader_choices import unknown_names
from tui.presentation.readers import (
    ReaderEntry,
    readable_rules,
    reader_entries,
    reader_facts,
    reader_lines,
    reader_row,
    reader_state,
    revocation_text,
)

DAY = 86_400.0
READER = ReaderSnapshot(name="ci", token=True, groups=("build",), rules=("acme", "hub"))
TOKEN = TokenSnapshot(
    name="ci", created=NOW - DAY, expires=NOW + 90 * DAY, groups=("build",), last_used=NOW - 120
)
ENTRY = ReaderEntry(READER, TOKEN)
LIST = ReaderList(
    anonymous_may_read=False, can_sign_in=True, anonymous_rules=("hub",), readers=(READER,)
)


def entry(*, token: dict[str, Any] | None, **reader: Any) -> ReaderEntry:
    snapshot = changed(READER, token=token is not None, **reader)
    return ReaderEntry(snapshot, changed(TOKEN, **token) if token is not None else None)


@pytest.mark.usefixtures("fixed_time")
def test_a_reader_is_a_row_of_ways_groups_rules_and_the_life_of_the_token() -> None:
    assert [cell.text for cell in reader_row(ENTRY, lambda: NOW).cells] == [
        "ci",
        "token",
        "@build",
        "2",
        "2026-08-26",
        "2 min",
        "active",
    ]


@pytest.mark.parametrize(
    ("who", "state"),
    [
        (ENTRY, ("active", "good")),
        (entry(token={"expires": None}), ("active", "good")),
        (entry(token={"expires": NOW + 3 * DAY}), ("ends in 3 d", "warn")),
        (entry(token={"expires": NOW - 1, "expired": True}), ("expired", "bad")),
        (
            entry(token={"expires": NOW - 1, "expired": True}, password=True),
            ("token expired", "warn"),
        ),
        (entry(token=None, password=True), ("active", "good")),
        (entry(token=None), ("can't sign in", "dim")),
    ],
)
def test_the_state_says_whether_a_reader_can_sign_in(
    who: ReaderEntry, state: tuple[str, str]
) -> None:
    assert reader_state(who, NOW) == state


def test_readers_are_sorted_by_state_with_what_needs_attention_first() -> None:
    rows = [
        reader_row(who, lambda: NOW)
        for who in (
            ENTRY,
            entry(token={"expires": NOW + 3 * DAY}),
            entry(token={"expires": NOW - 1, "expired": True}),
        )
    ]
    assert [row.order(6) for row in rows] == sorted((row.order(6) for row in rows), reverse=True)


@pytest.mark.usefixtures("fixed_time")
def test_a_reader_is_told_in_sentences_and_facts() -> None:
    assert reader_lines(ENTRY, NOW) == (
        "ci signs in with token: active",
        "groups @build   may read acme, hub",
        "token created 2026-05-27   expires 2026-08-26   last used 2 min ago",
    )
    facts = dict(reader_facts(ENTRY, NOW))
    assert (facts["State"], facts["May read"], facts["Last used"]) == (
        "active",
        "2 rules",
        "2 min ago",
    )
    assert "only a group in settings.toml" in reader_lines(entry(token=None), NOW)[0]


def test_a_token_that_was_created_after_the_readers_were_listed_is_no_row_yet() -> None:
    other = changed(TOKEN, name="other")
    assert [each.name for each in reader_entries(LIST, [TOKEN, other])] == ["ci"]


def test_a_revocation_names_the_rules_that_are_lost_and_not_those_open_to_everyone() -> None:
    text = revocation_text(ENTRY, LIST, NOW)
    assert "ci can no longer read 1 rule: acme." in text
    assert "It was last used 2 min ago." in text


def test_a_revocation_leaves_the_password() -> None:
    both = entry(token={"last_used": None}, password=True)
    text = revocation_text(both, LIST, NOW)
    assert "ci can still sign in with a password, but is no longer in @build" in text
    assert "never used" in text


def test_the_rules_of_a_reader_are_those_that_the_engine_would_admit() -> None:
    rule = RuleSnapshot(
        name="any", source_repository="docker.io/library/*", target_repository="library/*",
        credential_set=None, created=NOW, login_server="docker.io",
    )  # fmt: skip
    rules = [
        rule,
        changed(rule, name="ops", readers=("@ops",)),
        changed(rule, name="ci", readers=("ci",)),
        changed(rule, name="open", anonymous=True),
    ]
    ci = Reader("ci", frozenset({"build"}))
    assert readable_rules(rules, ci, allow_anonymous=False) == ("any", "ci", "open")


def test_names_that_nobody_has_yet_are_warned_about_with_regard_to_case() -> None:
    assert unknown_names(("ci", "@build"), LIST) == ""
    assert "CI, @ops" in unknown_names(("CI", "@build", "@ops"), LIST)
