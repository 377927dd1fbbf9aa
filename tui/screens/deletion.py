"""Deleting a rule, credential set, repository or tag: preview, ask, delete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from entrepot.api.models import DeletionPlan
from entrepot.formatting import size
from tui.presentation.deletion import refused_text
from tui.screens.base import EngineScreen
from widgets.dialogs.question import Choice, Question


@dataclass(frozen=True, slots=True)
class Deletion:
    """What is deleted, and how.

    *thing* says what it is ("cache rule"), *describe* what goes and what stays. With *typed_name*
    a deletion that frees space on the disk works only after the name was typed.
    """

    thing: str
    name: str
    preview: Awaitable[DeletionPlan]
    describe: Callable[[DeletionPlan], str]
    delete: Callable[[], Awaitable[object]]
    typed_name: Callable[[DeletionPlan], bool] = lambda _: False


async def delete_after_question(screen: EngineScreen, deletion: Deletion) -> None:
    """Preview a deletion, ask, and delete. Must be called in a worker."""
    app = screen.app
    plan = await app.attempt(deletion.preview)
    if plan is None or not await _confirm(screen, deletion, plan):
        return
    if await app.succeeds(deletion.delete()):
        freed = f": {size(plan.freed)} freed" if plan.freed else ""
        app.notify(f"The {deletion.thing} {deletion.name} is deleted{freed}.")
    screen.poll_now()


async def _confirm(screen: EngineScreen, deletion: Deletion, plan: DeletionPlan) -> bool:
    if plan.refused is not None:
        await screen.app.push_screen_wait(
            Question(
                f"{deletion.name} can't be deleted now",
                refused_text(plan),
                (Choice("keep", "Keep it"),),
            )
        )
        return False
    answer = await screen.app.push_screen_wait(
        Question(
            f"Delete the {deletion.thing} {deletion.name}?",
            deletion.describe(plan),
            (Choice("keep", "Keep it"), Choice("delete", "Delete", danger=True)),
            typed=deletion.name if deletion.typed_name(plan) else None,
        )
    )
    return answer == "delete"
