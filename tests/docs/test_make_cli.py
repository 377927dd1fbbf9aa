"""``docs/cli.md`` has every command, as click knows it."""

from __future__ import annotations

import re

import click

from docs.make_cli import PAGE, commands, page
from entrepot.cli.main import cli
from tests.documents import CHECKOUT


def _options_on_the_page() -> dict[str, set[str]]:
    """The options of each command on the page, by the words that call it."""
    sections = re.split(r"^### entrepot ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0]: set(re.findall(r"^- `[^`]*?(--[a-z-]+)", section, re.MULTILINE))
        for section in sections
    }


def _long_options(command: click.Command) -> set[str]:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in option.opts if name.startswith("--")}


def test_the_reference_of_commands_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "Regenerate it with: python -m docs.make_cli"


def test_the_reference_has_each_command_with_each_of_its_options_and_no_other() -> None:
    assert _options_on_the_page() == {
        " ".join(words): _long_options(command) for words, command in commands()
    }


def test_the_options_before_a_command_are_explained_in_sentences() -> None:
    text = "".join((CHECKOUT / f"docs/{name}.md").read_text() for name in ("remote", "dashboard"))
    for option in _long_options(cli) - {"--version"}:
        assert f"`{option}" in text or f" {option}" in text, option
