"""A text to read."""

from __future__ import annotations

import pytest

from tests.widgets.dialogs.conftest import Opening
from widgets.dialogs.text_dialog import TextDialog


@pytest.mark.parametrize("key", ["escape", "enter", "q"])
async def test_a_key_closes_it(opening: Opening, key: str) -> None:
    async with opening(TextDialog("Copy it", "docker pull nginx")) as opener:
        assert opener.text(".dialog--text") == "docker pull nginx"
        await opener.press(key)
        assert opener.results == [None]
        assert not opener.is_open
