"""How the dashboard is to be: the user's file, what was chosen before, and what a terminal can
show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.scripted import ScriptedEngine, scripted_dashboard
from tui.options import (
    OptionInvalid,
    Options,
    read_options,
    save_theme,
    suitable_theme,
    theme_named,
)


def read(tmp_path: Path, text: str | None) -> Options:
    file = tmp_path / "dashboard.toml"
    if text is not None:
        file.write_text(text)
    return read_options(file, tmp_path / "state.toml")


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read(tmp_path, None) == Options()


def test_the_file_is_read(tmp_path: Path) -> None:
    options = read(tmp_path, 'theme = "nord"\nascii = true\nmouse = false\nread_only = true\n')
    assert options == Options(
        theme="nord", ascii=True, mouse=False, read_only=True, theme_in_file="nord"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("asci = true\n", "line 1: There is no key asci. Did you mean ascii?"),
        ('ascii = "yes"\n', "line 1: The value of ascii does not fit"),
        ("ascii = \n", "line 1: It is not TOML"),
    ],
)
def test_a_mistake_is_told_and_the_defaults_hold(tmp_path: Path, text: str, told: str) -> None:
    options = read(tmp_path, text)
    assert not options.ascii
    [problem] = options.problems
    assert told in problem


def test_a_theme_that_was_chosen_goes_before_the_file_until_the_file_says_another(
    tmp_path: Path,
) -> None:
    assert read(tmp_path, 'theme = "nord"\n').theme == "nord"
    save_theme(tmp_path / "state.toml", "gruvbox", instead_of="nord")
    assert read(tmp_path, None).theme == "gruvbox"
    assert read(tmp_path, 'theme = "dracula"\n').theme == "dracula"
    assert (tmp_path / "dashboard.toml").read_text() == 'theme = "dracula"\n'


def test_a_state_that_is_a_link_stays_one(tmp_path: Path) -> None:
    """F78: in a repository of dotfiles."""
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "state.toml").symlink_to(tmp_path / "dotfiles" / "state.toml")
    save_theme(tmp_path / "state.toml", "gruvbox", instead_of="")
    assert (tmp_path / "state.toml").is_symlink()
    assert read(tmp_path, None).theme == "gruvbox"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"\xef\xbb\xbftheme = 'nord'\r\n", None), ("theme = 'nord'\n".encode("utf-16"), "UTF-16")],
)
def test_a_file_of_another_system_is_read_or_named(
    tmp_path: Path, content: bytes, problem: str | None
) -> None:
    """F87."""
    (tmp_path / "dashboard.toml").write_bytes(content)
    options = read(tmp_path, None)
    assert options.theme == ("nord" if problem is None else "")
    assert [problem in each for each in options.problems if problem is not None] == [True] * (
        problem is not None
    )


def test_a_state_that_was_spoiled_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "state.toml").write_text("theme = 5 [\n")
    assert read(tmp_path, None) == Options()


def test_a_theme_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionInvalid, match="Did you mean nord"):
        theme_named("norf", ["nord", "gruvbox"])
    assert theme_named("nord", ["nord"]) == "nord"


def test_a_terminal_gets_a_theme_that_it_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert suitable_theme("", "entrepot-dark", "truecolor") == "entrepot-dark"
    assert suitable_theme("nord", "entrepot-dark", "256") == "nord"
    assert suitable_theme("nord", "entrepot-dark", "standard") == "ansi-dark"
    assert suitable_theme("entrepot-light", "entrepot-dark", "standard") == "ansi-light"
    monkeypatch.setenv("NO_COLOR", "1")
    assert suitable_theme("entrepot-light", "entrepot-dark", "truecolor") == "ansi-light"
    assert suitable_theme("ansi-dark", "entrepot-dark", "truecolor") == "ansi-dark"


async def test_a_theme_that_can_not_be_kept_is_used_all_the_same(tmp_path: Path) -> None:
    """F78: on a disk that can only be read."""
    (tmp_path / "file").touch()
    async with scripted_dashboard(ScriptedEngine()) as person:
        person.app._theme_state_file = tmp_path / "file" / "state.toml"
        person.app.action_choose_theme("nord")
        await person.until(
            lambda: any(
                "can't be saved for the next start" in each.message
                for each in person.app._notifications
            )
        )
        assert person.app.theme == "nord"
