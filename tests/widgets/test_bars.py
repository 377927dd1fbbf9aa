"""Keys in the words in which a person reads them."""

from __future__ import annotations

import pytest

from widgets.bars import key_name


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
