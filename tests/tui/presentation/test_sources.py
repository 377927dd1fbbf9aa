"""Source registries in words."""

from __future__ import annotations

import pytest

from entrepot.api.models import DoctorReport, Finding, RuleSnapshot, SourceRegistrySnapshot
from entrepot.core.states import Outcome, SignIn
from tests.tui.scripted import NOW, UPSTREAM, changed
from tui.presentation.sources import (
    doctor_report_cells,
    remaining_pulls,
    rule_cells,
    source_detail,
    source_row,
    source_state,
    source_summary,
    used_first,
)
from widgets.row_list import Cell

DOWN = changed(
    UPSTREAM,
    reachable=False,
    problem="docker.io can't be reached.",
    unreachable_since=NOW - 180,
    next_try=NOW + 20,
)
LIMITED = changed(
    UPSTREAM,
    rate_limit_remaining=73,
    rate_limit_limit=100,
    rate_limit_window=21_600.0,
    rate_limit_resets=NOW + 4 * 3600,
)
RULE = RuleSnapshot(
    name="hub-library",
    source_repository="docker.io/library/*",
    target_repository="library/*",
    credential_set="hub-login",
    created=NOW,
    login_server="docker.io",
)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (changed(UPSTREAM, reachable=None), ("unknown", "dim")),
        (UPSTREAM, ("healthy", "good")),
        (LIMITED, ("healthy", "good")),
        (DOWN, ("down 3 min", "bad")),
        (changed(DOWN, unreachable_since=NOW - 20), ("down", "bad")),
        (changed(UPSTREAM, reachable=False), ("down", "bad")),
        (
            changed(UPSTREAM, problem="docker.io answers with a web page."),
            ("has a problem", "warn"),
        ),
        (changed(LIMITED, rate_limit_remaining=0), ("rate limited", "bad")),
    ],
)
def test_a_source_registry_is_well_or_says_by_word_what_it_is(
    found: SourceRegistrySnapshot, told: tuple[str, str]
) -> None:
    assert source_state(found, NOW) == told


def test_an_allowance_says_what_is_left_and_when_it_counts_anew() -> None:
    assert remaining_pulls(LIMITED, NOW) == "73 of 100 left, 4 h"
    assert remaining_pulls(changed(LIMITED, rate_limit_resets=None), NOW) == "73 of 100 left"
    assert (
        remaining_pulls(changed(LIMITED, rate_limit_limit=None, rate_limit_resets=NOW + 30), NOW)
        == "73 left"
    )
    assert remaining_pulls(UPSTREAM, NOW) == ""


def test_the_overview_tells_an_allowance_only_of_what_is_well() -> None:
    assert source_summary(LIMITED, NOW) == Cell("73 of 100 left, 4 h")
    assert source_summary(changed(LIMITED, rate_limit_remaining=9), NOW).tone == "warn"
    assert source_summary(changed(DOWN, rate_limit_remaining=3), NOW) == Cell(
        "down 3 min, serving from cache", "bad"
    )
    assert source_summary(UPSTREAM, NOW) == Cell("healthy", "good")


@pytest.mark.usefixtures("fixed_time")
def test_a_source_that_is_out_of_reach_says_since_when_when_it_is_tried_again_and_what_happens_meanwhile() -> (
    None
):
    told = source_detail(DOWN, [RULE], NOW)
    assert told.lines == (
        "docker.io can't be reached.",
        "Unreachable since 20:23; the next attempt is at 20:27:00. Until then cached content is served.",
        "Docker Hub: needs credentials, used by hub-library.",
    )
    assert ("Since", "20:23") in told.facts
    assert ("Next attempt", "20:27:00") not in told.facts
    assert ("Next attempt", "at 20:27:00") in told.facts


def test_a_source_that_is_not_at_fault_is_not_said_to_be_down() -> None:
    """The sentence and its cure stand first and whole."""
    what, cure = "This machine has no network: no route leads out of it.", "Connect it."
    found = changed(DOWN, problem=what, advice=cure, cause="no-network", at_fault="machine")
    assert source_summary(found, NOW) == Cell("unreachable, serving from cache", "bad")
    assert source_detail(found, [RULE], NOW).lines[0] == f"{what} {cure}"
    assert source_detail(found, [RULE], NOW).notes[0] == f"{what} {cure}"


@pytest.mark.usefixtures("fixed_time")
def test_a_limit_is_told_with_its_window() -> None:
    told = source_detail(LIMITED, [changed(RULE, name=name) for name in "abcde"], NOW)
    assert told.lines == (
        "Docker Hub: needs credentials, used by a, b, c and 2 more.",
        "Healthy.",
        "73 of 100 pulls left, the limit is 100 in 6 h, it resets at 29 May.",
    )


def test_nothing_that_is_told_of_a_source_changes_with_the_seconds() -> None:
    for found in (DOWN, LIMITED, UPSTREAM):
        assert {
            (source_row(found, NOW + second), source_detail(found, [RULE], NOW + second))
            for second in range(15)
        } == {(source_row(found, NOW), source_detail(found, [RULE], NOW))}


def test_sources_that_rules_use_come_first() -> None:
    quay = SourceRegistrySnapshot(name="Quay", login_server="quay.io", sign_in=SignIn.OPTIONAL)
    assert [each.login_server for each in used_first([quay, UPSTREAM])] == ["docker.io", "quay.io"]


def test_rules_are_told_with_where_they_lead() -> None:
    assert rule_cells([RULE]) == [Cell("hub-library  docker.io/library/* as library/*")]


def test_an_examination_says_each_outcome_by_word_with_its_advice() -> None:
    found = DoctorReport(
        findings=(
            Finding(
                about="docker.io",
                check="name",
                outcome=Outcome.OK,
                what="registry-1.docker.io has 3 addresses",
            ),
            Finding(
                about="docker.io",
                check="sign-in",
                outcome=Outcome.FAILED,
                what="hub-login is refused.",
                advice="Check the password.",
            ),
            Finding(
                about="this machine",
                check="space",
                outcome=Outcome.WARNING,
                what="80 % of the space is used.",
            ),
        )
    )
    assert doctor_report_cells(found) == [
        Cell("ok    name: registry-1.docker.io has 3 addresses"),
        Cell("FAIL  sign-in: hub-login is refused.", "bad"),
        Cell("      Check the password.", "dim"),
        Cell("warn  this machine, space: 80 % of the space is used.", "warn"),
        Cell(""),
        Cell("2 problems found.", "warn"),
    ]
    assert doctor_report_cells(DoctorReport(findings=()))[-1] == Cell("No problems found.", "good")
