from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.credentials import CredentialBook, CredentialSetDraft, CredentialSetInUse
from entrepot.core.patterns import SourceRepository, TargetRepository
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.core.rules import (
    CacheRule,
    CacheRuleImmutable,
    CacheRuleTargetOverlap,
    RuleBook,
    RuleDraft,
    RulesInvalid,
)
from entrepot.core.states import SignIn
from entrepot.errors import NotFound, Refusal

DATA = Path(__file__).parents[1] / "data"
VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (DATA / "rule-overlap-and-mapping-vectors.json").read_text()
)
ERRORS: list[dict[str, Any]] = json.loads((DATA / "error-messages.json").read_text())["errors"]
EXAMPLES: dict[str, Any] = json.loads(
    (DATA / "swagger-examples-2023-01-01-preview.json").read_text()
)

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
REGISTRIES = SourceRegistries(
    [DeclaredRegistry("localhost:5001", sign_in=SignIn.NONE, endpoint="http://localhost:5001")]
)


def credential_book(**login_servers: str) -> CredentialBook:
    book = CredentialBook(REGISTRIES)
    for name, login_server in login_servers.items():
        book = book.with_set(
            book.parse(
                CredentialSetDraft(
                    name.replace("_", "-"), login_server, "env:USER_NAME", "env:PASSWORD"
                ),
                created=NOW,
            )
        )
    return book


CREDENTIALS = credential_book(
    hub_login="docker.io", hub_other="docker.io", ghcr_login="ghcr.io", acme_login="acme.azurecr.io"
)


def book_of(*rules: tuple[str, str, str] | tuple[str, str, str, str]) -> RuleBook:
    """A book of rules, each as name, source and target; Docker Hub's get their credential set."""
    book = RuleBook(REGISTRIES, CREDENTIALS)
    for name, source, target, *credential_set in rules:
        chosen = (
            credential_set[0]
            if credential_set
            else "hub-login"
            if "docker.io/" in source.partition("/")[0] + "/"
            else None
        )
        book = book.with_rule(book.parse(RuleDraft(name, source, target, chosen), created=NOW))
    return book


def read_back(rules: Iterable[CacheRule]) -> RuleBook:
    """A book that is read from the drafts of *rules*."""
    return RuleBook.read(((rule.draft, rule.created) for rule in rules), REGISTRIES, CREDENTIALS)


def refused(book: RuleBook, draft: RuleDraft, **given: Any) -> Refusal:
    """The refusal of a draft, after a look that nothing changed."""
    before = list(book)
    with pytest.raises(Refusal) as caught:
        book.parse(draft, **given)
    assert list(book) == before
    refusal = caught.value
    assert (refusal.code, refusal.message, refusal.field) in [
        (each.code, each.message, each.field)
        for each in book.validate(complete(draft), **given).problems
    ]
    assert refusal.hint, "a refusal says what to do"
    return refusal


def complete(draft: RuleDraft) -> RuleDraft:
    """A draft of which every field is to be judged."""
    return RuleDraft(
        draft.name or "",
        draft.source_repository or "",
        draft.target_repository or "",
        draft.credential_set or "",
    )


# The vectors of ACR


@pytest.mark.parametrize(
    "vector",
    [each for each in VECTORS["mapping"] if "request" in each],
    ids=lambda each: f"{each['target']} {each['request']}",
)
def test_a_request_is_mapped_as_acr_maps_it(vector: dict[str, str]) -> None:
    route = book_of(("the-rule", vector["source"], vector["target"])).route(vector["request"])
    assert route is not None
    assert f"{route.registry.login_server}/{route.repository}" == vector["upstream"]


@pytest.mark.parametrize("vector", VECTORS["mapping"], ids=lambda each: each["target"])
def test_a_rule_that_acr_has_is_accepted_and_written_back_as_it_was(vector: dict[str, str]) -> None:
    (rule,) = book_of(("the-rule", vector["source"], vector["target"]))
    assert (str(rule.source), str(rule.target)) == (vector["source"], vector["target"])


@pytest.mark.parametrize(
    "vector",
    VECTORS["coexistence"],
    ids=lambda each: f"{each['existing']['target']} then {each['new']['target']}",
)
def test_two_rules_stand_beside_each_other_where_acr_lets_them(vector: dict[str, Any]) -> None:
    targets = [
        vector[each]["target"].replace("<same static path>", "library/dotnet")
        for each in ("existing", "new")
    ]
    sources = [vector[each].get("source", "") for each in ("existing", "new")]
    fallback = ["mcr.microsoft.com/one", "mcr.microsoft.com/two"]
    sources = [
        source if "/" in source else other + ("/*" if target.endswith("*") else "")
        for source, other, target in zip(sources, fallback, targets, strict=True)
    ]
    book = book_of(("existing", sources[0], targets[0]))
    draft = RuleDraft(
        "the-new",
        sources[1],
        targets[1],
        "hub-login" if sources[1].startswith("docker.io") else None,
    )
    if vector["allowed"]:
        assert len(book.with_rule(book.parse(draft))) == 2
    else:
        refusal = refused(book, draft)
        assert (refusal.code, refusal.field, refusal.status) == (
            "CacheRuleTargetOverlap",
            "targetRepository",
            409,
        )
        assert "existing" in refusal.what


def test_the_rule_of_acrs_own_example_is_accepted() -> None:
    properties = EXAMPLES["CacheRuleCreate"]["body"]["properties"]
    rule = RuleBook(REGISTRIES, CREDENTIALS).parse(
        RuleDraft(
            "myCacheRule",
            properties["sourceRepository"],
            properties["targetRepository"],
            "hub-login",
        )
    )
    assert (str(rule.source), str(rule.target)) == (
        "docker.io/library/hello-world",
        "cached-docker-hub/hello-world",
    )


def _documented(code: str) -> str:
    message: str = next(each["message"] for each in ERRORS if each["code"] == code)
    return message


def test_docker_hub_without_credentials_is_refused_in_the_words_of_acr() -> None:
    refusal = refused(book_of(), RuleDraft("hub-nginx", "docker.io/library/nginx", "nginx"))
    assert (refusal.code, refusal.field, refusal.status) == (
        "EnforceDockerAuthentication",
        "credentialSet",
        400,
    )
    assert _documented(refusal.code).startswith(refusal.message)


def test_a_static_target_that_exists_is_refused_in_the_words_of_acr() -> None:
    refusal = refused(
        book_of(),
        RuleDraft("the-rule", "ghcr.io/acme/mise", "mise"),
        existing_repositories=["mise"],
    )
    assert (refusal.code, refusal.field, refusal.status) == (
        "TargetRepositoryAlreadyPresentInRegistry",
        "targetRepository",
        409,
    )
    assert _documented(refusal.code).startswith(f"Conflict: {refusal.what}")
    assert "Delete the repository first" in refusal.hint


@pytest.mark.parametrize("target", ["mise/*", "*"])
def test_a_wildcard_over_an_existing_repository_is_refused_in_the_words_of_acr(target: str) -> None:
    refusal = refused(
        book_of(),
        RuleDraft("the-rule", "ghcr.io/acme/*", target),
        existing_repositories=["mise/en/place", "mise/b", "mise/c", "mise/d"],
    )
    assert (refusal.code, refusal.field) == (
        "TargetRepositoryPrefixMatchesExistingRegistries",
        "targetRepository",
    )
    assert refusal.what.startswith(
        _documented(refusal.code).replace("<prefix>/*", target).rstrip(".")
    )
    assert refusal.what.endswith(": mise/b, mise/c, mise/d and 1 more.")


def test_an_upstream_that_is_not_supported_is_refused_in_the_words_of_acr() -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", "xpkg.upbound.io/a", "a"))
    documented = next(
        each["message"]
        for each in ERRORS
        if (each["message"] or "").startswith("Unsupported upstream")
    )
    assert (refusal.code, refusal.field) == ("UpstreamNotSupported", "sourceRepository")
    assert refusal.what.startswith(documented.replace("xpkg.upbound.io/*", "xpkg.upbound.io")[:110])


# Reading a source and a target


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        ("", "GenericRepositoryNameInvalid", "is missing"),
        ("docker.io/nginx:1.27", "GenericRepositoryNameInvalid", "Leave it out and write nginx;"),
        (
            "docker.io/library/python:3.11-bookworm",
            "GenericRepositoryNameInvalid",
            "it carries a tag",
        ),
        (
            f"docker.io/nginx@sha256:{'a' * 64}",
            "GenericRepositoryNameInvalid",
            "it carries a digest",
        ),
        (
            "docker.io/nginx:1.27/*",
            "GenericRepositoryNameInvalid",
            "Leave it out and write nginx/*;",
        ),
        (
            "docker.io/nginx:1@sha256:aa",
            "GenericRepositoryNameInvalid",
            "Leave it out and write nginx;",
        ),
        (
            "docker://docker.io/nginx",
            "GenericRepositoryNameInvalid",
            "Leave out docker:// and write docker.io/nginx.",
        ),
        (
            "https://ghcr.io/acme/api",
            "GenericRepositoryNameInvalid",
            "Leave out https:// and write ghcr.io/acme/api.",
        ),
        ("docker.io/Library/Nginx", "GenericRepositoryNameInvalid", "Write library/nginx."),
        ("docker.io/", "GenericRepositoryNameInvalid", "docker.io/*"),
        ("docker.io", "GenericRepositoryNameInvalid", "docker.io/*"),
        ("docker.io//nginx", "GenericRepositoryNameInvalid", "repository name"),
        ("docker.io/nginx/", "GenericRepositoryNameInvalid", "repository name"),
        ("ghcr.io/" + "a" * 256, "GenericRepositoryNameInvalid", "at most 255"),
        ("*.azurecr.io/acme", "GenericRepositoryNameInvalid", "contoso.azurecr.io/acme"),
        ("docker.io/lib*", "CacheRuleWildcardInvalid", "the last part of a path"),
        ("docker.io/*/nginx", "CacheRuleWildcardInvalid", "the last part of a path"),
        ("docker.io/**", "CacheRuleWildcardInvalid", "the last part of a path"),
        ("docker.io/*/*", "CacheRuleWildcardInvalid", "the last part of a path"),
        ("docker.io/library/*:1.27", "CacheRuleWildcardInvalid", "the last part of a path"),
        ("nginx", "SourceLoginServerMissing", "docker.io/nginx"),
        ("library/nginx", "SourceLoginServerMissing", "docker.io/library/nginx"),
        ("library/*", "SourceLoginServerMissing", "docker.io/library/*"),
        ("nginx:1.27", "SourceLoginServerMissing", "docker.io/"),
        ("*", "SourceLoginServerMissing", "docker.io/*"),
        ("/nginx", "SourceLoginServerMissing", "docker.io/nginx"),
        ("registry.example.com/a", "UpstreamNotSupported", "settings.toml"),
        ("me@docker.io/a", "LoginServerInvalid", "host name"),
    ],
)
def test_a_source_that_can_not_be_read_is_refused_with_what_to_write(
    typed: str, code: str, says: str
) -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", typed, "target", "hub-login"))
    assert (refusal.code, refusal.field) == (code, "sourceRepository")
    assert says in refusal.message
    assert len(refusal.message) < 600


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("", "GenericRepositoryNameInvalid"),
        ("nginx:1.27", "GenericRepositoryNameInvalid"),
        ("localhost:5000/nginx", "GenericRepositoryNameInvalid"),
        ("https://contoso.azurecr.io/nginx", "GenericRepositoryNameInvalid"),
        ("Nginx", "GenericRepositoryNameInvalid"),
        ("/nginx", "GenericRepositoryNameInvalid"),
        ("nginx@", "GenericRepositoryNameInvalid"),
        ("/*", "GenericRepositoryNameInvalid"),
        ("ng*nx", "CacheRuleWildcardInvalid"),
        ("*/nginx", "CacheRuleWildcardInvalid"),
        ("library*", "CacheRuleWildcardInvalid"),
    ],
)
def test_a_target_that_can_not_be_read_is_refused(typed: str, code: str) -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", "ghcr.io/acme/api", typed))
    assert (refusal.code, refusal.field) == (code, "targetRepository")


@pytest.mark.parametrize(
    ("source", "target", "side"),
    [("ghcr.io/acme/*", "acme", "source"), ("ghcr.io/acme", "acme/*", "target")],
)
def test_a_wildcard_on_one_side_only_is_refused(source: str, target: str, side: str) -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", source, target))
    assert (refusal.code, refusal.field) == ("CacheRuleWildcardMismatch", "targetRepository")
    assert f"The {side} has a wildcard" in refusal.what


# Names and the limit


@pytest.mark.parametrize("name", ["aaaaa", "a" * 50, "-----", "Rule-1"])
def test_a_name_of_5_to_50_letters_digits_and_dashes_is_taken(name: str) -> None:
    assert book_of().parse(RuleDraft(name, "ghcr.io/a/b", "b")).name == name


@pytest.mark.parametrize(
    "name", ["", "aaaa", "a" * 51, "rule_1", "rule 1", "rüle1", "rule1\n", "rule/1"]
)
def test_any_other_name_is_refused(name: str) -> None:
    refusal = refused(book_of(), RuleDraft(name, "ghcr.io/a/b", "b"))
    assert (refusal.code, refusal.field) == ("InvalidResourceName", "name")


def test_a_name_is_unique_without_regard_to_case() -> None:
    refusal = refused(
        book_of(("hub-nginx", "docker.io/nginx", "nginx")),
        RuleDraft("HUB-Nginx", "ghcr.io/a/b", "b"),
    )
    assert (refusal.code, refusal.field, refusal.status) == ("CacheRuleAlreadyExists", "name", 409)
    assert "hub-nginx" in refusal.what


def many_rules(count: int) -> list[CacheRule]:
    return [
        CacheRule(
            f"rule-{number}",
            SourceRepository("ghcr.io", f"acme/r{number}", True),
            TargetRepository(f"team{number % 37}/r{number}", True),
            None,
            NOW,
        )
        for number in range(count)
    ]


def test_the_rule_after_the_thousandth_is_refused() -> None:
    book = read_back(many_rules(RuleBook.RULES_LIMIT))
    assert len(book) == 1000
    refusal = refused(book, RuleDraft("one-more", "ghcr.io/a/b", "b"))
    assert (refusal.code, refusal.field, refusal.status) == ("CacheRuleLimitReached", None, 409)
    assert "1,000" in refusal.what
    shorter = book.without("rule-7")
    assert len(shorter.with_rule(shorter.parse(RuleDraft("one-more", "ghcr.io/a/b", "b")))) == 1000


def test_a_book_of_more_than_a_thousand_rules_is_refused_once() -> None:
    with pytest.raises(RulesInvalid) as caught:
        read_back(many_rules(1002))
    ((position, refusal),) = caught.value.refusals
    assert (position, refusal.code) == (None, "CacheRuleLimitReached")
    assert "1,002" in refusal.what


# Overlap


@pytest.mark.parametrize(
    ("existing", "new", "says"),
    [
        ("*", "library/*", "The target library/* lies inside the target * of rule existing."),
        (
            "library/*",
            "library/dotnet/*",
            "The target library/dotnet/* lies inside the target library/* of rule existing.",
        ),
        (
            "library/dotnet/*",
            "library/*",
            "The target library/* contains the target library/dotnet/* of rule existing.",
        ),
        (
            "library/dotnet/*",
            "*",
            "The target * contains the target library/dotnet/* of rule existing.",
        ),
        ("library/*", "library/*", "The target library/* is the target of rule existing already."),
        (
            "library/dotnet",
            "library/dotnet",
            "The target library/dotnet is the target of rule existing already.",
        ),
    ],
)
def test_an_overlap_is_refused_and_names_both_targets(existing: str, new: str, says: str) -> None:
    def source(target: str, path: str) -> str:
        return f"ghcr.io/{path}/*" if target.endswith("*") else f"ghcr.io/{path}"

    refusal = refused(
        book_of(("existing", source(existing, "one"), existing)),
        RuleDraft("the-new", source(new, "two"), new),
    )
    assert (refusal.code, refusal.field, refusal.what) == (
        "CacheRuleTargetOverlap",
        "targetRepository",
        says,
    )


@pytest.mark.parametrize(
    ("existing", "new"),
    [
        ("library/*", "library2/*"),
        ("a/b/*", "a/c/*"),
        ("library/*", "library"),
        ("*", "a"),
        ("a", "*"),
        ("a/b", "a/*"),
        ("a", "a/b"),
        ("lib/*", "library/*"),
    ],
)
def test_targets_that_do_not_overlap_stand_beside_each_other(existing: str, new: str) -> None:
    def rule(name: str, target: str) -> tuple[str, str, str]:
        return name, f"ghcr.io/{name}/*" if target.endswith("*") else f"ghcr.io/{name}", target

    assert len(book_of(rule("existing", existing), rule("the-new", new))) == 2


def test_the_room_of_a_deleted_rule_is_free_again() -> None:
    book = book_of(("root-mcr", "mcr.microsoft.com/*", "*")).without("ROOT-mcr")
    assert (
        len(book.with_rule(book.parse(RuleDraft("library", "ghcr.io/library/*", "library/*")))) == 1
    )
    assert book.route("anything") is None


def test_a_target_in_a_repository_that_only_looks_alike_is_free() -> None:
    book = book_of()
    assert book.parse(
        RuleDraft("the-rule", "ghcr.io/acme/*", "acme/*"),
        existing_repositories={"acme", "acme2/x", "x/acme/y"},
    )
    assert book.parse(
        RuleDraft("the-rule", "ghcr.io/acme", "acme"), existing_repositories={"acme/x", "acme2"}
    )


# Sign-in


@pytest.mark.parametrize(
    "source",
    [
        "dhi.io/python",
        "acme.azurecr.io/api",
        "registry.redhat.io/ubi9",
        "europe-docker.pkg.dev/p/r/i",
    ],
)
def test_a_source_that_serves_authenticated_pulls_only_needs_a_credential_set(source: str) -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", source, "target"))
    assert (refusal.code, refusal.field) == ("EnforceUpstreamAuthentication", "credentialSet")
    assert source.partition("/")[0] in refusal.message


@pytest.mark.parametrize(
    "source",
    [
        "mcr.microsoft.com/dotnet/sdk",
        "public.ecr.aws/nginx/nginx",
        "registry.access.redhat.com/ubi9",
        "localhost:5001/a",
    ],
)
def test_a_source_without_credentials_takes_no_credential_set(source: str) -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", source, "target", "hub-login"))
    assert (refusal.code, refusal.field) == ("UpstreamTakesNoCredentials", "credentialSet")
    assert book_of().parse(RuleDraft("the-rule", source, "target")).credential_set is None


@pytest.mark.parametrize("credential_set", [None, "", "ghcr-login", "GHCR-Login"])
def test_a_source_with_optional_sign_in_takes_both(credential_set: str | None) -> None:
    rule = book_of().parse(RuleDraft("the-rule", "ghcr.io/acme/api", "api", credential_set))
    assert rule.credential_set == ("ghcr-login" if credential_set else None)


def test_a_credential_set_for_another_login_server_is_refused() -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", "ghcr.io/acme/api", "api", "hub-login"))
    assert (refusal.code, refusal.field) == ("CredentialSetLoginServerMismatch", "credentialSet")
    assert "docker.io" in refusal.what
    assert "ghcr.io" in refusal.what


def test_a_credential_set_that_is_not_there_is_refused_with_those_that_are() -> None:
    refusal = refused(book_of(), RuleDraft("the-rule", "docker.io/nginx", "nginx", "hub-logn"))
    assert (refusal.code, refusal.field) == ("CredentialSetNotFound", "credentialSet")
    assert "hub-login, hub-other" in refusal.hint


def test_many_rules_may_share_a_credential_set() -> None:
    book = book_of(
        ("hub-nginx", "docker.io/nginx", "nginx"), ("hub-redis", "docker.io/redis", "redis")
    )
    assert [rule.name for rule in book.using("HUB-login")] == ["hub-nginx", "hub-redis"]


# Changes


def test_only_the_credential_set_of_a_rule_can_change() -> None:
    book = book_of(("the-rule", "ghcr.io/acme/api", "api"))
    changed = book.with_credential_set("THE-rule", "GHCR-login")
    assert changed.get("the-rule").credential_set == "ghcr-login"
    assert changed.get("the-rule").created == NOW
    assert changed.with_credential_set("the-rule", None) == book
    route = changed.route("api")
    assert route is not None
    assert route.rule.credential_set == "ghcr-login"


@pytest.mark.parametrize(
    ("credential_set", "code"),
    [
        (None, "EnforceDockerAuthentication"),
        ("ghcr-login", "CredentialSetLoginServerMismatch"),
        ("none-such", "CredentialSetNotFound"),
    ],
)
def test_the_credential_set_of_a_rule_can_not_become_a_wrong_one(
    credential_set: str | None, code: str
) -> None:
    book = book_of(("hub-nginx", "docker.io/nginx", "nginx"))
    with pytest.raises(Refusal) as caught:
        book.with_credential_set("hub-nginx", credential_set)
    assert (caught.value.code, caught.value.field) == (code, "credentialSet")
    assert book.get("hub-nginx").credential_set == "hub-login"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source_repository": "ghcr.io/acme/other"}, "sourceRepository"),
        ({"target_repository": "other"}, "targetRepository"),
    ],
)
def test_the_source_and_the_target_of_a_rule_can_not_change(
    change: dict[str, str], field: str
) -> None:
    book = book_of(("the-rule", "ghcr.io/acme/api", "api"))
    with pytest.raises(CacheRuleImmutable) as caught:
        book.check_immutable("the-rule", **change)
    assert (caught.value.code, caught.value.field, caught.value.status) == (
        "CacheRuleImmutable",
        field,
        409,
    )
    assert "Delete the rule" in caught.value.hint


def test_the_same_source_and_target_in_another_spelling_are_no_change() -> None:
    book = book_of(("hub-nginx", "docker.io/nginx", "nginx"))
    book.check_immutable(
        "hub-nginx", source_repository="index.docker.io/library/nginx", target_repository="nginx"
    )
    book.check_immutable("hub-nginx")


@pytest.mark.parametrize("act", ["get", "without"])
def test_a_rule_that_is_not_there_is_not_found(act: str) -> None:
    with pytest.raises(NotFound) as caught:
        getattr(book_of(("the-rule", "ghcr.io/acme/api", "api")), act)("none-such")
    assert (caught.value.code, caught.value.status) == ("CacheRuleNotFound", 404)


def test_a_credential_set_in_use_can_not_leave_the_book() -> None:
    book = book_of(
        ("hub-nginx", "docker.io/nginx", "nginx"), ("hub-redis", "docker.io/redis", "redis")
    )
    with pytest.raises(CredentialSetInUse, match="cache rules hub-nginx, hub-redis") as caught:
        book.with_credential_sets(CREDENTIALS.without("hub-login"))
    assert (caught.value.code, caught.value.status) == ("CredentialSetInUse", 409)
    assert book.with_credential_sets(CREDENTIALS.without("hub-other")) == book


def test_a_book_never_changes() -> None:
    book = book_of(("the-rule", "ghcr.io/acme/*", "acme/*"))
    book.with_rule(book.parse(RuleDraft("another", "ghcr.io/b/*", "b/*")))
    book.without("the-rule")
    book.with_credential_set("the-rule", "ghcr-login")
    assert [rule.name for rule in book] == ["the-rule"]
    assert book.route("b/x") is None
    assert book.get("the-rule").credential_set is None


def test_rules_come_by_name() -> None:
    book = book_of(
        ("b-rule", "ghcr.io/b", "b"), ("A-rule", "ghcr.io/a", "a"), ("c-rule", "ghcr.io/c", "c")
    )
    assert [rule.name for rule in book] == ["A-rule", "b-rule", "c-rule"]


def test_a_time_of_creation_is_kept_to_the_second_in_utc() -> None:
    rule = book_of().parse(
        RuleDraft("the-rule", "ghcr.io/a", "a"),
        created=datetime.fromisoformat("2026-11-02T12:00:00.123+02:00"),
    )
    assert rule.created == NOW
    assert rule.created.tzinfo is UTC


# Read as a whole


def test_all_that_is_wrong_with_a_whole_book_is_told_together() -> None:
    drafts = [
        RuleDraft("root-mcr", "mcr.microsoft.com/*", "*"),
        RuleDraft("bad", "docker.io/nginx:1", "Nginx"),
        RuleDraft("inside", "ghcr.io/a/*", "a/*"),
        RuleDraft("ROOT-mcr", "ghcr.io/a/b", "b"),
    ]
    with pytest.raises(RulesInvalid) as caught:
        RuleBook.read(((draft, NOW) for draft in drafts), REGISTRIES, CREDENTIALS)
    assert [(position, refusal.code) for position, refusal in caught.value.refusals] == [
        (1, "InvalidResourceName"),
        (1, "GenericRepositoryNameInvalid"),
        (1, "GenericRepositoryNameInvalid"),
        (2, "CacheRuleTargetOverlap"),
        (3, "CacheRuleAlreadyExists"),
    ]


def test_a_book_reads_back_from_its_own_rules() -> None:
    book = book_of(
        ("root-mcr", "mcr.microsoft.com/*", "*"), ("hub-nginx", "docker.io/nginx", "nginx")
    )
    assert read_back(book) == book


def test_a_new_rule_in_a_book_that_is_read_must_not_have_a_target_that_exists() -> None:
    current = book_of(("the-rule", "ghcr.io/acme/api", "api"))
    unchanged = (RuleDraft("the-rule", "ghcr.io/acme/api", "api", "ghcr-login"), NOW)

    def read(*drafts: tuple[RuleDraft, datetime]) -> RuleBook:
        return RuleBook.read(
            drafts, REGISTRIES, CREDENTIALS, current=current, existing_repositories=["api", "web"]
        )

    assert read(unchanged).get("the-rule").credential_set == "ghcr-login"
    for draft in (
        RuleDraft("new-rule", "ghcr.io/acme/web", "web"),
        RuleDraft("the-rule", "ghcr.io/other/api", "api"),
        RuleDraft("renamed", "ghcr.io/acme/api", "api"),
    ):
        with pytest.raises(RulesInvalid) as caught:
            read((draft, NOW))
        assert [refusal.code for _, refusal in caught.value.refusals] == [
            "TargetRepositoryAlreadyPresentInRegistry"
        ]


# A draft in the making


def test_a_draft_is_judged_only_where_it_says_something() -> None:
    assert book_of().validate(RuleDraft()).problems == ()
    checked = book_of().validate(RuleDraft(source_repository="docker.io/nginx"))
    assert (checked.source_repository, checked.login_server, checked.sign_in, checked.problems) == (
        "docker.io/library/nginx",
        "docker.io",
        SignIn.REQUIRED,
        (),
    )
    assert [each.field for each in book_of().validate(RuleDraft(name="x")).problems] == ["name"]


def test_an_empty_credential_set_says_that_there_shall_be_none() -> None:
    checked = book_of().validate(RuleDraft(source_repository="docker.io/nginx", credential_set=""))
    assert [(each.code, each.field) for each in checked.problems] == [
        ("EnforceDockerAuthentication", "credentialSet")
    ]


def test_every_problem_of_a_draft_is_told_with_its_field_in_the_order_of_the_fields() -> None:
    book = book_of(("root-mcr", "mcr.microsoft.com/*", "*"))
    checked = book.validate(
        RuleDraft("x", "docker.io/acme", "acme/*", "ghcr-login"), existing_repositories=["acme/api"]
    )
    assert [(each.code, each.field) for each in checked.problems] == [
        ("InvalidResourceName", "name"),
        ("CacheRuleWildcardMismatch", "targetRepository"),
        ("CacheRuleTargetOverlap", "targetRepository"),
        ("TargetRepositoryPrefixMatchesExistingRegistries", "targetRepository"),
        ("CredentialSetLoginServerMismatch", "credentialSet"),
    ]
    assert all("  " not in each.message for each in checked.problems)


def test_what_is_left_out_of_a_draft_is_asked_for_when_it_shall_become_a_rule() -> None:
    for draft, field in (
        (RuleDraft(), "name"),
        (RuleDraft("the-rule"), "sourceRepository"),
        (RuleDraft("the-rule", "ghcr.io/a"), "targetRepository"),
    ):
        refusal = refused(book_of(), draft)
        assert refusal.field == field
        assert "missing" in refusal.what


@pytest.mark.parametrize(
    ("source", "existing", "proposed"),
    [
        ("docker.io/nginx", [], "library/nginx"),
        ("ghcr.io/acme/*", [], "acme/*"),
        ("docker.io/*", [], "docker.io/*"),
        ("ghcr.io/acme/api", ["acme/api"], "ghcr.io/acme/api"),
        ("ghcr.io/acme/*", ["acme/api"], "ghcr.io/acme/*"),
        ("ghcr.io/acme/*", ["acme/api", "ghcr.io/acme/api"], None),
        ("ghcr.io/taken/*", [], "ghcr.io/taken/*"),
        ("localhost:5001/*", [], "localhost-5001/*"),
    ],
)
def test_a_target_that_is_free_is_proposed(
    source: str, existing: list[str], proposed: str | None
) -> None:
    book = book_of(("existing", "quay.io/taken/*", "taken/*"))
    assert (
        book.validate(
            RuleDraft(source_repository=source), existing_repositories=existing
        ).proposed_target
        == proposed
    )


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        (
            RuleDraft(source_repository="docker.io/nginx"),
            "library/ was put in front: Docker Hub keeps its official images there.",
        ),
        (
            RuleDraft(source_repository="docker.io/*"),
            "library/ is put in front of names of one part: alpine means docker.io/library/alpine.",
        ),
        (
            RuleDraft(source_repository="index.docker.io/a/b"),
            "index.docker.io is written docker.io.",
        ),
        (
            RuleDraft(target_repository="taken/a"),
            "It stands inside the target taken/* of rule existing, and wins there for taken/a.",
        ),
    ],
)
def test_what_a_person_may_want_to_know_is_remarked(draft: RuleDraft, says: str) -> None:
    assert book_of(("existing", "quay.io/taken/*", "taken/*")).validate(draft).remarks == (says,)


@pytest.mark.parametrize(
    "source",
    ["docker.io/library/nginx", "docker.io/grafana/loki", "docker.io/library/*", "ghcr.io/nginx"],
)
def test_nothing_is_remarked_where_nothing_was_changed(source: str) -> None:
    assert book_of().validate(RuleDraft(source_repository=source)).remarks == ()


# Which rule answers


@pytest.mark.parametrize(
    ("request_path", "repository"),
    [
        ("alpine", "library/alpine"),
        ("library/alpine", "library/alpine"),
        ("grafana/loki", "grafana/loki"),
    ],
)
def test_library_is_put_in_when_a_wildcard_of_docker_hub_is_resolved(
    request_path: str, repository: str
) -> None:
    route = book_of(("hub-all", "docker.io/*", "docker.io/*")).route(f"docker.io/{request_path}")
    assert route is not None
    assert route.repository == repository
    assert route.registry.endpoint == "https://registry-1.docker.io"


def test_a_static_rule_wins_inside_a_wildcard() -> None:
    book = book_of(
        ("root-mcr", "mcr.microsoft.com/*", "*"),
        ("hub-dotnet", "docker.io/library/dotnet", "library/dotnet"),
    )
    for path, name, repository in (
        ("library/dotnet", "hub-dotnet", "library/dotnet"),
        ("library/other", "root-mcr", "library/other"),
        ("library/dotnet/sdk", "root-mcr", "library/dotnet/sdk"),
    ):
        route = book.route(path)
        assert route is not None
        assert (route.rule.name, route.repository) == (name, repository)


def test_a_wildcard_does_not_answer_for_its_own_path() -> None:
    book = book_of(("library", "ghcr.io/library/*", "library/*"))
    assert book.route("library") is None
    assert book.route("library2/x") is None
    assert book.route("x/library/y") is None


def test_a_registry_of_a_pattern_is_reached_under_its_own_name() -> None:
    route = book_of(("acme-all", "acme.azurecr.io/*", "acme/*", "acme-login")).route("acme/api")
    assert route is not None
    assert (route.registry.endpoint, route.repository) == ("https://acme.azurecr.io", "api")


class CountingDict(dict[str, CacheRule]):
    look_ups: ClassVar[int] = 0

    def get(self, *arguments: Any) -> Any:
        CountingDict.look_ups += 1
        return super().get(*arguments)

    def __getitem__(self, key: str) -> CacheRule:
        CountingDict.look_ups += 1
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        CountingDict.look_ups += 1
        return super().__contains__(key)

    def __iter__(self) -> Any:
        raise AssertionError("Routing must not walk through the rules.")

    keys = values = items = __iter__


def test_routing_takes_as_many_look_ups_among_a_thousand_rules_as_among_one() -> None:
    path = "a/b/c/d/e"
    counts = set()
    for number in (1, 10, 100, 1000):
        book = read_back(many_rules(number))
        for attribute in ("_items", "_static", "_wildcards", "_parents", "_source_registries"):
            setattr(book, attribute, CountingDict(getattr(book, attribute)))
        CountingDict.look_ups = 0
        assert book.route(path) is None
        counts.add(CountingDict.look_ups)
    # The whole path once, its four prefixes, and *.
    assert counts == {6}


# Any set of rules

paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)
targets = st.one_of(paths, paths.map("{}/*".format), st.just("*"))


def accepted(wanted: list[str]) -> RuleBook:
    """A book of all *wanted* targets that can stand together, in that order."""
    book = RuleBook(REGISTRIES, CREDENTIALS)
    for number, target in enumerate(wanted):
        source = f"ghcr.io/s{number}" + ("/*" if target.endswith("*") else "")
        try:
            book = book.with_rule(book.parse(RuleDraft(f"rule-{number}", source, target)))
        except CacheRuleTargetOverlap:
            continue
    return book


def matches(rule: CacheRule, repository: str) -> bool:
    pattern = re.escape(str(rule.target)).replace(r"\*", ".+")
    return re.fullmatch(pattern, repository) is not None


def naive(book: RuleBook, repository: str) -> tuple[str, str] | None:
    """Rule and source path, by looking at every rule."""
    matching_routes = [rule for rule in book if matches(rule, repository)]
    for rule in sorted(matching_routes, key=lambda each: each.target.wildcard):
        if not rule.target.wildcard:
            return rule.name, rule.source.path
        rest = (
            repository
            if str(rule.target) == "*"
            else repository.removeprefix(str(rule.target)[:-1])
        )
        return rule.name, f"{rule.source.path}/{rest}"
    return None


@given(st.lists(targets, max_size=12), st.lists(paths, min_size=1, max_size=8))
def test_no_accepted_set_of_rules_lets_a_repository_match_two_wildcards(
    wanted: list[str], repositories: list[str]
) -> None:
    book = accepted(wanted)
    for repository in repositories:
        assert sum(rule.target.wildcard and matches(rule, repository) for rule in book) <= 1
        assert sum(not rule.target.wildcard and matches(rule, repository) for rule in book) <= 1


@given(st.lists(targets, max_size=12), st.lists(paths, min_size=1, max_size=8), st.data())
def test_routing_agrees_with_a_look_at_every_rule(
    wanted: list[str], repositories: list[str], data: st.DataObject
) -> None:
    book = accepted(wanted)
    names = [rule.name for rule in book]
    for name in data.draw(st.lists(st.sampled_from(names), unique=True)) if names else ():
        book = book.without(name)
    for repository in repositories:
        route = book.route(repository)
        assert (None if route is None else (route.rule.name, route.repository)) == naive(
            book, repository
        )


@given(st.lists(targets, max_size=12), targets)
def test_overlap_agrees_with_a_look_at_every_pair(wanted: list[str], target: str) -> None:
    book = accepted(wanted)

    def clash(existing: str) -> bool:
        if existing == target:
            return True
        if not (existing.endswith("*") and target.endswith("*")):
            return False
        short, long = sorted((existing[:-1], target[:-1]), key=len)
        return long.startswith(short)

    expected = any(clash(str(rule.target)) for rule in book)
    try:
        book.parse(
            RuleDraft("the-new", "ghcr.io/new" + ("/*" if target.endswith("*") else ""), target)
        )
    except CacheRuleTargetOverlap:
        assert expected
    else:
        assert not expected


@given(st.lists(targets, max_size=10))
def test_a_book_read_as_a_whole_is_the_book_built_rule_by_rule(wanted: list[str]) -> None:
    book = accepted(wanted)
    assert read_back(book) == book


@given(st.text(alphabet="ab/*:.@ -A", max_size=16))
def test_any_text_as_a_source_or_target_is_read_or_refused_and_nothing_else(text: str) -> None:
    for draft in (
        RuleDraft("the-rule", f"ghcr.io/{text}", "target"),
        RuleDraft("the-rule", text, "target"),
        RuleDraft("the-rule", "ghcr.io/a", text),
    ):
        problems = book_of().validate(complete(draft)).problems
        assert all(each.field and each.code and each.message for each in problems)
        if problems:
            with pytest.raises(Refusal):
                book_of().parse(draft)
        else:
            rule = book_of().parse(draft)
            assert read_back([rule]).get("the-rule") == rule
