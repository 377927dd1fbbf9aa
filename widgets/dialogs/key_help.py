"""The keys that work now, read from the bindings."""

from __future__ import annotations

import textwrap
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen

from widgets.bars import in_declared_order, key_name
from widgets.dialogs.base import DIALOG_CSS, Dialog
from widgets.text import Plain

TOOLTIP_WIDTH = 38
"""Columns for what a key does."""


class KeyHelp(Dialog[None]):
    """Every key that works now and what it does.

    The bindings are those of the screen below, of the widget that has the focus, and of the
    application.
    """

    DEFAULT_CSS = f"""
    KeyHelp {{
        {DIALOG_CSS}
        & > .dialog {{ height: 90%; padding: 0 2; }}
        & VerticalScroll {{ height: 1fr; margin: 1 0; scrollbar-size-vertical: 1; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1", "close", "close"),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]

    def __init__(self, below: Screen[object]) -> None:
        super().__init__()
        self._below = below

    def compose(self) -> ComposeResult:
        """The keys in one column, what they do in the other."""
        lines: list[str] = []
        for title, entries in self._groups().items():
            lines += ["", title] if lines else [title]
            for keys, text in entries.values():
                first, *others = textwrap.wrap(f"{text[:1].upper()}{text[1:]}", TOOLTIP_WIDTH)
                lines.append(f"  {' '.join(dict.fromkeys(keys)):<18}  {first}")
                lines.extend(f"{'':<22}{line}" for line in others)
        with Vertical(classes="dialog"):
            yield Plain("Keys", classes="dialog--title")
            with VerticalScroll():
                yield Plain("\n".join(lines))
            yield Plain("esc closes", classes="dialog--title")

    def _groups(self) -> dict[str, dict[str, tuple[list[str], str]]]:
        """By the place where they work: for each action its keys and what it does."""
        groups: dict[str, dict[str, tuple[list[str], str]]] = {
            "This screen": {},
            "The list": {},
            "Everywhere": {},
        }
        for node, binding, _, tooltip in self._below.active_bindings.values():
            # A binding without a tooltip is Textual's own, or for widgets of other screens.
            text = tooltip or binding.tooltip
            if text and not binding.system:
                title = (
                    "This screen"
                    if node is self._below
                    else "Everywhere"
                    if node is self.app
                    else "The list"
                )
                keys, _ = groups[title].setdefault(binding.action, ([], text))
                keys.append(key_name(binding.key))
        own = groups["This screen"]
        groups["This screen"] = {
            action: own[action] for action in in_declared_order(self._below, list(own))
        }
        return {title: entries for title, entries in groups.items() if entries}

    @property
    def enter_commits(self) -> bool:
        """False: nothing is asked."""
        return False

    def action_scroll(self, by: int) -> None:
        """Scroll by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss()
