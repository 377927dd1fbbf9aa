"""Where one stands in a wizard."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from widgets.step_trail import GAP, MORE, StepTrail, shown_steps

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


class Trail(App[None]):
    def compose(self) -> ComposeResult:
        trail = StepTrail("New", STEPS)
        trail.omitted = frozenset({4})
        trail.current = 5
        yield trail


async def test_a_step_that_is_left_out_is_neither_shown_nor_counted() -> None:
    app = Trail()
    async with app.run_test(size=(80, 5)):
        title, steps, mark = str(app.query_one(StepTrail).render()).split("\n")
        assert title.endswith("step 5 of 6")
        assert "Sign-in > Review > First pull" in steps
        assert steps[mark.index("-") : len(mark)] == "Review"
