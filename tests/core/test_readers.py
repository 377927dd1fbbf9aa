"""Who may read what a rule caches."""

from __future__ import annotations

import pytest

from entrepot.core.readers import (
    ADMINISTRATOR,
    ANONYMOUS,
    READERS_LIMIT,
    Reader,
    ReaderAccess,
    ReaderInvalid,
    parse_readers,
)

CI = Reader("ci")
ALICE = Reader("alice", frozenset({"ops"}))


@pytest.mark.parametrize("allow_anonymous", [False, True])
@pytest.mark.parametrize(
    ("access", "who_may"),
    [
        (ReaderAccess(("ci",)), {"ci"}),
        (ReaderAccess(("@ops",)), {"alice"}),
        (ReaderAccess(("ci", "@ops")), {"ci", "alice"}),
        (ReaderAccess(("ops",)), set()),
        (ReaderAccess(("CI",)), set()),
        (ReaderAccess(("ci",), anonymous=False), {"ci"}),
        (ReaderAccess(anonymous=False), {"ci", "alice"}),
        (ReaderAccess(("ci",), anonymous=True), {"", "ci", "alice"}),
        (ReaderAccess(anonymous=True), {"", "ci", "alice"}),
    ],
)
def test_a_rule_says_who_may_read(
    access: ReaderAccess, who_may: set[str], allow_anonymous: bool
) -> None:
    admitted = {
        reader.name
        for reader in (ANONYMOUS, CI, ALICE)
        if access.admits(reader, allow_anonymous=allow_anonymous)
    }
    assert admitted == who_may
    assert access.admits(ADMINISTRATOR, allow_anonymous=allow_anonymous)


@pytest.mark.parametrize("allow_anonymous", [False, True])
def test_a_rule_without_readers_is_for_all_who_sign_in(allow_anonymous: bool) -> None:
    access = ReaderAccess()
    assert access.admits(CI, allow_anonymous=allow_anonymous)
    assert access.admits(ANONYMOUS, allow_anonymous=allow_anonymous) is allow_anonymous
    assert not access.is_restricted


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (ReaderAccess(), "all who sign in"),
        (ReaderAccess(("ci", "@ops")), "ci, @ops"),
        (ReaderAccess(("ci",), anonymous=True), "everyone"),
    ],
)
def test_who_may_read_is_said_in_words(access: ReaderAccess, words: str) -> None:
    assert access.described(allow_anonymous=False) == words


def test_readers_are_read_as_a_person_writes_them() -> None:
    names = [" ci ", "@ops", "ci", "a.b+c@example.com"]
    assert parse_readers(names) == ("ci", "@ops", "a.b+c@example.com")


@pytest.mark.parametrize("name", ["", "@", "@@ops", "a b", "a:b", "-ci", "x" * 65, "ä", "a\n"])
def test_a_name_that_no_reader_has_is_refused(name: str) -> None:
    if name == "a\n":
        # Blanks around a name are left out.
        assert parse_readers([name]) == ("a",)
        return
    with pytest.raises(ReaderInvalid) as raised:
        parse_readers([name])
    assert raised.value.field == "readers"


def test_a_rule_names_a_bounded_number_of_readers() -> None:
    with pytest.raises(ReaderInvalid, match="100 are the most"):
        parse_readers(f"reader-{number}" for number in range(READERS_LIMIT + 1))
