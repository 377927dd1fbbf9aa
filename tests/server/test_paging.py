"""The parameter ``n`` of listings."""

from __future__ import annotations

import pytest

from entrepot.errors import RequestInvalid
from entrepot.server.paging import page_size, parse_count


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("42", 42), ("9" * 9, 999_999_999), (None, None)]
)
def test_a_count_is_a_whole_number(text: str | None, count: int | None) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1.5", "ten", " 1", "٣", "9" * 10, "9" * 5_000])
def test_anything_else_is_no_count(text: str) -> None:
    """S25: Python refuses to read more than 4,300 digits."""
    assert parse_count(text) is None
    with pytest.raises(RequestInvalid) as refused:
        page_size(text, 1000)
    assert refused.value.field == "n"


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("0", 0), ("10", 10), ("1000", 1000), ("1001", 1000)]
)
def test_a_page_has_at_most_the_largest_size(text: str | None, size: int | None) -> None:
    """F77: 0 asks for an empty page."""
    assert page_size(text, 1000) == size
