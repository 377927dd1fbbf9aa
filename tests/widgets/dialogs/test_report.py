"""A report has lines that may come while it is read, and perhaps a place to go to."""

from __future__ import annotations

from textual.app import App

from tests.widgets.dialogs.conftest import Opening
from widgets.dialogs.report import ReportDialog
from widgets.row_list import Cell


async def test_lines_that_come_before_it_is_shown_or_after_it_is_closed_harm_nothing() -> None:
    app: App[None] = App()
    async with app.run_test() as pilot:
        report = ReportDialog("A report", [Cell("wait")])
        report.show_lines([Cell("early")])
        await app.push_screen(report)
        await pilot.pause()
        assert "early" in str(report.query_one("#lines").render())
        await pilot.press("escape")
        await report.remove()
        report.show_lines([Cell("late")])


async def test_enter_goes_onward_only_where_there_is_a_place(opening: Opening) -> None:
    for onward, result in (("goes to the rule", True), ("", False)):
        async with opening(ReportDialog("A report", [Cell("line")], onward=onward)) as opener:
            await opener.press("enter")
            assert opener.results == [result]


async def test_escape_goes_nowhere(opening: Opening) -> None:
    async with opening(ReportDialog("A report", [], onward="goes to the rule")) as opener:
        await opener.press("escape")
        assert opener.results == [False]


async def test_lines_are_shown_literally(opening: Opening) -> None:
    """S29: brackets are no markup, and an escape is printable."""
    async with opening(ReportDialog("A report", [Cell("[red]a\x1b[/red]", "bad")])) as opener:
        assert opener.text("#lines") == r"[red]a\x1b[/red]"


async def test_the_keys_stay_below_a_report_that_is_longer_than_the_terminal() -> None:
    app: App[None] = App()
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ReportDialog("A report", [Cell(f"{line}") for line in range(99)]))
        await pilot.pause()
        keys = app.screen.query_one(".dialog--keys").region
        assert app.screen.query_one(".dialog").content_region.contains_region(keys)
