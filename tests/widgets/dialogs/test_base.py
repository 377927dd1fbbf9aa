"""A screen that gives an answer gives one, and takes away nothing but itself."""

from __future__ import annotations

from textual.app import App
from textual.screen import Screen

from widgets.dialogs.question import Choice, Question
from widgets.dialogs.text_dialog import TextDialog

CHOICES = (Choice("no", "No"), Choice("yes", "Yes", danger=True))


class Asking(App[None]):
    """Keeps what is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[str | None] = []

    def ask(self) -> Question:
        question = Question("Well?", "", CHOICES)
        self.push_screen(question, self.answers.append)
        return question


async def test_the_first_answer_counts_and_the_second_takes_no_screen_away() -> None:
    app = Asking()
    async with app.run_test() as pilot:
        below: Screen[object] = Screen()
        await app.push_screen(below)
        question = app.ask()
        await pilot.pause()
        question.dismiss("no")
        question.dismiss("yes")
        await pilot.pause()
        assert app.answers == ["no"]
        assert app.screen is below


async def test_an_answer_given_below_another_screen_waits_until_that_has_gone() -> None:
    app = Asking()
    async with app.run_test() as pilot:
        question = app.ask()
        await pilot.pause()
        above = TextDialog("Above", "")
        await app.push_screen(above)
        question.dismiss("yes")
        question.dismiss("no")
        await pilot.pause()
        assert app.answers == []
        assert app.screen is above
        above.dismiss()
        await pilot.pause()
        await pilot.pause()
        assert app.answers == ["yes"]
        assert len(app.screen_stack) == 1


async def test_a_button_that_is_pressed_twice_gives_one_answer() -> None:
    app = Asking()
    async with app.run_test() as pilot:
        app.ask()
        await pilot.pause()
        await pilot.click("#yes", times=2)
        await pilot.pause()
        assert app.answers == ["yes"]
        assert len(app.screen_stack) == 1
