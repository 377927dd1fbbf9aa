"""The dashboard: an application around one client of the engine."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events, work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.driver import Driver
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Input

from entrepot.api.client import CacheClient
from entrepot.api.errors import ClientError
from entrepot.api.models import CredentialSetSnapshot
from entrepot.core.states import HealthStatus
from tui import terminal
from tui.areas import AREAS, mode_of
from tui.crash_log import describe_error, write_crash
from tui.engine_app import EngineApp
from tui.key_queue import QueuesKeys, opens_screen
from tui.options import Options, save_theme, suitable_theme
from tui.outcome import DashboardOutcome
from tui.quit import confirm_quit
from tui.screens.base import EngineScreen, ListScreen
from tui.screens.too_small import TooSmall
from tui.theme import DARK, LIGHT
from widgets.bars import action_name, key_name
from widgets.text import escaped, escaped_lines

if TYPE_CHECKING:
    from tui.commands import Command
    from tui.keymap import Keymap

__all__ = ["Dashboard", "DashboardOutcome"]

# A screen's module, with all that it needs, is imported when the user goes there: the first frame
# does not wait for it.


def _overview() -> Screen[None]:
    from tui.screens.overview import OverviewScreen

    return OverviewScreen()


def _rules() -> Screen[None]:
    from tui.screens.rules import RulesScreen

    return RulesScreen()


def _credentials() -> Screen[None]:
    from tui.screens.credentials import CredentialsScreen

    return CredentialsScreen()


def _repositories() -> Screen[None]:
    from tui.screens.repositories import RepositoriesScreen

    return RepositoriesScreen()


def _pulls() -> Screen[None]:
    from tui.screens.pulls import PullsScreen

    return PullsScreen()


def _sources() -> Screen[None]:
    from tui.screens.sources import SourcesScreen

    return SourcesScreen()


def _events() -> Screen[None]:
    from tui.screens.events import EventsScreen

    return EventsScreen()


def _readers() -> Screen[None]:
    from tui.screens.readers import ReadersScreen

    return ReadersScreen()


def _resume_garbage_collection() -> None:
    """Collect garbage again, but not among what was imported so far (see `tui.run`)."""
    gc.freeze()
    gc.enable()


class Dashboard(EngineApp):
    """Screens and wizards around one `CacheClient`.

    *started_engine* says that the engine was started for this dashboard, *theme_state_file* where a
    theme that is chosen here is saved, *log* where errors of the dashboard itself are written.
    """

    TITLE = "entrepot"
    ENABLE_COMMAND_PALETTE = False
    INLINE_PADDING = 0
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "overview": _overview,
        "rules": _rules,
        "credentials": _credentials,
        "repositories": _repositories,
        "pulls": _pulls,
        "sources": _sources,
        "events": _events,
        "readers": _readers,
    }
    DEFAULT_MODE = "overview"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                str(number),
                f"area({number})",
                area,
                show=False,
                tooltip=f"Go to {area}",
                id=f"area.{mode_of(area)}",
            )
            for number, area in enumerate(AREAS, 1)
        ),
        Binding(
            "colon,ctrl+p",
            "commands",
            "commands",
            tooltip="Find a command by typing",
            id="commands",
        ),
        Binding("question_mark,f1", "help", "help", tooltip="Show these keys", id="help"),
        Binding("q", "request_quit", "quit", tooltip="Quit the dashboard", id="quit"),
        Binding(
            "ctrl+q",
            "quit_anywhere",
            "quit at once",
            show=False,
            priority=True,
            tooltip="Quit from a wizard or a dialog too",
            id="quit-anywhere",
        ),
        Binding(
            "ctrl+z",
            "suspend_process",
            "suspend",
            show=False,
            priority=True,
            tooltip="Suspend; fg brings the dashboard back",
            id="suspend",
        ),
        Binding(
            "ctrl+l",
            "paint",
            "redraw",
            show=False,
            priority=True,
            tooltip="Redraw the screen, when something else wrote on it",
            id="paint",
        ),
    ]

    def __init__(
        self,
        client: CacheClient,
        *,
        started_engine: bool = False,
        options: Options | None = None,
        keymap: Keymap | None = None,
        theme_state_file: Path | None = None,
        log: Path | None = None,
        demo_images: Sequence[str] = (),
        driver_class: type[Driver] | None = None,
    ) -> None:
        # Textual decides before the first theme is set what NO_COLOR means: greys, unless it is
        # set to use the terminal's own colours.
        super().__init__(
            client,
            driver_class=driver_class,
            ansi_color=True if os.environ.get("NO_COLOR") else None,
        )
        self.options = options or Options()
        self.fault: BaseException | None = None
        """The error of the dashboard itself that has ended it."""
        self.faults: list[str] = []
        """The errors of the dashboard itself that were shown."""
        self.demo_images = tuple(demo_images)
        self._crash_log = log
        self._copied = ""
        self._is_too_small = False
        self._keymap = dict(keymap.keys) if keymap is not None else {}
        self._keymap_problems = keymap.problems if keymap is not None else ()
        self._theme_state_file = theme_state_file
        self._started_engine = started_engine
        self.animation_level = "none"
        self._has_terminal = driver_class is not None
        self._set_first_theme()

    def _set_first_theme(self) -> None:
        """Set the theme before the first widget is styled.

        Textual styles all widgets a second time when the theme changes later. Only for the theme
        that is like Textual's first one; for another, more changes than the variables do.
        """
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        if self._initial_theme == DARK.name:
            self.set_reactive(App.theme, DARK.name)
            self.stylesheet.set_variables(self.get_css_variables())

    @property
    def _initial_theme(self) -> str:
        return suitable_theme(self.options.theme, DARK.name, self._color_system)

    async def on_mount(self) -> None:
        """Set the theme, and take care of the terminal."""
        self.theme = self._initial_theme
        self.set_class(self.options.ascii, "-ascii")
        self.screen_change_signal.subscribe(self, self._check_size)
        self.call_after_refresh(_resume_garbage_collection)
        if not self.is_headless:
            terminal.end_on_signals(self)
            terminal.repaint_on_resume(self)
        for problem in (*self.options.problems, *self._keymap_problems):
            self.notify(problem, severity="warning", timeout=20)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Show a notification, always without markup.

        The message may come from a source registry or a client (S29).
        """
        super().notify(
            escaped_lines(message),
            title=escaped(title),
            severity=severity,
            timeout=timeout,
            markup=False,
        )

    # Disabled actions

    @property
    def is_read_only(self) -> bool:
        """Whether this dashboard, or its engine, was opened with ``--read-only``."""
        return self.options.read_only or (self.status is not None and self.status.read_only)

    async def run_action(
        self,
        action: Any,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Run an action, or show why it is disabled, which Textual does not."""
        if await super().run_action(action, default_namespace, namespaces):
            return True
        reason = self.disabled_reason(action, default_namespace) if isinstance(action, str) else ""
        if reason:
            self.notify(reason, severity="warning")
        return bool(reason)

    def disabled_reason(self, action: str, node: DOMNode | None) -> str:
        """Why *action*, as a binding of *node* names it, is disabled; empty if not."""
        name = action_name(action)
        if isinstance(node, EngineScreen):
            return node.disabled_reason(name)
        if not self.check_action(name, ()) and node is self:
            return "Quit the wizard first with ctrl+c. Nothing is created then."
        return ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a wizard no letter or number discards what was entered; ctrl+c does."""
        return not (
            action in {"area", "request_quit"}
            and isinstance(self.screen, QueuesKeys)
            and not isinstance(self.screen, EngineScreen)
        )

    # Navigation

    async def action_area(self, number: int) -> None:
        """Go to an area by its number."""
        await self.show_area(AREAS[number - 1])

    async def show_area(self, area: str) -> None:
        """Go to an area by its title."""
        self.poll_now()
        while len(self.screen_stack) > 1:
            self.pop_screen()
        await self.switch_mode(mode_of(area))

    async def show_filtered(self, area: str, text: str) -> None:
        """Go to an area and filter its list by *text*."""
        await self.show_area(area)
        if isinstance(self.screen, ListScreen):
            self.screen.filter_for(text)

    async def show_row(self, area: str, key: str) -> None:
        """Go to an area and, as soon as it is loaded, to the row with *key*."""
        await self.show_area(area)
        if isinstance(self.screen, ListScreen):
            self.screen.go_to(key)

    def action_help(self) -> None:
        """Show the keys."""
        from widgets.dialogs.key_help import KeyHelp

        self.push_screen(KeyHelp(self.screen))

    def action_commands(self) -> None:
        """Find a command by typing, and run it."""
        from tui.commands import CommandPalette, commands_of

        async def run(command: Command | None) -> None:
            if command is not None:
                await self.run_action(command.action, command.node)

        self.push_screen(CommandPalette(commands_of(self)), run)

    def action_choose_theme(self, name: str) -> None:
        """Set a theme, and save it for the next start."""
        self.theme = suitable_theme(name, DARK.name, self._color_system)
        if self.theme != name:
            self.notify(
                f"This terminal shows no colours for {name}, or NO_COLOR forbids them.",
                severity="warning",
            )
        if self._theme_state_file is not None:
            try:
                save_theme(self._theme_state_file, name, instead_of=self.options.theme_in_file)
            except OSError as error:
                self.notify(
                    f"The theme can't be saved for the next start: {error.strerror}.",
                    severity="warning",
                )

    @property
    def _color_system(self) -> str | None:
        return self.console.color_system if self._has_terminal else "truecolor"

    def action_paint(self) -> None:
        """Send the whole screen again."""
        terminal.invalidate(self._driver)
        self.refresh(layout=True)

    def action_help_quit(self) -> None:
        """Say how to quit. ctrl+c, pressed out of habit, neither quits nor copies here."""
        quit_key = next(
            (
                key
                for key, active in self.active_bindings.items()
                if active.binding.action == "request_quit"
            ),
            "",
        )
        self.notify(
            f"{key_name(quit_key)} quits, and ctrl+q from anywhere."
            if quit_key
            else "ctrl+q quits."
        )

    def on_resize(self, event: events.Resize) -> None:
        """Cover the screen of a terminal that is too small: keys must not act unseen."""
        terminal.invalidate(self._driver)
        self._is_too_small = (
            event.size.width < TooSmall.WIDTH or event.size.height < TooSmall.HEIGHT
        )
        self._check_size()

    def _check_size(self, _: object = None) -> None:
        too_small = self._is_too_small
        if too_small == isinstance(self.screen, TooSmall):
            return
        self.discard_keys()
        if too_small:
            self.push_screen(TooSmall())
        else:
            self.pop_screen()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Stop the cursor of a field from blinking: it would be sent twice a second."""
        if isinstance(event.widget, Input):
            event.widget.cursor_blink = False

    # What several screens do

    @opens_screen()
    async def prompt_pull(self, image: str, platform: str | None = None) -> None:
        """Ask which image of which platform to pull, then start the pull and show it."""
        from tui.screens.pull_dialog import PullDialog

        proposed = "" if image else await self._next_demo_image()
        if await self.push_screen_wait(
            PullDialog(image or proposed, platform, replaces=bool(proposed))
        ):
            await self.show_area("Pulls")

    async def _next_demo_image(self) -> str:
        """The first image of a demo's source that was not pulled yet."""
        if not self.demo_images:
            return ""
        try:
            pulled = {pull.image for pull in await self.client.pulls.list()}
        except ClientError:
            pulled = set()
        return next(
            (image for image in self.demo_images if image not in pulled), self.demo_images[0]
        )

    @work(group="first sign-in", exit_on_error=False)
    async def notify_first_sign_in(self, name: str) -> None:
        """Show how the first sign-in of a new or changed credential set has ended."""
        # A lost connection is shown anyway, and so is a set that was deleted meanwhile.
        with suppress(ClientError):
            self.notify_health(await self.client.credential_sets.wait_for_sign_in(name))

    def notify_health(self, credential_set: CredentialSetSnapshot) -> None:
        """Show how the last sign-in of a credential set went."""
        from tui.presentation.credentials import credential_set_health

        health, _ = credential_set_health(credential_set)
        reason = f": {credential_set.error_message}" if credential_set.error_message else "."
        is_healthy = credential_set.health is HealthStatus.HEALTHY
        self.notify(
            f"{credential_set.name} is {health}{reason}",
            severity="information" if is_healthy else "warning",
        )

    def copy_line(self, line: str, label: str = "") -> None:
        """Send a line to the terminal's clipboard; the second time, show it.

        A longer text has a *label* that stands for it in the message.
        No terminal reports whether it took the line. The line is escaped, so that nothing in it can
        end the brackets that a terminal puts around a paste, or is obeyed there otherwise.
        """
        line = escaped_lines(line)
        if line == self._copied or not terminal.copy(self, line):
            from widgets.dialogs.text_dialog import TextDialog

            self._copied = ""
            self.push_screen(
                TextDialog(
                    "Copy it by hand",
                    line,
                    "Select it with the mouse; in most terminals hold shift down. esc closes",
                )
            )
            return
        self._copied = line
        self.notify(
            f"Sent to the terminal's clipboard: {label or line}\n"
            "Press the same key again to show it for copying by hand."
        )

    # Quitting

    def action_quit_anywhere(self) -> None:
        """Quit, from a wizard too."""
        self.action_request_quit()

    @opens_screen("quit")
    async def action_request_quit(self) -> None:
        """Quit, perhaps after a question."""
        outcome = await confirm_quit(self, started_engine=self._started_engine)
        if outcome is not None:
            self.exit(outcome)

    # Errors of the dashboard itself

    def report_fault(self, error: BaseException) -> None:
        """Show and log an error of the dashboard itself, once for each error, and go on."""
        description = describe_error(error)
        if description not in self.faults:
            self.faults.append(description)
            where = write_crash(self._crash_log, error) if self._crash_log is not None else ""
            self.notify(
                f"The dashboard itself has failed: {description}. {where}",
                severity="error",
                timeout=20,
            )

    def _fatal_error(self) -> None:
        # A private method of Textual, which would print pages of source and local variables,
        # perhaps secrets among them. In tests it may.
        if self.is_headless:
            super()._fatal_error()
        else:
            self.fault = sys.exception()
            self._close_messages_no_wait()
