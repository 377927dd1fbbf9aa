"""All keys of the dashboard, and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.binding import Binding

from entrepot.engine.engine import Engine
from tests.tui.conftest import dashboard
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

CHEAT_SHEET = Path(__file__).parents[2] / "docs/keys.md"
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- keys: made by entrepot keys --markdown -->", "<!-- end of keys -->"


def cheat_sheet_now() -> str:
    return as_markdown(cheat_sheet(places(Dashboard), {}))


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


def test_ids_of_earlier_versions_still_name_their_binding(tmp_path: Path) -> None:
    assert keymap(tmp_path, '[keys]\nleave = "f10"\n"wizard.leave" = "f9"\n') == Keymap(
        {"quit": "f10", "wizard.quit": "f9"}
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[keys]\n"rules.nw" = "f5"\n', "There is no binding rules.nw. Did you mean rules.new?"),
        ('[keys]\n"rules.new" = "contrl+n"\n', "line 2: 'contrl+n' is not the name of a key."),
        ('[keys]\n"rules.new" = 5\n', "line 2: rules.new needs a key"),
        (
            '[keys]\n"rules.new" = "d"\n',
            "The key d would be for rules.new and for rules.delete (Cache rules): "
            "rules.new keeps its own key.",
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
    own = keymap(tmp_path, text)
    assert own.keys == {}
    [problem] = own.problems
    assert told in problem
    assert problem.startswith(str(tmp_path / "keymap.toml"))


def test_two_keys_may_change_places() -> None:
    all_places = [Place(EVERYWHERE, (Binding("a", "one", id="one"), Binding("b", "two", id="two")))]
    assert without_clashes({"one": ["b"], "two": ["a"]}, all_places) == Keymap(
        {"one": "b", "two": "a"}
    )


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
    """Generate it with: entrepot keys --markdown > docs/keys.md"""
    assert CHEAT_SHEET.read_text() == cheat_sheet_now()


def test_the_readme_has_the_same_cheat_sheet_where_it_has_one() -> None:
    text = README.read_text()
    if BEGIN in text:
        assert text.partition(BEGIN)[2].partition(END)[0].strip() == cheat_sheet_now().strip()
