"""The whole engine in one look, without a terminal."""

from __future__ import annotations

import pytest

from entrepot.api.models import ActivityCounts, EngineStatus, Event, SourceRegistrySnapshot
from entrepot.demo import DEMO_IMAGES
from tests.tui.scripted import NO_ACTIVITY, NOW, STATUS, UPSTREAM, changed
from tui.presentation.overview import (
    distribute_height,
    figures,
    history,
    last_events,
    more_pulls,
    needs,
    sources,
    space,
)
from widgets.row_list import Row

DAY = ActivityCounts(
    hits=20, misses=1, served=182_400_000_000, from_source=10_500_000_000, requests_saved=2310
)


def texts(rows: list[Row]) -> list[str]:
    return ["|".join(cell.text for cell in row.cells) for row in rows]


def test_the_figures_say_what_the_cache_was_good_for() -> None:
    assert texts(figures(changed(STATUS, last_day=DAY), 36)) == [
        "served                      182.4 GB",
        "from the cache        94 %  171.9 GB",
        "from sources                 10.5 GB",
        "counted pulls saved            2,310",
    ]


@pytest.mark.parametrize("width", [25, 27, 36, 57])
def test_figures_stand_under_each_other_and_fit(width: int) -> None:
    told = texts(figures(changed(STATUS, last_day=DAY), width))
    assert len({len(line) for line in told}) == 1
    assert len(told[0]) <= width


def test_before_the_first_pull_nothing_is_divided() -> None:
    assert texts(figures(STATUS, 36))[1].split() == ["from", "the", "cache", "0", "B"]


def test_more_from_sources_than_to_clients_is_not_less_than_nothing_from_the_cache() -> None:
    assert (
        "0 B"
        in texts(figures(changed(STATUS, last_day=ActivityCounts(served=10, from_source=500)), 36))[
            1
        ]
    )


def test_the_history_has_the_same_scale_for_hits_and_misses() -> None:
    buckets = tuple(
        changed(bucket, hits=number % 2, misses=2 if number == 287 else 0)
        for number, bucket in enumerate(NO_ACTIVITY.buckets)
    )
    hits, misses, most = history(changed(NO_ACTIVITY, buckets=buckets), 24)
    assert hits == [6] * 24
    assert misses == [0] * 23 + [2]
    assert most == 6


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "Healthy"),
        ({"rules": 0}, "Get started"),
        ({"notices": ("hub-login is unhealthy.",)}, "Needs attention"),
        ({"blobs_size": 75_000_000_000}, "Needs attention"),
        ({"rules": 960}, "Needs attention"),
        ({"repositories": 0}, "Healthy"),
    ],
)
def test_what_needs_somebody_is_told_first(changes: dict[str, object], first: str) -> None:
    head, _, told = needs(changed(STATUS, **changes), 80)
    assert head == first
    assert bool(told) == bool(changes)


def test_an_empty_demo_names_images_that_can_be_pulled() -> None:
    """Newcomer: nothing said which images the simulated source has."""
    _, _, rows = needs(changed(STATUS, repositories=0), 80, DEMO_IMAGES)
    told = texts(rows)
    assert " ".join(told).startswith(
        "This demo's source has library/nginx:1.27, library/postgres:17, "
    )
    assert " ".join(told).endswith(" and more. Press p, then enter twice, to pull the first.")
    assert len(told) == 2


def test_what_needs_somebody_is_told_in_whole_sentences() -> None:
    status: EngineStatus = changed(
        STATUS, notices=("word " * 40,), blobs_size=75_000_000_000, rules=1000
    )
    told = texts(needs(status, 60)[2])
    assert all(len(line) <= 57 for line in told)
    assert "! 93 % of the space is used. Eviction starts at 80.0 GB," in told
    assert "! 1,000 of 1,000 possible cache rules exist." in told
    assert sum(line.count("word") for line in told) == 40


def test_the_space_is_a_bar_with_the_limit() -> None:
    assert texts([space(STATUS, 73)]) == [
        "[############------------]   51 %   41.2 of 80.0 GB   evicts when full"
    ]
    assert space(changed(STATUS, blobs_size=73_000_000_000), 80).cells[0].tone == "warn"
    assert "41.2 GB" in texts([space(changed(STATUS, space_limit=0), 80)])[0]
    for width in (60, 80, 120):
        for held in (41_200_000_000, 130_900_000):
            assert len(texts([space(changed(STATUS, blobs_size=held), width - 7)])[0]) <= width - 10


def upstream(login_server: str, **changes: object) -> SourceRegistrySnapshot:
    return changed(UPSTREAM, login_server=login_server, **changes)


def test_sources_that_are_not_well_are_never_left_out_for_those_that_are() -> None:
    many = [upstream(f"{letter}.io", rules=9) for letter in "abcdef"] + [
        upstream("down.io", rules=1, reachable=False)
    ]
    assert texts(sources(many, NOW, 60, 4)) == [
        "down.io|down, serving from cache",
        "a.io|healthy",
        "b.io|healthy",
        "and 4 more|",
    ]
    assert len(sources(many, NOW, 60, 7)) == 7


def test_a_long_state_takes_two_lines_and_is_never_half_told() -> None:
    down = upstream("quay.io", unreachable_since=NOW - 180)
    assert texts(sources([down, UPSTREAM], NOW, 40, 6)) == [
        "quay.io|down 3 min, serving",
        "|from cache",
        "docker.io|healthy",
    ]
    assert texts(sources([upstream("a.io"), down, upstream("b.io")], NOW, 40, 3)) == [
        "quay.io|down 3 min, serving",
        "|from cache",
        "and 2 more|",
    ]


def test_in_a_small_terminal_a_source_stands_before_its_state() -> None:
    assert texts(sources([UPSTREAM], NOW, 28, 4)) == ["|docker.io  healthy"]
    assert texts(sources([], NOW, 28, 4)) == ["|none is in use yet"]
    assert texts(sources([upstream("a.io", rules=0)], NOW, 50, 4)) == ["none is in use yet|"]


def test_the_last_events_come_newest_first() -> None:
    events = [Event(time=NOW - number, kind="a", message=f"event {number}") for number in (3, 2, 1)]
    assert [row.cells[1].text for row in last_events(events, NOW, 2)] == ["event 1", "event 2"]


def test_pulls_without_room_are_counted() -> None:
    assert (more_pulls(20, 8), more_pulls(3, 3)) == ("12 more   ", "")


@pytest.mark.parametrize("height", range(12, 70))
@pytest.mark.parametrize(
    ("running", "needed", "sourced", "events"),
    [(0, 1, 0, 0), (3, 1, 4, 40), (20, 5, 30, 40), (200, 20, 2, 3)],
)
def test_no_height_is_overdrawn_and_the_pulls_always_have_a_line(
    height: int, running: int, needed: int, sourced: int, events: int
) -> None:
    told = distribute_height(height, running=running, needs=needed, sources=sourced, events=events)
    gaps = (3 + (told.events > 0)) if told.gaps else 0
    used = (
        1
        + told.pulls
        + told.halves
        + 1
        + told.needs
        + (1 + told.events if told.events else 0)
        + gaps
    )
    assert used <= height
    assert told.pulls >= 1
    assert told.needs >= 1
    assert told.halves >= 5
