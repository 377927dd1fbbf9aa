"""What wizards share: steps, going back, and the engine's verdict on each field.

Nothing is created or changed before the review.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from entrepot.api.errors import ClientError, EngineRefused
from entrepot.api.models import Problem
from tui.key_queue import QueuesKeys
from tui.presentation.drafts import COMMAND_WIDTH
from widgets.bars import KeyLine
from widgets.dialogs.base import ResultScreen
from widgets.dialogs.question import Choice, Question
from widgets.row_list import Row, RowList
from widgets.step_trail import StepTrail
from widgets.text import Plain, TextLine

if TYPE_CHECKING:
    from textual.binding import ActiveBinding

    from tui.engine_app import EngineApp

TYPING_PAUSE = 0.12
"""Seconds without a key after which the engine validates what was typed."""

RETRY_INTERVAL = 2.0
"""Seconds after which an engine that did not answer is asked again."""

TALL = 20
"""Lines from which there is room between the parts of a step."""

LOST = "Nothing that you entered is lost; the engine is asked again every 2 seconds."

Result = TypeVar("Result")


class Feedback(Plain):
    """The engine's verdict: a confirmation, remarks, a warning, or a problem.

    A problem says why something is not possible and what to do, with its code in grey.
    """

    DEFAULT_CSS = """
    Feedback { height: auto; min-height: 2; margin: 1 0 0 2; color: $text-muted; }
    Feedback.-problem { color: $error; }
    Feedback.-warning { color: $warning; }
    Feedback.-ok { color: $success; }
    Feedback.-close { min-height: 0; margin: 0 0 0 2; }
    Feedback.-close.-silent { display: none; }
    """

    def on_mount(self) -> None:
        """Show nothing yet."""
        self.show(None)

    def show(
        self,
        problem: Problem | None,
        ok: str = "",
        remarks: Iterable[str] = (),
        *,
        warning: str = "",
    ) -> None:
        """Show a problem, or a warning, a confirmation and remarks."""
        remarks = tuple(remarks)
        self.set_class(not (problem or ok or warning or remarks), "-silent")
        self.set_class(problem is not None, "-problem")
        self.set_class(problem is None and bool(warning), "-warning")
        self.set_class(problem is None and bool(ok) and not warning, "-ok")
        if problem is not None:
            self.update(
                Text(f"Not possible: {problem.message}  ").append(problem.code, self._quiet())
            )
        else:
            self.update(
                Text("\n".join([*([warning] if warning else []), *([ok] if ok else []), *remarks]))
            )

    def _quiet(self) -> str:
        """The style of a code: grey, so that people read the sentence.

        Among the terminal's own colours there is no such grey.
        """
        grey = self.app.theme_variables.get("text-muted", "")
        return grey if grey.startswith("#") else "dim"


class Entry(TextLine):
    """A field of a wizard. A paste loses the blanks and line ends around it."""

    def __init__(
        self,
        value: str = "",
        *,
        id: str,
        placeholder: str = "",
        max_length: int = 0,
        disabled: bool = False,
    ) -> None:
        super().__init__(
            value,
            id=id,
            placeholder=placeholder,
            max_length=max_length,
            disabled=disabled,
            compact=True,
            select_on_focus=False,
        )

    def on_paste(self, event: events.Paste) -> None:
        """Insert the first line that is not empty. (Textual inserts the first line.)"""
        event.prevent_default()
        event.stop()
        text = next((line.strip() for line in event.text.splitlines() if line.strip()), "")
        if text:
            self.replace(text, *self.selection)


class Step(VerticalScroll, can_focus=False):
    """One step of a wizard. Its texts explain the rule behind it."""

    DEFAULT_CSS = """
    Step { height: 1fr; padding: 0 2 0 2; display: none; scrollbar-size-vertical: 1; }
    Step .question { text-style: bold; margin-bottom: 1; height: auto; }
    Step .teach { color: $text-muted; margin: 1 0 0 2; height: auto; }
    Step .entry { height: 1; margin-left: 2; }
    Step .entry Static { width: auto; color: $text-muted; }
    Step .label { margin-left: 2; color: $text-muted; height: auto; }
    Step Input { width: 1fr; background: $surface; }
    Step Input:focus { background: $panel; }
    Step RowList { height: 1fr; min-height: 3; }
    """


class ReviewText(VerticalScroll, can_focus=True):
    """The text of the review, which scrolls with the cursor keys."""

    DEFAULT_CSS = """
    ReviewText { height: 1fr; min-height: 4; margin: 1 0 0 2; scrollbar-size-vertical: 1; }
    ReviewText Static { height: auto; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", show=False, tooltip="Read on"),
        Binding("k", "scroll_up", show=False, tooltip="Read back"),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._text = Plain("")

    def compose(self) -> ComposeResult:
        """The text."""
        yield self._text

    def show(self, text: Text | str) -> None:
        """Show a text."""
        self._text.update(text)

    @property
    def text(self) -> str:
        """The text that is shown."""
        return str(self._text.content)


class Wizard(QueuesKeys, ResultScreen[Result]):
    """A few questions on a screen of their own; a subclass has their `steps`."""

    DEFAULT_CSS = """
    Wizard {
        background: $background;
        & .wizard--lost {
            display: none;
            dock: bottom;
            height: auto;
            padding: 0 2;
            margin-bottom: 1;
            color: $warning;
            background: $background;
        }
        & .wizard--lost.-shown { display: block; }
        & Step, & ReviewText {
            scrollbar-color: $panel;
            scrollbar-background: $background;
            scrollbar-corner-color: $background;
        }
        & Step .teach, & Step .entry, & Feedback { max-width: 96; }
        & Step RowList { max-width: 100; }
        &.-short {
            & Feedback { min-height: 0; margin: 0 0 0 2; }
            & Step .question { margin-bottom: 0; }
            & Step .roomy { display: none; }
            & Step .teach { margin: 0 0 0 2; }
            & ReviewText { margin: 0 0 0 2; }
        }
    }
    """
    MAY_TAKE_LONG = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "next", "next", priority=True, tooltip="Confirm and go on", id="wizard.next"
        ),
        Binding(
            "tab", "next_field", "next field", tooltip="Go to the next field", id="wizard.field"
        ),
        Binding(
            "escape",
            "back",
            "back",
            tooltip="One step back; what was entered is kept",
            id="wizard.back",
        ),
        Binding(
            "pagedown,shift+down",
            "read(1)",
            show=False,
            tooltip="Read on, where a step is longer than the terminal",
            id="wizard.read-on",
        ),
        Binding(
            "pageup,shift+up", "read(-1)", show=False, tooltip="Read back", id="wizard.read-back"
        ),
        Binding(
            "ctrl+c",
            "quit_wizard",
            "quit",
            priority=True,
            tooltip="Quit the wizard; nothing is created",
            id="wizard.quit",
        ),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (TALL, "-tall")]  # noqa: RUF012 (Textual declares it so)
    wizard_title: ClassVar[str] = ""
    steps: ClassVar[tuple[str, ...]] = ()

    app: EngineApp

    def __init__(self) -> None:
        super().__init__()
        self.current = self.first = 0
        self.furthest = 0
        """The last step that was shown: the steps up to it have been filled in."""
        self._is_advancing = False
        self._lost = False
        self._initial_values: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """The trail, all steps of which one is shown, and the keys."""
        yield StepTrail(self.wizard_title, self.steps)
        for number, _ in enumerate(self.steps):
            with Step(id=f"step-{number}"):
                yield from self.compose_step(number)
        yield Plain("", classes="wizard--lost")
        yield KeyLine()

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        yield Plain("")

    async def on_mount(self) -> None:
        """Begin at the first step."""
        self._initial_values = {field.id or "": field.value for field in self.query(Input)}
        trail = self.query_one(StepTrail)
        trail.begins_at = self.first
        trail.omitted = frozenset(filter(self.omits, range(len(self.steps))))
        await self.go_to(self.first)

    def omits(self, number: int) -> bool:
        """Whether this wizard leaves a step out: there is nothing to choose in it."""
        return False

    def _neighbour(self, way: int) -> int:
        """The next step that is not left out, or with -1 the one before."""
        number = self.current + way
        while self.omits(number):
            number += way
        return number

    async def go_to(self, number: int) -> None:
        """Show a step and focus its first field.

        When the engine does not answer, the step is prepared again later.
        """
        lost: ClientError | None = None
        try:
            await self.prepare(number)
        except ClientError as error:
            lost = error
        # Shown and focused in the same moment, without waiting for styles or messages: no key that
        # is pressed now may be lost.
        self.current = number
        self.furthest = max(self.furthest, number)
        for index in range(len(self.steps)):
            self.query_one(f"#step-{index}").display = index == number
        self.query_one(StepTrail).current = number
        target = self.focus_of(number)
        self.set_focus(self.query_one(target) if target is not None else None)
        self.refresh_bindings()
        if lost is not None:
            self.engine_lost(lost)
        else:
            self.validate_soon()

    async def prepare(self, number: int) -> None:
        """Fill in a step before it is shown."""

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return None

    async def validate(self) -> bool:
        """Let the engine validate what was entered, and show its verdict beside the field.

        Returns whether the wizard may go on.
        """
        return True

    async def submit(self) -> None:
        """Do what the wizard is for: the last step has been confirmed."""

    @property
    def text_width(self) -> int:
        """Columns for a line of a command in the review, at most `COMMAND_WIDTH`."""
        return min(COMMAND_WIDTH, self.size.width - 8)

    # What the keys do now

    def enter_word(self) -> str:
        """What enter does now."""
        return "next"

    def back_word(self) -> str:
        """What escape does now."""
        return "back"

    def tab_word(self) -> str:
        """Where tab goes; empty where the line of keys need not say it."""
        return ""

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """The bindings; those that every step has, with what they do in this one."""
        if not self.is_mounted:
            return super().active_bindings
        descriptions = {
            "next": self.enter_word(),
            "back": self.back_word(),
            "next_field": self.tab_word(),
            "help": "",
        }

        def describe(active: ActiveBinding) -> ActiveBinding:
            description = descriptions.get(active.binding.action)
            if description is None:
                return active
            return active._replace(
                binding=replace(active.binding, description=description, show=bool(description))
            )

        # In a narrow terminal the line of keys leaves out the last ones.
        order = {"next": 0, "next_field": 1, "try": 2, "back": 3}
        bindings = sorted(
            super().active_bindings.items(),
            key=lambda item: order.get(item[1].binding.action, len(order)),
        )
        return {key: describe(active) for key, active in bindings}

    def action_next_field(self) -> None:
        """Go to the next field of the step."""
        self.focus_next()

    def action_read(self, way: int) -> None:
        """Scroll the step by half a page: in a low terminal not all of its texts fit."""
        step = self.query_one(f"#step-{self.current}")
        step.scroll_relative(y=way * max(1, step.size.height // 2), animate=False, force=True)

    # The engine's verdict

    @work(exclusive=True, group="validate", exit_on_error=False)
    async def validate_soon(self) -> None:
        """Validate when the typing pauses. A newer call cancels this one."""
        await asyncio.sleep(TYPING_PAUSE)
        await self._validate()

    async def _validate(self) -> bool:
        try:
            is_valid = await self.validate()
        except EngineRefused as error:
            self.app.notify(error.message, severity="error")
        except ClientError as error:
            self.engine_lost(error)
        else:
            self._hide_loss()
            return is_valid
        return False

    def engine_lost(self, error: ClientError) -> None:
        """Show that the engine does not answer, until it does, and ask again."""
        line = self.query_one(".wizard--lost", Plain)
        line.update(f"{error.message} {LOST}")
        line.add_class("-shown")
        self._lost = True
        self.set_timer(RETRY_INTERVAL, self._retry)

    def _hide_loss(self) -> None:
        if self._lost:
            self._lost = False
            self.query_one(".wizard--lost", Plain).remove_class("-shown")

    @work(exclusive=True, group="validate", exit_on_error=False)
    async def _retry(self) -> None:
        try:
            await self.prepare(self.current)
        except ClientError as error:
            self.engine_lost(error)
        else:
            await self._validate()

    @on(Input.Changed)
    @on(RowList.Moved)
    def _something_changed(self) -> None:
        self.validate_soon()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Report the error of a worker, which would fail in silence."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.app.report_fault(event.worker.error)

    # Going on and back

    def action_next(self) -> None:
        """Go on, unless that is under way."""
        if not self._is_advancing:
            self._is_advancing = True
            self._advance()

    @property
    def queues_keys(self) -> bool:
        """While the engine decides whether the wizard goes on.

        What is typed after enter is for the next field, or for this one if the engine refuses.
        """
        return self._is_advancing

    @work(exclusive=True, group="go", exit_on_error=False)
    async def _advance(self) -> None:
        """Go on if the engine finds no problem."""
        try:
            if await self.advance_within_step(self.current) or not await self._validate():
                return
            if self.current + 1 < len(self.steps) and not self.is_last(self.current):
                await self.go_to(self._neighbour(1))
                if self.enter_commits:
                    # Keys typed before the review was shown confirm nothing in it (F66).
                    self.app.discard_keys()
            else:
                await self.submit()
        except EngineRefused as error:
            self.app.notify(error.message, severity="error")
        except ClientError as error:
            self.engine_lost(error)
        finally:
            self._is_advancing = False
            self.app.resume_keys()

    @property
    def enter_commits(self) -> bool:
        """Whether enter in this step does what the wizard is for."""
        return self.is_last(self.current)

    async def advance_within_step(self, number: int) -> bool:
        """Go to another field of the same step first; returns whether there is one."""
        return False

    def is_last(self, number: int) -> bool:
        """Whether confirming this step does what the wizard is for."""
        return number == len(self.steps) - 1

    async def action_back(self) -> None:
        """One step back; quit from the first."""
        if self.current == self.first:
            self.action_quit_wizard()
        else:
            await self.go_to(self._neighbour(-1))

    @on(StepTrail.Chosen)
    async def _step_chosen(self, event: StepTrail.Chosen) -> None:
        if self.may_return_to(event.step):
            await self.go_to(event.step)

    def may_return_to(self, number: int) -> bool:
        """Whether a click may go back to a step."""
        return True

    def has_entries(self) -> bool:
        """Whether quitting would lose something."""
        return self.furthest > self.first or any(
            field.value.strip() != self._initial_values.get(field.id or "", "")
            for field in self.query(Input)
        )

    def outcome(self) -> Result | None:
        """The result of quitting."""
        return None

    @work(exclusive=True, group="quit", exit_on_error=False)
    async def action_quit_wizard(self) -> None:
        """Quit, and create nothing. Where something was entered, ask first."""
        if self.has_entries():
            answer = await self.app.push_screen_wait(
                Question(
                    "Quit the wizard?",
                    "What you entered here is lost. Nothing has been created.",
                    (Choice("stay", "Stay"), Choice("quit", "Quit", danger=True)),
                )
            )
            if answer != "quit":
                return
        self.dismiss(self.outcome())


async def confirm_programs(app: EngineApp, programs: str) -> bool:
    """Ask before the engine runs *programs*, one a line (S13); True if there is none."""
    if not programs:
        return True
    answer = await app.push_screen_wait(
        Question(
            "Run a program on the engine's machine?",
            "The engine runs this, as its own user, each time it signs in:\n\n"
            f"{programs}\n\nIs that what you want?",
            (Choice("stay", "No"), Choice("run", "Run it", danger=True)),
        )
    )
    return answer == "run"


def show_all_rows(rows: Sequence[Row], row_list: RowList) -> None:
    """Show a few rows in a list that is as high as they are."""
    row_list.set_rows(rows)
    row_list.styles.height = row_list.styles.min_height = max(1, len(rows))


def first_problem(problems: Sequence[Problem], fields: Sequence[str | None]) -> Problem | None:
    """The first problem of one of *fields*, in the order of the engine."""
    return next((problem for problem in problems if problem.field in fields), None)
