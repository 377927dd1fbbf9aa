"""The dashboard: a client of the engine, and nothing more."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
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

from entrepot.api.client import CacheClient, ClientError
from entrepot.api.models import CredentialSetSnapshot
from entrepot.core.states import HealthStatus
from tui import terminal
from tui.crash_log import describe_error, write_crash
from tui.key_queue import KeyQueueApp, QueuesKeys, opens_screen
from tui.options import Options, save_theme, suitable_theme
from tui.polling import EnginePolling
from tui.quit import DashboardOutcome, confirm_quit
from tui.screens.base import AREAS, EngineScreen, ListScreen
from tui.screens.too_small import TooSmall
from tui.theme import DARK, LIGHT
from widgets.bars import action_name, key_name
from widgets.text import escaped, escaped_lines

if TYPE_CHECKING:
    from tui.commands import Command
    from tui.keymap import Keymap

__all__ = ["Dashboard", "DashboardOutcome"]


def _made_when_visited(area: str) -> Callable[[], Screen[Any]]:
    """A screen's module with all that it needs is imported when somebody goes there: the first
    picture does not wait for it."""

    def make() -> Screen[Any]:
        screen: type[Screen[Any]] = getattr(
            import_module(f"tui.screens.{area.lower()}"), f"{area}Screen"
        )
        return screen()

    return make


def _look_for_garbage_again() -> None:
    """Once the first picture is there (see `tui.run`). What was imported until then is not looked
    through any more."""
    gc.freeze()
    gc.enable()


class Dashboard(EnginePolling, KeyQueueApp[DashboardOutcome]):
    """Screens and wizards around one `CacheClient`. *started_engine* says that the engine was
    started for this dashboard."""

    TITLE = "entrepot"
    ENABLE_COMMAND_PALETTE = False
    INLINE_PADDING = 0
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        area.lower(): _made_when_visited(area) for area in AREAS
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
                id=f"area.{area.lower()}",
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
        Binding("q", "leave", "leave", tooltip="Leave the dashboard", id="leave"),
        Binding(
            "ctrl+q",
            "quit_anywhere",
            "leave at once",
            show=False,
            priority=True,
            tooltip="Leave from a wizard or a dialog too",
            id="leave-anywhere",
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
            "paint anew",
            show=False,
            priority=True,
            tooltip="Paint the screen anew, when something else wrote on it",
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
        # Textual decides before the first theme is chosen what NO_COLOR shall mean: greys, unless
        # it is told that the terminal's own colours are used.
        super().__init__(
            driver_class=driver_class, ansi_color=True if os.environ.get("NO_COLOR") else None
        )
        self.client = client
        self.options = options or Options()
        self.fault: BaseException | None = None
        """What has ended the dashboard, where it was a fault of its own."""
        self.faults: list[str] = []
        self.demo_images = tuple(demo_images)
        """The images of a demo's source, as they are pulled: nobody can guess them."""
        self._crash_log = log
        self._copied = ""
        self._is_too_small = False
        self._keymap = dict(keymap.keys) if keymap is not None else {}
        self._keymap_problems = keymap.problems if keymap is not None else ()
        self._keeps_theme_in = theme_state_file
        self._started_engine = started_engine
        self.animation_level = "none"
        self._has_terminal = driver_class is not None
        self._dress()

    def _dress(self) -> None:
        """Put the colours on before the first widget is styled: Textual styles all of them a second
        time when the theme changes later.

        Only where it is like the one that Textual begins with. For another it has more to change,
        which it does when the theme changes.
        """
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        if self._theme_wanted == DARK.name:
            self.set_reactive(App.theme, DARK.name)
            self.stylesheet.set_variables(self.get_css_variables())

    @property
    def _theme_wanted(self) -> str:
        return suitable_theme(self.options.theme, DARK.name, self._color_system)

    @property
    def address(self) -> str:
        """Where container clients find the registry."""
        return self.status.address if self.status is not None else "127.0.0.1:5000"

    async def on_mount(self) -> None:
        """Dress, if that is not done yet, and take care of the terminal."""
        self.theme = self._theme_wanted
        self.set_class(self.options.ascii, "-ascii")
        self.screen_change_signal.subscribe(self, self._mind_the_size)
        self.call_after_refresh(_look_for_garbage_again)
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
        """Tell something at the edge of the screen, literally: what it says may come from a source
        or a client, so *markup* is off, whoever wants it (S29)."""
        super().notify(
            escaped_lines(message),
            title=escaped(title),
            severity=severity,
            timeout=timeout,
            markup=False,
        )

    # What can't be done now

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
        """Run an action, or say why it can't be taken now. Textual just goes past a binding whose
        action is disabled."""
        if await super().run_action(action, default_namespace, namespaces):
            return True
        reason = self.disabled_reason(action, default_namespace) if isinstance(action, str) else ""
        if reason:
            self.notify(reason, severity="warning")
        return bool(reason)

    def disabled_reason(self, action: str, node: DOMNode | None) -> str:
        """Why an action, as a binding of *node* names it, can't be taken now; empty: it can."""
        name = action_name(action)
        if isinstance(node, EngineScreen):
            return node.disabled_reason(name)
        if not self.check_action(name, ()) and node is self:
            return "Leave the wizard first: ctrl+c does, and nothing is made."
        return ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a wizard a stray letter or number may not throw away what was entered: ctrl+c leaves
        it first."""
        return not (
            action in {"area", "leave"}
            and isinstance(self.screen, QueuesKeys)
            and not isinstance(self.screen, EngineScreen)
        )

    # Getting about

    async def action_area(self, number: int) -> None:
        """Go to an area by its number."""
        self.poll_now()
        while len(self.screen_stack) > 1:
            self.pop_screen()
        await self.switch_mode(AREAS[number - 1].lower())

    async def show_filtered(self, number: int, text: str) -> None:
        """Go to an area, and show there only the rows with these words."""
        await self.action_area(number)
        if isinstance(self.screen, ListScreen):
            self.screen.filter_for(text)

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
        """Use other colours, now and the next time."""
        self.theme = suitable_theme(name, DARK.name, self._color_system)
        if self.theme != name:
            self.notify(
                f"This terminal shows no colours for {name}, or NO_COLOR forbids them.",
                severity="warning",
            )
        if self._keeps_theme_in is not None:
            try:
                save_theme(self._keeps_theme_in, name, instead_of=self.options.theme_in_file)
            except OSError as error:
                self.notify(
                    f"The theme can't be kept for the next time: {error.strerror}.",
                    severity="warning",
                )

    @property
    def _color_system(self) -> str | None:
        return self.console.color_system if self._has_terminal else "truecolor"

    def action_paint(self) -> None:
        """Send the whole screen again."""
        terminal.forget(self._driver)
        self.refresh(layout=True)

    def action_help_quit(self) -> None:
        """ctrl+c, which a reflex presses, leaves nothing and copies nothing here."""
        leave = next(
            (
                key
                for key, active in self.active_bindings.items()
                if active.binding.action == "leave"
            ),
            "",
        )
        self.notify(
            f"{key_name(leave)} leaves, and ctrl+q from anywhere." if leave else "ctrl+q leaves."
        )

    def on_resize(self, event: events.Resize) -> None:
        """Below the floor nothing can be shown, and keys must not act unseen."""
        terminal.forget(self._driver)
        self._is_too_small = (
            event.size.width < TooSmall.WIDTH or event.size.height < TooSmall.HEIGHT
        )
        self._mind_the_size()

    def _mind_the_size(self, _: object = None) -> None:
        too_small = self._is_too_small
        if too_small == isinstance(self.screen, TooSmall):
            return
        self.discard_keys()
        if too_small:
            self.push_screen(TooSmall())
        else:
            self.pop_screen()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A cursor that blinks would be sent twice a second, all night."""
        if isinstance(event.widget, Input):
            event.widget.cursor_blink = False

    # What several screens do

    @opens_screen()
    async def prompt_pull(self, image: str, platform: str | None = None) -> None:
        """Ask which image of which platform, then pull it and show how it comes."""
        from tui.screens.pull_dialog import PullDialog

        proposed = "" if image else await self._next_demo_image()
        if await self.push_screen_wait(
            PullDialog(image or proposed, platform, replaces=bool(proposed))
        ):
            await self.show_pulls()

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
        """Say how the first sign-in of a credential set that was created or changed went, as soon
        as that is known."""
        # A lost connection and a set that was deleted meanwhile are shown by themselves.
        with suppress(ClientError):
            self.notify_health(await self.client.credential_sets.wait_for_sign_in(name))

    def notify_health(self, credential_set: CredentialSetSnapshot) -> None:
        """Say how the last sign-in of a credential set went."""
        from tui.presentation.credentials import credential_set_health

        word, _ = credential_set_health(credential_set)
        why = f": {credential_set.error_message}" if credential_set.error_message else "."
        well = credential_set.health is HealthStatus.HEALTHY
        self.notify(
            f"{credential_set.name} is {word}{why}", severity="information" if well else "warning"
        )

    async def show_pulls(self) -> None:
        """Go where pulls can be watched."""
        await self.action_area(AREAS.index("Pulls") + 1)

    async def show_row(self, area: str, key: str) -> None:
        """Go to an area, and there to the row with *key* when it has come."""
        await self.action_area(AREAS.index(area) + 1)
        if isinstance(self.screen, ListScreen):
            self.screen.go_to(key)

    def copy_line(self, line: str) -> None:
        """Copy a line for another terminal. Whether the terminal takes it nobody tells us: asked a
        second time for the same one, the line is shown.

        Nothing in it can end the brackets that a terminal puts around what is pasted, or is obeyed
        there otherwise.
        """
        line = escaped_lines(line)
        if line == self._copied or not terminal.copy(self, line):
            from widgets.dialogs.text_dialog import TextDialog

            self._copied = ""
            self.push_screen(
                TextDialog(
                    "Copy it by hand",
                    line,
                    "Mark it with the mouse; most terminals want shift held down for that. esc closes",
                )
            )
            return
        self._copied = line
        self.notify(
            f"Sent to the terminal's clipboard: {line}\nThe same key once more shows it for copying by hand."
        )

    # Leaving

    def action_quit_anywhere(self) -> None:
        """Leave, from a wizard too."""
        self.action_request_quit()

    @opens_screen("leave")
    async def action_request_quit(self) -> None:
        """Leave, perhaps after a question."""
        if (outcome := await confirm_quit(self, started_engine=self._started_engine)) is not None:
            self.exit(outcome)

    # Faults of its own

    def report_fault(self, error: BaseException) -> None:
        """Something that a screen did on its own has failed: say so and go on. The same is told
        once, however often it comes."""
        if describe_error(error) not in self.faults:
            self.faults.append(describe_error(error))
            where = write_crash(self._crash_log, error) if self._crash_log is not None else ""
            self.notify(
                f"Something went wrong in the dashboard itself: {describe_error(error)}. {where}",
                severity="error",
                timeout=20,
            )

    def _fatal_error(self) -> None:
        # A private name of Textual, which would print pages of source and local variables, perhaps
        # secrets among them. In tests it may.
        if self.is_headless:
            super()._fatal_error()
        else:
            self.fault = sys.exception()
            self._close_messages_no_wait()
