"""Personal tokens."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from entrepot.core.tokens import (
    PREFIX,
    TOKEN,
    PersonalTokenInvalid,
    TokenBook,
    TokenLimitReached,
    TokenNameTaken,
    TokenNotFound,
    hash_of,
    new_secret,
    new_token,
    parse_lifetime,
    read_token,
)

NOW = datetime(2026, 12, 1, 12, 0, 0, 400_000, tzinfo=UTC)


def test_a_token_has_256_bits_and_a_prefix_that_scanners_find() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(TOKEN.fullmatch(secret) and secret.startswith(PREFIX) for secret in secrets)


def test_a_book_finds_a_token_by_its_secret_and_has_only_the_hash() -> None:
    secret = new_secret()
    token = new_token("ci", secret, lifetime="90d", groups=["@ops"], now=NOW)
    book = TokenBook().with_token(token)
    assert book.of_secret(secret) == book.get("CI") == book.of_hash(hash_of(secret)) == token
    assert book.of_secret(new_secret()) is None
    assert book.of_secret("") is None
    assert secret.removeprefix(PREFIX) not in repr(token)
    assert (token.groups, token.created.microsecond) == (("ops",), 0)


def test_a_token_expires() -> None:
    token = new_token("ci", new_secret(), lifetime="1 h", groups=(), now=NOW)
    assert token.is_valid(NOW.timestamp() + 3598)
    assert not token.is_valid(NOW.timestamp() + 3600)
    forever = new_token("ci", new_secret(), lifetime=None, groups=(), now=NOW)
    assert forever.is_valid(NOW.timestamp() + 1e9)


def test_a_name_is_given_once_and_a_revoked_token_is_gone() -> None:
    secret = new_secret()
    book = TokenBook().with_token(new_token("ci", secret, lifetime=None, groups=(), now=NOW))
    with pytest.raises(TokenNameTaken):
        book.with_token(new_token("Ci", new_secret(), lifetime=None, groups=(), now=NOW))
    assert book.without("CI").of_secret(secret) is None
    with pytest.raises(TokenNotFound):
        book.without("other")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000), ("12 h", 43_200), ("30min", 1800), ("2W", 1_209_600), ("never", None)],
)
def test_a_lifetime_is_read_as_a_person_writes_it(text: str, seconds: int | None) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "0d", "-1d", "11y", "999999y", "d", "1 month"])
def test_a_lifetime_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PersonalTokenInvalid):
        parse_lifetime(text)


def test_a_token_has_a_bounded_number_of_groups() -> None:
    groups = [f"g{number}" for number in range(21)]
    with pytest.raises(TokenLimitReached):
        new_token("ci", new_secret(), lifetime=None, groups=groups, now=NOW)


def test_a_hash_in_a_document_has_64_hex_digits() -> None:
    with pytest.raises(PersonalTokenInvalid):
        read_token("ci", "abc", None, None, ())
