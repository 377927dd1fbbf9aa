"""What shall become of the engine when the dashboard is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from entrepot.formatting import counted

if TYPE_CHECKING:
    from tui.app import Dashboard


@dataclass(frozen=True, slots=True)
class DashboardOutcome:
    """What the user wants to become of the engine, and the exit status: 0, or 128 and the number of
    the signal that ended the dashboard."""

    keep_engine: bool
    status: int = 0


async def confirm_quit(app: Dashboard, *, started_engine: bool) -> DashboardOutcome | None:
    """Where pulls run, or an engine was started for this dashboard, ask what shall become of it.
    None: stay. It has to be called in a worker."""
    from widgets.dialogs.question import Choice, Question

    running = app.status.pulls_running if app.status is not None and not app.is_disconnected else 0
    pulling = f"{counted(running, 'pull is', 'pulls are')} still running. " if running else ""
    if started_engine and not app.is_disconnected:
        text = f"{pulling}The engine was started for this dashboard. Left running, it serves container clients on {app.address} without it."
        choices = [
            Choice("stay", "Stay"),
            Choice("leave-running", "Leave it running"),
            Choice("stop", "Stop it", danger=True),
        ]
        answer = await app.push_screen_wait(Question("Leave the dashboard?", text, choices))
        return (
            DashboardOutcome(keep_engine=answer == "leave-running")
            if answer in {"leave-running", "stop"}
            else None
        )
    if running:
        choices = [Choice("stay", "Stay"), Choice("leave-running", "Leave")]
        text = f"{pulling}The engine goes on with {'it' if running == 1 else 'them'}."
        if (
            await app.push_screen_wait(Question("Leave the dashboard?", text, choices))
            != "leave-running"
        ):
            return None
    return DashboardOutcome(keep_engine=True)
