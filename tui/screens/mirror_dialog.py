"""A dialog with the configuration of clients that pull unchanged image names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from entrepot.api.models import EngineStatus, RuleSnapshot
from tui.client_view import ClientView, copy_configuration
from widgets.dialogs.base import DIALOG_CSS, HELP, LOW_BREAKPOINTS, Dialog
from widgets.row_list import RowList
from widgets.text import Plain

if TYPE_CHECKING:
    from tui.engine_app import EngineApp


class MirrorDialog(Dialog[None]):
    """The configuration for all rules, or the one named *rule*."""

    DEFAULT_CSS = f"""
    MirrorDialog {{ {DIALOG_CSS}
        & > .dialog {{ width: 90; height: 94%; max-height: 94%; padding: 0 2; }}
        & .dialog--text {{ margin: 0 0 1 0; }}
        & RowList {{ background: $surface; }}
        & ConfigurationText {{ scrollbar-background: $surface; }}
        &.-low > .dialog {{ height: 100%; }}
        &.-low RowList {{ height: 3; }}
    }}
    """
    VERTICAL_BREAKPOINTS = LOW_BREAKPOINTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "y", "copy", "copy", tooltip="Copy the configuration of the client", id="mirror.copy"
        ),
        Binding(
            "Y",
            "copy_command",
            "copy command",
            tooltip="Copy the command that installs the configuration",
            id="mirror.copy-command",
        ),
        Binding("tab", "switch", tooltip="Between the clients and the text", show=False),
        Binding("escape,q", "close", "close", tooltip="Back to the screen"),
        HELP,
    ]

    app: EngineApp

    def __init__(
        self, status: EngineStatus, rules: Sequence[RuleSnapshot], rule: str | None = None
    ) -> None:
        super().__init__()
        self._status = status
        self._rules = rules
        self._rule = rule

    def compose(self) -> ComposeResult:
        """Title, clients, configuration and keys."""
        scope = f"the images of {self._rule}" if self._rule else "the images of all rules"
        with Vertical(classes="dialog"):
            yield Plain("Pull by unchanged image names", classes="dialog--title")
            yield Plain(f"Let clients ask this engine first for {scope}.", classes="dialog--text")
            yield ClientView(id="view")
            yield Plain(
                "y copies it   Y the command   tab: to the text, and back   esc closes",
                classes="dialog--keys",
            )

    def on_mount(self) -> None:
        """Show the clients."""
        self.query_one("#view", ClientView).show(self._status, self._rules, self._rule)
        self.query_one("#clients").focus()

    @property
    def enter_commits(self) -> bool:
        """False: nothing in the engine changes."""
        return False

    @on(RowList.Opened, "#clients")
    def action_copy(self) -> None:
        """Copy the configuration."""
        copy_configuration(self.app, self.query_one("#view", ClientView))

    def action_copy_command(self) -> None:
        """Copy the command that installs it."""
        current = self.query_one("#view", ClientView).current
        if current is not None:
            self.app.copy_line(current.command)

    def action_switch(self) -> None:
        """Go from the clients to the text, or back."""
        self.focus_next()

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss()


async def show_mirrors(app: EngineApp, rule: str | None = None) -> None:
    """Show the configuration of clients, for all rules or the one named *rule*."""
    rules = await app.attempt(app.client.rules.list())
    if rules is not None and app.status is not None:
        await app.push_screen_wait(MirrorDialog(app.status, rules, rule))
