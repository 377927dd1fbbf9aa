"""Small questions over a screen: yes or no, one of several, a line of text, and the help that is
made from the bindings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Button, Input

from widgets.bars import in_place, key_name
from widgets.dialogs.base import Dialog
from widgets.text import Plain, TextLine, shown

HELP_WIDTH = 38
"""Columns for what a key does."""

HELP = Binding("question_mark,f1", "app.help", "help", show=False, tooltip="Show these keys")
"""Dialogs hide the keys of the application; the one for help goes on working. In a field f1 is for
whoever wants to type the other one."""

DIALOG_CSS = """
    align: center middle;
    background: transparent;
    & > .dialog {
        width: 68;
        max-width: 96%;
        height: auto;
        max-height: 90%;
        padding: 1 2;
        background: $surface;
        border: round $accent;
    }
    &.-low > .dialog { padding: 0 1; max-height: 100%; }
    &.-low .dialog--text, &.-low .dialog--keys { margin: 0; }
    & .dialog--title { text-style: bold; color: $accent; }
    & .dialog--text { margin: 1 0; height: auto; }
    & .dialog--buttons { height: auto; align-horizontal: right; }
    & .dialog--keys { margin-top: 1; color: $text-muted; }
    & Button { margin-left: 2; min-width: 10; }
    & Input { background: $panel; margin-bottom: 1; }
"""


SCROLLS = "& > .dialog { overflow-y: auto; scrollbar-size-vertical: 1; }"
"""For a dialog whose text may be longer than the terminal is high."""

LOW = [(0, "-low"), (20, "-high")]
"""On a low terminal a dialog does without its margins, so that its keys stay on the screen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that can be chosen. With *danger* it deletes, stops or loses something."""

    id: str
    label: str
    danger: bool = False


class Question(Dialog[str | None]):
    """A question with choices. The first choice, which changes nothing, has the focus; escape takes
    it too and gives None.

    No letter answers it (F66): left and right go to a choice, enter takes it. A letter, or a tab,
    goes back to the first choice, so that the line end behind a text that was meant for something
    else takes nothing. With *typed* the dangerous choices work only after that word has been typed.
    """

    takes_type_ahead = False

    DEFAULT_CSS = f"Question {{ {DIALOG_CSS} {SCROLLS} }}"
    VERTICAL_BREAKPOINTS = LOW
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel", tooltip="Change nothing"),
        Binding("left", "app.focus_previous", show=False, tooltip="Go to the choice before"),
        Binding("right", "app.focus_next", show=False, tooltip="Go to the next choice"),
        # A tab may stand in a text that is pasted; the cursor keys can't.
        Binding("tab", "first_choice", show=False),
        HELP,
    ]

    def __init__(
        self, title: str, text: str, choices: Sequence[Choice], *, typed: str | None = None
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._choices = tuple(choices)
        self._typed = typed

    def compose(self) -> ComposeResult:
        """Title, text, the word to type if there is one, and the choices."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            if self._typed is not None:
                yield Plain(f"Type {self._typed} to go on, then enter:")
                yield TextLine(compact=True, id="typed")
            with Horizontal(classes="dialog--buttons"):
                for choice in self._choices:
                    yield Button(
                        Content(shown(choice.label)),
                        id=choice.id,
                        compact=True,
                        variant="error" if choice.danger else "default",
                        disabled=self._is_locked(choice, ""),
                    )
            if self._typed is None:
                yield Plain(
                    "left, right choose   enter confirms   esc cancels"
                    if len(self._choices) > 1
                    else "enter closes",
                    classes="dialog--keys",
                )

    def on_mount(self) -> None:
        """Put the focus where a careless enter does no harm."""
        self.action_first_choice()

    def action_first_choice(self) -> None:
        """Go to what changes nothing: the first choice, or the field for the word."""
        # Not focus(), which comes a turn later: until then the question is drawn and takes no key.
        self.set_focus(
            self.query_one("#typed" if self._typed is not None else f"#{self._choices[0].id}")
        )

    def _is_locked(self, choice: Choice, typed: str) -> bool:
        return choice.danger and self._typed is not None and typed != self._typed

    @on(Input.Changed, "#typed")
    def _unlock(self, event: Input.Changed) -> None:
        for choice in self._choices:
            self.query_one(f"#{choice.id}", Button).disabled = self._is_locked(choice, event.value)

    @on(Input.Submitted, "#typed")
    def _submitted(self, event: Input.Submitted) -> None:
        dangerous = next((choice for choice in self._choices if choice.danger), None)
        if dangerous is not None and not self._is_locked(dangerous, event.value):
            self.dismiss(dangerous.id)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id)

    def on_key(self, event: events.Key) -> None:
        """A letter answers nothing: it goes back to what changes nothing."""
        if event.is_printable:
            event.stop()
            self.action_first_choice()

    def action_cancel(self) -> None:
        """Change nothing."""
        self.dismiss(None)


@dataclass(frozen=True, slots=True)
class Field:
    """A line of text to be asked for."""

    id: str
    label: str
    value: str = ""
    hint: str = ""


class Prompt(Dialog[dict[str, str] | None]):
    """A few lines of text, asked for at once; enter in the last one takes them."""

    DEFAULT_CSS = f"Prompt {{ {DIALOG_CSS} & .dialog--hint {{ color: $text-muted; }} }}"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel", tooltip="Ask for nothing"),
        HELP,
    ]

    def __init__(self, title: str, fields: Sequence[Field], *, button: str) -> None:
        super().__init__()
        self._title = title
        self._fields = tuple(fields)
        self._button = button

    def compose(self) -> ComposeResult:
        """Title, fields and the button."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain("")
            for field in self._fields:
                yield Plain(field.label)
                yield TextLine(field.value, id=field.id, compact=True, placeholder=field.hint)
            with Horizontal(classes="dialog--buttons"):
                yield Button("Cancel (esc)", id="cancel", compact=True)
                yield Button(
                    Content(f"{shown(self._button)} (enter)"),
                    id="take",
                    compact=True,
                    variant="primary",
                )

    @property
    def enter_commits(self) -> bool:
        """What is done with the lines is asked for once more."""
        return False

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        ids = [field.id for field in self._fields]
        position = ids.index(event.input.id or "")
        if position + 1 < len(ids):
            self.query_one(f"#{ids[position + 1]}").focus()
        else:
            self._take()

    @on(Button.Pressed, "#take")
    def _take(self) -> None:
        self.dismiss(
            {
                field.id: self.query_one(f"#{field.id}", Input).value.strip()
                for field in self._fields
            }
        )

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Ask for nothing."""
        self.dismiss(None)


class Shown(Dialog[None]):
    """A text to be read, or to be marked with the mouse; nothing is asked."""

    DEFAULT_CSS = f"Shown {{ {DIALOG_CSS} }}"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "close", "close", tooltip="Back to the screen"),
        HELP,
    ]

    def __init__(self, title: str, text: str, note: str = "esc closes") -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._note = note

    def compose(self) -> ComposeResult:
        """Title, text, and what to do with it."""
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog--title")
            yield Plain(self._text, classes="dialog--text")
            yield Plain(self._note)

    @property
    def enter_commits(self) -> bool:
        """Nothing is asked."""
        return False

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss()


class KeyHelp(Dialog[None]):
    """Every key that works now and what it does, from the bindings of the screen below: its own,
    those of what has the focus, those that work everywhere."""

    DEFAULT_CSS = f"""
    KeyHelp {{
        {DIALOG_CSS}
        & > .dialog {{ height: 90%; padding: 0 2; }}
        & VerticalScroll {{ height: 1fr; margin: 1 0; scrollbar-size-vertical: 1; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1", "close", "close"),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]

    def __init__(self, below: Screen[object]) -> None:
        super().__init__()
        self._below = below

    def compose(self) -> ComposeResult:
        """The keys in one column, what they do in the other."""
        lines: list[str] = []
        for head, entries in self._groups().items():
            lines += ["", head] if lines else [head]
            for keys, text in entries.values():
                first, *others = textwrap.wrap(f"{text[:1].upper()}{text[1:]}", HELP_WIDTH)
                lines.append(f"  {' '.join(dict.fromkeys(keys)):<18}  {first}")
                lines.extend(f"{'':<22}{each}" for each in others)
        with Vertical(classes="dialog"):
            yield Plain("Keys", classes="dialog--title")
            with VerticalScroll():
                yield Plain("\n".join(lines))
            yield Plain("esc closes", classes="dialog--title")

    def _groups(self) -> dict[str, dict[str, tuple[list[str], str]]]:
        """By the place where they work: for each action its keys and what it does."""
        groups: dict[str, dict[str, tuple[list[str], str]]] = {
            "This screen": {},
            "The list": {},
            "Everywhere": {},
        }
        for node, binding, _, tooltip in self._below.active_bindings.values():
            # What has no tooltip is Textual's own housekeeping, or meant for widgets that are not
            # here.
            text = tooltip or binding.tooltip
            if text and not binding.system:
                head = (
                    "This screen"
                    if node is self._below
                    else "Everywhere"
                    if node is self.app
                    else "The list"
                )
                groups[head].setdefault(binding.action, ([], text))[0].append(key_name(binding.key))
        own = groups["This screen"]
        groups["This screen"] = {action: own[action] for action in in_place(self._below, list(own))}
        return {head: entries for head, entries in groups.items() if entries}

    @property
    def enter_commits(self) -> bool:
        """Nothing is asked."""
        return False

    def action_scroll(self, by: int) -> None:
        """Move through the keys."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss()
