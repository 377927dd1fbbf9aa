"""A line of text over a screen, judged below it while it is typed."""

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

from widgets.dialogs.base import DIALOG_CSS, LOW_BREAKPOINTS, SCROLLING_CSS, Dialog
from widgets.text import Plain, TextLine

TYPING_PAUSE = 0.12
"""Seconds without a key after which what was typed is judged."""


@dataclass(frozen=True, slots=True)
class LineVerdict:
    """A sentence on what was typed. With *refused* the line can't be submitted."""

    text: str
    refused: bool = False


class LinePrompt(Dialog[str | None]):
    """Asks for a line of text; returns it, or None.

    *judge* gives the verdict on what was typed so far. *submit* does what enter is for; a refusal
    is shown in place, and the dialog stays open.
    """

    DEFAULT_CSS = f"""
    LinePrompt {{ {DIALOG_CSS} {SCROLLING_CSS}
        & .line-prompt--verdict {{ height: auto; min-height: 3; }}
        & .line-prompt--verdict.-refused {{ color: $error; }}
        & .line-prompt--keys {{ margin-top: 1; color: $text-muted; }}
        &.-low .line-prompt--keys {{ margin-top: 0; }}
        &.-low Input {{ margin: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW_BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    def __init__(
        self,
        title: str,
        text: str,
        *,
        judge: Callable[[str], Awaitable[LineVerdict]],
        value: str = "",
        hint: str = "",
        verb: str = "confirms",
        submit: Callable[[str], Awaitable[LineVerdict]] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._value = value
        self._hint = hint
        self._verb = verb
        self._judge = judge
        self._submit = submit

    def compose(self) -> ComposeResult:
        """Title, text, the line, the verdict, and the keys."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            yield TextLine(
                self._value, id="line", compact=True, placeholder=self._hint, select_on_focus=False
            )
            yield Plain("", classes="line-prompt--verdict")
            yield Plain(f"enter {self._verb}   esc changes nothing", classes="line-prompt--keys")

    def on_mount(self) -> None:
        """Focus the line, and judge what it holds."""
        self.query_one("#line").focus()
        self._judge_soon()

    @property
    def enter_commits(self) -> bool:
        """Whether enter does something with the line."""
        return self._submit is not None

    @property
    def _line(self) -> str:
        return self.query_one("#line", Input).value.strip()

    @on(Input.Changed, "#line")
    def _changed(self) -> None:
        self._judge_soon()

    @work(exclusive=True, group="verdict", exit_on_error=False)
    async def _judge_soon(self) -> None:
        await asyncio.sleep(TYPING_PAUSE)
        self._show(await self._judge(self._line))

    def _show(self, verdict: LineVerdict) -> None:
        line = self.query_one(".line-prompt--verdict", Plain)
        line.set_class(verdict.refused, "-refused")
        line.update(verdict.text)

    @on(Input.Submitted, "#line")
    @work(exclusive=True, group="verdict", exit_on_error=False)
    async def _submitted(self) -> None:
        line = self._line
        verdict = await self._judge(line)
        if not verdict.refused and self._submit is not None:
            verdict = await self._submit(line)
        if verdict.refused:
            self._show(verdict)
        else:
            self.dismiss(line)

    def action_cancel(self) -> None:
        """Change nothing."""
        self.dismiss(None)
