"""Text that can be read: in both of our themes, in the terminal's own colours, and without any."""

from __future__ import annotations

import itertools

import pytest
from textual.app import App, ComposeResult
from textual.color import Color
from textual.theme import Theme

from tui.theme import BACKGROUND_COLOURS, DARK, LIGHT, TEXT_COLOURS
from widgets.row_list import Cell, Column, Row, RowList

LEAST_CONTRAST = 4.5
"""What WCAG 2.2 asks at level AA of text of the usual size (success criterion 1.4.3)."""


def luminance(color: Color) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in color.normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_counted_as_wcag_does() -> None:
    assert contrast(Color.parse("#000000"), Color.parse("#ffffff")) == pytest.approx(21.0)
    assert contrast(Color.parse("#777777"), Color.parse("#ffffff")) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
def test_every_text_can_be_read_on_every_ground(theme: Theme) -> None:
    colors = theme.to_color_system().generate()
    weak = {
        (text, ground): round(ratio, 2)
        for text, ground in itertools.product((*TEXT_COLOURS, "text-disabled"), BACKGROUND_COLOURS)
        if (ratio := contrast(Color.parse(colors[text]), Color.parse(colors[ground])))
        < LEAST_CONTRAST
    }
    assert weak == {}


class _List(App[None]):
    def compose(self) -> ComposeResult:
        yield RowList([Column("Name")])

    def on_mount(self) -> None:
        self.query_one(RowList).set_rows(
            [Row("a", (Cell("alpha", "bad"),)), Row("b", (Cell("beta", "dim"),))]
        )
        self.query_one(RowList).focus()


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
async def test_in_the_terminals_own_colours_the_cursor_is_reversed(theme: str) -> None:
    app = _List()
    app.theme = theme
    async with app.run_test(size=(40, 6)) as pilot:
        await pilot.pause()
        under, other = (app.query_one(RowList).render_line(line) for line in (1, 2))
        assert all(
            segment.style is not None and segment.style.reverse
            for segment in under
            if segment.text.strip()
        )
        assert not any(segment.style is not None and segment.style.reverse for segment in other)
