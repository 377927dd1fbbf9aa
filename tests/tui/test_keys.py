"""Keys: help and palette that are made from the bindings, reasons for what can't be done, and keys
of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.binding import Binding

from entrepot.engine.engine import Engine
from tests.tui.conftest import Person, dashboard
from tests.tui.grid import lines
from tui.app import Dashboard
from tui.keymap import (
    EVERYWHERE,
    LISTS,
    Keymap,
    Place,
    as_markdown,
    cheat_sheet,
    is_key,
    places,
    read_keymap,
    without_clashes,
)
from tui.options import Options

CHEAT_SHEET = Path(__file__).parents[2] / "docs/keys.md"
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- keys: made by entrepot keys --markdown -->", "<!-- end of keys -->"


def cheat_sheet_now() -> str:
    return as_markdown(cheat_sheet(places(Dashboard), {}))


def last_line(person: Person) -> str:
    return lines(person.app)[-1].strip()


# Help


async def test_help_is_grouped_and_told_by_the_bindings(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("question_mark")
    await person.sees("This screen", "Create a cache rule")
    for _ in range(40):
        await person.press("j")
    await person.sees("Everywhere", "Go to Overview")
    seen = person.seen()
    await person.press("escape")
    await person.until(lambda: person.seen() != seen and "esc closes" not in person.seen())


async def test_help_opens_in_a_wizard_and_in_a_dialog_too(person: Person) -> None:
    await person.press("2", "n")
    await person.sees("Which source registry")
    await person.press("question_mark")
    await person.sees("Take this and go on", "This screen")
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


# The palette


async def test_the_palette_has_every_action_of_the_screen_all_areas_the_themes_and_the_way_out(
    person: Person,
) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("colon")
    for words, found in (
        ("new create", "Create a cache rule"),
        ("go to sour", "Go to Sources"),
        ("theme light", "Theme entrepot-light"),
        ("quit the", "Quit the dashboard"),
    ):
        await person.press("ctrl+u")
        await person.type(words)
        await person.sees(found)
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
    kept = tmp_path / "state.toml"
    async with dashboard(engine, theme_state_file=kept) as person:
        await person.press("colon")
        await person.type("theme nord")
        await person.press("enter")
        await person.until(lambda: person.app.theme == "nord")
    assert 'theme = "nord"' in kept.read_text()


# Keys of the user's own


def keymap(tmp_path: Path, text: str) -> Keymap:
    file = tmp_path / "keymap.toml"
    file.write_text(text)
    return read_keymap(file, Dashboard)


def test_without_a_file_nothing_is_changed(tmp_path: Path) -> None:
    assert read_keymap(tmp_path / "keymap.toml", Dashboard) == Keymap({})


def test_a_key_or_a_list_of_keys_is_given_to_an_id(tmp_path: Path) -> None:
    assert keymap(tmp_path, '[keys]\n"rules.new" = "f5"\nrules.delete = ["D", "/x"]\n').keys == {
        "rules.new": "f5"
    }
    assert keymap(
        tmp_path, '[keys]\n"rules.new" = "f5"\nrules.delete = ["D", "ctrl+t"]\nhelp = "h"\n'
    ) == Keymap({"rules.new": "f5", "rules.delete": "D,ctrl+t", "help": "h"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[keys]\n"rules.nw" = "f5"\n', "There is no binding rules.nw. Did you mean rules.new?"),
        ('[keys]\n"rules.new" = "contrl+n"\n', "line 2: 'contrl+n' is not the name of a key."),
        ('[keys]\n"rules.new" = 5\n', "line 2: rules.new needs a key"),
        (
            '[keys]\n"rules.new" = "d"\n',
            "The key d would be for rules.new and for rules.delete (Cache rules): rules.new keeps its own key.",
        ),
        (
            '[keys]\n"rules.new" = "j"\n',
            "would be for list.down and for rules.new (Cache rules): rules.new keeps its own key.",
        ),
        (
            '[keys]\n"rules.new" = "f5"\n"rules.pull" = "f5"\n',
            "rules.new and rules.pull keep their own keys.",
        ),
        (
            '"rules.new" = "f5"\n',
            "there is no table or key rules.new here; the keys stand below [keys].",
        ),
        ("[keys\n", "It is not TOML"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path, text: str, told: str) -> None:
    found = keymap(tmp_path, text)
    assert found.keys == {}
    [problem] = found.problems
    assert told in problem
    assert problem.startswith(str(tmp_path / "keymap.toml"))


def test_two_keys_may_change_places() -> None:
    known = [Place(EVERYWHERE, (Binding("a", "one", id="one"), Binding("b", "two", id="two")))]
    assert without_clashes({"one": ["b"], "two": ["a"]}, known) == Keymap({"one": "b", "two": "a"})


def test_the_keys_of_one_screen_may_be_those_of_another(tmp_path: Path) -> None:
    assert keymap(tmp_path, '[keys]\n"rules.delete" = "x"\n').problems == ()


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "G",
        "/",
        "slash",
        "f12",
        "ctrl+t",
        "shift+f3",
        "alt+x",
        "pagedown",
        "question_mark",
        "+",
        "space",
    ],
)
def test_keys_are_named_as_people_name_them(name: str) -> None:
    assert is_key(name)


@pytest.mark.parametrize("name", ["", "f99", "ctrl+", "hyperspace", "ctrl+alt", "ab"])
def test_other_words_are_no_keys(name: str) -> None:
    assert not is_key(name)


async def test_the_users_keys_work_and_the_screen_and_the_help_say_them(
    engine: Engine, tmp_path: Path
) -> None:
    own = keymap(tmp_path, '[keys]\n"rules.new" = "f5"\nhelp = "h"\n"list.down" = "t"\n')
    assert own.problems == ()
    async with dashboard(engine, keymap=own) as person:
        await person.press("2")
        await person.sees("f5 new", "h help")
        await person.press("n")
        await person.press("h")
        await person.sees("f5", "Create a cache rule", "esc closes")
        await person.press("escape", "f5")
        await person.sees("Which source registry")


async def test_a_keymap_with_mistakes_is_told_on_the_screen_and_the_dashboard_works(
    engine: Engine, tmp_path: Path
) -> None:
    async with dashboard(engine, keymap=keymap(tmp_path, '[keys]\n"rules.nw" = "f5"\n')) as person:
        await person.sees("Did you mean")
        await person.press("2")
        await person.sees("n new")


# The cheat sheet


def test_every_binding_that_people_see_has_an_explanation_and_an_id_that_no_other_has() -> None:
    owners: dict[str, str] = {}
    for place in places(Dashboard):
        for binding in place.bindings:
            if (
                binding.show
                and binding.description
                and not place.is_modal
                and binding.key not in {"enter", "escape", "ctrl+c"}
            ):
                assert binding.id, f"{place.title}: {binding.key} has no id"
                assert binding.tooltip, f"{binding.id} has no tooltip"
            if binding.id:
                assert owners.setdefault(binding.id, binding.action) == binding.action, binding.id


def test_movement_has_the_keys_of_vim_and_they_do_nothing_else() -> None:
    moves = {"j", "k", "g", "G", "ctrl+d", "ctrl+u", "ctrl+f", "ctrl+b"}
    for place in places(Dashboard):
        if place.title != LISTS and not place.is_modal:
            assert not moves & {binding.key for binding in place.bindings}, place.title


def test_no_key_means_two_things_at_one_place() -> None:
    for place in places(Dashboard):
        used: dict[str, str] = {}
        for binding in place.bindings:
            if binding.key not in {"escape"}:
                assert used.setdefault(binding.key, binding.action) == binding.action, (
                    f"{place.title}: {binding.key}"
                )


def test_the_cheat_sheet_is_up_to_date() -> None:
    """Make it anew with: entrepot keys --markdown > docs/keys.md"""
    assert CHEAT_SHEET.read_text() == cheat_sheet_now()


def test_the_readme_has_the_same_cheat_sheet_where_it_has_one() -> None:
    text = README.read_text()
    if BEGIN in text:
        assert text.partition(BEGIN)[2].partition(END)[0].strip() == cheat_sheet_now().strip()
