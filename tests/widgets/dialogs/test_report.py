"""A dialog with lines that come while it is read."""

from __future__ import annotations

from textual.app import App

from widgets.dialogs.report import ReportDialog
from widgets.row_list import Cell


async def test_lines_that_come_before_it_is_shown_or_after_it_is_closed_harm_nobody() -> None:
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
