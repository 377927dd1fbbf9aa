"""A line is judged while it is typed, and a refusal is shown in place."""

from __future__ import annotations

from tests.widgets.dialogs.conftest import Opening
from widgets.dialogs.line_prompt import LinePrompt, LineVerdict

VERDICT = ".line-prompt--verdict"


async def judge(text: str) -> LineVerdict:
    """Digits only."""
    if text.isdigit():
        return LineVerdict(f"{text} is a number")
    return LineVerdict(f"{text!r} is no number", refused=True)


async def refuse(text: str) -> LineVerdict:
    return LineVerdict(f"{text} is taken", refused=True)


async def accept(_: str) -> LineVerdict:
    return LineVerdict("")


async def test_what_is_typed_is_judged_when_the_typing_pauses(opening: Opening) -> None:
    async with opening(LinePrompt("Which?", "", judge=judge)) as opener:
        await opener.press("4", "2")
        await opener.until(lambda: opener.text(VERDICT) == "42 is a number")
        assert not opener.dialog.query_one(VERDICT).has_class("-refused")


async def test_enter_returns_a_line_that_is_not_refused(opening: Opening) -> None:
    async with opening(LinePrompt("Which?", "", judge=judge, value=" 42 ")) as opener:
        await opener.press("enter")
        await opener.until(lambda: opener.results == ["42"])


async def test_a_line_that_is_refused_stays_open(opening: Opening) -> None:
    async with opening(LinePrompt("Which?", "", judge=judge, submit=accept)) as opener:
        await opener.press("x", "enter")
        await opener.until(lambda: opener.dialog.query_one(VERDICT).has_class("-refused"))
        assert opener.text(VERDICT) == "'x' is no number"
        assert opener.is_open


async def test_a_refusal_of_submit_is_shown_in_place(opening: Opening) -> None:
    async with opening(LinePrompt("Which?", "", judge=judge, submit=refuse)) as opener:
        await opener.press("7", "enter")
        await opener.until(lambda: opener.text(VERDICT) == "7 is taken")
        assert opener.results == []


async def test_escape_returns_nothing(opening: Opening) -> None:
    async with opening(LinePrompt("Which?", "", judge=judge, value="42")) as opener:
        await opener.press("escape")
        assert opener.results == [None]


async def test_enter_commits_only_where_it_submits() -> None:
    assert not LinePrompt("Which?", "", judge=judge).enter_commits
    assert LinePrompt("Which?", "", judge=judge, submit=accept).enter_commits
