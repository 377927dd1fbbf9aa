"""An application that opens a dialog and keeps its results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Static

from widgets.dialogs.base import Dialog


class Opener:
    """A dialog on the screen, the pilot that presses keys, and the results so far."""

    def __init__(self, app: App[None], pilot: Pilot[None], dialog: Dialog[Any]) -> None:
        self.app = app
        self.dialog = dialog
        self.results: list[Any] = []
        self._pilot = pilot

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the workers and messages that lead to a condition."""
        while not condition():
            await self._pilot.pause()

    def text(self, selector: str) -> str:
        """What a text in the dialog says."""
        return str(self.dialog.query_one(selector, Static).content)

    @property
    def is_open(self) -> bool:
        return self.app.screen is self.dialog


Opening = Callable[[Dialog[Any]], AbstractAsyncContextManager[Opener]]


@pytest.fixture
def opening() -> Opening:
    """Opens a dialog: ``async with opening(Question(...)) as opener``."""

    @asynccontextmanager
    async def open_dialog(dialog: Dialog[Any]) -> AsyncIterator[Opener]:
        app: App[None] = App()
        async with app.run_test(size=(80, 24)) as pilot:
            opener = Opener(app, pilot, dialog)
            await app.push_screen(dialog, opener.results.append)
            await pilot.pause()
            yield opener

    return open_dialog
