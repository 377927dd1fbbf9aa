"""``entrepot events``: recent events, and the stream of new ones."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import pytest

from entrepot.engine.engine import Engine
from entrepot.event_kinds import EventKind
from tests.cli.conftest import PATIENCE, CommandLine, next_line


async def test_recent_events_are_listed_oldest_first(entrepot: CommandLine, engine: Engine) -> None:
    engine.events.record(EventKind.RULE_CREATED, "First.")
    engine.events.record(EventKind.RULE_CREATED, "Second.")
    lines = (await entrepot.done("events")).output.splitlines()
    assert [line.rpartition("  ")[2] for line in lines[-2:]] == ["First.", "Second."]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  info     Second\.", lines[-1])


async def test_json_has_the_fields_of_an_event(entrepot: CommandLine, engine: Engine) -> None:
    engine.events.record(EventKind.RULE_CREATED, "First.", "example")
    event = (await entrepot.ask("events"))[-1]
    assert (event["kind"], event["message"], event["subject"], event["severity"]) == (
        "rule-created",
        "First.",
        "example",
        "info",
    )


@pytest.mark.parametrize(("limit", "messages"), [("2", ["Second.", "Third."]), ("0", [])])
async def test_the_number_of_recent_events_is_limited(
    entrepot: CommandLine, engine: Engine, limit: str, messages: list[str]
) -> None:
    for message in ("First.", "Second.", "Third."):
        engine.events.record(EventKind.RULE_CREATED, message)
    events = await entrepot.ask("events", "--limit", limit)
    assert [event["message"] for event in events] == messages


async def test_no_events_is_a_note_and_no_output(entrepot: CommandLine) -> None:
    result = await entrepot.done("events", "--limit", "0")
    assert (result.output, result.errors) == ("", "No events to show.\n")


async def test_follow_prints_each_event_once_until_the_engine_stops(
    entrepot: CommandLine, engine: Engine
) -> None:
    engine.events.record(EventKind.RULE_CREATED, "Before.")
    process = await entrepot.start("events", "--follow", "--limit", "1")
    assert (await next_line(process)).endswith("  Before.")
    for message in ("First.", "Second."):
        engine.events.record(EventKind.RULE_CREATED, message)
        assert (await next_line(process)).endswith(f"  {message}")
    engine.stopping.set()
    async with asyncio.timeout(PATIENCE):
        output, errors = await process.communicate()
    assert (process.returncode, output) == (0, b"")
    assert errors.decode().startswith("The event stream has ended: the engine has stopped")


async def test_follow_prints_one_line_of_json_per_event(
    entrepot: CommandLine, engine: Engine
) -> None:
    engine.events.record(EventKind.RULE_CREATED, "Before.")
    process = await entrepot.start("events", "--follow", "--json", "--limit", "1")
    assert json.loads(await next_line(process))["message"] == "Before."
    engine.events.record(EventKind.RULE_CREATED, "After \u2028 it.")
    assert json.loads(await next_line(process))["message"] == "After it."
    engine.stopping.set()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0


async def test_ctrl_c_ends_the_stream_without_a_message(
    entrepot: CommandLine, engine: Engine
) -> None:
    engine.events.record(EventKind.RULE_CREATED, "Before.")
    process = await entrepot.start("events", "--follow", "--limit", "1")
    await next_line(process)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        output, errors = await process.communicate()
    assert (process.returncode, output, errors) == (130, b"", b"")


async def test_follow_without_an_engine_ends_with_status_3(alone: CommandLine) -> None:
    result = await alone.run("events", "--follow")
    assert (result.status, "(EngineUnreachable)" in result.errors) == (3, True)


async def test_no_recent_events_without_an_engine_is_status_3_as_well(alone: CommandLine) -> None:
    assert (await alone.run("events", "-n", "0")).status == 3
