"""A form returns the text of each field."""

from __future__ import annotations

from tests.widgets.dialogs.conftest import Opening
from widgets.dialogs.form import Field, FormDialog


def form() -> FormDialog:
    return FormDialog("Evict", (Field("to", "To", "40 GB"), Field("by", "By")), button="Show")


async def test_enter_goes_to_the_next_field_and_in_the_last_one_submits(opening: Opening) -> None:
    async with opening(form()) as opener:
        await opener.press("enter")
        assert opener.is_open
        await opener.press(*" age ", "enter")
        assert opener.results == [{"to": "40 GB", "by": "age"}]


async def test_escape_returns_nothing(opening: Opening) -> None:
    async with opening(form()) as opener:
        await opener.press(*"90", "escape")
        assert opener.results == [None]


async def test_a_form_commits_nothing_by_itself() -> None:
    assert not form().enter_commits
