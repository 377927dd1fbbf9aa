"""Cached repositories, tags and what a refresh says."""

from __future__ import annotations

import msgspec

from entrepot.api.models import RefreshedTag, RepositorySnapshot, TagSnapshot
from tui.presentation.repositories import (
    RepositoryRow,
    natural_order,
    refreshed_text,
    repository_facts,
    repository_lines,
    tag_facts,
    tag_row,
)
from widgets.row_list import Cell

NOW = 1_780_000_000.0

TAG = TagSnapshot(
    name="1.27", digest="sha256:" + "c" * 64, platforms=("linux/amd64", "linux/arm64"), size=71_200_000, cached=NOW - 7200, checked=NOW - 60,
    last_pull=None, fresh_until=NOW + 180,
)  # fmt: skip
REPOSITORY = RepositorySnapshot(
    name="library/nginx", rule="hub-library", source_repository="docker.io/library/nginx", tags=3, manifests=7, size=71_200_000, created=NOW - 86_400,
    last_pull=NOW - 3600, pulls=12,
)  # fmt: skip


def test_a_tag_says_how_much_it_is_to_be_believed() -> None:
    assert [cell.text for cell in tag_row(TAG, lambda: NOW).cells] == [
        "1.27",
        "amd64 arm64",
        "71.2 MB",
        "2 h",
        "never",
        "fresh, 3 min left",
    ]
    for changes, state in (
        ({"fresh_until": NOW}, Cell("stale, checked 1 min ago", "dim")),
        ({"gone": True}, Cell("gone at source", "warn")),
        ({"fresh_until": None}, Cell("never expires", "good")),
        ({"locked": True}, Cell("locked, fresh, 3 min left", "good")),
    ):
        assert tag_row(msgspec.structs.replace(TAG, **changes), lambda: NOW).cells[5] == state


def test_tags_are_sorted_as_versions() -> None:
    assert sorted(["1.27", "1.9", "latest", "1.27-alpine", "2"], key=natural_order) == [
        "latest",
        "1.9",
        "1.27",
        "1.27-alpine",
        "2",
    ]


def test_a_locked_repository_says_so_in_its_row_and_below_it() -> None:
    locked = msgspec.structs.replace(REPOSITORY, locked=True)
    assert RepositoryRow(locked, lambda: NOW).cells[0].text == "library/nginx  locked"
    assert RepositoryRow(locked, lambda: NOW).matches(["locked"])
    assert not RepositoryRow(REPOSITORY, lambda: NOW).matches(["locked"])
    assert (
        "locked: neither evicted nor deleted   12 pulls, the last 1 h ago   7 manifests"
        in repository_lines(locked, NOW)[1]
    )
    assert dict(repository_facts(locked, NOW))["Locked"].startswith("yes")


def test_a_repository_whose_rule_is_gone_says_that_it_stays_pullable() -> None:
    orphan = msgspec.structs.replace(REPOSITORY, rule=None)
    assert (
        "no rule any more: what is cached can still be pulled" in repository_lines(orphan, NOW)[0]
    )
    assert "can still be pulled" in dict(repository_facts(orphan, NOW))["Rule"]


def test_a_repository_is_found_by_its_rule() -> None:
    assert RepositoryRow(REPOSITORY, lambda: NOW).matches(["hub-library"])


def test_the_facts_of_a_tag_hold_its_whole_digest() -> None:
    assert dict(tag_facts(TAG, NOW))["Digest"] == TAG.digest


def test_a_refresh_says_moved_unchanged_new_gone_or_why_nobody_could_be_asked() -> None:
    done = RefreshedTag(
        repository="library/nginx",
        tag="1.27",
        source_repository="docker.io/library/nginx",
        digest="sha256:" + "b" * 64,
        before="sha256:" + "a" * 64,
    )
    for changes, expected, is_new in (
        ({}, f"library/nginx:1.27 has moved from {'a' * 12} to {'b' * 12}.", True),
        (
            {"before": done.digest},
            f"library/nginx:1.27 is unchanged at docker.io: {'b' * 12}.",
            False,
        ),
        ({"before": None}, f"library/nginx:1.27 is new here: it points to {'b' * 12}.", True),
        (
            {"gone": True},
            f"library/nginx:1.27 is gone at docker.io. What is cached of it stays: {'b' * 12}.",
            False,
        ),
        (
            {"problem": "it is silent."},
            f"library/nginx:1.27 stays at {'b' * 12}: it is silent.",
            False,
        ),
    ):
        assert refreshed_text(msgspec.structs.replace(done, **changes)) == (expected, is_new)


def test_an_artifact_is_shown_as_what_it_is() -> None:
    chart = msgspec.structs.replace(
        TAG, kind="Helm chart", artifact_type="application/vnd.cncf.helm.config.v1+json"
    )
    assert tag_row(chart, lambda: NOW).cells[1].text == "Helm chart"
    facts = dict(tag_facts(chart, NOW))
    assert (facts["Kind"], facts["Artifact type"]) == (chart.kind, chart.artifact_type)
    assert "Platforms" not in facts
