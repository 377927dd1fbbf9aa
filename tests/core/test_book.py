"""What the books of rules and of credential sets have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest

from entrepot.core.book import Book, parse_name, to_the_second
from entrepot.errors import NameInvalid


@dataclass(frozen=True)
class Item:
    name: str


class Items(Book[Item]):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self._items = {name.casefold(): Item(name) for name in names}


def test_items_are_found_without_regard_to_case_and_come_by_name() -> None:
    book = Items("beta", "Alpha", "gamma")
    assert book.find("ALPHA") == Item("Alpha")
    assert book.find("delta") is None
    assert [item.name for item in book] == ["Alpha", "beta", "gamma"]
    assert len(book) == 3


def test_books_are_equal_when_their_items_are() -> None:
    assert Items("alpha", "beta") == Items("beta", "alpha")
    assert Items("alpha") != Items("beta")
    assert Items("alpha") != [Item("alpha")]
    with pytest.raises(TypeError):
        hash(Items())


def test_a_time_is_kept_to_the_second_in_utc() -> None:
    noon = datetime(2026, 11, 2, 12, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert to_the_second(noon) == datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert to_the_second(noon.replace(tzinfo=None)) == datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("abc", "3 characters"), ("日本語rule", "'日' and '本' and '語'"), ("team/app", "'/'")],
)
def test_what_is_no_name_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(NameInvalid, match=rf"this one has {reason}\."):
        parse_name(name, "cache rule")
