"""Rules and credential sets out of a text, held against those in force."""

from __future__ import annotations

import pytest

from entrepot.core.credentials import CredentialBook, CredentialSetDraft
from entrepot.core.readers import ReaderAccess
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import ImportResult, read_import
from entrepot.core.rules import RuleBook, RuleDraft
from entrepot.core.states import ImportOutcome

REGISTRIES = SourceRegistries()


def rule(name: str, source: str, target: str, *more: str) -> str:
    return "\n".join(
        [
            "[[rules]]",
            f'name = "{name}"',
            f'source_repository = "{source}"',
            f'target_repository = "{target}"',
            *more,
            "",
        ]
    )


def credential_set(name: str, login_server: str) -> str:
    return f'[[credential_sets]]\nname = "{name}"\nlogin_server = "{login_server}"\nusername_id = "env:U"\npassword_id = "env:P"\n'


def read(
    text: str,
    *there: RuleDraft,
    existing: tuple[str, ...] = (),
    sets: tuple[CredentialSetDraft, ...] = (),
) -> ImportResult:
    credentials = CredentialBook(REGISTRIES)
    for set_draft in sets:
        credentials = credentials.with_set(credentials.parse(set_draft))
    rules = RuleBook(REGISTRIES, credentials)
    for draft in there:
        rules = rules.with_rule(rules.parse(draft))
    return read_import(text, rules, credentials, existing)


def told(result: ImportResult) -> list[tuple[str, str, list[str]]]:
    return [
        (each.name, each.outcome.value, [problem.code for problem in each.problems])
        for each in result.entries
    ]


def test_rules_and_the_credential_sets_that_they_use_come_together() -> None:
    result = read(
        rule("hub-library", "docker.io/library/*", "library/*", 'credential_set = "hub-login"')
        + credential_set("hub-login", "docker.io")
    )
    assert told(result) == [("hub-login", "create", []), ("hub-library", "create", [])]
    assert result.possible
    assert result.rules.get("hub-library").credential_set == "hub-login"
    assert [each.line for each in result.entries] == [6, 1]


def test_what_is_in_force_already_is_unchanged_however_it_is_written() -> None:
    there = RuleDraft("hub-nginx", "docker.io/library/nginx", "nginx", "hub-login", "10 min")
    login = CredentialSetDraft("hub-login", "docker.io", "env:U", "env:P")
    text = credential_set("hub-login", "docker.io") + rule(
        "Hub-Nginx", "docker.io/nginx", "nginx", 'credential_set = "hub-login"', "freshness = 600"
    )
    result = read(text, there, sets=(login,), existing=("nginx",))
    assert told(result) == [("hub-login", "unchanged", []), ("Hub-Nginx", "unchanged", [])]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (
            rule("quay-all", "quay.io/other/*", "quay/*"),
            ["CacheRuleAlreadyExists", "CacheRuleTargetOverlap"],
        ),
        (rule("quay-two", "quay.io/*", "quay/*"), ["CacheRuleTargetOverlap"]),
        (rule("hub-nginx", "docker.io/library/nginx", "nginx"), ["EnforceDockerAuthentication"]),
        (
            rule("hub-nginx", "docker.io/library/nginx", "nginx", 'credential_set = "none-such"'),
            ["CredentialSetNotFound"],
        ),
        (
            rule("quay-etcd", "quay.io/coreos/etcd", "held/etcd"),
            ["TargetRepositoryAlreadyPresentInRegistry"],
        ),
        (
            '[[rules]]\nname = "quay-etcd"\nsource_repositry = "quay.io/a"\ntarget_repository = "a"\n',
            ["ImportInvalid", "ImportInvalid"],
        ),
    ],
)
def test_an_entry_that_can_not_be_says_why(text: str, codes: list[str]) -> None:
    result = read(text, RuleDraft("quay-all", "quay.io/*", "quay/*"), existing=("held/etcd",))
    [entry] = result.entries
    assert (entry.outcome, [each.code for each in entry.problems]) == (
        ImportOutcome.CONFLICT,
        codes,
    )
    assert not result.possible


def test_new_rules_are_held_against_each_other() -> None:
    result = read(
        rule("quay-one", "quay.io/one/*", "same/*")
        + rule("quay-two", "quay.io/two/*", "same/*")
        + rule("quay-one", "quay.io/three", "three")
    )
    assert told(result) == [
        ("quay-one", "create", []),
        ("quay-two", "conflict", ["CacheRuleTargetOverlap"]),
        ("quay-one", "conflict", ["CacheRuleAlreadyExists"]),
    ]


def test_more_rules_than_there_may_be_are_too_many_together() -> None:
    result = read(
        "".join(
            rule(f"quay-{number:04d}", f"quay.io/app/{number}", f"app/{number}")
            for number in range(1001)
        )
    )
    assert [outcome for _, outcome, _ in told(result)].count("create") == 1000
    assert told(result)[-1] == ("quay-1000", "conflict", ["CacheRuleLimitReached"])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[[rules]\n", 1, "It is not TOML"),
        ("\n[[rulez]]\n", 2, "There is no key rulez. Did you mean rules?"),
        ('[rules]\nname = "a"\n', 1, "Write each entry below a line [[rules]]."),
        ("# nothing\n", None, "It holds no rule and no credential set."),
    ],
)
def test_a_text_that_can_not_be_read_says_where(text: str, line: int | None, message: str) -> None:
    result = read(text)
    [problem] = result.problems
    assert (problem.line, result.possible) == (line, False)
    assert message in problem.refusal.message


def test_the_readers_of_a_rule_are_imported_and_compared() -> None:
    text = (
        '[[rules]]\nname = "acme-private"\nsource_repository = "mcr.microsoft.com/acme/*"\n'
        'target_repository = "acme/*"\nreaders = ["ci", "@ops"]\nanonymous = false\n'
    )
    sets = CredentialBook(SourceRegistries())
    result = read_import(text, RuleBook(SourceRegistries(), sets), sets)
    assert result.possible
    assert result.rules.get("acme-private").access == ReaderAccess(("ci", "@ops"), anonymous=False)
    again = read_import(text, result.rules, sets)
    assert [entry.outcome for entry in again.entries] == [ImportOutcome.UNCHANGED]
    other = read_import(text.replace('"ci", ', ""), result.rules, sets)
    assert [entry.outcome for entry in other.entries] == [ImportOutcome.CONFLICT]
    wrong = read_import(text.replace("@ops", "a b"), RuleBook(SourceRegistries(), sets), sets)
    [entry] = wrong.entries
    assert [problem.field for problem in entry.problems] == ["readers"]
