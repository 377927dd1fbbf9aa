"""The dashboard: a client of the engine, and nothing more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import events, on, work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from entrepot.client import CacheClient, ClientError
from entrepot.snapshots import EngineStatus
from entrepot.words import counted
from tui import terminal
from tui.screens.area import AREAS, INTERVAL, QUIET_INTERVAL
from tui.screens.credentials import CredentialsScreen
from tui.screens.events import EventsScreen
from tui.screens.overview import OverviewScreen
from tui.screens.pulls import PullsScreen
from tui.screens.repositories import RepositoriesScreen
from tui.screens.rules import RulesScreen
from tui.screens.sources import SourcesScreen
from tui.screens.too_small import TooSmall
from tui.theme import DARK, LIGHT, first_theme
from tui.wizards.wizard import Wizard
from widgets.dialogs import Choice, Field, KeyHelp, Prompt, Question

RETRY_INTERVAL = 2.0
"""Seconds between two tries to reach an engine that was lost."""


@dataclass(frozen=True, slots=True)
class DashboardOutcome:
    """What the user wants to become of the engine."""

    keep_engine: bool


class Dashboard(App[DashboardOutcome]):
    """Screens and wizards around one `CacheClient`. *started_engine* says that the engine was started for this dashboard."""

    TITLE = "entrepot"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "colon,ctrl+p"
    INLINE_PADDING = 0
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "overview": OverviewScreen,
        "rules": RulesScreen,
        "credentials": CredentialsScreen,
        "repositories": RepositoriesScreen,
        "pulls": PullsScreen,
        "sources": SourcesScreen,
        "events": EventsScreen,
    }
    DEFAULT_MODE = "overview"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"area({number})", area, show=False, tooltip=f"Go to {area}", id=f"area.{area.lower()}")
            for number, area in enumerate(AREAS, 1)
        ),
        Binding("question_mark", "help", "help", tooltip="Show these keys", id="help"),
        Binding("q", "leave", "leave", tooltip="Leave the dashboard", id="leave"),
        Binding("ctrl+q", "leave_anywhere", show=False, system=True, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, tooltip="Suspend; fg brings the dashboard back"),
    ]

    def __init__(self, client: CacheClient, *, started_engine: bool = False, mode: str = DEFAULT_MODE) -> None:
        super().__init__()
        self.client = client
        self.status: EngineStatus | None = None
        self.is_lost = False
        self._started_engine = started_engine
        self._first_mode = mode
        self._next_look = 0.0
        self.animation_level = "none"

    @property
    def address(self) -> str:
        """Where container clients find the registry."""
        return self.status.address if self.status is not None else "127.0.0.1:5000"

    async def on_mount(self) -> None:
        """Dress, and take care of the terminal."""
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = first_theme()
        if not self.is_headless:
            terminal.end_on_signals(self)  # type: ignore[arg-type]
            terminal.repaint_on_resume(self)  # type: ignore[arg-type]

    # The engine, found and lost

    def seen(self, status: EngineStatus) -> None:
        """The engine has answered."""
        if self.is_lost:
            self.notify("The engine answers again.")
        self.status = status
        self.is_lost = False
        # Where nothing moves, there is no need to look twice a second.
        self._next_look = time.monotonic() + (QUIET_INTERVAL - INTERVAL / 2 if not status.pulls_running else 0.0)

    def lost(self, error: ClientError) -> None:
        """The engine has not answered; the last picture stays on the screen."""
        if not self.is_lost:
            self.notify(error.message, severity="error")
        self.is_lost = True
        self._next_look = time.monotonic() + RETRY_INTERVAL

    def skips_look(self) -> bool:
        """Whether it is too early to ask again."""
        return time.monotonic() < self._next_look

    def look_now(self) -> None:
        """Ask at the next occasion, however quiet it was."""
        self._next_look = 0.0

    # Getting about

    async def action_area(self, number: int) -> None:
        """Go to an area by its number."""
        self.look_now()
        while len(self.screen_stack) > 1:
            self.pop_screen()
        await self.switch_mode(AREAS[number - 1].lower())

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(KeyHelp(self.screen))

    def on_resize(self, event: events.Resize) -> None:
        """Below the floor nothing can be shown, and keys must not act unseen."""
        too_small = event.size.width < TooSmall.WIDTH or event.size.height < TooSmall.HEIGHT
        if too_small and not isinstance(self.screen, TooSmall):
            self.push_screen(TooSmall())
        elif not too_small and isinstance(self.screen, TooSmall):
            self.pop_screen()

    # What several screens do

    @work(exit_on_error=False)
    async def ask_for_pull(self, image: str) -> None:
        """Ask which image, then pull it and show how it comes."""
        fields = (Field("image", "Image", image, "library/nginx:1.27"), Field("platform", "Platform", "", "that of the engine's machine, such as linux/amd64"))
        answers = await self.push_screen_wait(Prompt("Pull an image into the cache", fields, button="Pull"))
        if answers is not None and answers["image"]:
            await self.pull(answers["image"], answers["platform"] or None)

    async def pull(self, image: str, platform: str | None) -> None:
        """Begin a pull and go where it can be watched."""
        try:
            await self.client.start_pull(image, platform, asked_by="dashboard")
        except ClientError as error:
            self.notify(error.message, severity="error", timeout=10)
            return
        await self.show_pulls()

    async def show_pulls(self) -> None:
        """Go where pulls can be watched."""
        await self.action_area(AREAS.index("Pulls") + 1)

    def copy_line(self, line: str) -> None:
        """Copy a line for another terminal."""
        if terminal.copy(self, line):  # type: ignore[arg-type]
            self.notify(f"Sent to the terminal's clipboard: {line}")
        else:
            self.notify("Too long for the terminal's clipboard.", severity="warning")

    @on(Wizard.Onward)
    def _onward(self) -> None:
        if isinstance(self.screen, Wizard):
            self.screen.go_on()

    # Leaving

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a wizard a stray letter or number may not throw away what was entered: ctrl+c leaves it first."""
        return not (action in {"area", "leave"} and isinstance(self.screen, Wizard))

    def action_leave_anywhere(self) -> None:
        """Leave, from a wizard too."""
        self.action_leave()

    @work(exit_on_error=False, exclusive=True, group="leave")
    async def action_leave(self) -> None:
        """Leave. Where pulls run, or an engine was started for this dashboard, ask what shall become of it."""
        running = self.status.pulls_running if self.status is not None and not self.is_lost else 0
        pulling = f"{counted(running, 'pull is', 'pulls are')} still running. " if running else ""
        if self._started_engine and not self.is_lost:
            text = f"{pulling}The engine was started for this dashboard. Left running, it serves container clients on {self.address} without it."
            choices = [Choice("stay", "Stay", "n"), Choice("leave-running", "Leave it running", "l"), Choice("stop", "Stop it", "s", danger=True)]
            answer = await self.push_screen_wait(Question("Leave the dashboard?", text, choices))
            if answer in {"leave-running", "stop"}:
                self.exit(DashboardOutcome(keep_engine=answer == "leave-running"))
        elif running:
            choices = [Choice("stay", "Stay", "n"), Choice("leave-running", "Leave", "y")]
            text = f"{pulling}The engine goes on with {'it' if running == 1 else 'them'}."
            if await self.push_screen_wait(Question("Leave the dashboard?", text, choices)) == "leave-running":
                self.exit(DashboardOutcome(keep_engine=True))
        else:
            self.exit(DashboardOutcome(keep_engine=True))


def run_dashboard(socket: Path, *, started_engine: bool, demo: bool = False) -> DashboardOutcome:
    """Show the dashboard of the engine that answers on *socket*; gives what shall become of the engine."""
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    app = Dashboard(CacheClient.at(socket), started_engine=started_engine and not demo)
    return app.run() or DashboardOutcome(keep_engine=True)
