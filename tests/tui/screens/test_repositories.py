"""Cached repositories and their tags on the screen of a real engine."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import text

from entrepot import formatting
from entrepot.api.repositories import RepositoriesClient
from entrepot.engine.engine import Engine
from entrepot.formatting import short_digest
from tests.conftest import Clock
from tests.fakes import FakeRegistry
from tests.fakes.images import Content
from tests.tui.conftest import Person, dashboard, disabled_reason, poll_is_over, pulled
from tests.tui.grid import lines
from tui.presentation import repositories
from widgets.row_list import RowList


@pytest.fixture
async def nginx(engine: Engine, source: FakeRegistry) -> None:
    """One tag of one repository, held for one platform."""
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    await engine.cache.usage.write()


async def many(engine: Engine, count: int) -> None:
    """*count* repositories in the catalog, without their manifests."""
    rows = [
        {
            "name": f"library/app-{number:05}",
            "source": f"docker.io/library/app-{number:05}",
            "created": 1e9,
            "pulls": number,
        }
        for number in range(count)
    ]
    async with engine.catalog._write() as connection:
        await connection.execute(
            text(
                "INSERT INTO repositories (name, source, created, pulls, locked) "
                "VALUES (:name, :source, :created, :pulls, 0)"
            ),
            rows,
        )


async def test_a_repository_shows_its_source_rule_and_size(engine: Engine, nginx: None) -> None:
    async with dashboard(engine, size=(120, 40)) as person:
        await person.press("4")
        await person.sees(
            "library/nginx", "Source", "Rule", "example-library", "Manifests", "Last pull"
        )
    async with dashboard(engine) as person:
        await person.press("4")
        await person.sees(
            "library/nginx",
            "from registry.example.com/library/nginx   rule example-library",
            "p pull",
            "y copy",
            "l lock",
        )


async def test_of_ten_thousand_repositories_only_those_on_the_screen_are_rendered(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many(engine, 10_000)
    worded: list[float] = []

    def size(count: float) -> str:
        worded.append(count)
        return formatting.size(count)

    monkeypatch.setattr(repositories, "size", size)
    await person.press("4")
    await person.sees("10,000", "library/app-00000", "library/app-00010")
    await person.press("slash")
    await person.type("app-0999")
    await person.sees("10 of 10,000 match", "library/app-09990")
    await person.press("enter", "o", "O")
    await person.sees("> library/app-09990")
    assert lines(person.app)[5].split()[0] == "library/app-09999"
    await person.press("escape", "G")
    await person.sees("> library/app-00000")
    await person.press("ctrl+b", "ctrl+b")
    await person.sees("library/app-00030")
    assert len(worded) < 300


async def test_repositories_that_did_not_change_are_neither_fetched_nor_made_anew(
    person: Person, engine: Engine, nginx: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await person.press("4")
    await person.sees("library/nginx")
    built: list[object] = []

    async def fetched(self: RepositoriesClient) -> list[object]:
        built.append(self)
        return []

    monkeypatch.setattr(
        "tui.screens.repositories.RepositoryRow", lambda *arguments: built.append(arguments)
    )
    monkeypatch.setattr(RepositoriesClient, "list", fetched)
    for _ in range(2):
        person.app.poll_now()
        person.app.screen.poll()  # type: ignore[attr-defined]
        await person.pilot.pause()
        await person.until(lambda: poll_is_over(person))
    assert built == []
    await engine.repositories.lock("library/nginx")
    person.app.poll_now()
    await person.until(lambda: len(built) == 1)


async def test_a_repository_is_deleted_only_when_its_name_was_typed(
    person: Person, engine: Engine, nginx: None
) -> None:
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("d")
    await person.sees(
        "Delete the cached repository library/nginx?",
        "Deletes 1 tag (1.27) and",
        "Its cache rule example-library stays",
        "Type library/nginx to go on, then enter:",
    )
    await person.type("library/ngin")
    await person.press("enter")
    await person.sees("Delete the cached repository")
    await person.type("x")
    await person.press("enter")
    await person.sees("Nothing is cached yet.")
    assert await engine.repositories.list() == []


async def test_a_locked_repository_can_not_be_deleted_until_it_is_unlocked(
    person: Person, engine: Engine, nginx: None
) -> None:
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("l")
    await person.sees("library/nginx  locked", "locked: neither evicted nor deleted")
    await person.press("d")
    await person.sees("library/nginx can't be deleted now", "is locked.")
    assert "Type library/nginx" not in person.seen()
    await person.press("enter")
    await person.until(lambda: "can't be deleted now" not in person.seen())
    assert (await engine.repositories.get("library/nginx")).repository.locked
    await person.press("l")
    await person.sees("Unlock library/nginx?", "It may then be evicted, and deleted.")
    await person.press("enter")
    await person.until(lambda: "Unlock library/nginx?" not in person.seen())
    assert (await engine.repositories.get("library/nginx")).repository.locked
    await person.press("l")
    await person.sees("Unlock library/nginx?")
    await person.press("right", "enter")
    await person.sees("is unlocked.")
    await person.until(lambda: "locked: neither evicted" not in person.seen())
    assert not (await engine.repositories.get("library/nginx")).repository.locked


async def test_a_repository_opens_into_its_tags(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    for tag in ("1.26", "1.27"):
        source.add_image("library/nginx", tag)
        await pulled(engine, f"library/nginx:{tag}")
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("enter")
    await person.sees(
        "rule example-library",
        "1.26",
        "1.27",
        "amd64",
        "docker pull 127.0.0.1:0/library/nginx:1.26",
    )
    await person.press("d")
    await person.sees("Delete the tag library/nginx:1.26?", "Deletes the tag")
    await person.press("right", "enter")
    await person.until(lambda: "1.26" not in person.seen())
    await person.press("escape")
    await person.sees("Cached repositories")
    assert [tag.name for tag in (await engine.repositories.get("library/nginx")).tags] == ["1.27"]


async def test_a_tag_is_locked_and_shown_as_locked(
    fixed_time: Clock, person: Person, engine: Engine, nginx: None
) -> None:
    fixed_time.now += 180 * 86_400
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("enter")
    await person.sees("1.27", "checked")
    await person.press("l")
    await person.sees("180 d  locked")
    [tag] = (await engine.repositories.get("library/nginx")).tags
    assert tag.locked
    await person.press("d")
    await person.sees("library/nginx:1.27 can't be deleted now")


async def test_a_refresh_of_a_moved_tag_says_where_it_moved_and_offers_to_pull_it(
    person: Person, engine: Engine, source: FakeRegistry, nginx: None
) -> None:
    before = (await engine.repositories.get("library/nginx")).tags[0].digest
    moved = source.add_image("library/nginx", "1.27", layers=[30_000])
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("r")
    await person.sees(
        "Pull library/nginx:1.27 now?",
        f"moved from {short_digest(before)} to",
        short_digest(str(moved.digest)),
    )
    await person.press("right", "enter")
    await person.sees("Pull an image into the cache", "library/nginx:1.27")
    await person.type("linux/amd64")
    await person.press("enter")
    await person.sees("5 Pulls", "completed")
    assert (await engine.repositories.get("library/nginx")).tags[0].digest == str(moved.digest)


async def test_a_refresh_of_a_tag_that_did_not_move_or_is_gone_says_so(
    person: Person, engine: Engine, source: FakeRegistry, nginx: None
) -> None:
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("enter")
    await person.sees("1.27", "checked")
    await person.press("r")
    await person.sees("library/nginx:1.27 is unchanged")
    source.remove_tag("library/nginx", "1.27")
    await person.press("r")
    await person.sees("is gone at")
    await person.sees("gone at source")


async def test_of_several_tags_the_one_to_refresh_is_chosen(
    person: Person, engine: Engine, source: FakeRegistry, nginx: None
) -> None:
    source.add_image("library/nginx", "1.26")
    await pulled(engine, "library/nginx:1.26")
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("r")
    await person.sees("Which tag of library/nginx?", "1.26", "1.27")
    await person.press("g", "enter")
    await person.sees("library/nginx:1.26 is unchanged")


async def test_y_offers_lines_for_the_clients_and_copies_the_chosen_one(
    person: Person, nginx: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(
        type(person.app), "copy_to_clipboard", lambda self, text: copied.append(text)
    )
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("y")
    await person.sees(
        "Copy how to get library/nginx:1.27",
        "docker",
        "podman",
        "skopeo",
        "containerd",
        "docker pull 127.0.0.1:0/library/nginx:1.27",
    )
    await person.press("j")
    await person.sees("podman pull --tls-verify=false 127.0.0.1:0/library/nginx:1.27")
    await person.press("enter")
    await person.until(lambda: bool(copied))
    assert copied == ["podman pull --tls-verify=false 127.0.0.1:0/library/nginx:1.27"]


async def test_an_eviction_is_shown_before_it_is_done_and_wants_a_word(
    person: Person, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    for tag in ("1", "2"):
        source.add_image("library/nginx", tag, layers=[100_000])
        await pulled(engine, f"library/nginx:{tag}")
        clock.now += 1000
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("v")
    await person.sees("Evict the images that were used least recently", "How much may stay cached?")
    await person.press(*["backspace"] * 12)
    await person.type("much")
    await person.press("enter")
    await person.sees("'much' is not a size.")
    await person.press("v")
    await person.sees("How much may stay cached?")
    await person.press(*["backspace"] * 12)
    await person.type("150 kB")
    await person.press("enter")
    await person.sees("Evict 1 image?", "library/nginx:1 amd64", "Type evict to go on, then enter:")
    assert len((await engine.repositories.get("library/nginx")).tags) == 2
    await person.type("evict")
    await person.press("enter")
    await person.sees("1 image evicted:")
    assert [tag.name for tag in (await engine.repositories.get("library/nginx")).tags] == ["2"]


async def test_which_rule_answers_is_told_for_an_image_that_is_not_held(person: Person) -> None:
    await person.press("5", "p")
    await person.sees("Pull an image into the cache")
    await person.type("library/nginx:1.27")
    await person.sees(
        "example-library gets it from", "registry.example.com/library/nginx; not cached."
    )


async def test_p_pulls_an_image_and_shows_it(person: Person, source: FakeRegistry) -> None:
    source.add_image("library/nginx", "1.27")
    await person.press("4", "p")
    await person.sees("Pull an image into the cache")
    await person.type("library/nginx:1.27")
    await person.press("enter")
    await person.type("linux/arm64")
    await person.press("enter")
    await person.sees("5 Pulls", "library/nginx:1.27", "arm64", "completed")


@pytest.mark.parametrize("typed", ["library/nginx:1.27", "library/nginx", "amd46"])
async def test_f74_what_is_no_platform_is_refused_where_it_is_typed(
    typed: str, person: Person, engine: Engine, source: FakeRegistry
) -> None:
    """A newcomer who types the image once more got a pull that failed a second later."""
    source.add_image("library/nginx", "1.27", layers=[30_000])
    await person.press("4", "p")
    await person.sees("Pull an image into the cache")
    await person.type("library/nginx:1.27")
    await person.press("enter")
    await person.type(typed)
    await person.press("enter")
    await person.sees(
        "Pull an image into the cache", f'"{typed}" is not a platform', "windows/amd64."
    )
    assert engine.pulls.list() == []
    await person.press(*["backspace"] * len(typed))
    await person.type("aarch64")
    await person.press("enter")
    await person.sees("5 Pulls", "library/nginx:1.27", "arm64", "completed")


async def test_where_the_index_is_known_its_platforms_are_offered(
    person: Person, engine: Engine, nginx: None
) -> None:
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("p")
    await person.sees(
        "Pull an image into the cache",
        "library/nginx:1.27",
        "example-library gets it from",
        "linux/amd64  cached",
        "linux/arm64  not cached",
    )
    await person.press("down", "down", "enter")
    await person.sees("5 Pulls", "library/nginx:1.27", "arm64", "completed")
    assert (await engine.repositories.get("library/nginx")).tags[0].platforms == (
        "linux/amd64",
        "linux/arm64",
    )


async def test_f74_two_versions_of_windows_are_one_platform_to_choose(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image(
        "library/nginx", "1.27", layers=[30_000], platforms=["windows/amd64", "linux/amd64"]
    )
    document = json.loads(image.manifest.content)
    older = document["manifests"][0]
    older["platform"]["os.version"] = "10.0.17763.5576"
    newer = image.platforms["linux/amd64"].manifest.descriptor.document() | {
        "platform": older["platform"] | {"os.version": "10.0.20348.2340"}
    }
    document["manifests"] = [newer, older]
    source.add_manifest(
        "library/nginx",
        Content.of(image.manifest.media_type, json.dumps(document).encode()),
        "1.27",
    )
    await engine.cache.pulls.get(
        (await engine.pulls.start("library/nginx:1.27", "windows/amd64", "cli")).id
    ).finished.wait()
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("p")
    await person.sees("Pull an image into the cache", "windows/amd64")
    assert person.app.screen.query_one("#platforms", RowList).total == 1


async def test_a_pull_without_a_rule_is_refused_in_the_engines_words_in_place(
    person: Person,
) -> None:
    await person.press("4", "p")
    await person.sees("Pull an image")
    await person.type("other/thing:1")
    await person.press("enter", "enter")
    await person.sees("Pull an image into the cache", "No cache rule answers", "other/thing")


async def test_a_dashboard_that_only_reads_takes_nothing_away_and_fetches_nothing(
    engine: Engine, is_read_only: None, nginx: None
) -> None:
    async with dashboard(engine) as person:
        await person.press("4")
        await person.sees("library/nginx", "y copy")
        await person.press("d", "v", "l", "r", "p")
        await person.pilot.pause()
        assert len(person.app.screen_stack) == 1
        for action in ("delete", "evict", "lock", "refresh", "pull"):
            assert disabled_reason(person, action).startswith("This dashboard only reads")
        await person.press("enter")
        await person.sees("1.27", "y copy")


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_where_nothing_is_cached_the_screen_says_how_to_begin(
    person: Person, size: tuple[int, int]
) -> None:
    await person.pilot.resize_terminal(*size)
    await person.press("4")
    await person.sees(
        "Nothing is cached yet.", "press p to let the engine do it", "p pull", "q quit"
    )
    assert max(len(line) for line in lines(person.app)) <= size[0]


async def test_a_repository_that_is_deleted_elsewhere_closes_itself(
    person: Person, engine: Engine, nginx: None
) -> None:
    await person.press("4")
    await person.sees("library/nginx")
    await person.press("enter")
    await person.sees("1.27", "checked")
    await engine.repositories.delete("library/nginx")
    person.app.poll_now()
    async with asyncio.timeout(60):
        await person.sees("Cached repositories", "Nothing is cached yet.")
