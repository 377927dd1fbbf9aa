"""The areas of the dashboard on a real engine."""

from __future__ import annotations

import asyncio
import os

import pytest
from textual.widgets import Input

from entrepot.engine import Engine
from entrepot.rules import RuleDraft
from tests.conftest import LOGIN_SERVER, Clock
from tests.standin import DropAfter, StandIn, Status
from tests.tui.conftest import Person, dashboard
from tests.tui.grid import lines


async def pulled(engine: Engine, image: str) -> None:
    started = await engine.start_pull(image, "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).over.wait()


async def test_the_overview_tells_what_to_do_first_and_what_is_there(person: Person) -> None:
    await person.sees("Nothing is being pulled.", "1 of 1,000 rules", "All is well.")


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_every_area_fits_its_terminal(engine: Engine, source: StandIn, size: tuple[int, int]) -> None:
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    async with dashboard(engine, size=size) as person:
        for key, *texts in (
            ("1", "Overview"),
            ("2", "Cache rules", "example-library"),
            ("3", "There is no credential set yet."),
            ("4", "Cached repositories", "library/nginx"),
            ("5", "Pulls", "library/nginx:1.27", "complete"),
            ("6", "Source registries", LOGIN_SERVER[:10]),
            ("7", "Events", "Cache rule exam"),
        ):
            await person.press(key)
            await person.sees(*texts, "? help", "q leave")
            shown = lines(person.app)
            assert len(shown) == size[1]
            assert max(len(line) for line in shown) <= size[0]


async def test_a_pull_is_watched_layer_by_layer(person: Person, engine: Engine, source: StandIn) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[os.urandom(400_000), os.urandom(300_000)]).platforms["linux/amd64"]
    gate = source.hold(str(image.layers[0].digest), after_bytes=200_000, method="GET")
    await engine.start_pull("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await gate.reached
    await person.press("5")
    await person.sees("library/nginx:1.27", "[####", "asked by 10.0.4.17")
    await person.press("enter")
    await person.sees(image.layers[0].digest.short, "verified", "[####", "2 of 3 blobs here")
    gate.open()
    await person.sees("completed in", "3 of 3 blobs here")


async def test_a_resumed_layer_says_so(person: Person, engine: Engine, source: StandIn) -> None:
    layer = source.add_image("library/nginx", "1", layers=[os.urandom(500_000)]).platforms["linux/amd64"].layers[0]
    source.fault(str(layer.digest), DropAfter(200_000), method="GET")
    await pulled(engine, "library/nginx:1")
    await person.press("5")
    await person.sees("complete")
    await person.press("enter")
    await person.sees("verified", "resumed at")


async def test_a_failed_pull_says_why(person: Person, engine: Engine, source: StandIn) -> None:
    source.fault("/manifests/", Status(500))
    await pulled(engine, "library/nginx:1")
    await person.press("5")
    await person.sees("failed", f"{LOGIN_SERVER}")


async def test_a_pull_is_cancelled_after_a_question(person: Person, engine: Engine, source: StandIn) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[os.urandom(400_000)]).platforms["linux/amd64"]
    gate = source.hold(str(image.layers[0].digest), after_bytes=100_000, method="GET")
    await engine.start_pull("library/nginx:1.27", "linux/amd64", "cli")
    await gate.reached
    await person.press("5")
    await person.sees("library/nginx:1.27", "x cancel")
    await person.press("x")
    await person.sees("Cancel the pull of library/nginx:1.27?")
    await person.press("y")
    await person.sees("cancelled")
    assert engine.blobs.size(image.layers[0].digest) is None


async def test_p_pulls_an_image_and_shows_it(person: Person, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    await person.press("4", "p")
    await person.sees("Pull an image into the cache")
    await person.type("library/nginx:1.27")
    await person.press("enter")
    await person.type("linux/arm64")
    await person.press("enter")
    await person.sees("5 Pulls", "library/nginx:1.27", "arm64", "complete")


async def test_a_pull_without_a_rule_is_refused_in_the_engines_words(person: Person) -> None:
    await person.press("4", "p")
    await person.sees("Pull an image")
    await person.type("other/thing:1")
    await person.press("enter", "enter")
    await person.sees("No cache rule answers", "other/thing")


async def test_a_rule_is_deleted_only_after_yes(person: Person, engine: Engine) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("d")
    await person.sees("Delete the cache rule example-library?", "What it cached stays")
    await person.press("enter")
    await person.until(lambda: "Delete the cache rule" not in person.seen())
    assert len(engine.documents.rules) == 1
    await person.press("d")
    await person.sees("Delete the cache rule example-library?")
    await person.press("y")
    await person.sees("There is no cache rule yet.")
    assert len(engine.documents.rules) == 0


async def test_a_repository_is_deleted_only_when_its_name_was_typed(person: Person, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("d")
    await person.sees("Delete the cached repository library/nginx?", "Type library/nginx to go on:")
    await person.type("library/ngin")
    await person.press("enter")
    await person.sees("Delete the cached repository")
    await person.type("x")
    await person.press("enter")
    await person.sees("Nothing is cached yet.")
    assert await engine.repository_snapshots() == []


async def test_a_repository_opens_into_its_tags(person: Person, engine: Engine, source: StandIn) -> None:
    for tag in ("1.26", "1.27"):
        source.add_image("library/nginx", tag)
        await pulled(engine, f"library/nginx:{tag}")
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("enter")
    await person.sees("rule example-library", "1.26", "1.27", "amd64", "docker pull 127.0.0.1:0/library/nginx:1.26")
    await person.press("d")
    await person.sees("Delete the tag library/nginx:1.26?")
    await person.press("y")
    await person.until(lambda: "1.26" not in person.seen())
    await person.press("escape")
    await person.sees("Cached repositories")


async def test_a_locked_repository_can_not_be_deleted_until_it_is_unlocked(person: Person, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("l")
    await person.sees("library/nginx locked", "locked: neither evicted nor deleted")
    await person.press("d")
    await person.sees("Delete the cached repository library/nginx?")
    await person.type("library/nginx")
    await person.press("enter")
    await person.sees("is locked.")
    assert (await engine.repository_detail("library/nginx")).repository.locked
    await person.press("l")
    await person.sees("is unlocked.")
    await person.until(lambda: "locked: neither evicted" not in person.seen())
    assert not (await engine.repository_detail("library/nginx")).repository.locked


async def test_a_tag_is_locked_and_shown_as_locked(person: Person, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("enter")
    await person.sees("1.27", "checked")
    await person.press("l")
    await person.sees("180 d locked")
    [tag] = (await engine.repository_detail("library/nginx")).tags
    assert tag.locked


async def test_an_eviction_is_shown_before_it_is_done(person: Person, engine: Engine, source: StandIn, clock: Clock) -> None:
    for tag in ("1", "2"):
        source.add_image("library/nginx", tag, layers=[100_000])
        await pulled(engine, f"library/nginx:{tag}")
        clock.now += 1000
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("v")
    await person.sees("Evict the images that were used least recently", "How much may be held afterwards?")
    await person.press(*["backspace"] * 12)
    await person.type("much")
    await person.press("enter")
    await person.sees("'much' is not a size.")
    await person.press("v")
    await person.sees("How much may be held afterwards?")
    await person.press(*["backspace"] * 12)
    await person.type("150 kB")
    await person.press("enter")
    await person.sees("Evict 1 image?", "library/nginx:1 amd64")
    assert len((await engine.repository_detail("library/nginx")).tags) == 2
    await person.press("y")
    await person.sees("1 image evicted:")
    assert [tag.name for tag in (await engine.repository_detail("library/nginx")).tags] == ["2"]


async def test_a_filter_shows_what_matches_and_how_many_and_escape_clears_it(person: Person, engine: Engine) -> None:
    for name in ("alpha", "beta", "gamma"):
        await engine.create_rule(RuleDraft(f"team-{name}", f"{LOGIN_SERVER}/{name}/*", f"{name}/*"))
    await person.press("2")
    await person.sees("team-alpha", "team-gamma")
    await person.press("slash")
    await person.type("team gam")
    await person.sees("1 of 4 match", "team-gamma")
    assert "team-alpha" not in person.seen()
    await person.press("enter")
    assert person.app.focused is not None
    assert not isinstance(person.app.focused, Input)
    await person.press("escape")
    await person.sees("team-alpha", "team-beta")


async def test_the_cursor_stays_on_its_row_when_rows_come(person: Person, engine: Engine) -> None:
    await person.press("2")
    await person.sees("> example-library")
    await engine.create_rule(RuleDraft("a-first-one", f"{LOGIN_SERVER}/a/*", "a/*"))
    person.app.look_now()
    await person.sees("a-first-one")
    assert any(line.startswith("> example-library") for line in lines(person.app))


async def test_the_keys_are_listed_from_the_bindings(person: Person) -> None:
    await person.press("2")
    await person.sees("Cache rules")
    await person.press("question_mark")
    await person.sees("Keys", "Make a cache rule", "Show only rows with these words")
    await person.press("escape")
    await person.until(lambda: "Show only rows" not in person.seen())


async def test_an_engine_that_is_lost_is_shown_and_found_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from entrepot.client import CacheClient, EngineUnreachable

    async with dashboard(engine) as person:
        status = CacheClient.status

        async def unreachable(self: CacheClient) -> None:
            raise EngineUnreachable("No engine is running. Start one with: entrepot serve")

        monkeypatch.setattr(CacheClient, "status", unreachable)
        person.app.look_now()
        await person.press("2")
        await person.sees("the engine does not answer")
        monkeypatch.setattr(CacheClient, "status", status)
        person.app.look_now()
        await person.sees("The engine answers again.", "example-library")


async def test_below_the_floor_the_screen_says_so_and_takes_no_keys(person: Person, engine: Engine) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.pilot.resize_terminal(59, 24)
    await person.sees("This terminal is too small.")
    await person.press("d", "y")
    await person.pilot.resize_terminal(80, 24)
    await person.sees("example-library", "d delete")
    assert "Delete the cache rule" not in person.seen()
    assert len(engine.documents.rules) == 1


async def test_leaving_is_immediate_when_nothing_runs_and_the_engine_is_not_ours(engine: Engine) -> None:
    async with dashboard(engine) as person:
        await person.press("q")
        await person.until(lambda: person.app.return_value is not None)
        assert person.app.return_value is not None
        assert person.app.return_value.keep_engine


async def test_leaving_asks_when_pulls_run(engine: Engine, source: StandIn) -> None:
    image = source.add_image("library/nginx", "1", layers=[os.urandom(300_000)]).platforms["linux/amd64"]
    gate = source.hold(str(image.layers[0].digest), after_bytes=100_000, method="GET")
    async with dashboard(engine) as person:
        await engine.start_pull("library/nginx:1", "linux/amd64", "cli")
        await gate.reached
        person.app.look_now()
        await person.sees("1 running")
        await person.press("q")
        await person.sees("Leave the dashboard?", "1 pull is still running.")
        await person.press("n")
        await person.until(lambda: "Leave the dashboard?" not in person.seen())
        gate.open()


@pytest.mark.parametrize(("key", "keeps"), [("l", True), ("s", False)])
async def test_leaving_asks_what_shall_become_of_an_engine_that_was_started_for_it(engine: Engine, key: str, keeps: bool) -> None:
    async with dashboard(engine, started_engine=True) as person:
        await person.press("q")
        await person.sees("The engine was started for this dashboard.", "Leave it running (l)", "Stop it (s)")
        await person.press(key)
        await person.until(lambda: person.app.return_value is not None)
        assert person.app.return_value is not None
        assert person.app.return_value.keep_engine is keeps


async def test_where_nothing_moves_nothing_is_painted(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    before = person.seen()
    painted: list[object] = []
    display = person.app._display
    person.app._display = lambda *arguments: painted.append(arguments) or display(*arguments)  # type: ignore[method-assign,func-returns-value]
    for _ in range(3):
        person.app.look_now()
        person.app.screen.look()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            await person.app.workers.wait_for_complete([worker for worker in person.app.workers if worker.group == "look"] or None)
        await person.pilot.pause()
    assert person.seen() == before
    assert painted == []


async def test_no_color_gets_the_terminals_own_palette(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with dashboard(engine) as person:
        assert person.app.theme == "ansi-dark"
