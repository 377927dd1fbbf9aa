"""Single lines at the edges of a screen: a status line, tabs, and the keys of the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import RenderResult
from textual.binding import Binding
from textual.reactive import reactive
from textual.widget import Widget

_KEY_NAMES = {"slash": "/", "question_mark": "?", "colon": ":", "escape": "esc", "ctrl+c": "ctrl+c", "enter": "enter", "space": "space"}


def key_name(keys: str) -> str:
    """A binding's first key as a person reads it: ``/`` for ``slash``."""
    key = keys.split(",")[0]
    return _KEY_NAMES.get(key, key)


class TwoSided(Widget):
    """A line with something at its left and something at its right; what does not fit is left out of the right."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"two-sided--left", "two-sided--right", "two-sided--alert"}
    DEFAULT_CSS = """
    TwoSided {
        height: 1;
        background: $surface;
        color: $foreground;
        padding: 0 1;
        & > .two-sided--left { text-style: bold; color: $accent; }
        & > .two-sided--right { color: $foreground; }
        & > .two-sided--alert { color: $warning; text-style: bold; }
    }
    """

    left: reactive[str] = reactive("")
    right: reactive[tuple[str, ...]] = reactive(())
    alert: reactive[str] = reactive("")
    """Stands before the right side, and goes before it when there is too little room."""

    def render(self) -> RenderResult:
        """The line."""
        width = self.size.width
        line = Text(no_wrap=True).append(self.left, self.get_component_rich_style("two-sided--left", partial=True))
        room = width - len(self.left) - 2
        alert = self.alert[: max(0, room)]
        room -= len(alert) + (3 if alert else 0)
        parts: list[str] = []
        for part in self.right:
            if len("   ".join([*parts, part])) <= room:
                parts.append(part)
        told = "   ".join(parts)
        gap = width - len(self.left) - len(told) - len(alert) - (3 if alert and told else 0)
        line.append(" " * max(1, gap))
        if alert:
            line.append(alert, self.get_component_rich_style("two-sided--alert", partial=True)).append("   " if told else "")
        return line.append(told, self.get_component_rich_style("two-sided--right", partial=True))


class TabLine(Widget):
    """The areas of a program with their number keys; the current one is marked."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tab-line--tab", "tab-line--current"}
    DEFAULT_CSS = """
    TabLine {
        height: 1;
        padding: 0 1;
        background: $background;
        & > .tab-line--tab { color: $text-muted; }
        & > .tab-line--current { color: $accent; text-style: bold underline; }
    }
    """

    def __init__(self, titles: Sequence[str], current: int) -> None:
        super().__init__()
        self._titles = tuple(titles)
        self._current = current

    def _parts(self) -> list[str]:
        full = [f"{number} {title}" for number, title in enumerate(self._titles, 1)]
        if len(" ".join(full)) <= self.size.width:
            return full
        return [part if number == self._current else part[:1] for number, part in enumerate(full)]

    def _gap(self, parts: Sequence[str]) -> str:
        return "  " if len("  ".join(parts)) <= self.size.width else " "

    def render(self) -> RenderResult:
        """The line; in a narrow terminal only the current area keeps its name."""
        line = Text(no_wrap=True)
        parts = self._parts()
        for number, part in enumerate(parts):
            style = self.get_component_rich_style("tab-line--current" if number == self._current else "tab-line--tab", partial=True)
            line.append(part, style)
            line.append(self._gap(parts))
        return line

    async def on_click(self, event: events.Click) -> None:
        """Go to the area that was clicked."""
        start = 1
        parts = self._parts()
        for number, part in enumerate(parts, 1):
            if start <= event.x < start + len(part):
                await self.run_action(f"app.area({number})")
            start += len(part) + len(self._gap(parts))


class KeyLine(Widget):
    """The keys of the moment, read from the bindings themselves: what has a place in it is bound with ``show=True``."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-line--key", "key-line--text"}
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom;
        height: 1;
        padding: 0 1;
        background: $surface;
        & > .key-line--key { color: $accent; text-style: bold; }
        & > .key-line--text { color: $foreground; }
    }
    """

    def on_mount(self) -> None:
        """Follow the bindings of the screen."""
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def _bindings_changed(self, _: object) -> None:
        self.refresh()

    def _shown(self) -> list[tuple[Binding, bool]]:
        seen: dict[str, tuple[Binding, bool]] = {}
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and binding.action not in seen:
                seen[binding.action] = (binding, enabled)
        return list(seen.values())

    def render(self) -> RenderResult:
        """The line; what works everywhere comes last and always fits."""
        key_style = self.get_component_rich_style("key-line--key", partial=True)
        text_style = self.get_component_rich_style("key-line--text", partial=True)
        line = Text(no_wrap=True)
        entries = [(key_name(binding.key), binding.description) for binding, enabled in self._shown() if enabled]
        last = [entry for word in ("filter", "help", "leave") for entry in entries if entry[1] == word]
        room = self.size.width - sum(len(key) + len(text) + 4 for key, text in last)
        for key, text in [entry for entry in entries if entry not in last]:
            needed = len(key) + len(text) + 4
            if needed > room:
                continue
            room -= needed
            line.append(key, key_style).append(f" {text}   ", text_style)
        if last:
            line.append(" " * max(0, room))
        for key, text in last:
            line.append(key, key_style).append(f" {text}   ", text_style)
        line.right_crop(3 if last else 0)
        return line
