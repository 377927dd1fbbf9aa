"""A line of text over a screen, with a word on it below while it is typed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from widgets.dialogs.base import Dialog
from widgets.dialogs.common import DIALOG_CSS, LOW, SCROLLS
from widgets.text import Plain, TextLine

PAUSE = 0.12
"""Seconds of silence after which the word on what was typed is asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A word on what was typed. With *refused* it can't be taken."""

    text: str
    refused: bool = False


class Inquiry(Dialog[str | None]):
    """Asks for a line; gives it, or None. *answer* judges what was typed so far; *take* does what
    enter is for, and its refusal is shown in place."""

    DEFAULT_CSS = f"""
    Inquiry {{ {DIALOG_CSS} {SCROLLS}
        & .inquiry--answer {{ height: auto; min-height: 3; }}
        & .inquiry--answer.-refused {{ color: $error; }}
        & .inquiry--keys {{ margin-top: 1; color: $text-muted; }}
        &.-low .inquiry--keys {{ margin-top: 0; }}
        &.-low Input {{ margin: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    def __init__(
        self,
        title: str,
        text: str,
        *,
        answer: Callable[[str], Awaitable[Answer]],
        value: str = "",
        hint: str = "",
        verb: str = "takes it",
        take: Callable[[str], Awaitable[Answer]] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._value = value
        self._hint = hint
        self._verb = verb
        self._answer = answer
        self._take = take

    def compose(self) -> ComposeResult:
        """Title, text, the line, the word on it, and the keys."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            yield TextLine(
                self._value, id="line", compact=True, placeholder=self._hint, select_on_focus=False
            )
            yield Plain("", classes="inquiry--answer")
            yield Plain(f"enter {self._verb}   esc changes nothing", classes="inquiry--keys")

    def on_mount(self) -> None:
        """Begin in the line."""
        self.query_one("#line").focus()
        self._ask_soon()

    @property
    def enter_commits(self) -> bool:
        """Where enter does what was typed."""
        return self._take is not None

    @property
    def _line(self) -> str:
        return self.query_one("#line", Input).value.strip()

    @on(Input.Changed, "#line")
    def _changed(self) -> None:
        self._ask_soon()

    @work(exclusive=True, group="answer", exit_on_error=False)
    async def _ask_soon(self) -> None:
        await asyncio.sleep(PAUSE)
        self._show(await self._answer(self._line))

    def _show(self, answer: Answer) -> None:
        shown = self.query_one(".inquiry--answer", Plain)
        shown.set_class(answer.refused, "-refused")
        shown.update(answer.text)

    @on(Input.Submitted, "#line")
    @work(exclusive=True, group="answer", exit_on_error=False)
    async def _submitted(self) -> None:
        line = self._line
        answer = await self._answer(line)
        if not answer.refused and self._take is not None:
            answer = await self._take(line)
        if answer.refused:
            self._show(answer)
        else:
            self.dismiss(line)

    def action_cancel(self) -> None:
        """Ask for nothing."""
        self.dismiss(None)
