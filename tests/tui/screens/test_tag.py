"""A tag, opened into platforms and layers, on the screen of a real engine."""

from __future__ import annotations

import os

import pytest

from entrepot.engine.engine import Engine
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard, pulled
from tests.tui.grid import lines

BASE = os.urandom(300_000)
"""A layer that two images share."""


@pytest.fixture
async def shared(engine: Engine, source: FakeRegistry) -> None:
    """Two images that share their lower layer, each held for one of its two platforms."""
    for name in ("nginx", "debian"):
        source.add_image(f"library/{name}", "1", layers=[BASE, os.urandom(50_000)])
        await pulled(engine, f"library/{name}:1")


async def opened(person: Person, name: str) -> None:
    await person.press("4")
    await person.sees(f"library/{name}")
    person.app.screen.row_list.move_to(f"library/{name}")  # type: ignore[attr-defined]
    await person.press("enter")
    await person.sees("example-library", "checked")
    await person.press("enter")


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_a_tag_opens_into_platforms_and_the_layers_of_one_of_them(
    engine: Engine, shared: None, size: tuple[int, int]
) -> None:
    async with dashboard(engine, size=size) as person:
        await opened(person, "nginx")
        await person.sees(
            "library/nginx:1   index of 2 platforms",
            "linux/amd64",
            "cached",
            "linux/arm64",
            "not cached",
            "Layers of linux/amd64",
            "q quit",
        )
        screen = lines(person.app)
        assert len(screen) == size[1]
        assert max(len(line) for line in screen) <= size[0]


async def test_layers_say_who_shares_them_and_the_one_under_the_cursor_tells_all(
    person: Person, shared: None
) -> None:
    await opened(person, "nginx")
    await person.sees(
        "Layers of linux/amd64",
        "config",
        "300.0 kB  cached      1 image: library/debian:1",
        "not shared",
    )
    await person.press("tab", "down")
    await person.sees(
        "layer, gzip   300.0 kB   cached   shared with 1 image: library/debian:1", "sha256:"
    )
    await person.press("escape")
    await person.sees("300.0 kB of it shared")
    await person.press("escape")
    await person.sees("docker pull 127.0.0.1:0/library/nginx:1")


async def test_a_platform_that_is_not_here_is_pulled_from_its_row(
    person: Person, engine: Engine, shared: None
) -> None:
    await opened(person, "nginx")
    await person.sees("> linux/amd64", "linux/arm64")
    await person.press("down")
    await person.sees("The layers of linux/arm64 are not known")
    await person.press("p")
    await person.sees("Pull an image into the cache", "library/nginx:1", "linux/arm64")
    await person.press("enter")
    await person.sees("5 Pulls", "arm64", "completed")
    detail = await engine.repositories.get("library/nginx")
    assert detail.tags[0].platforms == ("linux/amd64", "linux/arm64")


async def test_what_is_copied_is_for_the_platform_under_the_cursor(
    person: Person, shared: None
) -> None:
    await opened(person, "nginx")
    await person.sees("> linux/amd64", "linux/arm64")
    await person.press("down", "y")
    await person.sees(
        "Copy how to get library/nginx:1 for linux/arm64",
        "docker pull --platform linux/arm64 127.0.0.1:0/library/nginx:1",
    )


async def test_an_image_without_an_index_is_one_row(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/plain", "1", layers=[20_000], platforms=["linux/amd64"], index=False)
    await pulled(engine, "library/plain:1")
    await opened(person, "plain")
    await person.sees("library/plain:1   one image", "linux/amd64", "cached", "not shared")


async def test_a_tag_is_deleted_from_its_own_screen_and_that_closes(
    person: Person, engine: Engine, shared: None
) -> None:
    await opened(person, "nginx")
    await person.sees("Layers of linux/amd64")
    await person.press("d")
    await person.sees("Delete the tag library/nginx:1?", "Deletes the tag")
    await person.press("right", "enter")
    await person.sees("No tag is cached")
    assert "Copy how to get" not in person.seen()
    assert (await engine.repositories.get("library/nginx")).tags == ()


async def test_a_dashboard_that_only_reads_shows_layers_and_changes_nothing(
    engine: Engine, shared: None, is_read_only: None
) -> None:
    async with dashboard(engine) as person:
        await opened(person, "nginx")
        await person.sees("Layers of linux/amd64")
        await person.press("d", "l", "r", "p")
        await person.pilot.pause()
        assert len(person.app.screen_stack) == 3
