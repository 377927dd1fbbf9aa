"""Quitting the dashboard: whether pulls or an engine keep running without it."""

from __future__ import annotations

from entrepot.formatting import counted
from tui.engine_app import EngineApp
from tui.outcome import DashboardOutcome


async def confirm_quit(app: EngineApp, *, started_engine: bool) -> DashboardOutcome | None:
    """Ask before quitting while pulls run, or where the dashboard started the engine.

    Returns None if the user stays. Must be called in a worker.
    """
    from widgets.dialogs.question import Choice, Question

    running = app.status.pulls_running if app.status is not None and not app.is_disconnected else 0
    pulling = f"{counted(running, 'pull is', 'pulls are')} still running. " if running else ""
    if started_engine and not app.is_disconnected:
        answer = await app.push_screen_wait(
            Question(
                "Quit the dashboard?",
                f"{pulling}The engine was started for this dashboard. If it keeps running, it "
                f"serves container clients on {app.address} without the dashboard.",
                (
                    Choice("stay", "Stay"),
                    Choice("keep-running", "Keep it running"),
                    Choice("stop", "Stop it", danger=True),
                ),
            )
        )
        return (
            DashboardOutcome(keep_engine=answer == "keep-running")
            if answer in {"keep-running", "stop"}
            else None
        )
    if running:
        answer = await app.push_screen_wait(
            Question(
                "Quit the dashboard?",
                f"{pulling}The engine continues {'it' if running == 1 else 'them'}.",
                (Choice("stay", "Stay"), Choice("quit", "Quit")),
            )
        )
        if answer != "quit":
            return None
    return DashboardOutcome(keep_engine=True)
