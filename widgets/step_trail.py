"""Where one stands in a wizard: its title, how far one has come, and the steps in a row with a line
below the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import RenderResult
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

GAP = " > "
MORE = "..."


def shown_steps(steps: Sequence[str], current: int, width: int) -> tuple[int, int]:
    """Which steps fit into *width* columns: the first of them and the one behind the last. The
    current one is always among them, with what comes next."""
    first, end = current, current + 1

    def room(first: int, end: int) -> int:
        left, right = (
            (len(MORE + GAP) if first else 0),
            (len(GAP + MORE) if end < len(steps) else 0),
        )
        return width - left - right - len(GAP.join(steps[first:end]))

    while True:
        # What comes next tells more than what is done, so it has the first claim.
        if end < len(steps) and room(first, end + 1) >= 0:
            end += 1
        elif first and room(first - 1, end) >= 0:
            first -= 1
        else:
            return first, end


class StepTrail(Widget):
    """``New cache rule                step 2 of 7``, below it the steps, and a line below the
    current one. A click on a step that is done goes back to it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "step-trail--title",
        "step-trail--step",
        "step-trail--current",
        "step-trail--done",
    }
    DEFAULT_CSS = """
    StepTrail {
        height: 3;
        padding: 0 2;
        background: $background;
        & > .step-trail--title { text-style: bold; color: $foreground; }
        & > .step-trail--step { color: $text-muted; }
        & > .step-trail--done { color: $foreground; }
        & > .step-trail--current { color: $accent; text-style: bold; }
    }
    """

    current: reactive[int] = reactive(0)
    begins_at: reactive[int] = reactive(0)
    """The first step that this wizard goes through; those before it are left out."""

    class Chosen(Message):
        """A step that is done was clicked."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self, title: str, steps: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._steps = tuple(steps)

    def _places(self) -> tuple[list[tuple[int, int]], bool, bool]:
        """The column of each step that is shown, and whether steps before and behind them are left
        out."""
        steps = self._steps[self.begins_at :]
        first, end = shown_steps(steps, self.current - self.begins_at, self.size.width)
        column = len(MORE + GAP) if first else 0
        places = []
        for number in range(first, end):
            places.append((number + self.begins_at, column))
            column += len(steps[number]) + len(GAP)
        return places, first > 0, end < len(steps)

    def render(self) -> RenderResult:
        """Three lines: title and how far, the steps, and the mark."""
        told = f"step {self.current - self.begins_at + 1} of {len(self._steps) - self.begins_at}"
        gap = max(1, self.size.width - len(self._title) - len(told))
        head = (
            Text(no_wrap=True)
            .append(self._title, self._style("title"))
            .append(" " * gap)
            .append(told, self._style("step"))
        )
        places, before, behind = self._places()
        trail = Text(MORE if before else "", self._style("step"), no_wrap=True)
        mark = Text(no_wrap=True)
        for number, column in places:
            if trail:
                trail.append(GAP, self._style("step"))
            trail.append(
                self._steps[number],
                self._style(
                    "current"
                    if number == self.current
                    else "done"
                    if number < self.current
                    else "step"
                ),
            )
            if number == self.current:
                mark = Text(
                    " " * column + "-" * len(self._steps[number]),
                    self._style("current"),
                    no_wrap=True,
                )
        if behind:
            trail.append(GAP + MORE, self._style("step"))
        return Text("\n").join([head, trail, mark])

    def on_click(self, event: events.Click) -> None:
        """Ask for the step that was clicked, if it is done."""
        offset = event.get_content_offset(self)
        if offset is None or offset.y == 0:
            return
        for number, column in self._places()[0]:
            if number < self.current and column <= offset.x < column + len(self._steps[number]):
                self.post_message(self.Chosen(number))

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"step-trail--{name}", partial=True)
