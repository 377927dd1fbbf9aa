"""A person at the dashboard of a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot

from entrepot.client import CacheClient
from entrepot.engine import Engine
from entrepot.server.run import management_app
from tests.tui.grid import grid
from tui.app import Dashboard, DashboardOutcome

_KEYS = {"/": "slash", "*": "asterisk", ".": "full_stop", "-": "minus", ":": "colon", "_": "underscore", " ": "space"}


class Person:
    """Somebody who types and reads."""

    def __init__(self, app: Dashboard, pilot: Pilot[DashboardOutcome]) -> None:
        self.app = app
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        await self.pilot.press(*(_KEYS.get(letter, letter) for letter in text))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the screen is expected to come to."""
        try:
            async with asyncio.timeout(10):
                while not condition():
                    await self.pilot.pause()
                    await asyncio.sleep(0)
        except TimeoutError:
            raise AssertionError(f"the screen never came to it:\n{self.seen()}") from None

    async def sees(self, *texts: str) -> None:
        """Wait until all of *texts* stand on the screen, perhaps broken into lines."""
        await self.until(lambda: all(" ".join(text.split()) in " ".join(self.seen().split()) for text in texts))

    def seen(self) -> str:
        return grid(self.app)


@asynccontextmanager
async def dashboard(engine: Engine, *, size: tuple[int, int] = (80, 24), started_engine: bool = False) -> AsyncIterator[Person]:
    async with CacheClient.of_app(management_app(engine)) as client:
        app = Dashboard(client, started_engine=started_engine)
        async with app.run_test(size=size, notifications=True) as pilot:
            person = Person(app, pilot)
            await person.sees("entrepot  127.0.0.1")
            yield person


@pytest.fixture
async def person(engine: Engine) -> AsyncIterator[Person]:
    """At 80x24, on an engine with one rule, example-library."""
    async with dashboard(engine) as person:
        yield person
