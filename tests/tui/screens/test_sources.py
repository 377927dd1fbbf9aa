"""Source registries: how they are, what uses them, and their examination."""

from __future__ import annotations

import pytest

from entrepot.api.models import RuleSnapshot, SourceRegistrySnapshot
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person
from tests.tui.grid import looks_like
from tests.tui.scripted import (
    NOW,
    UPSTREAM,
    ScriptedEngine,
    changed,
    look,
    nothing_painted,
    scripted_dashboard,
)
from tui.screens.sources import SourcesScreen

SIZES = ((60, 15), (80, 24), (120, 40))

UPSTREAMS = (
    changed(
        UPSTREAM,
        rate_limit_remaining=73,
        rate_limit_limit=100,
        rate_limit_window=21_600.0,
        rate_limit_resets=NOW + 3 * 3600,
    ),
    SourceRegistrySnapshot(
        name="Microsoft Artifact Registry",
        login_server="mcr.microsoft.com",
        sign_in=SignIn.NONE,
        rules=1,
        reachable=True,
    ),
    SourceRegistrySnapshot(
        name="GitHub",
        login_server="ghcr.io",
        sign_in=SignIn.OPTIONAL,
        rules=1,
        reachable=True,
        problem="ghcr.io answers with a web page.",
    ),
    SourceRegistrySnapshot(
        name="Quay",
        login_server="quay.io",
        sign_in=SignIn.OPTIONAL,
        rules=1,
        reachable=False,
        problem="quay.io can't be reached.",
        unreachable_since=NOW - 180,
        next_try=NOW + 20,
    ),
    SourceRegistrySnapshot(
        name="Azure Container Registry", login_server="*.azurecr.io", sign_in=SignIn.OPTIONAL
    ),
)


def rule(name: str, login_server: str, path: str) -> RuleSnapshot:
    return RuleSnapshot(
        name=name,
        source_repository=f"{login_server}/{path}",
        target_repository=path,
        credential_set=None,
        created=NOW,
        login_server=login_server,
    )


RULES = (
    rule("hub-acme", "docker.io", "acme/*"),
    rule("hub-library", "docker.io", "library/*"),
    rule("mcr", "mcr.microsoft.com", "dotnet/*"),
    rule("ghcr", "ghcr.io", "org/*"),
    rule("quay", "quay.io", "prom/*"),
)


def scripted() -> ScriptedEngine:
    return ScriptedEngine(upstreams=UPSTREAMS, rules=RULES)


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize("size", SIZES)
async def test_sources_look_as_agreed(size: tuple[int, int]) -> None:
    async with scripted_dashboard(scripted(), size=size) as person:
        await person.press("6")
        await person.sees("4 of 5 in use", "mcr.microsoft.com")
        await person.press("j", "j", "j")
        await person.sees("> quay.io")
        await looks_like(person.app, "sources")


@pytest.mark.usefixtures("fixed_time")
async def test_where_nothing_happens_nothing_is_painted_and_the_rules_are_read_once() -> None:
    engine = scripted()
    async with scripted_dashboard(engine) as person:
        await person.press("6")
        await person.sees("4 of 5 in use")
        await look(person)
        async with nothing_painted(person):
            await look(person)
            await look(person)
        assert engine.asked["rules"] == 1


async def test_a_source_is_examined(person: Person, source: FakeRegistry) -> None:
    source.add_image("library/nginx", "1")
    await person.press("6")
    await person.sees(f"> {LOGIN_SERVER}", "c check")
    await person.press("c")
    await person.sees(
        f"Doctor report of {LOGIN_SERVER}",
        "ok connection",
        "ok sign-in",
        "this machine, space",
        "esc closes",
    )
    await person.press("escape")
    await person.sees("Source registries")


async def test_what_no_rule_uses_is_not_examined_and_says_why() -> None:
    engine = scripted()
    async with scripted_dashboard(engine) as person:
        await person.press("6")
        await person.sees("4 of 5 in use")
        await person.press("G")
        await person.sees("> *.azurecr.io")
        screen = person.app.screen
        assert isinstance(screen, SourcesScreen)
        assert (
            screen.disabled_reason("examine")
            == "No cache rule uses *.azurecr.io: there is nothing to check."
        )
        await person.press("enter")
        await person.sees("No cache rule uses it yet.")
        assert not any(path.startswith("doctor") for path in engine.asked)


async def test_a_source_leads_to_the_rules_that_use_it(person: Person, engine: Engine) -> None:
    await person.press("6")
    await person.sees(f"> {LOGIN_SERVER}", "used by example-library")
    await person.press("enter")
    await person.sees(f"Cache rules of {LOGIN_SERVER}", "example-library")
    await person.press("enter")
    await person.sees("Cache rules", "> example-library")
