"""Cache rules in rows, sentences, facts, commands and documents."""

from __future__ import annotations

import shlex
import tomllib

import msgspec

from entrepot.api.models import RuleSnapshot
from entrepot.cli.main import cli
from tui.presentation.drafts import COMMAND_WIDTH
from tui.presentation.rules import rule_command, rule_facts, rule_lines, rule_row, rule_toml

NOW = 1_780_000_000.0

RULE = RuleSnapshot(
    name="hub-library", source_repository="docker.io/library/*", target_repository="library/*", credential_set="hub-login", created=NOW - 86_400,
    login_server="docker.io", pulls=1204, last_pull=NOW - 120, freshness="10 min", freshness_in_force="10 min",
    repositories=37, size=18_200_000_000, requests_made=24, requests_saved=1176,
)  # fmt: skip


def test_a_rule_is_a_row_of_its_names_and_uses() -> None:
    row = rule_row(RULE, lambda: NOW)
    assert [cell.text for cell in row.cells] == [
        "hub-library",
        "docker.io/library/*",
        "library/*",
        "hub-login",
        "everyone",
        "1,204",
        "2 min",
    ]


def test_rules_are_sorted_by_numbers_and_times_and_what_was_never_used_is_oldest() -> None:
    never = rule_row(msgspec.structs.replace(RULE, pulls=9, last_pull=None), lambda: NOW)
    used = rule_row(RULE, lambda: NOW)
    assert never.order(5) < used.order(5)
    assert never.order(6) < used.order(6)


def test_a_filter_finds_a_rule_by_its_source_target_and_sign_in() -> None:
    assert all(
        rule_row(RULE, lambda: NOW).matches([word])
        for word in ("hub-lib", "docker.io", "library/*", "hub-login")
    )


def test_a_rule_says_what_it_does_and_what_it_saved() -> None:
    assert rule_lines(RULE, NOW) == (
        "hub-library answers for library/* with docker.io/library/*",
        "37 repositories, 18.2 GB   1,204 pulls, last 2 min ago   98 % from the cache",
        f"credential set hub-login   tag lifetime 10 min   created {dict(rule_facts(RULE, NOW))['Created']}",
        "readers everyone",
    )
    unused = msgspec.structs.replace(
        RULE,
        credential_set=None,
        repositories=0,
        pulls=0,
        last_pull=None,
        freshness=None,
        requests_made=0,
        requests_saved=0,
    )
    assert rule_lines(unused, NOW)[1] == "never pulled"
    assert "credential set none   tag lifetime 10 min (default)" in rule_lines(unused, NOW)[2]


def test_the_facts_of_a_rule_count_requests_made_and_saved() -> None:
    facts = dict(rule_facts(RULE, NOW))
    assert (
        facts["Requests made"],
        facts["Requests saved"],
        facts["Pulls"],
        facts["Last pull"],
    ) == ("24", "1,176 (98 %)", "1,204", "2 min ago")


def test_the_command_of_a_rule_is_one_that_the_command_line_takes() -> None:
    command = rule_command(RULE)
    assert all(len(line) <= COMMAND_WIDTH + 2 for line in command.splitlines())
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["entrepot", "rule", "create"]
    options = cli.commands["rule"].commands["create"].make_context("create", words[3:]).params  # type: ignore[attr-defined]
    assert (options["name"], options["source_repo"], options["target_repo"]) == (
        "hub-library",
        "docker.io/library/*",
        "library/*",
    )
    assert (options["cred_set"], options["freshness"]) == ("hub-login", "10 min")
    assert (options["readers"], options["anonymous"]) == ((), None)


def test_the_command_of_a_rule_names_its_readers() -> None:
    named = msgspec.structs.replace(RULE, readers=("ci", "@ops"), anonymous=False)
    words = shlex.split(rule_command(named).replace("\\\n", " "))
    options = cli.commands["rule"].commands["create"].make_context("create", words[3:]).params  # type: ignore[attr-defined]
    assert (options["readers"], options["anonymous"]) == (("ci", "@ops"), False)
    [entry] = tomllib.loads(rule_toml(named))["rules"]
    assert (entry["readers"], entry["anonymous"]) == (["ci", "@ops"], False)
    everyone = msgspec.structs.replace(RULE, anonymous=True)
    assert tomllib.loads(rule_toml(everyone))["rules"][0]["anonymous"] is True


def test_a_rule_with_many_readers_says_how_many_more_there_are() -> None:
    readers = tuple(f"reader-{number}" for number in range(9))
    many = msgspec.structs.replace(RULE, readers=readers, readable_by=", ".join(readers))
    assert rule_lines(many, NOW)[3] == "readers reader-0, reader-1, reader-2, reader-3 and 5 more"
    assert rule_row(many, lambda: NOW).matches(["reader-8"])


def test_the_entry_of_a_rule_is_toml_and_leaves_out_what_it_does_not_have() -> None:
    assert tomllib.loads(rule_toml(RULE)) == {
        "rules": [
            {
                "name": "hub-library",
                "source_repository": "docker.io/library/*",
                "target_repository": "library/*",
                "credential_set": "hub-login",
                "freshness": "10 min",
            }
        ]
    }
    plain = msgspec.structs.replace(RULE, credential_set=None, freshness=None)
    assert set(tomllib.loads(rule_toml(plain))["rules"][0]) == {
        "name",
        "source_repository",
        "target_repository",
    }
