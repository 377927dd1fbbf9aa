"""Pulls: what is on its way in, what came, and one of them opened."""

from __future__ import annotations

import os
from typing import Any

import pytest

from entrepot.api.models import PullSnapshot
from entrepot.core.states import LayerState, PullState
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import DropAfter, FakeRegistry, Status
from tests.tui.conftest import Person
from tests.tui.grid import looks_like
from tests.tui.scripted import (
    LAYER,
    NOW,
    ScriptedEngine,
    changed,
    look,
    nothing_painted,
    pull,
    scripted_dashboard,
    settled,
)


async def pulled(engine: Engine, image: str) -> None:
    started = await engine.pulls.start(image, "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()


async def test_a_pull_is_watched_layer_by_layer(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image(
        "library/nginx", "1.27", layers=[os.urandom(400_000), os.urandom(300_000)]
    ).platforms["linux/amd64"]
    gate = source.hold(str(image.layers[0].digest), after_bytes=200_000, method="GET")
    await engine.pulls.start("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await gate.reached
    await person.press("5")
    await person.sees("library/nginx:1.27", "[####", "asked by 10.0.4.17")
    await person.press("enter")
    await person.sees(image.layers[0].digest.short, "verified", "[####", "2 of 3 blobs cached")
    gate.open()
    await person.sees("completed in", "3 of 3 blobs cached")


async def test_a_resumed_layer_says_so(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1", layers=[os.urandom(500_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    source.fault(str(layer.digest), DropAfter(200_000), method="GET")
    await pulled(engine, "library/nginx:1")
    await person.press("5")
    await person.sees("completed")
    await person.press("enter")
    await person.sees("verified", "resumed at")


async def test_a_failed_pull_says_why(person: Person, engine: Engine, source: FakeRegistry) -> None:
    source.fault("/manifests/", Status(500))
    await pulled(engine, "library/nginx:1")
    await person.press("5")
    await person.sees("failed", f"{LOGIN_SERVER}")


async def test_a_pull_is_cancelled_after_a_question(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[os.urandom(400_000)]).platforms[
        "linux/amd64"
    ]
    gate = source.hold(str(image.layers[0].digest), after_bytes=100_000, method="GET")
    await engine.pulls.start("library/nginx:1.27", "linux/amd64", "cli")
    await gate.reached
    await person.press("5")
    await person.sees("library/nginx:1.27", "x cancel")
    await person.press("x")
    await person.sees("Cancel the pull of library/nginx:1.27?")
    await person.press("right", "enter")
    await person.sees("cancelled")
    assert engine.blobs.size(image.layers[0].digest) is None


async def test_p_pulls_an_image_and_shows_it(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    await person.press("4", "p")
    await person.sees("Pull an image into the cache")
    await person.type("library/nginx:1.27")
    await person.press("enter")
    await person.type("linux/arm64")
    await person.press("enter")
    await person.sees("5 Pulls", "library/nginx:1.27", "arm64", "completed")


async def test_a_pull_without_a_rule_is_refused_in_the_engines_words(person: Person) -> None:
    await person.press("4", "p")
    await person.sees("Pull an image")
    await person.type("other/thing:1")
    await person.press("enter", "enter")
    await person.sees("No cache rule answers", "other/thing")


def some_pulls() -> list[PullSnapshot]:
    def ended(ago: float, took: float, **changes: Any) -> dict[str, Any]:
        return {
            "started": NOW - ago - took,
            "ended": NOW - ago,
            "speed": 0.0,
            "time_left": None,
            **changes,
        }

    missing = {
        "error_code": "SourceNotFound",
        "error_message": "docker.io has no library/old:1. Check the name.",
    }
    return [
        pull("4", size=71_200_000, received=41_300_000),
        pull(
            "3",
            repository="dotnet/sdk",
            tag="9.0",
            login_server="mcr.microsoft.com",
            size=800_000_000,
            received=176_000_000,
            speed=53e6,
            time_left=19.0,
        ),
        pull(
            "2",
            repository="acme/api",
            tag="5",
            login_server="ghcr.io",
            state=PullState.COMPLETED,
            **ended(3600, 7, size=62_000_000, from_source=62_000_000),
        ),
        pull(
            "1",
            repository="library/old",
            tag="1",
            state=PullState.FAILED,
            **ended(86_400, 3, size=0, layers=(), **missing),
        ),
    ]


SIZES = ((60, 15), (80, 24), (120, 40))


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize("size", SIZES)
async def test_pulls_look_as_agreed(size: tuple[int, int]) -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls()), size=size) as person:
        await person.press("5", "G")
        await person.sees("library/nginx:1.27", "2 running   84 MB/s")
        await looks_like(person.app, "pulls")


@pytest.mark.usefixtures("fixed_time")
async def test_where_nothing_was_pulled_it_is_said_how_a_pull_begins() -> None:
    async with scripted_dashboard(ScriptedEngine()) as person:
        await person.press("5")
        await person.sees("Nothing has been pulled yet.")
        await looks_like(person.app, "pulls-empty")


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize("size", SIZES)
async def test_an_opened_pull_looks_as_agreed(size: tuple[int, int]) -> None:
    layers = (
        changed(
            LAYER,
            digest="sha256:" + "1" * 64,
            size=29_100_000,
            received=29_100_000,
            state=LayerState.CACHED,
        ),
        changed(
            LAYER,
            digest="sha256:" + "2" * 64,
            size=38_600_000,
            received=12_000_000,
            state=LayerState.RESUMED,
            resumed_at=12_000_000,
            waiting_clients=3,
        ),
        changed(
            LAYER,
            digest="sha256:" + "3" * 64,
            size=3_500_000,
            received=3_500_000,
            state=LayerState.VERIFIED,
        ),
        changed(
            LAYER,
            digest="sha256:" + "4" * 64,
            size=956,
            received=0,
            state=LayerState.WAITING,
            media_type="application/vnd.oci.image.config.v1+json",
        ),
    )
    opened = pull(
        "4",
        size=71_200_000,
        received=41_300_000,
        layers=layers,
        from_source=41_300_000,
        to_clients=102_900_000,
    )
    async with scripted_dashboard(ScriptedEngine(pulls=[opened]), size=size) as person:
        await person.press("5")
        await person.sees("library/nginx:1.27")
        await person.press("enter")
        await person.sees("102.9 MB")
        await looks_like(person.app, "pull")


@pytest.mark.usefixtures("fixed_time")
async def test_a_failed_pull_opened_says_why() -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls())) as person:
        await person.press("5")
        await person.sees("library/old:1")
        await person.press("G", "enter")
        await person.sees(
            "failed after 3 s",
            "Failed after 3 s: docker.io has no library/old:1. Check the name.",
            "r again",
        )


@pytest.mark.usefixtures("fixed_time")
async def test_a_look_that_finds_no_pull_changed_paints_nothing() -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls())) as person:
        for opened in (False, True):
            await person.press(*(["5", "enter"] if opened else ["5"]))
            await person.sees("58 %" if opened else "dotnet/sdk:9.0")
            await look(person)
            async with nothing_painted(person):
                await look(person)
                await look(person)


async def test_what_failed_is_pulled_again_and_what_goes_on_is_not(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    source.fault("/manifests/", Status(500))
    await pulled(engine, "library/nginx:1")
    await person.press("5")
    await person.sees("failed", "r again")
    source.clear_faults()
    engine.cache.forget_failures()
    await person.press("r")
    await person.sees("completed", "2")
    assert [each.state for each in engine.cache.pulls.all()] == [
        PullState.COMPLETED,
        PullState.FAILED,
    ]


async def test_the_cursor_follows_the_pull_that_was_begun_again() -> None:
    engine = ScriptedEngine(pulls=some_pulls())
    async with scripted_dashboard(engine) as person:
        await person.press("5")
        await person.sees("library/old:1")
        person.app.screen.go_to("9")  # type: ignore[attr-defined]
        engine.pulls = [pull("9", repository="library/old", tag="1"), *some_pulls()]
        await look(person)
        await settled(person)
        assert person.app.screen.row_list.current.key == "9"  # type: ignore[attr-defined]


async def test_the_command_that_pulls_an_image_is_copied() -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls())) as person:
        await person.press("5")
        await person.sees("library/nginx:1.27")
        await person.press("y")
        await person.until(
            lambda: person.app.clipboard == "docker pull 127.0.0.1:5000/library/nginx:1.27"
        )


async def test_pulls_are_filtered_by_how_they_ended() -> None:
    async with scripted_dashboard(ScriptedEngine(pulls=some_pulls())) as person:
        await person.press("5")
        await person.sees("library/nginx:1.27")
        await person.press("slash")
        await person.type("failed")
        await person.sees("1 of 4 match", "library/old:1")
        assert "dotnet/sdk" not in person.seen()
