"""What the wizards show as command and as TOML is what command line and engine understand."""

from __future__ import annotations

import shlex
import tomllib

import pytest

from entrepot.cli.main import cli
from entrepot.core.secret_identifiers import KINDS, SecretIdentifier
from tui.presentation.drafts import (
    credential_set_change_command,
    credential_set_command,
    credential_set_toml,
    rule_command,
    rule_toml,
    token_command,
)
from tui.presentation.freshness import freshness_choices
from tui.presentation.secrets import SECRET_KINDS, identifier_help, secret_kind_of

ODD = 'command:/usr/bin/pass "hub token" --prompt \'\\n ü$(id)'


def words(command: str) -> list[str]:
    """As a shell reads it."""
    return shlex.split(command.replace("\\\n", " "))


def test_a_command_is_read_back_word_for_word_and_its_lines_are_short() -> None:
    command = credential_set_command("hub-login", "docker.io", "env:USER", ODD)
    assert words(command)[-2:] == ["--password-id", ODD]
    narrow = rule_command(
        "hub-library", "docker.io/library/*", "library/*", "hub-login", "10 min", width=48
    )
    assert words(narrow)[3:] == [
        "--name",
        "hub-library",
        "--source-repo",
        "docker.io/library/*",
        "--target-repo",
        "library/*",
        "--cred-set",
        "hub-login",
        "--freshness",
        "10 min",
    ]
    assert max(len(line) for line in narrow.split("\n")) <= 48


def test_what_is_left_out_is_not_told() -> None:
    assert words(rule_command("other", "quay.io/a", "a")) == [
        "entrepot",
        "rule",
        "create",
        "--name",
        "other",
        "--source-repo",
        "quay.io/a",
        "--target-repo",
        "a",
    ]
    assert rule_toml("other", "quay.io/a", "a").splitlines() == [
        "[[rules]]",
        'name = "other"',
        'source_repository = "quay.io/a"',
        'target_repository = "a"',
    ]
    assert words(credential_set_change_command("hub-login", None, "env:NEW")) == [
        "entrepot",
        "credential-set",
        "update",
        "--name",
        "hub-login",
        "--password-id",
        "env:NEW",
    ]


def test_toml_is_read_back_word_for_word() -> None:
    read = tomllib.loads(credential_set_toml("hub-login", "docker.io", "env:USER", ODD))
    assert read == {
        "credential_sets": [
            {
                "name": "hub-login",
                "login_server": "docker.io",
                "username_id": "env:USER",
                "password_id": ODD,
            }
        ]
    }


def test_every_kind_of_secret_that_the_engine_knows_has_an_example_that_it_takes() -> None:
    assert {each.begins.removesuffix(":") for each in SECRET_KINDS} == set(KINDS)
    for each in SECRET_KINDS:
        for example in (each.username, each.password):
            assert str(SecretIdentifier.parse(example)) == example
            assert secret_kind_of(example) is each


def test_what_is_no_identifier_yet_is_told_what_one_is() -> None:
    assert identifier_help("hunter2") == identifier_help("")
    assert identifier_help("FILE:/x") == identifier_help("file:")
    assert "never stored" in identifier_help("")


@pytest.mark.parametrize(
    ("of_settings", "told"),
    [("5 min", "ask after 5 min"), ("always", "ask each time"), ("never", "never ask again")],
)
def test_the_freshness_of_the_settings_is_told(of_settings: str, told: str) -> None:
    default = freshness_choices(of_settings)[0]
    assert default.short == told
    assert "Docker Hub" in default.why


def test_the_command_of_a_token_is_one_that_the_command_line_takes() -> None:
    command = words(token_command("ci", "90d", ("ops", "web")))
    assert command[:3] == ["entrepot", "token", "create"]
    options = cli.commands["token"].commands["create"].make_context("create", command[3:]).params  # type: ignore[attr-defined]
    assert (options["name"], options["expires"], options["groups"]) == ("ci", "90d", ("ops", "web"))
    assert token_command("ci", None, ()) == "entrepot token create ci"
