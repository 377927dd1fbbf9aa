"""``entrepot keys``: all keys, and what is wrong with those of the user."""

from __future__ import annotations

import re

from entrepot.config.directories import Directories
from tests.cli.conftest import CommandLine


async def test_all_keys_are_printed_with_the_users_own(
    alone: CommandLine, directories: Directories
) -> None:
    directories.config.mkdir(parents=True)
    (directories.config / "keymap.toml").write_text(
        '[keys]\n"rules.new" = "f5"\n"rules.nw" = "f6"\n'
    )
    result = await alone.done("keys")
    assert re.search(r"^f5 +Create a cache rule +rules\.new$", result.output, re.MULTILINE)
    assert "Go to Overview" in result.output
    assert "There is no binding rules.nw. Did you mean rules.new?" in result.errors
    markdown = (await alone.done("keys", "--markdown")).output
    assert "| `f5` | Create a cache rule | `rules.new` |" in markdown


async def test_a_check_tells_mistakes_and_ends_with_them(
    alone: CommandLine, directories: Directories
) -> None:
    directories.config.mkdir(parents=True)
    keymap = directories.config / "keymap.toml"
    keymap.write_text('[keys]\n"rules.new" = "d"\n')
    result = await alone.run("keys", "--check")
    assert (result.status, result.output) == (1, "")
    assert "would be for rules.new and for rules.delete" in result.errors
    keymap.write_text('[keys]\n"rules.new" = "f5"\n')
    result = await alone.done("keys", "--check")
    assert result.errors == "All keys of keymap.toml can be used.\n"


async def test_the_dashboards_options_are_not_for_commands(alone: CommandLine) -> None:
    result = await alone.run("--ascii", "status")
    assert result.status == 2
    assert "are for the dashboard" in result.errors
