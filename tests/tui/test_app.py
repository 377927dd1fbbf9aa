"""The areas of the dashboard on a real engine."""

from __future__ import annotations

import asyncio
import os

import pytest
from textual.widgets import Input

from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard, pulled
from tests.tui.grid import lines
from tests.tui.scripted import nothing_painted
from tui.options import Options


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_every_area_fits_its_terminal(
    engine: Engine, source: FakeRegistry, size: tuple[int, int]
) -> None:
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    async with dashboard(engine, size=size) as person:
        for key, *texts in (
            ("1", "Overview"),
            ("2", "Cache rules", "example-library"),
            ("3", "There is no credential set yet."),
            ("4", "Cached repositories", "library/nginx"),
            ("5", "Pulls", "library/nginx:1.27", "completed"),
            ("6", "Source registries", LOGIN_SERVER[:10]),
            ("7", "Events", "Cache rule exam"),
        ):
            await person.press(key)
            await person.sees(*texts, "? help", "q quit")
            screen_lines = lines(person.app)
            assert len(screen_lines) == size[1]
            assert max(len(line) for line in screen_lines) <= size[0]


async def test_a_filter_shows_what_matches_and_how_many_and_escape_clears_it(
    person: Person, engine: Engine
) -> None:
    for name in ("alpha", "beta", "gamma"):
        await engine.rules.create(
            RuleDraft(f"team-{name}", f"{LOGIN_SERVER}/{name}/*", f"{name}/*")
        )
    await person.press("2")
    await person.sees("team-alpha", "team-gamma")
    await person.press("slash")
    await person.type("team gam")
    await person.sees("1 of 4 match", "team-gamma")
    assert "team-alpha" not in person.seen()
    await person.press("enter")
    assert person.app.focused is not None
    assert not isinstance(person.app.focused, Input)
    await person.press("escape")
    await person.sees("team-alpha", "team-beta")


async def test_the_cursor_stays_on_its_row_when_rows_come(person: Person, engine: Engine) -> None:
    await person.press("2")
    await person.sees("> example-library")
    await engine.rules.create(RuleDraft("a-first-one", f"{LOGIN_SERVER}/a/*", "a/*"))
    person.app.poll_now()
    await person.sees("a-first-one")
    assert any(line.startswith("> example-library") for line in lines(person.app))


async def test_the_keys_are_listed_from_the_bindings(person: Person) -> None:
    await person.press("2")
    await person.sees("Cache rules")
    await person.press("question_mark")
    await person.sees("Keys", "Create a cache rule", "Pull an image through the rule")
    await person.press("escape")
    await person.until(lambda: "Pull an image through" not in person.seen())


async def test_an_engine_that_is_lost_is_shown_and_found_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entrepot.api.errors import EngineUnreachable
    from entrepot.api.system import SystemClient

    async with dashboard(engine) as person:
        status = SystemClient.status

        async def unreachable(self: SystemClient) -> None:
            raise EngineUnreachable("No engine is running. Start one with: entrepot serve")

        monkeypatch.setattr(SystemClient, "status", unreachable)
        person.app.poll_now()
        await person.press("2")
        await person.sees("no answer from the engine since")
        monkeypatch.setattr(SystemClient, "status", status)
        person.app.poll_now()
        await person.sees("The engine answers again.", "example-library")


async def test_below_the_floor_the_screen_says_so_and_takes_no_keys(
    person: Person, engine: Engine
) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.pilot.resize_terminal(59, 24)
    await person.sees("This terminal is too small.")
    await person.press("d", "y")
    await person.pilot.resize_terminal(80, 24)
    await person.sees("example-library", "d delete")
    assert "Delete the cache rule" not in person.seen()
    assert len(engine.documents.rules) == 1


async def test_leaving_is_immediate_when_nothing_runs_and_the_engine_is_not_ours(
    engine: Engine,
) -> None:
    async with dashboard(engine) as person:
        await person.press("q")
        await person.until(lambda: person.app.return_value is not None)
        assert person.app.return_value is not None
        assert person.app.return_value.keep_engine


async def test_leaving_asks_when_pulls_run(engine: Engine, source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "1", layers=[os.urandom(300_000)]).platforms[
        "linux/amd64"
    ]
    gate = source.hold(str(image.layers[0].digest), after_bytes=100_000, method="GET")
    async with dashboard(engine) as person:
        await engine.pulls.start("library/nginx:1", "linux/amd64", "cli")
        await gate.reached
        person.app.poll_now()
        await person.sees("1 running")
        await person.press("q")
        await person.sees("Quit the dashboard?", "1 pull is still running.")
        await person.press("escape")
        await person.until(lambda: "Quit the dashboard?" not in person.seen())
        gate.open()


@pytest.mark.parametrize(("keys", "keeps"), [(("right",), True), (("right", "right"), False)])
async def test_leaving_asks_what_shall_become_of_an_engine_that_was_started_for_it(
    engine: Engine, keys: tuple[str, ...], keeps: bool
) -> None:
    async with dashboard(engine, started_engine=True) as person:
        await person.press("q")
        await person.sees(
            "The engine was started for this dashboard.", "Keep it running", "Stop it"
        )
        await person.press(*keys, "enter")
        await person.until(lambda: person.app.return_value is not None)
        assert person.app.return_value is not None
        assert person.app.return_value.keep_engine is keeps


async def test_where_nothing_moves_nothing_is_painted(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    async with nothing_painted(person):
        before = person.seen()
        for _ in range(3):
            person.app.poll_now()
            person.app.screen.poll()  # type: ignore[attr-defined]
            async with asyncio.timeout(60):
                await person.app.workers.wait_for_complete(
                    [worker for worker in person.app.workers if worker.group == "poll"] or None
                )
            await person.pilot.pause()
        assert person.seen() == before


async def test_no_color_gets_the_terminals_own_palette(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with dashboard(engine) as person:
        assert person.app.theme == "ansi-dark"


def last_line(person: Person) -> str:
    return lines(person.app)[-1].strip()


# Help


async def test_help_is_grouped_and_told_by_the_bindings(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("question_mark")
    await person.sees("This screen", "Create a cache rule")
    for _ in range(30):
        await person.press("j")
    await person.sees("Everywhere", "Go to Overview")
    before = person.seen()
    await person.press("escape")
    await person.until(lambda: person.seen() != before and "esc closes" not in person.seen())


async def test_help_opens_in_a_wizard_and_in_a_dialog_too(person: Person) -> None:
    await person.press("2", "n")
    await person.sees("Which source registry")
    await person.press("question_mark")
    await person.sees("Confirm and go on", "This screen")
    await person.press("escape", "ctrl+c")
    await person.sees("example-library", "q quit")
    await person.press("d")
    await person.sees("Delete the cache rule")
    await person.press("f1")
    await person.sees("Change nothing", "Show these keys")
    await person.press("escape", "escape")


# What can't be done


async def test_an_action_without_a_row_stands_dimmed_and_its_key_says_why(person: Person) -> None:
    await person.press("3")
    await person.sees("There is no credential set yet.", "d delete")
    await person.press("d")
    await person.sees("no credential set under")


async def test_a_dashboard_that_only_reads_says_so_when_a_key_would_change_something(
    engine: Engine,
) -> None:
    async with dashboard(engine, options=Options(read_only=True)) as person:
        await person.sees("127.0.0.1:0  read-only")
        await person.press("2")
        await person.sees("example-library", "n new")
        await person.press("n")
        await person.sees("only reads")
        await person.press("d")
        assert len(person.app.screen_stack) == 1


async def test_a_number_in_a_wizard_says_that_the_wizard_comes_first(person: Person) -> None:
    await person.press("2", "n")
    await person.sees("Which source registry")
    await person.press("4")
    await person.sees("Quit the wizard first")
    assert "Which source registry" in person.seen()


async def test_a_click_on_the_line_of_keys_does_what_the_key_does(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library", "d delete")
    await person.pilot.click(offset=(lines(person.app)[-1].index("d delete") + 3, 23))
    await person.sees("Delete the cache rule example-library?")
