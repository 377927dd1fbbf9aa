"""Credential sets in rows, sentences, facts and commands."""

from __future__ import annotations

import shlex

import click
import msgspec

from entrepot.api.models import CredentialSetSnapshot
from entrepot.cli.main import cli
from entrepot.core.states import HealthStatus
from tui.presentation.credentials import (
    credential_set_command,
    credential_set_facts,
    credential_set_lines,
    credential_set_row,
)

NOW = 1_780_000_000.0

SET = CredentialSetSnapshot(
    name="hub-login", login_server="docker.io", username_id="env:U", password_id="command:/usr/bin/pass hub", created=NOW, health=HealthStatus.UNHEALTHY,
    error_code="SourceRefused", error_message="docker.io refuses.", checked=NOW - 60, used_by=("hub-library",),
)  # fmt: skip


def test_an_unhealthy_credential_set_says_why_and_who_uses_it() -> None:
    first, second = credential_set_lines(SET, NOW)
    assert first == "hub-login is unhealthy, checked 1 min ago: docker.io refuses. (SourceRefused)"
    assert second.startswith("used by hub-library")


def test_of_many_rules_that_use_a_set_some_are_named_and_all_are_counted() -> None:
    many = msgspec.structs.replace(SET, used_by=tuple(f"rule-{number:02}" for number in range(20)))
    assert credential_set_lines(many, NOW)[1].startswith(
        "used by rule-00, rule-01, rule-02 and 17 more"
    )
    values = [value for _, value in credential_set_facts(many, NOW)]
    assert values[-1] == "and 8 more"
    assert "20" in values


def test_the_facts_of_a_healthy_set_have_no_reason() -> None:
    well = msgspec.structs.replace(
        SET, health=HealthStatus.HEALTHY, error_code=None, error_message=None
    )
    facts = dict(credential_set_facts(well, NOW))
    assert facts["Health"] == "healthy"
    assert facts["Checked"] == "1 min ago"
    assert not {"Reason", "Code"} & set(facts)
    assert dict(credential_set_facts(SET, NOW))["Reason"] == "docker.io refuses."


def test_sorted_by_health_the_sets_that_need_somebody_come_first() -> None:
    rows = [
        credential_set_row(msgspec.structs.replace(SET, health=health)) for health in HealthStatus
    ]
    assert [row.cells[4].text for row in sorted(rows, key=lambda row: row.order(4))] == [
        "unhealthy",
        "unknown",
        "healthy",
    ]


def test_the_command_of_a_set_is_one_that_the_command_line_takes() -> None:
    words = shlex.split(credential_set_command(SET).replace("\\\n", " "))
    assert words[:3] == ["entrepot", "credential-set", "create"]
    group = cli.commands["credential-set"]
    assert isinstance(group, click.Group)
    options = group.commands["create"].make_context("create", words[3:]).params
    assert (options["name"], options["login_server"]) == ("hub-login", "docker.io")
    assert (options["username_id"], options["password_id"]) == (
        "env:U",
        "command:/usr/bin/pass hub",
    )
