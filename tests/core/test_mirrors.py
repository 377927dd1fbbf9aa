"""From the names of images at their source registries to target repositories."""

from __future__ import annotations

import pytest

from entrepot.core.credentials import CredentialBook
from entrepot.core.mirrors import SourceIndex, parse_namespace
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.core.rules import Route, RuleBook, RuleDraft
from entrepot.core.states import SignIn
from entrepot.errors import RequestInvalid

LOCAL = "registry.example.com:5000"
REGISTRIES = SourceRegistries(
    [
        DeclaredRegistry("docker.io", sign_in=SignIn.NONE),
        DeclaredRegistry(LOCAL),
        DeclaredRegistry("[::1]:5000"),
        DeclaredRegistry("quay.io:443"),
    ]
)
RULES = {
    "hub-library": ("docker.io/library/*", "library/*"),
    "hub-rest": ("docker.io/*", "hub/*"),
    "hub-nginx": ("docker.io/nginx", "web/nginx"),
    "quay-all": ("quay.io/*", "quay/*"),
    "quay-alpine": ("quay.io/forks/alpine", "library/alpine"),
    "local-team": (f"{LOCAL}/team/*", "team/*"),
    "quay-tls": ("quay.io:443/tls/*", "tls/*"),
    "loopback": ("[::1]:5000/*", "loopback/*"),
}


class CountingBook(RuleBook):
    """A book that counts how often it is asked for the rule of a target repository."""

    look_ups = 0

    def route(self, repository: str) -> Route | None:
        CountingBook.look_ups += 1
        return super().route(repository)


def book(rules: dict[str, tuple[str, str]]) -> RuleBook:
    rule_book = RuleBook(REGISTRIES, CredentialBook(REGISTRIES))
    for name, (source, target) in rules.items():
        rule_book = rule_book.with_rule(rule_book.parse(RuleDraft(name, source, target)))
    return rule_book


def target(
    namespace: str, name: str, rules: dict[str, tuple[str, str]] = RULES
) -> tuple[str, str] | None:
    result = SourceIndex(book(rules)).find(parse_namespace(namespace), name)
    return (result[0], result[1].rule.name) if result is not None else None


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("docker.io", "library/redis", ("library/redis", "hub-library")),
        ("docker.io", "redis", ("library/redis", "hub-library")),
        ("index.docker.io", "redis", ("library/redis", "hub-library")),
        ("registry-1.docker.io", "library/redis", ("library/redis", "hub-library")),
        ("Docker.IO", "redis", ("library/redis", "hub-library")),
        ("docker.io:443", "redis", ("library/redis", "hub-library")),
        ("Index.docker.io:443", "redis", ("library/redis", "hub-library")),
        ("quay.io", "tls/app", ("tls/app", "quay-tls")),
        ("docker.io", "nginx", ("web/nginx", "hub-nginx")),
        ("docker.io", "library/nginx", ("web/nginx", "hub-nginx")),
        ("docker.io", "grafana/loki", ("hub/grafana/loki", "hub-rest")),
        ("docker.io", "library/deep/name", ("library/deep/name", "hub-library")),
        ("quay.io", "forks/alpine", ("library/alpine", "quay-alpine")),
        ("quay.io", "alpine", ("quay/alpine", "quay-all")),
        (LOCAL, "team/app", ("team/app", "local-team")),
        ("[::1]:5000", "app", ("loopback/app", "loopback")),
    ],
)
def test_a_name_of_a_source_registry_finds_its_target(
    namespace: str, name: str, expected: tuple[str, str]
) -> None:
    assert target(namespace, name) == expected


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("ghcr.io", "library/redis"),
        ("docker.io:80", "redis"),
        ("registry.example.com", "team/app"),
        (LOCAL, "team"),
        (LOCAL, "other/app"),
        ("[::1]", "app"),
        ("127.0.0.1", "library/redis"),
        ("*.azurecr.io", "app"),
        ("evil.example", "library/redis"),
    ],
)
def test_a_name_to_which_no_rule_leads_finds_nothing(namespace: str, name: str) -> None:
    assert target(namespace, name) is None


def test_a_target_that_another_rule_has_taken_is_passed_over() -> None:
    """library/alpine comes from quay.io: it must not answer for Docker Hub's."""
    assert target("docker.io", "library/alpine") == ("hub/library/alpine", "hub-rest")
    without_rest = {name: rule for name, rule in RULES.items() if name != "hub-rest"}
    assert target("docker.io", "library/alpine", without_rest) is None


def test_of_rules_with_the_same_source_the_first_by_name_answers() -> None:
    rules = {f"copy-{n}": ("quay.io/coreos/etcd", f"etcd-{n}") for n in (3, 1, 2)}
    assert target("quay.io", "coreos/etcd", rules) == ("etcd-1", "copy-1")


def test_a_rule_that_may_not_be_read_gives_way_to_the_next() -> None:
    index = SourceIndex(book(RULES))
    hidden = {"hub-nginx", "hub-library"}
    result = index.find("docker.io", "nginx", lambda rule: rule.name not in hidden)
    assert result is not None
    assert result[0] == "hub/library/nginx"
    assert index.find("docker.io", "nginx", lambda _rule: False) is None


def test_a_target_beyond_the_longest_name_is_none() -> None:
    rules = {"deep-quay": ("quay.io/*", f"{'a' * 100}/*")}
    assert target("quay.io", f"{'b' * 60}/{'c' * 60}", rules) is not None
    assert target("quay.io", f"{'b' * 100}/{'c' * 100}", rules) is None


def test_a_thousand_rules_cost_a_look_up_nothing() -> None:
    rules = {f"rule-{n}": (f"quay.io/team{n}/*", f"team{n}/*") for n in range(999)}
    plain = book(rules | {"rule-last": ("quay.io/*", "quay/*")})
    counting = CountingBook(REGISTRIES, CredentialBook(REGISTRIES))
    for rule in plain:
        counting._add(rule)
    index = SourceIndex(counting)
    assert [rule.name for rule in index.covering("quay.io", "team500/a/b")] == [
        "rule-500",
        "rule-last",
    ]
    CountingBook.look_ups = 0
    assert index.find("quay.io", "team500/a/b") is not None
    assert index.find("ghcr.io", "team500/a/b") is None
    assert CountingBook.look_ups == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "../docker.io",
        "..",
        "docker.io/library",
        "http://127.0.0.1/",
        "::1",
        "[::1",
        "user@docker.io",
        "docker.io.",
        "docker.io:port",
        "docker.io\r\nX: y",
        "d\u00f6cker.io",
        "a" * 10_000,
        "://" * 3_000,
    ],
)
def test_what_is_no_login_server_is_refused_in_words(text: str) -> None:
    with pytest.raises(RequestInvalid) as refusal:
        parse_namespace(text)
    assert refusal.value.field == "ns"
    assert len(refusal.value.message) < 500
    assert refusal.value.message.isprintable()
