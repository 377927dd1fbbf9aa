"""What happened, for the log and for the clients that follow it."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest

from entrepot.api import models
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import RECENT_EVENTS, WATCHER_BACKLOG, EventLog


@pytest.mark.parametrize(
    ("severity", "level"),
    [(Severity.INFO, "INFO"), (Severity.WARNING, "WARNING"), (Severity.ERROR, "ERROR")],
)
def test_an_event_becomes_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture, severity: Severity, level: str
) -> None:
    with caplog.at_level(logging.INFO, "entrepot"):
        EventLog(lambda: 5.0).record(
            EventKind.RULE_CREATED, "Cache rule hub is made.", "hub", severity=severity
        )
    [line] = caplog.records
    assert (line.getMessage(), line.levelname, line.__dict__["kind"], line.__dict__["subject"]) == (
        "Cache rule hub is made.",
        level,
        "rule-created",
        "hub",
    )


def test_the_json_of_an_event_is_that_of_the_api() -> None:
    events = EventLog(lambda: 5.0)
    events.record(EventKind.TAG_GONE, "It is gone.", "nginx:1", severity=Severity.WARNING)
    content = msgspec.json.encode(events.recent()[0])
    assert json.loads(content) == {
        "time": 5.0,
        "kind": "tag-gone",
        "message": "It is gone.",
        "subject": "nginx:1",
        "severity": "warning",
    }
    event = msgspec.json.decode(content, type=models.Event)
    assert (event.time, event.kind, event.message) == (5.0, "tag-gone", "It is gone.")


def test_only_the_last_events_are_remembered() -> None:
    events = EventLog(lambda: 5.0)
    for number in range(RECENT_EVENTS + 3):
        events.record(EventKind.RULE_UPDATED, str(number))
    assert [events.recent()[0].message, len(events.recent())] == ["3", RECENT_EVENTS]


async def test_a_watcher_sees_what_happens_from_now_on() -> None:
    events = EventLog(lambda: 5.0)
    events.record(EventKind.RULE_UPDATED, "before")
    with events.watching() as watcher:
        events.record(EventKind.RULE_UPDATED, "first")
        events.record(EventKind.RULE_UPDATED, "second")
        assert [(await anext(watcher)).message, (await anext(watcher)).message] == [
            "first",
            "second",
        ]


async def test_a_slow_watcher_loses_the_oldest_and_costs_no_more_memory() -> None:
    events = EventLog(lambda: 5.0)
    with events.watching() as watcher:
        for number in range(WATCHER_BACKLOG + 10):
            events.record(EventKind.RULE_UPDATED, str(number))
        assert (await anext(watcher)).message == "10"
