"""A line of small bars that shows how a number changed over time.

It has one style: a colour for each bar would cost forty bytes of escapes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import RenderResult
from textual.widget import Widget

BLOCKS = " ▁▂▃▄▅▆▇█"
"""Nothing, and eight heights."""

ASCII = " .:-=+*#@"
"""The same for terminals or fonts that have no blocks."""


def spark(values: Sequence[float], most: float, steps: str = BLOCKS) -> str:
    """One character a value.

    A value above zero is always visible, and only *most* reaches the full height.
    """
    heights = len(steps) - 1
    return "".join(
        steps[min(heights, max(1, round(value / most * heights)))]
        if value > 0 and most > 0
        else steps[0]
        for value in values
    )


def grouped(values: Sequence[float], columns: int) -> list[float]:
    """*values* summed in at most *columns* groups of equal size, so of equal time."""
    size = (
        next(
            size
            for size in range(1, len(values) + 1)
            if len(values) % size == 0 and len(values) // size <= max(1, columns)
        )
        if values
        else 1
    )
    return [sum(values[start : start + size]) for start in range(0, len(values), size)]


class Sparkline(Widget):
    """A label and its bars, painted only when a bar changes its height."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"sparkline--label", "sparkline--bars"}
    DEFAULT_CSS = """
    Sparkline {
        height: 1;
        background: $background;
        & > .sparkline--label { color: $foreground; }
        & > .sparkline--bars { color: $accent; }
    }
    """

    def __init__(self, label: str, *, label_width: int, id: str | None = None) -> None:
        super().__init__(id=id)
        self._label = label.ljust(label_width)
        self._bars = ""

    @property
    def columns(self) -> int:
        """How many bars there is room for."""
        return max(1, self.size.width - len(self._label) - 1)

    def show(self, values: Sequence[float], most: float) -> None:
        """Show *values*; *most* reaches the full height."""
        bars = spark(values, most, ASCII if self.app.has_class("-ascii") else BLOCKS)
        if bars != self._bars:
            self._bars = bars
            self.refresh()

    def render(self) -> RenderResult:
        """The line."""
        label, bars = (
            self.get_component_rich_style(f"sparkline--{part}", partial=True)
            for part in ("label", "bars")
        )
        return Text(no_wrap=True).append(self._label, label).append(self._bars, bars)
