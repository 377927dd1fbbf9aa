"""The command palette: actions of the current screen, areas and themes.

It is a dialog of its own and not Textual's palette, which sends 50 kB to open at 80x24, animates
while it searches, draws characters that many fonts lack, and can't show a disabled command with the
reason. The commands are read from the bindings of the screen below, as the line of keys and the
help are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.widgets import Input

from widgets.bars import action_name, key_name
from widgets.dialogs.base import DIALOG_CSS, HELP, Dialog
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain, TextLine

if TYPE_CHECKING:
    from tui.engine_app import EngineApp

MOVEMENT_ACTIONS = ("move", "page", "first", "last", "read", "clear_filter")
"""Actions that are useful only by their keys."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command, disabled where it has a *reason*; *action* is one of *node*."""

    name: str
    action: str
    node: DOMNode
    key: str = ""
    reason: str = ""
    alias: str = ""
    """Another name by which it is found: its name in the line of keys."""


def commands_of(app: EngineApp) -> list[Command]:
    """The commands of the screen on top, of the application, and all themes."""
    own: list[Command] = []
    focused: list[Command] = []
    everywhere: list[Command] = []
    areas: list[Command] = []
    actions: set[str] = set()
    for node, binding, enabled, _ in app.screen.active_bindings.values():
        name = action_name(binding.action)
        if (
            binding.action in actions
            or binding.system
            or not binding.tooltip
            or name in MOVEMENT_ACTIONS
            or name == "commands"
        ):
            continue
        actions.add(binding.action)
        reason = "" if enabled else app.disabled_reason(binding.action, node)
        command = Command(
            binding.tooltip,
            binding.action,
            node,
            key_name(binding.key),
            reason,
            binding.description,
        )
        (
            areas
            if name == "area"
            else everywhere
            if node is app
            else own
            if node is app.screen
            else focused
        ).append(command)
    themes = [
        Command(
            f"Theme {name}{', in use now' if name == app.theme else ''}",
            f"choose_theme('{name}')",
            app,
        )
        for name in app.available_themes
    ]
    return [*own, *focused, *areas, *everywhere, *themes]


class CommandPalette(Dialog[Command | None]):
    """Type to find a command; enter runs it."""

    DEFAULT_CSS = f"""
    CommandPalette {{
        {DIALOG_CSS}
        & > .dialog {{ width: 74; padding: 0 1; height: 20; }}
        & Input {{ margin: 0 1 1 1; }}
        & RowList {{ background: $surface; }}
        & .hint {{ height: 2; margin: 1 1 0 1; color: $text-muted; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "close", tooltip="Run nothing"),
        Binding("down,ctrl+n", "move(1)", show=False, tooltip="The next command"),
        Binding("up,ctrl+p", "move(-1)", show=False, tooltip="The previous command"),
        Binding("pagedown", "move(10)", show=False, tooltip="Ten commands on"),
        Binding("pageup", "move(-10)", show=False, tooltip="Ten commands back"),
        HELP,
    ]

    def __init__(self, commands: Sequence[Command]) -> None:
        super().__init__()
        self._commands = tuple(commands)

    def compose(self) -> ComposeResult:
        """The field, the commands, and why the current one is disabled."""
        with Vertical(classes="dialog"):
            yield TextLine(
                compact=True, placeholder="what do you want to do? enter runs it, esc closes"
            )
            yield RowList(
                (Column("", weight=1), Column("", 7, right=True)), id="commands", header=False
            )
            yield Plain("", classes="hint")

    def on_mount(self) -> None:
        """Show all commands."""
        rows = [
            Row(
                str(number),
                (
                    Cell(command.name, "dim" if command.reason else ""),
                    Cell(command.key, "dim" if command.reason else "accent"),
                ),
                f"{command.name} {command.alias} {command.key}",
            )
            for number, command in enumerate(self._commands)
        ]
        row_list = self.query_one(RowList)
        row_list.can_focus = False
        row_list.set_rows(rows)
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        row_list = self.query_one(RowList)
        row_list.set_filter(event.value)
        row_list.action_first()

    @on(RowList.Moved)
    def _moved(self) -> None:
        row = self.query_one(RowList).current
        command = self._commands[int(row.key)] if row is not None else None
        self.query_one(".hint", Plain).update(command.reason if command is not None else "")

    @on(Input.Submitted)
    @on(RowList.Opened)
    def _chosen(self) -> None:
        row = self.query_one(RowList).current
        if row is None:
            self.app.notify("No command has these words.", severity="warning")
            return
        command = self._commands[int(row.key)]
        if command.reason:
            self.app.notify(command.reason, severity="warning")
        else:
            self.dismiss(command)

    @property
    def enter_commits(self) -> bool:
        """False: a command that deletes something asks a question first."""
        return False

    def action_move(self, by: int) -> None:
        """Go to another command."""
        self.query_one(RowList).action_move(by)

    def action_close(self) -> None:
        """Run nothing."""
        self.dismiss(None)
