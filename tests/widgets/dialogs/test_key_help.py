"""The help shows the keys that work now, from the bindings."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tests.tui.grid import lines
from widgets.dialogs.key_help import KeyHelp


class Below(Screen[object]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new", tooltip="create a rule"),
        Binding("x", "hidden", "hidden"),
    ]


class Helped(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "bye", "quit", tooltip="Quit the program")
    ]


async def test_keys_are_grouped_by_the_place_where_they_work() -> None:
    app = Helped()
    async with app.run_test(size=(80, 24)) as pilot:
        below = Below()
        await app.push_screen(below)
        await app.push_screen(KeyHelp(below))
        await pilot.pause()
        text = [line.strip("│╭╮╰╯─ ") for line in lines(app)]
        assert text.index("This screen") < text.index("Everywhere")
        assert "n                   Create a rule" in text
        assert "q                   Quit the program" in text
        assert not any("hidden" in line.lower() for line in text)
        await pilot.press("escape")
        assert app.screen is below
