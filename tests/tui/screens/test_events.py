"""Events: newest first, live, and leading to what they are about."""

from __future__ import annotations

import pytest

from entrepot.api.models import Event
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.event_kinds import Severity
from tests.conftest import LOGIN_SERVER
from tests.tui.conftest import Person
from tests.tui.grid import lines, looks_like
from tests.tui.scripted import NOW, ScriptedEngine, look, nothing_painted, scripted_dashboard

SIZES = ((60, 15), (80, 24), (120, 40))

EVENTS = (
    Event(
        time=NOW - 90_000,
        kind="engine-started",
        message="Entrepot 1.0 answers container clients on 127.0.0.1:5000 with 12 cache rules.",
    ),
    Event(
        time=NOW - 3600,
        kind="rule-created",
        message="Cache rule hub-library: library/* from docker.io/library/*.",
        subject="hub-library",
    ),
    Event(
        time=NOW - 1800,
        kind="credential-set-unhealthy",
        message='hub-login is unhealthy: docker.io answers "incorrect user name or password".',
        subject="hub-login",
        severity=Severity.WARNING,
    ),
    Event(
        time=NOW - 60,
        kind="pull-started",
        message="Pulling library/nginx:1.27 from docker.io/library/nginx for 10.0.4.17.",
        subject="4",
    ),
    Event(
        time=NOW - 50,
        kind="pull-ended",
        message="The pull of library/nginx:1.27 is completed: 71,200,000 bytes in 3.1 s.",
        subject="4",
    ),
    Event(
        time=NOW - 5,
        kind="disk-refuses",
        message="The disk takes no more (No space left on device): "
        "blobs that are not held are passed on to clients.",
        severity=Severity.ERROR,
    ),
)


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize("size", SIZES)
async def test_events_look_as_agreed(size: tuple[int, int]) -> None:
    async with scripted_dashboard(ScriptedEngine(events=EVENTS), size=size) as person:
        await person.press("7")
        await person.sees("27 May 19:26", "The disk takes no more")
        await looks_like(person.app, "events")


@pytest.mark.usefixtures("fixed_time")
async def test_where_nothing_happens_nothing_is_painted() -> None:
    async with scripted_dashboard(ScriptedEngine(events=EVENTS)) as person:
        await person.press("7")
        await person.sees("27 May 19:26")
        await look(person)
        async with nothing_painted(person):
            await look(person)
            await look(person)


async def test_a_new_event_comes_on_top_and_whoever_stands_there_follows(
    person: Person, engine: Engine
) -> None:
    await person.press("7")
    await person.sees("Cache rule example-library")
    await engine.rules.create(RuleDraft("another-one", f"{LOGIN_SERVER}/acme/*", "acme/*"))
    await look(person)
    await person.sees("Cache rule another-one")
    assert next(line for line in lines(person.app) if line.startswith("> "))[26:].startswith(
        "Cache rule another-one"
    )


async def test_whoever_reads_an_older_event_stays_on_it(person: Person, engine: Engine) -> None:
    await engine.rules.create(RuleDraft("another-one", f"{LOGIN_SERVER}/acme/*", "acme/*"))
    await person.press("7")
    await person.sees("Cache rule another-one", "Cache rule example-library")
    await person.press("G")
    current = person.app.screen.row_list.current  # type: ignore[attr-defined]
    await engine.rules.delete("another-one")
    await look(person)
    await person.sees("another-one is deleted")
    assert person.app.screen.row_list.current.key == current.key  # type: ignore[attr-defined]


async def test_an_event_is_opened_and_leads_to_its_rule(person: Person) -> None:
    await person.press("7")
    await person.sees("Cache rule example-library")
    await person.press("enter")
    await person.sees(
        "It is about the cache rule example-library.",
        "enter goes to the cache rule example-library",
    )
    await person.press("enter")
    await person.sees("Cache rules", "> example-library")


async def test_events_are_filtered_by_severity_and_kind() -> None:
    async with scripted_dashboard(ScriptedEngine(events=EVENTS)) as person:
        await person.press("7")
        await person.sees("The disk takes no more")
        await person.press("slash")
        await person.type("warning")
        await person.sees("1 of 6 match", "hub-login is unhealthy")


async def test_a_message_is_copied() -> None:
    async with scripted_dashboard(ScriptedEngine(events=EVENTS)) as person:
        await person.press("7")
        await person.sees("The disk takes no more", "y copy")
        await person.press("y")
        await person.until(lambda: person.app.clipboard == EVENTS[-1].message)
