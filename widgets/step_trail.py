"""Where one stands in a wizard: the steps in a row, the current one marked by word order and underline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import RenderResult
from textual.reactive import reactive
from textual.widget import Widget


class StepTrail(Widget):
    """``New cache rule        Source > Repository > Target``, with a line below the current step."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"step-trail--title", "step-trail--step", "step-trail--current", "step-trail--done"}
    DEFAULT_CSS = """
    StepTrail {
        height: 2;
        padding: 0 2;
        background: $background;
        & > .step-trail--title { text-style: bold; color: $foreground; }
        & > .step-trail--step { color: $text-muted; }
        & > .step-trail--done { color: $foreground; }
        & > .step-trail--current { color: $accent; text-style: bold; }
    }
    """

    current: reactive[int] = reactive(0)

    def __init__(self, title: str, steps: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._steps = tuple(steps)

    def render(self) -> RenderResult:
        """Two lines: title and steps, and the mark."""
        trail = " > ".join(self._steps)
        gap = max(2, self.size.width - len(self._title) - len(trail))
        line = Text(no_wrap=True).append(self._title, self._style("title")).append(" " * gap)
        start = len(self._title) + gap
        for number, step in enumerate(self._steps):
            if number:
                line.append(" > ", self._style("step"))
            line.append(step, self._style("current" if number == self.current else "done" if number < self.current else "step"))
        before = start + sum(len(step) + 3 for step in self._steps[: self.current])
        mark = Text(" " * before + "-" * len(self._steps[self.current]), self._style("current"), no_wrap=True)
        return Text("\n").join([line, mark])

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"step-trail--{name}", partial=True)
