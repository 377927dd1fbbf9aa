"""Which rule answers for what a person types."""

from __future__ import annotations

import pytest

from entrepot.core.credentials import CredentialBook
from entrepot.core.reference import Digest
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_lookup import RuleLookup, match
from entrepot.core.rules import RuleBook, RuleDraft
from entrepot.errors import Refusal

OWN = {"127.0.0.1:5000", "cache.example.com"}
RULES = {
    "mcr-dotnet": ("mcr.microsoft.com/dotnet/*", "dotnet/*"),
    "quay-all": ("quay.io/*", "quay/*"),
    "quay-etcd": ("quay.io/coreos/etcd", "etcd"),
    "k8s-pause": ("registry.k8s.io/pause", "k8s/pause"),
    "k8s-library": ("registry.k8s.io/official/*", "library/*"),
}


def book(rules: dict[str, tuple[str, str]]) -> RuleBook:
    registries = SourceRegistries()
    rule_book = RuleBook(registries, CredentialBook(registries))
    for name, (source, target) in rules.items():
        rule_book = rule_book.with_rule(rule_book.parse(RuleDraft(name, source, target)))
    return rule_book


def asked(image: str, rules: dict[str, tuple[str, str]] = RULES) -> RuleLookup:
    return match(image, book(rules), SourceRegistries(), OWN)


@pytest.mark.parametrize(
    ("image", "rule", "repository", "source"),
    [
        ("dotnet/sdk:9.0", "mcr-dotnet", "dotnet/sdk", "mcr.microsoft.com/dotnet/sdk"),
        (
            "127.0.0.1:5000/dotnet/sdk:9.0",
            "mcr-dotnet",
            "dotnet/sdk",
            "mcr.microsoft.com/dotnet/sdk",
        ),
        (
            "Cache.Example.com/dotnet/sdk",
            "mcr-dotnet",
            "dotnet/sdk",
            "mcr.microsoft.com/dotnet/sdk",
        ),
        (
            "https://cache.example.com/dotnet/sdk",
            "mcr-dotnet",
            "dotnet/sdk",
            "mcr.microsoft.com/dotnet/sdk",
        ),
        (
            "mcr.microsoft.com/dotnet/sdk:9.0",
            "mcr-dotnet",
            "dotnet/sdk",
            "mcr.microsoft.com/dotnet/sdk",
        ),
        ("registry.k8s.io/pause", "k8s-pause", "k8s/pause", "registry.k8s.io/pause"),
        ("quay.io/prometheus/node", "quay-all", "quay/prometheus/node", "quay.io/prometheus/node"),
        (" etcd ", "quay-etcd", "etcd", "quay.io/coreos/etcd"),
    ],
)
def test_an_image_here_or_at_its_source_finds_its_rule(
    image: str, rule: str, repository: str, source: str
) -> None:
    lookup = asked(image)
    assert lookup.route is not None
    assert (lookup.route.rule.name, lookup.repository, lookup.route.source) == (
        rule,
        repository,
        source,
    )


def test_the_rule_for_one_repository_comes_before_the_one_for_all() -> None:
    lookup = asked("quay.io/coreos/etcd:v3")
    assert (lookup.repository, lookup.tag, lookup.others) == ("etcd", "v3", ("quay/coreos/etcd",))


def test_a_rule_that_another_one_beats_at_its_target_is_not_named() -> None:
    lookup = asked(
        "quay.io/coreos/etcd",
        {
            "quay-all": ("quay.io/*", "quay/*"),
            "etcd-other": ("registry.k8s.io/etcd", "quay/coreos/etcd"),
        },
    )
    assert (lookup.route, lookup.repository) == (None, None)


def test_a_tag_counts_only_where_it_was_written() -> None:
    digest = Digest.of(b"")
    assert [
        (found.tag, found.digest) for found in map(asked, ("etcd", "etcd:latest", f"etcd@{digest}"))
    ] == [(None, None), ("latest", None), (None, digest)]


def test_a_repository_here_may_begin_with_the_name_of_a_host() -> None:
    lookup = asked("ghcr.io/acme/app", {"with-host": ("quay.io/acme/*", "ghcr.io/acme/*")})
    assert lookup.route is not None
    assert (lookup.repository, lookup.route.source) == ("ghcr.io/acme/app", "quay.io/acme/app")


@pytest.mark.parametrize(
    ("image", "near", "why"),
    [
        ("pause", "k8s-library", "It answers for library/pause."),
        (
            "dotnet",
            "mcr-dotnet",
            "It answers for what is below dotnet/, and not for dotnet itself.",
        ),
        ("etcd/server", "quay-etcd", "It answers for etcd alone, and not for what is below it."),
        ("dotnets/sdk", "mcr-dotnet", "Its target is dotnet/*."),
        (
            "mcr.microsoft.com/powershell",
            "mcr-dotnet",
            "It pulls mcr.microsoft.com/dotnet/* from the same registry.",
        ),
    ],
)
def test_where_no_rule_answers_those_that_come_near_are_named(
    image: str, near: str, why: str
) -> None:
    lookup = asked(image)
    assert lookup.route is None
    assert lookup.why_not is not None
    assert (lookup.near[0].rule.name, lookup.near[0].why) == (near, why)
    assert len(lookup.near) <= 5


@pytest.mark.parametrize(
    ("image", "rules", "told"),
    [
        ("nginx", {}, "There is no rule at all. Create one"),
        ("nothing/like/it", RULES, "No cache rule answers for nothing/like/it. Create one"),
        (
            "ghcr.io/acme/app",
            RULES,
            "No cache rule pulls from ghcr.io/acme/app. None pulls from ghcr.io at all.",
        ),
        ("registry.nowhere.example/app", RULES, "registry.nowhere.example"),
    ],
)
def test_why_no_rule_answers(image: str, rules: dict[str, tuple[str, str]], told: str) -> None:
    lookup = asked(image, rules)
    assert lookup.route is None
    assert told in (lookup.why_not or "")


@pytest.mark.parametrize(
    "image", ["Not A Name", "library/nginx:", "library/*", "nginx@sha256:1", "quay.io/", ""]
)
def test_what_names_no_image_is_refused(image: str) -> None:
    with pytest.raises(Refusal):
        asked(image)
