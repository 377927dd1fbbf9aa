"""What wizards share: steps one after the other, back without loss, the engine's word beside the field, and nothing made before the review."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static

from entrepot.client import ClientError, EngineRefused
from entrepot.snapshots import Problem
from widgets.lines import KeyLine
from widgets.row_list import RowList
from widgets.step_trail import StepTrail

if TYPE_CHECKING:
    from tui.app import Dashboard

PAUSE = 0.12
"""Seconds of silence after which what was typed is shown to the engine."""

Result = TypeVar("Result")


class Feedback(Static):
    """The engine's word on what was entered: fine, a remark, or why not and what to do, with the code in a quiet colour."""

    DEFAULT_CSS = """
    Feedback { height: auto; min-height: 2; margin: 1 0 0 2; color: $text-muted; }
    Feedback.-problem { color: $error; }
    Feedback.-fine { color: $success; }
    """

    def show(self, problem: Problem | None, fine: str = "", remarks: Iterable[str] = ()) -> None:
        """Show a problem, or that all is well."""
        self.set_class(problem is not None, "-problem")
        self.set_class(problem is None and bool(fine), "-fine")
        if problem is not None:
            self.update(Text(f"Not possible: {problem.message}  ").append(problem.code, "dim"))
        else:
            self.update(Text("\n".join([*([fine] if fine else []), *remarks])))


class Step(Vertical):
    """One step of a wizard; its texts teach the rule behind it."""

    DEFAULT_CSS = """
    Step { height: 1fr; padding: 1 2 0 2; display: none; }
    Step .question { text-style: bold; margin-bottom: 1; }
    Step .teach { color: $text-muted; margin: 1 0 0 2; height: auto; }
    Step .entry { height: 1; margin-left: 2; }
    Step .entry Static { width: auto; color: $text-muted; }
    Step .label { margin-left: 2; color: $text-muted; }
    Step Input { width: 1fr; background: $surface; }
    Step Input:focus { background: $panel; }
    Step RowList { height: auto; max-height: 15; }
    """


class Wizard(Screen[Result]):
    """A few questions on a screen of their own."""

    DEFAULT_CSS = """
    Wizard { background: $background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "next", "next", priority=True, tooltip="Take this and go on"),
        Binding("escape", "back", "back (nothing is lost)", tooltip="One step back; what was entered is kept"),
        Binding("ctrl+c", "leave_wizard", "leave", priority=True, tooltip="Leave the wizard; nothing is made"),
    ]
    wizard_title: ClassVar[str] = ""
    steps: ClassVar[tuple[str, ...]] = ()

    class Onward(Message):
        """Enter was pressed; the app calls `go_on` when this arrives there, behind the keys that were pressed before."""

    app: Dashboard

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self._going = False

    def compose(self) -> ComposeResult:
        """The trail, all steps of which one is shown, and the keys."""
        yield StepTrail(self.wizard_title, self.steps)
        for number, _ in enumerate(self.steps):
            with Step(id=f"step-{number}"):
                yield from self.compose_step(number)
        yield KeyLine()

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        yield Static("")

    async def on_mount(self) -> None:
        """Begin at the first step."""
        await self.go_to(self.current)

    async def go_to(self, number: int) -> None:
        """Show a step and put the focus into it."""
        await self.prepare(number)
        # Shown and ready to be typed into in the same moment, without waiting for styles or messages: no key that is pressed now may be lost.
        self.current = number
        for index in range(len(self.steps)):
            self.query_one(f"#step-{index}").display = index == number
        self.query_one(StepTrail).current = number
        target = self.focus_of(number)
        self.set_focus(self.query_one(target) if target is not None else None)
        self.check_soon()
        self.refresh_bindings()

    async def prepare(self, number: int) -> None:
        """Fill a step in before it is shown."""

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return None

    async def check(self) -> bool:
        """Show the engine what has been entered so far, and its word beside the field; whether the step may be left."""
        return True

    async def take(self) -> None:
        """The last step has been confirmed."""

    @work(exclusive=True, group="check", exit_on_error=False)
    async def check_soon(self) -> None:
        """Check when the typing pauses. Only the newest answer counts: an older question is cancelled."""
        await asyncio.sleep(PAUSE)
        await self._checked()

    async def _checked(self) -> bool:
        try:
            return await self.check()
        except EngineRefused as error:
            self.app.notify(error.message, severity="error")
        except ClientError as error:
            self.app.lost(error)
        return False

    @on(Input.Changed)
    @on(RowList.Moved)
    def _something_changed(self) -> None:
        self.check_soon()

    def action_next(self) -> None:
        """Go on, after the keys that were pressed before have done their work: a key that means something takes a longer way than one with priority."""
        (self.focused or self).post_message(self.Onward())

    @work(exclusive=True, group="go", exit_on_error=False)
    async def go_on(self) -> None:
        """Go on if the engine has nothing against it."""
        if self._going:
            return
        self._going = True
        try:
            if await self.goes_on_within(self.current) or not await self._checked():
                return
            if self.current + 1 < len(self.steps) and not self.is_last(self.current):
                await self.go_to(self.current + 1)
            else:
                await self.take()
        finally:
            self._going = False

    async def goes_on_within(self, number: int) -> bool:
        """Whether enter goes to another field of the same step first."""
        return False

    def is_last(self, number: int) -> bool:
        """Whether confirming this step makes what the wizard is for."""
        return number == len(self.steps) - 1

    async def action_back(self) -> None:
        """One step back, or out of the first."""
        if self.current == 0:
            self.dismiss()
        else:
            await self.go_to(self.current - 1)

    def action_leave_wizard(self) -> None:
        """Leave; nothing is made."""
        self.dismiss()


def first_problem(problems: Sequence[Problem], fields: Sequence[str]) -> Problem | None:
    """The first problem of one of *fields*, in the order of the engine."""
    return next((problem for problem in problems if problem.field in fields), None)
