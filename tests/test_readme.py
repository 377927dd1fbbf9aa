"""What the README tells people to write and to type is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from entrepot.cli.main import cli
from entrepot.config.settings import Settings
from entrepot.core.registries import TABLE
from entrepot.core.states import SignIn

README = (Path(__file__).parents[1] / "README.md").read_text()


def commands(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += (
            commands(command, *before, name)
            if isinstance(command, click.Group)
            else []
            if command.hidden
            else [(*before, name)]
        )
    return found


def _typed() -> list[list[str]]:
    """The commands of ``entrepot`` in the README's blocks for a shell."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [
        line for block in blocks for line in block.splitlines() if line.startswith("entrepot ")
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_its_settings_are_the_defaults_and_two_source_registries(tmp_path: Path) -> None:
    [example] = [
        block
        for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
        if "[upstreams" in block
    ]
    path = tmp_path / "settings.toml"
    path.write_text(example)
    settings = Settings.load(path)
    assert settings == Settings(upstreams=settings.upstreams)
    assert [each.login_server for each in settings.upstreams] == [
        "registry.example.com",
        "docker.io",
    ]


def test_it_names_every_command() -> None:
    for command in commands(cli):
        *group, last = command
        assert re.search(rf"`entrepot {' '.join(command)}\b", README) or re.search(
            rf"`entrepot {' '.join(group)} \w+` and `{last}\b", README
        ), command


@pytest.mark.parametrize("arguments", _typed(), ids=" ".join)
def test_what_it_tells_to_type_can_be_typed(arguments: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        # Options of a group stand before the name of its command; entrepot without one opens the
        # dashboard.
        context = command.make_context(str(command.name), list(arguments), resilient_parsing=True)
        _, arguments, _ = command.make_parser(context).parse_args(list(arguments))
        if command is cli and not arguments:
            return
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(str(command.name), arguments)


def test_its_table_of_source_registries_is_the_engine_s() -> None:
    words = {SignIn.REQUIRED: "required", SignIn.OPTIONAL: "optional", SignIn.NONE: "not allowed"}
    assert re.findall(r"^  \| (\S[^|]*) \| `([^`]+)` \| ([^|]+) \|$", README, re.MULTILINE) == [
        (each.name, each.login_server, words[each.sign_in]) for each in TABLE
    ]


def test_its_pictures_are_there() -> None:
    pictures = re.findall(r"\]\((screenshots/[^)]+)\)", README)
    assert len(pictures) >= 5
    for each in pictures:
        assert (Path(__file__).parents[1] / each).is_file()
