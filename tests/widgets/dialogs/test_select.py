"""One of several options is selected, with a preview of the current one."""

from __future__ import annotations

from tests.widgets.dialogs.conftest import Opening
from widgets.dialogs.select import Option, SelectDialog
from widgets.row_list import RowList

OPTIONS = (
    Option("docker", "docker", preview="docker pull nginx"),
    Option("podman", "podman", preview="podman pull nginx"),
    Option("none", "none"),
)


async def test_enter_returns_the_current_option(opening: Opening) -> None:
    async with opening(SelectDialog("Which?", "", OPTIONS)) as opener:
        await opener.press("down", "enter")
        await opener.until(lambda: opener.results == ["podman"])


async def test_the_cursor_begins_on_the_selected_option(opening: Opening) -> None:
    async with opening(SelectDialog("Which?", "", OPTIONS, selected="none")) as opener:
        await opener.press("enter")
        await opener.until(lambda: opener.results == ["none"])


async def test_the_preview_is_that_of_the_current_option(opening: Opening) -> None:
    async with opening(SelectDialog("Which?", "", OPTIONS)) as opener:
        assert opener.text(".select--preview") == "docker pull nginx"
        await opener.press("down")
        assert opener.text(".select--preview") == "podman pull nginx"
        await opener.press("down")
        assert not opener.dialog.query_one(".select--preview").display


async def test_a_refusal_is_shown_in_place_until_the_cursor_moves(opening: Opening) -> None:
    async def refuse(option: str) -> str:
        return f"{option} is not allowed"

    async with opening(SelectDialog("Which?", "", OPTIONS, submit=refuse)) as opener:
        await opener.press("enter")
        refusal = opener.dialog.query_one(".select--refusal")
        await opener.until(lambda: refusal.has_class("-shown"))
        assert opener.text(".select--refusal") == "docker is not allowed"
        await opener.press("down")
        assert not refusal.has_class("-shown")
        assert opener.results == []


async def test_where_a_choice_changes_something_a_letter_goes_back(opening: Opening) -> None:
    """F66: text that was meant for something else selects nothing."""

    async def accept(_: str) -> str:
        return ""

    dialog = SelectDialog("Which?", "", OPTIONS, selected="docker", submit=accept)
    async with opening(dialog) as opener:
        await opener.press("down", "down", "j")
        current = dialog.query_one(RowList).current
        assert current is not None
        assert current.key == "docker"


async def test_escape_returns_nothing(opening: Opening) -> None:
    async with opening(SelectDialog("Which?", "", OPTIONS)) as opener:
        await opener.press("down", "escape")
        assert opener.results == [None]
