"""The commands and the TOML that the wizards show make the very same."""

from __future__ import annotations

import shlex

from entrepot.engine.engine import Engine
from tests.cli.conftest import CommandLine
from tests.conftest import LOGIN_SERVER
from tui.presentation.drafts import (
    credential_set_command,
    credential_set_toml,
    rule_command,
    rule_toml,
)

SET = ("example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "command:/usr/bin/pass 'hub token'")
RULE = ("team-apps", f"{LOGIN_SERVER}/team/*", "team/*", "example-login", "90 min")


async def test_the_command_and_the_toml_of_a_draft_make_the_same(
    entrepot: CommandLine, engine: Engine
) -> None:
    for command in (credential_set_command(*SET), rule_command(*RULE)):
        _, *arguments = shlex.split(command.replace("\\\n", " "))
        # It has the engine run a program, for which a person at a terminal is asked (S13).
        await entrepot.done(*arguments, *(["--yes"] if "command:" in command else []))
    rule, credential_set = (
        engine.documents.rules.get("team-apps").draft,
        engine.documents.credential_sets.get("example-login").draft,
    )
    again = await engine.rules.preview_import(f"{credential_set_toml(*SET)}\n{rule_toml(*RULE)}\n")
    assert {each.outcome for each in again.entries} == {"unchanged"}
    await engine.rules.delete("team-apps")
    await engine.credential_sets.delete("example-login")
    await engine.rules.apply_import(f"{credential_set_toml(*SET)}\n{rule_toml(*RULE)}\n")
    assert engine.documents.rules.get("team-apps").draft == rule
    assert engine.documents.credential_sets.get("example-login").draft == credential_set
