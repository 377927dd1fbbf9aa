"""The progress of a wizard: its title, and its steps in a row."""

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
    """The steps that fit into *width* columns, as a half-open range.

    The current step is always among them, with the next one.
    """
    first, end = current, current + 1

    def room(first: int, end: int) -> int:
        before = len(MORE + GAP) if first else 0
        behind = len(GAP + MORE) if end < len(steps) else 0
        return width - before - behind - len(GAP.join(steps[first:end]))

    while True:
        # The next step is more useful than the last one, so it has the first claim.
        if end < len(steps) and room(first, end + 1) >= 0:
            end += 1
        elif first and room(first - 1, end) >= 0:
            first -= 1
        else:
            return first, end


class StepTrail(Widget):
    """A title with ``step 2 of 7``, the steps, and a line below the current one.

    A click on a completed step goes back to it.
    """

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
    """The first step of this wizard; those before it are left out."""

    omitted: reactive[frozenset[int]] = reactive(frozenset())
    """Steps that this wizard leaves out."""

    class Chosen(Message):
        """A completed step was clicked."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self, title: str, steps: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._steps = tuple(steps)

    def _places(self) -> tuple[list[tuple[int, int]], bool, bool]:
        """The visible steps with their columns; whether others precede and follow."""
        numbers = self._numbers
        steps = [self._steps[number] for number in numbers]
        first, end = shown_steps(steps, self._position, self.size.width)
        column = len(MORE + GAP) if first else 0
        places = []
        for number in numbers[first:end]:
            places.append((number, column))
            column += len(self._steps[number]) + len(GAP)
        return places, first > 0, end < len(steps)

    @property
    def _numbers(self) -> list[int]:
        """The steps of this wizard."""
        return [
            number
            for number in range(self.begins_at, len(self._steps))
            if number not in self.omitted
        ]

    @property
    def _position(self) -> int:
        """The place of the current step among them, which is never left out."""
        return self._numbers.index(self.current)

    def render(self) -> RenderResult:
        """Three lines: title and number, the steps, and the mark."""
        progress = f"step {self._position + 1} of {len(self._numbers)}"
        gap = max(1, self.size.width - len(self._title) - len(progress))
        head = (
            Text(no_wrap=True)
            .append(self._title, self._style("title"))
            .append(" " * gap)
            .append(progress, self._style("step"))
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
        """Post a message about the step that was clicked, if it is completed."""
        offset = event.get_content_offset(self)
        if offset is None or offset.y == 0:
            return
        for number, column in self._places()[0]:
            if number < self.current and column <= offset.x < column + len(self._steps[number]):
                self.post_message(self.Chosen(number))

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"step-trail--{name}", partial=True)
