"""What the dashboard costs: bytes for what happens on the screen, and the modules that it loads. No
time is asserted here (see tests/bench)."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from entrepot.cache.pull import PullProgress
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.fakes import FakeRegistry
from tests.scenarios.tui.test_life import ESCAPE, PLACES, visit
from tests.tui.conftest import Looks, Opened, sees
from tests.tui.pty import Program

MODULES = 620
"""More than the dashboard loads when it opens. What raises the number is paid by everyone who waits
for the first picture."""

LOADED = """
import json, os, sys
os.environ["TEXTUAL_ANIMATIONS"] = "none"
import entrepot.cli.main, entrepot.cli.dashboard
import tui.run, tui.app, tui.driver, tui.options, tui.screens.overview
print(json.dumps(sorted(sys.modules)))
"""


def pull(number: int, received: int) -> PullProgress:
    """A pull that moves on by as much at each look as a fast one does."""
    return PullProgress(
        id=str(number),
        repository=f"library/image-{number:02}",
        tag="1.27",
        digest=None,
        platform="linux/amd64",
        rule="example-library",
        login_server="registry.example.com",
        source_repository=f"registry.example.com/library/image-{number:02}",
        state=PullState.RUNNING,
        started=1_780_000_000.0,
        size=1_000_000_000,
        received=received,
        speed=30_000_000.0 + number * 100_000 + received % 7_000_000,
        time_left=max(1.0, (1_000_000_000 - received) / 30_000_000),
        asked_by=("10.0.4.17",),
    )


async def cost(program: Program, looks: Looks, keys: str, text: str, back: str = "") -> int:
    """Bytes that a key costs, with what a dialog costs when it is closed again; until nothing comes
    any more."""
    await looks.more(2)
    mark = program.mark()
    program.type(keys)
    await sees(program, text)
    if back:
        program.type(back)
        await sees(program, "? help", gone=text)
    await looks.more(3)
    return len(program.since(mark))


async def test_where_nothing_moves_not_one_byte_is_sent_on_any_screen(
    opened: Opened, looks: Looks, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    started = await engine.pulls.start("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()
    program = await opened()
    await sees(program, "Healthy")
    for keys, text in (
        ("1", "Pulling now"),
        ("2", "Cache rules"),
        ("3", "no credential"),
        ("4", "library/nginx"),
        ("5", "completed"),
        ("6", "Source"),
        ("7", "Events"),
    ):
        program.type(keys)
        await sees(program, text)
        await looks.more(3)
        mark = program.mark()
        await looks.more(3)
        assert program.since(mark) == b"", text
    program.type("4")
    await sees(program, "library/nginx")
    program.type("\r")
    await sees(program, "Platforms")
    await looks.more(3)
    mark = program.mark()
    await looks.more(3)
    assert program.since(mark) == b""


async def test_a_field_that_waits_to_be_typed_into_sends_nothing(
    opened: Opened, looks: Looks
) -> None:
    program = await opened()
    await sees(program, "Healthy")
    program.type("2")
    await sees(program, "example-library")
    program.type("/")
    program.type("exam")
    await sees(program, "1 of 1 match / exam")
    await looks.more(2)
    mark = program.mark()
    # Two seconds: a cursor that blinks would do so twice.
    await looks.more(4)
    assert program.since(mark) == b""


async def test_a_key_costs_little(opened: Opened, looks: Looks, engine: Engine) -> None:
    for number in range(30):
        await engine.rules.create(
            RuleDraft(
                f"rule-{number:02}", f"registry.example.com/team-{number}/*", f"team-{number}/*"
            )
        )
    program = await opened()
    await sees(program, "Healthy")
    await visit(program, PLACES[:7])
    costs = {
        "a cursor that moves": await cost(program, looks, "2", "Cache rules")
        and await cost(program, looks, "j", "> rule-00"),
        "a page": await cost(program, looks, "\x06", "> rule-"),
        "a screen": await cost(program, looks, "3", "no credential"),
        "and back": await cost(program, looks, "2", "Cache rules"),
        "help and back": await cost(program, looks, "?", "This screen", ESCAPE),
        "the palette and back": await cost(program, looks, ":", "Create a cache rule", ESCAPE),
        "a question and back": await cost(program, looks, "d", "Delete the cache rule", ESCAPE),
        "a wizard and back": await cost(program, looks, "n", "Which source registry", "\x03"),
    }
    # What Textual itself sends for them: 1 kB, 8 kB, 20 kB, and 65 to 75 kB for what lies above a
    # screen.
    bounds = {
        "a cursor that moves": 1_300,
        "a page": 4_000,
        "a screen": 3_500,
        "and back": 5_500,
        "help and back": 10_000,
        "the palette and back": 11_000,
        "a question and back": 6_000,
        "a wizard and back": 11_000,
    }
    assert {name: size for name, size in costs.items() if size > bounds[name]} == {}, costs


async def test_twenty_pulls_cost_little_for_a_look(
    opened: Opened, looks: Looks, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = 0

    def pulls() -> list[SimpleNamespace]:
        nonlocal received
        # A look twice a second at 60 s for a pull: what 20 pulls at once are in a fast network.
        received += 8_000_000
        return [
            SimpleNamespace(state=PullState.RUNNING, progress=partial(pull, number, received))
            for number in reversed(range(20))
        ]

    monkeypatch.setattr(engine.cache.pulls, "all", pulls)
    program = await opened()
    await sees(program, "Healthy")
    program.type("5")
    await sees(program, "library/image-19", "library/image-10", "MB/s")
    await looks.more(2)
    mark, before = program.mark(), received
    await looks.more(10)
    assert received > before
    byte_count = len(program.since(mark))
    assert 0 < byte_count < 10 * 2_500, byte_count


def test_the_dashboard_loads_few_modules_and_none_of_the_engine(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PATH": "/usr/bin:/bin",
    }
    completed = subprocess.run(
        [sys.executable, "-c", LOADED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    loaded = set(json.loads(completed))
    assert "textual.app" in loaded
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {
        "starlette",
        "aiohttp",
        "sqlite3",
        "aiosqlite",
        "sqlalchemy",
        "granian",
        "keyring",
        "azure",
        "truststore",
    }
    assert not {
        name
        for name in loaded
        if name.startswith(
            (
                "entrepot.engine",
                "entrepot.store",
                "entrepot.cache",
                "entrepot.source",
                "entrepot.server",
            )
        )
    }
    # Imported when the user goes there.
    assert not {
        name
        for name in loaded
        if name.startswith(
            (
                "tui.screens.rules",
                "tui.screens.repositories",
                "tui.wizards.rule",
                "tui.wizards.credential",
                "tui.keymap",
            )
        )
    }
    assert len(loaded) < MODULES, len(loaded)
