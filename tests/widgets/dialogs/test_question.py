"""A question is answered by a choice, never by a letter (F66)."""

from __future__ import annotations

from textual.widgets import Button

from tests.widgets.dialogs.conftest import Opening
from widgets.dialogs.question import Choice, Question

CHOICES = (Choice("keep", "Keep it"), Choice("delete", "Delete", danger=True))


async def test_enter_takes_the_first_choice(opening: Opening) -> None:
    async with opening(Question("Delete?", "", CHOICES)) as opener:
        await opener.press("enter")
        assert opener.results == ["keep"]


async def test_right_and_enter_take_the_second_choice(opening: Opening) -> None:
    async with opening(Question("Delete?", "", CHOICES)) as opener:
        await opener.press("right", "enter")
        assert opener.results == ["delete"]


async def test_escape_takes_no_choice(opening: Opening) -> None:
    async with opening(Question("Delete?", "", CHOICES)) as opener:
        await opener.press("right", "escape")
        assert opener.results == [None]


async def test_a_letter_or_a_tab_goes_back_to_the_first_choice(opening: Opening) -> None:
    for key in ("y", "tab"):
        async with opening(Question("Delete?", "", CHOICES)) as opener:
            await opener.press("right", key, "enter")
            assert opener.results == ["keep"]


async def test_a_dangerous_choice_works_only_after_its_word_was_typed(opening: Opening) -> None:
    async with opening(Question("Evict?", "", CHOICES, typed="evict")) as opener:
        await opener.press(*"evic", "enter")
        assert opener.is_open
        assert opener.dialog.query_one("#delete", Button).disabled
        await opener.press("t")
        assert not opener.dialog.query_one("#delete", Button).disabled
        await opener.press("enter")
        assert opener.results == ["delete"]


async def test_a_question_discards_type_ahead_and_commits_with_enter() -> None:
    question = Question("Delete?", "", CHOICES)
    assert not question.accepts_type_ahead
    assert question.enter_commits
