"""A person at the dashboard of a real engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from textual.pilot import Pilot

from entrepot.api.client import CacheClient
from entrepot.api.models import EngineStatus
from entrepot.config.directories import Directories
from entrepot.engine.engine import Engine
from entrepot.server.run import management_app
from tests.conftest import Clock, answering
from tests.tui.grid import grid
from tests.tui.pty import Program
from tui.app import Dashboard
from tui.keymap import Keymap
from tui.options import Options
from tui.outcome import DashboardOutcome
from tui.screens.base import EngineScreen

_KEYS = {
    "/": "slash",
    "*": "asterisk",
    ".": "full_stop",
    "-": "minus",
    ":": "colon",
    "_": "underscore",
    " ": "space",
}


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else writes to the disk of this machine must not show on the screens: the space that is
    left stands on each of them."""
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda _: SimpleNamespace(total=100 * 10**9, used=20 * 10**9, free=80 * 10**9),
    )


class Person:
    """A user who types and reads."""

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
            async with asyncio.timeout(60):
                while not condition():
                    await self.pilot.pause()
                    await asyncio.sleep(0)
        except TimeoutError:
            raise AssertionError(f"the screen never came to it:\n{self.seen()}") from None

    async def sees(self, *texts: str) -> None:
        """Wait until all of *texts* stand on the screen, perhaps broken into lines."""
        await self.until(
            lambda: all(" ".join(text.split()) in " ".join(self.seen().split()) for text in texts)
        )

    def seen(self) -> str:
        return grid(self.app)


def screen_of(person: Person) -> EngineScreen:
    """The area on top."""
    screen = person.app.screen
    assert isinstance(screen, EngineScreen)
    return screen


def poll_is_over(person: Person) -> bool:
    """Whether no poll of the area on top is under way."""
    return screen_of(person)._poll_started is None


def disabled_reason(person: Person, action: str) -> str:
    """Why an action of the area on top is disabled."""
    return screen_of(person).disabled_reason(action)


async def pulled(engine: Engine, image: str, platform: str = "linux/amd64") -> None:
    """Have an image in the cache."""
    started = await engine.pulls.start(image, platform, "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()


@asynccontextmanager
async def dashboard(
    engine: Engine,
    *,
    size: tuple[int, int] = (80, 24),
    started_engine: bool = False,
    options: Options | None = None,
    keymap: Keymap | None = None,
    theme_state_file: Path | None = None,
) -> AsyncIterator[Person]:
    async with CacheClient.of_app(management_app(engine)) as client:
        app = Dashboard(
            client,
            started_engine=started_engine,
            options=options,
            keymap=keymap,
            theme_state_file=theme_state_file,
        )
        async with app.run_test(size=size, notifications=True) as pilot:
            person = Person(app, pilot)
            await person.sees("entrepot  127.0.0.1")
            yield person
            assert app.faults == []


@pytest.fixture
async def person(engine: Engine) -> AsyncIterator[Person]:
    """At 80x24, on an engine with one rule, example-library."""
    async with dashboard(engine) as person:
        yield person


@pytest.fixture
def fixed_time(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Clock]:
    """For the dashboard too it is what *clock* says, in UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        patched.setattr(time, "time", clock)
        yield clock
    time.tzset()


# The real program on a terminal of its own, and the engine of the test


class Looks:
    """Counts how often a dashboard has looked at the engine, so that a test can wait for a number
    of looks instead of for time."""

    def __init__(self) -> None:
        self.count = 0
        self._one = asyncio.Event()

    def another(self) -> None:
        self.count += 1
        self._one.set()

    async def more(self, number: int) -> None:
        """Wait for a number of further looks."""
        target = self.count + number
        async with asyncio.timeout(60):
            while self.count < target:
                self._one.clear()
                await self._one.wait()


Opened = Callable[..., Awaitable[Program]]


@pytest.fixture
def directories(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    """Those that the program finds for its user. The path of a Unix socket has to be short."""
    root = tmp_path_factory.mktemp("u")
    return Directories(
        root / "c/entrepot", root / "d/entrepot", root / "r/entrepot", root / "s/entrepot/log"
    )


@pytest.fixture
def environment(directories: Directories) -> dict[str, str]:
    root = directories.config.parents[1]
    (root / "h").mkdir(exist_ok=True)
    names = {"CONFIG_HOME": "c", "DATA_HOME": "d", "RUNTIME_DIR": "r", "STATE_HOME": "s"}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "h"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **{f"XDG_{name}": str(root / short) for name, short in names.items()},
    }


@pytest.fixture
async def looks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Looks]:
    """The engine answers on its socket, looked at twice a second, and its free space is always the
    same."""
    counted, get_status = Looks(), engine.status.get

    async def steady() -> EngineStatus:
        counted.another()
        return msgspec.structs.replace(
            await get_status(), space_free=80 * 10**9, space_limit=70 * 10**9, pulls_running=1
        )

    monkeypatch.setattr(engine.status, "get", steady)
    async with answering(engine):
        yield counted


@pytest.fixture
async def opened(environment: dict[str, str]) -> AsyncIterator[Opened]:
    """Opens dashboards in terminals: ``await opened("--ascii", NO_COLOR="1")``."""
    with ExitStack() as programs:

        async def open(
            *arguments: str,
            size: tuple[int, int] = (80, 24),
            command: Sequence[str] = ENTREPOT,
            **variables: str,
        ) -> Program:
            return programs.enter_context(
                closing(
                    Program(
                        [*command, *arguments],
                        environment | variables,
                        columns=size[0],
                        lines=size[1],
                    )
                )
            )

        yield open
        # An engine of the test may have to answer meanwhile.
        await asyncio.to_thread(programs.close)


ENTREPOT = (sys.executable, "-m", "entrepot")


async def sees(program: Program, *texts: str, gone: str | None = None) -> None:
    await asyncio.to_thread(program.sees, *texts, gone=gone)
