"""Where one stands in a wizard."""

from __future__ import annotations

import pytest

from widgets.step_trail import GAP, MORE, shown_steps

STEPS = ("Source", "Repository", "Target", "Sign-in", "Freshness", "Review", "First pull")


@pytest.mark.parametrize("width", [20, 36, 56, 76])
def test_the_current_step_is_shown_at_any_width_and_nothing_stands_over(width: int) -> None:
    for current in range(len(STEPS)):
        first, end = shown_steps(STEPS, current, width)
        assert first <= current < end
        visible = [
            *([MORE] if first else []),
            *STEPS[first:end],
            *([MORE] if end < len(STEPS) else []),
        ]
        assert len(GAP.join(visible)) <= max(width, len(GAP.join([MORE, STEPS[current], MORE])))


def test_where_there_is_room_all_steps_are_shown() -> None:
    assert shown_steps(STEPS, 3, 76) == (0, 7)


def test_where_there_is_little_room_what_comes_next_is_shown_first() -> None:
    first, end = shown_steps(STEPS, 2, 40)
    assert first == 2
    assert end > 3
