"""What happened, for the log and for whoever watches."""

from __future__ import annotations

import logging

import pytest

from entrepot.events import RECENT, WAITING, EventLog


def test_an_event_becomes_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "entrepot"):
        EventLog(lambda: 5.0).record(
            "rule-created", "Cache rule hub is made.", "hub", level=logging.WARNING
        )
    [line] = caplog.records
    assert (line.getMessage(), line.levelname, line.__dict__["kind"], line.__dict__["subject"]) == (
        "Cache rule hub is made.",
        "WARNING",
        "rule-created",
        "hub",
    )


def test_only_the_last_events_are_remembered() -> None:
    events = EventLog(lambda: 5.0)
    for number in range(RECENT + 3):
        events.record("test", str(number))
    assert [events.recent()[0].message, len(events.recent())] == ["3", RECENT]


async def test_a_watcher_sees_what_happens_from_now_on() -> None:
    events = EventLog(lambda: 5.0)
    events.record("test", "before")
    with events.watching() as watched:
        events.record("test", "first")
        events.record("test", "second")
        assert [(await anext(watched)).message, (await anext(watched)).message] == [
            "first",
            "second",
        ]


async def test_a_slow_watcher_loses_the_oldest_and_costs_no_more_memory() -> None:
    events = EventLog(lambda: 5.0)
    with events.watching() as watched:
        for number in range(WAITING + 10):
            events.record("test", str(number))
        assert (await anext(watched)).message == "10"
