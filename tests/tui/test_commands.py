"""The command palette, which is made from the bindings."""

from __future__ import annotations

from pathlib import Path

from entrepot.engine.engine import Engine
from tests.tui.conftest import Person, dashboard
from tests.tui.grid import lines


async def test_the_palette_has_every_action_of_the_screen_all_areas_the_themes_and_the_way_out(
    person: Person,
) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("colon")
    for words, command in (
        ("new create", "Create a cache rule"),
        ("go to sour", "Go to Sources"),
        ("theme light", "Theme entrepot-light"),
        ("quit the", "Quit the dashboard"),
    ):
        await person.press("ctrl+u")
        await person.type(words)
        await person.sees(command)
    for without in ("screenshot", "maximize"):
        await person.press("ctrl+u")
        await person.type(without)
        await person.until(lambda: ">" not in "".join(lines(person.app)[5:18]))
    await person.press("escape")
    await person.until(lambda: "Theme" not in person.seen())


async def test_a_command_of_the_palette_is_run(person: Person) -> None:
    await person.press("colon")
    await person.type("go to sources")
    await person.press("enter")
    await person.sees("Source registries")
    await person.press("colon")
    await person.type("help")
    await person.press("enter")
    await person.sees("This screen", "esc closes")


async def test_the_palette_shows_why_a_command_can_not_be_run(person: Person) -> None:
    await person.press("3")
    await person.sees("There is no credential set yet.")
    await person.press("colon")
    await person.type("delete")
    await person.sees("There is no credential set under the cursor.")
    await person.press("enter")
    await person.until(lambda: len(person.app._notifications) > 0)
    assert "Delete" in person.seen()


async def test_a_theme_that_was_chosen_is_kept_for_the_next_time(
    engine: Engine, tmp_path: Path
) -> None:
    state_file = tmp_path / "state.toml"
    async with dashboard(engine, theme_state_file=state_file) as person:
        await person.press("colon")
        await person.type("theme nord")
        await person.press("enter")
        await person.until(lambda: person.app.theme == "nord")
    assert 'theme = "nord"' in state_file.read_text()
