"""What a deletion takes and leaves."""

from __future__ import annotations

from entrepot.api.models import DeletionPlan
from tui.presentation.deletion import (
    refused_text,
    repository_plan_text,
    rule_plan_text,
    tag_plan_text,
)


def test_the_plan_for_a_repository_names_what_goes_what_stays_and_how_it_comes_again() -> None:
    plan = DeletionPlan(
        kind="repository", name="library/nginx", tags=("1.26", "1.27"), tag_count=2, manifest_count=6, freed=12_000_000, shared=59_000_000, pulls=1,
        fetched_again_by="hub-library",
    )  # fmt: skip
    assert repository_plan_text(plan).splitlines() == [
        "Deletes 2 tags (1.26, 1.27) and 6 manifests, and frees 12.0 MB.",
        "59.0 MB stay, because other repositories need them too.",
        "Cancels 1 running pull.",
        "Its cache rule hub-library stays: the next pull fetches it again.",
    ]


def test_without_a_rule_the_plan_warns_that_it_can_not_be_fetched_again() -> None:
    plan = DeletionPlan(
        kind="repository",
        name="old/thing",
        tags=tuple(str(number) for number in range(9)),
        tag_count=120,
        manifest_count=1,
        freed=1,
    )
    told = repository_plan_text(plan)
    assert "120 tags (0, 1, 2, 3, 4 and 115 more) and 1 manifest" in told
    assert "it can't be fetched again" in told


def test_the_plan_for_a_tag_says_what_is_left_without_a_tag() -> None:
    plan = DeletionPlan(
        kind="tag",
        name="library/nginx:1.27",
        tag_count=1,
        untagged=71_000_000,
        fetched_again_by="hub-library",
    )
    assert tag_plan_text(plan).splitlines() == [
        "Deletes the tag, and frees nothing.",
        "71.0 MB without a tag stay until they are evicted.",
        "Its cache rule hub-library stays: the next pull fetches it again.",
    ]


def test_the_plan_for_a_rule_names_the_repositories_that_stay() -> None:
    plan = DeletionPlan(
        kind="rule",
        name="hub-library",
        repositories=("library/alpine", "library/nginx"),
        repository_count=2,
    )
    told = rule_plan_text(plan, "docker.io/library/*", "library/*")
    assert "Deletes the rule from docker.io/library/* to library/*." in told
    assert "can still be pulled: 2 repositories (library/alpine, library/nginx)" in told
    assert "Nothing is cached through it" in rule_plan_text(
        DeletionPlan(kind="rule", name="hub-library"), "a.io/b", "b"
    )


def test_a_refusal_names_who_stands_in_the_way() -> None:
    plan = DeletionPlan(
        kind="credentialSet",
        name="hub-login",
        refused="It is used.",
        refused_code="CredentialSetInUse",
        used_by=("team-a", "team-b"),
    )
    assert refused_text(plan) == "It is used.\n\nUsed by team-a, team-b."
    named = DeletionPlan(
        kind="credentialSet", name="hub-login", refused="It is used by team-a.", used_by=("team-a",)
    )
    assert refused_text(named) == "It is used by team-a."
