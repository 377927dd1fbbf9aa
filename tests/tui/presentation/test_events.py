"""Events in words."""

from __future__ import annotations

import pytest

from entrepot.api.models import Event
from entrepot.event_kinds import Severity
from tests.tui.scripted import NOW
from tui.presentation.events import (
    event_cells,
    event_detail,
    event_row,
    event_subject,
    events_by_key,
    severity,
    when,
)
from widgets.row_list import Cell

RULE = Event(
    time=NOW - 60,
    kind="rule-created",
    message="Cache rule hub-library: library/* from docker.io/library/*.",
    subject="hub-library",
)
FAILED = Event(
    time=NOW - 30,
    kind="pull-ended",
    message="The pull of library/old:1 failed: docker.io has no library/old:1.",
    subject="7",
    severity=Severity.WARNING,
)


@pytest.mark.parametrize(
    ("level", "word", "tone"),
    [
        (Severity.INFO, "", ""),
        (Severity.WARNING, "warning", "warn"),
        (Severity.ERROR, "error", "bad"),
    ],
)
def test_the_severity_of_an_event_is_a_word_and_a_tone(
    level: Severity, word: str, tone: str
) -> None:
    event = Event(time=NOW, kind="pull-ended", message="It failed: no.", severity=level)
    assert severity(event) == (word, tone)
    assert Cell(word, tone) in event_row("1", event, NOW).cells


@pytest.mark.usefixtures("fixed_time")
def test_an_event_of_another_day_is_told_with_its_date() -> None:
    assert [
        when(Event(time=NOW - ago, kind="a", message="b"), NOW)
        for ago in (0, 86_400, 20 * 86_400, 400 * 86_400)
    ] == [
        "20:26:40",
        "27 May 20:26",
        " 8 May 20:26",
        "23 Apr 2025",
    ]


@pytest.mark.parametrize(
    ("kind", "subject", "area", "key"),
    [
        ("rule-updated", "hub-library", "Rules", "hub-library"),
        ("credential-set-unhealthy", "hub-login", "Credentials", "hub-login"),
        ("pull-started", "7", "Pulls", "7"),
        ("source-unreachable", "docker.io", "Sources", "docker.io"),
        ("tag-gone", "library/nginx:1.27", "Repositories", "library/nginx"),
        ("manifest-imported", "library/nginx:1.27", "Repositories", "library/nginx"),
        ("manifest-deleted", "library/nginx@sha256:ab", "Repositories", "library/nginx"),
        ("locked", "library/nginx", "Repositories", "library/nginx"),
    ],
)
def test_an_event_leads_to_what_it_is_about(kind: str, subject: str, area: str, key: str) -> None:
    about = event_subject(Event(time=NOW, kind=kind, message="", subject=subject))
    assert about is not None
    assert (about.area, about.key) == (area, key)


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("rule-deleted", "hub-library"),
        ("repository-deleted", "a"),
        ("engine-started", None),
        ("evicted", None),
    ],
)
def test_what_is_gone_leads_nowhere(kind: str, subject: str | None) -> None:
    assert event_subject(Event(time=NOW, kind=kind, message="", subject=subject)) is None


def test_an_event_keeps_its_key_while_older_ones_are_forgotten() -> None:
    events = [RULE, FAILED, FAILED]
    assert list(events_by_key(events).values()) == [FAILED, FAILED, RULE]
    assert set(events_by_key(events[1:])) < set(events_by_key(events))


@pytest.mark.usefixtures("fixed_time")
def test_an_opened_event_says_all_of_it() -> None:
    assert event_cells(RULE, NOW) == [
        Cell("Cache rule hub-library: library/* from docker.io/library/*."),
        Cell(""),
        Cell("20:25:40, 1 min ago   rule-created", "dim"),
        Cell("It is about the cache rule hub-library.", "dim"),
    ]
    assert event_detail(FAILED, NOW).lines == (
        FAILED.message,
        "just now   pull-ended   warning   about 7",
    )
