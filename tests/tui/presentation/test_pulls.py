"""Pulls and their layers in words."""

from __future__ import annotations

import pytest

from entrepot.core.states import LayerState, PullState
from tests.tui.scripted import LAYER, NOW, PULL, changed, pull
from tui.presentation.pulls import (
    asked_by,
    ended_text,
    layer_progress,
    opened_pull_detail,
    pull_detail,
    pull_progress,
    pull_row,
    pull_summary,
    running_summary,
    under_way_first,
)
from widgets.row_list import Row

ENDED = {"ended": NOW - 120, "speed": 0.0, "time_left": None}


def texts(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


@pytest.mark.usefixtures("fixed_time")
def test_a_pull_says_in_words_what_no_bar_can() -> None:
    resumed = changed(LAYER, state=LayerState.RESUMED)
    for changes, expected in (
        ({}, ["[####----]", "50%", "31 MB/s", "4 s"]),
        ({"size": 0, "layers": ()}, ["starting", "", "", ""]),
        ({"speed": 0.0, "time_left": None}, ["[####----]", "50%", "waiting", ""]),
        (
            {"speed": 0.0, "time_left": None, "layers": (resumed,)},
            ["[####----]", "50%", "resuming", ""],
        ),
        ({"state": PullState.COMPLETED, **ENDED}, ["completed", "", "1.0 kB", "20:24"]),
        ({"state": PullState.FAILED, "size": 0, **ENDED}, ["failed", "", "", "20:24"]),
        (
            {"state": PullState.CANCELLED, **ENDED, "ended": NOW - 86_400},
            ["cancelled", "", "1.0 kB", "27 May"],
        ),
    ):
        assert texts(pull_progress(changed(PULL, **changes), NOW)) == expected


def test_the_volatile_columns_of_a_pull_under_way_have_one_tone() -> None:
    assert {cell.tone for cell in pull_progress(PULL, NOW).cells} == {"accent"}


def test_pulls_under_way_come_first_whatever_came_after_them() -> None:
    pulls = [
        pull("3", state=PullState.COMPLETED, **ENDED),
        pull("2"),
        pull("1", state=PullState.FAILED, **ENDED),
    ]
    assert [each.id for each in under_way_first(pulls)] == ["2", "3", "1"]
    assert running_summary(pulls) == "1 running   31 MB/s"
    assert running_summary(pulls[:1]) == ""


@pytest.mark.parametrize(
    "word",
    [
        "nginx",
        "amd64",
        "docker.io",
        "10.0.4.18",
        "hub-library",
        "failed",
        "sourceunreachable",
        "reached",
    ],
)
def test_a_pull_is_found_by_all_that_is_known_of_it(word: str) -> None:
    failed = pull(
        "1",
        state=PullState.FAILED,
        error_code="SourceUnreachable",
        error_message="docker.io can't be reached.",
    )
    assert pull_row(failed).matches([word])
    assert not pull_row(failed).matches(["alpine"])


def test_a_failed_pull_gives_its_reason_with_the_advice_of_the_engine() -> None:
    failed = pull(
        "1",
        state=PullState.FAILED,
        ended=NOW,
        error_code="SourceUnreachable",
        error_message="docker.io can't be reached. Check the network.",
    )
    assert ended_text(failed) == "Failed after 10 s: docker.io can't be reached. Check the network."
    for told in (pull_detail(failed, NOW), opened_pull_detail(failed, NOW)):
        assert told.lines[0] == told.notes[-1] == ended_text(failed)
        assert ("Code", "SourceUnreachable") in told.facts


def test_a_pull_that_ended_says_what_it_cost() -> None:
    assert (
        ended_text(pull("1", state=PullState.COMPLETED, ended=NOW, from_source=700))
        == "Completed in 10 s, 700 B from the source."
    )
    assert (
        ended_text(pull("1", state=PullState.COMPLETED, ended=NOW))
        == "Completed in 10 s, all of it was cached already."
    )
    assert (
        ended_text(pull("1", state=PullState.CANCELLED, ended=NOW))
        == "Cancelled after 10 s. Completed blobs stay cached."
    )


def test_a_list_tells_nothing_below_it_that_changes_at_every_look() -> None:
    later = changed(PULL, received=900, speed=1.0, time_left=9.0, from_source=400, to_clients=900)
    assert pull_detail(PULL, NOW) == pull_detail(later, NOW + 0.5)


def test_an_opened_pull_sums_up_how_far_it_is() -> None:
    assert (
        pull_summary(PULL, 80)
        == f"[{'#' * 10}{'-' * 10}]   50 %   500 B of 1.0 kB   31 MB/s   4 s left"
    )
    assert (
        len(
            pull_summary(
                changed(PULL, size=999_900_000_000, received=1, speed=999e6, time_left=3599.0), 60
            )
        )
        <= 70
    )
    assert pull_summary(changed(PULL, size=0), 80) == "asking the source for the image"
    assert (
        pull_summary(pull("1", state=PullState.FAILED, ended=NOW), 80)
        == "failed after 10 s   500 B of 1.0 kB"
    )


def test_an_opened_pull_tells_who_waits_and_what_was_moved() -> None:
    told = opened_pull_detail(
        changed(PULL, from_source=300, to_clients=900, layers=(changed(LAYER, waiting_clients=3),)),
        NOW,
    )
    assert told.lines == (
        "from the source 300 B   to clients 900 B   waiting clients 3",
        "0 of 1 blob cached   docker.io/library/nginx   rule hub-library",
    )


def test_who_asked_is_the_first_and_how_many_more() -> None:
    assert [asked_by(who) for who in ((), ("cli",), ("a", "b", "c"))] == [
        "-",
        "cli",
        "a and 2 more",
    ]


def test_a_layer_tells_its_state_by_word() -> None:
    for state, word in (
        (LayerState.WAITING, "waiting"),
        (LayerState.VERIFIED, "verified"),
        (LayerState.CACHED, "cached"),
        (LayerState.FAILED, "failed"),
    ):
        assert texts(layer_progress(changed(LAYER, state=state)))[0] == word
    resumed = changed(LAYER, state=LayerState.RESUMED, resumed_at=12_000_000, waiting_clients=3)
    assert texts(layer_progress(resumed)) == [
        "[######-----]",
        "50%",
        "resumed at 12.0 MB",
        "3 waiting",
    ]
