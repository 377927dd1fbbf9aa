"""How a number went, in one line."""

from __future__ import annotations

import pytest

from widgets.charts import ASCII, BLOCKS, grouped, spark


def test_what_is_more_than_nothing_is_seen_and_only_the_most_is_full() -> None:
    assert spark([0, 1, 500, 1000], 1000) == " ▁▄█"
    assert spark([0, 1, 500, 1000], 1000, ASCII) == " .=@"


def test_where_nothing_came_nothing_is_drawn() -> None:
    assert spark([0, 0], 0) == "  "


@pytest.mark.parametrize("steps", [BLOCKS, ASCII])
def test_there_are_eight_heights(steps: str) -> None:
    assert spark(list(range(9)), 8, steps) == steps


def test_values_are_added_up_into_columns_that_stand_for_the_same_time() -> None:
    assert grouped([1] * 288, 30) == [12] * 24
    assert grouped([1] * 288, 48) == [6] * 48
    assert grouped([1] * 288, 500) == [1] * 288
    assert grouped([1, 2, 3], 1) == [6]
    assert grouped([], 10) == []
