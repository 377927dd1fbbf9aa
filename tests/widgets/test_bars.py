"""Keys in the words in which a person reads them."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from widgets.bars import TabLine, key_name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("tab", "tab"),
        ("shift+tab", "shift+tab"),
        ("space", "space"),
        ("slash", "/"),
        ("question_mark,f1", "?"),
        ("escape", "esc"),
        ("G", "G"),
        ("ctrl+p", "ctrl+p"),
    ],
)
def test_a_key_is_named_by_what_can_be_read(key: str, name: str) -> None:
    assert key_name(key) == name


class Tabs(App[None]):
    def compose(self) -> ComposeResult:
        yield TabLine(("Overview", "Repositories"), 0, {"Repositories": "Repos"})


@pytest.mark.parametrize(
    ("width", "text"),
    [(40, "1 Overview  2 Repositories"), (20, "1 Overview 2 Repos"), (16, "1 Overview  2")],
)
async def test_tabs_have_short_titles_before_they_have_none(width: int, text: str) -> None:
    app = Tabs()
    async with app.run_test(size=(width, 3)):
        assert str(app.query_one(TabLine).render()).strip() == text
