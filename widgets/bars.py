"""Single lines at the edges of a screen: status, tabs, and keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import RenderResult
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import key_to_character
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget

from widgets.text import Plain, cell_width, escaped, escaped_lines, first_cells

_KEY_NAMES = {"escape": "esc", "space": "space", "pagedown": "pgdn", "pageup": "pgup"}
_CHARACTERS = {
    "slash": "/",
    "backslash": "\\",
    "at": "@",
    "minus": "-",
    "plus": "+",
    "underscore": "_",
}
"""Characters for which Textual has shorter names than Unicode."""

KEY_GAP = 3
"""Columns between two entries of the line of keys."""


def update_line(line: Plain, text: str, *, resizes: bool = True) -> None:
    """Show *text* in a line, if it has changed.

    Only where the line *resizes* with its length is everything around it laid out again.
    """
    text = escaped_lines(text)
    before = str(line.content)
    if before != text:
        line.update(text, layout=resizes and cell_width(before) != cell_width(text))


def action_name(action: str) -> str:
    """``area`` for ``app.area(1)``."""
    return action.partition("(")[0].rpartition(".")[2]


def key_name(keys: str) -> str:
    """A binding's first key as a person reads it: ``/`` for ``slash``."""
    key = keys.split(",")[0].strip()
    return _KEY_NAMES.get(key) or character_of(key) or key


def character_of(key: str) -> str | None:
    """The character that a key types; None for one that types none, such as ``f1``."""
    character = key if len(key) == 1 else _CHARACTERS.get(key) or key_to_character(key)
    # A tab types a character too, but not a visible one.
    return character if character is not None and character.isprintable() else None


def in_declared_order(screen: Screen[Any], actions: Sequence[str]) -> list[str]:
    """*actions* of *screen* in their order.

    An action whose key the user has changed stands where it was declared: Textual puts it last.
    """
    declared = [binding for binding in screen.BINDINGS if isinstance(binding, Binding)]
    positions = {binding.action: position for position, binding in enumerate(declared)}
    active_keys = {
        active.binding.action: active.binding.key for active in screen.active_bindings.values()
    }
    moved = [
        binding.action
        for binding in declared
        if binding.action in actions
        and active_keys.get(binding.action) not in binding.key.split(",")
    ]
    order = [action for action in actions if action not in moved]
    for moved_action in moved:
        following = (
            index
            for index, action in enumerate(order)
            if positions.get(action, -1) > positions[moved_action]
        )
        order.insert(next(following, len(order)), moved_action)
    return order


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key in the line of keys, what it does, and the node that does it."""

    key: str
    text: str
    action: str
    enabled: bool
    node: DOMNode

    @property
    def width(self) -> int:
        """Columns, with the gap behind it."""
        return cell_width(self.key) + 1 + cell_width(self.text) + KEY_GAP


class TwoSided(Widget):
    """A line with a left and a right side, whose last parts may not fit."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "two-sided--left",
        "two-sided--right",
        "two-sided--alert",
    }
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
    """Stands before the right side, and has the first claim on its room."""

    def render(self) -> RenderResult:
        """The line."""
        left_text = escaped(self.left)
        left_style, alert_style, right_style = (
            self.get_component_rich_style(f"two-sided--{part}", partial=True)
            for part in ("left", "alert", "right")
        )
        line = Text(no_wrap=True).append(left_text, left_style)
        room = self.size.width - cell_width(left_text) - 2
        alert = first_cells(escaped(self.alert), room)
        room -= cell_width(alert) + (3 if alert else 0)
        parts: list[str] = []
        for part in map(escaped, self.right):
            if cell_width("   ".join([*parts, part])) <= room:
                parts.append(part)
        right = "   ".join(parts)
        gap = (
            self.size.width
            - cell_width(left_text)
            - cell_width(right)
            - cell_width(alert)
            - (3 if alert and right else 0)
        )
        line.append(" " * max(1, gap))
        if alert:
            line.append(alert, alert_style).append("   " if right else "")
        return line.append(right, right_style)


class TabLine(Widget):
    """The areas of a program with their number keys; the current one is highlighted."""

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

    def __init__(
        self, titles: Sequence[str], current: int, short_titles: Mapping[str, str] | None = None
    ) -> None:
        """*short_titles* are taken where the *titles* do not fit."""
        super().__init__()
        self._titles = tuple(titles)
        self._current = current
        self._short_titles = short_titles or {}

    def _parts(self) -> list[str]:
        full = [f"{number} {title}" for number, title in enumerate(self._titles, 1)]
        short = [
            f"{number} {self._short_titles.get(title, title)}"
            for number, title in enumerate(self._titles, 1)
        ]
        for parts in (full, short):
            if len(" ".join(parts)) <= self.size.width:
                return parts
        return [part if number == self._current else part[:1] for number, part in enumerate(full)]

    def _gap(self, parts: Sequence[str]) -> str:
        return "  " if len("  ".join(parts)) <= self.size.width else " "

    def render(self) -> RenderResult:
        """The line; in a narrow terminal only the current area keeps its name."""
        line = Text(no_wrap=True)
        parts = self._parts()
        for number, part in enumerate(parts):
            style = self.get_component_rich_style(
                "tab-line--current" if number == self._current else "tab-line--tab", partial=True
            )
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
    """The keys that work now, read from the bindings with ``show=True``.

    A disabled key is dimmed, so that it is always found at the same place. A click on an entry does
    what its key does.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-line--key", "key-line--text", "key-line--dim"}
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom;
        height: 1;
        padding: 0 1;
        background: $surface;
        & > .key-line--key { color: $accent; text-style: bold; }
        & > .key-line--text { color: $foreground; }
        & > .key-line--dim { color: $text-muted; }
    }
    """
    LAST: ClassVar[tuple[str, ...]] = ("filter", "help", "quit")
    """Texts of the entries that always fit, at the right end."""
    OPTIONAL: ClassVar[tuple[str, ...]] = ("commands",)
    """Texts of the entries before those, where there is room."""

    def on_mount(self) -> None:
        """Follow the bindings of the screen."""
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)
        self._shown: tuple[KeyEntry, ...] = ()

    def _bindings_changed(self, _: object) -> None:
        if self._entries() != self._shown:
            self.refresh()

    def _entries(self) -> tuple[KeyEntry, ...]:
        entries: dict[str, KeyEntry] = {}
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and binding.action not in entries:
                entries[binding.action] = KeyEntry(
                    key_name(binding.key), binding.description, binding.action, enabled, node
                )
        return tuple(entries[action] for action in in_declared_order(self.screen, list(entries)))

    def _placed(self) -> list[tuple[int, KeyEntry]]:
        """The entries that fit, with the columns where they begin."""
        entries = self._entries()
        last = [entry for text in self.LAST for entry in entries if entry.text == text]
        optional = [entry for entry in entries if entry.text in self.OPTIONAL]
        first = [entry for entry in entries if entry not in last and entry not in optional]
        # The last entry needs no gap behind it.
        room = self.size.width - sum(entry.width for entry in last) + (KEY_GAP if last else 0)
        column, placed = 0, []
        for entry in [*first, *optional]:
            if entry.width > room:
                continue
            if entry in optional:
                last.insert(0, entry)
            else:
                placed.append((column, entry))
                column += entry.width
            room -= entry.width
        column += max(0, room)
        for entry in last:
            placed.append((column, entry))
            column += entry.width
        return placed

    def render(self) -> RenderResult:
        """The line; keys that work everywhere come last."""
        key, text, dim = (
            self.get_component_rich_style(f"key-line--{part}", partial=True)
            for part in ("key", "text", "dim")
        )
        self._shown = self._entries()
        line = Text(no_wrap=True)
        for column, entry in self._placed():
            line.append(" " * (column - line.cell_len))
            line.append(entry.key, key if entry.enabled else dim).append(
                f" {entry.text}", text if entry.enabled else dim
            )
        return line

    async def on_click(self, event: events.Click) -> None:
        """Do what the entry's key does."""
        for column, entry in self._placed():
            if column <= event.x - 1 < column + entry.width - KEY_GAP:
                await self.app.run_action(entry.action, entry.node)
                return
