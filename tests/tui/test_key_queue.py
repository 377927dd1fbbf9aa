"""Keys that come faster than the screens: all in one read, as over a slow line, or from a user
who knows the wizard by heart."""

from __future__ import annotations

import asyncio

import pytest
from textual import events
from textual.geometry import Size
from textual.keys import _character_to_key

from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, pulled

NAMED = {"\r": "enter", "\x1b": "escape"}


def type_at_once(person: Person, text: str) -> None:
    """All keys lie ready before the first is looked at."""
    for letter in text:
        person.app.post_message(
            events.Key(
                NAMED.get(letter) or _character_to_key(letter),
                letter if letter.isprintable() else None,
            )
        )


@pytest.fixture
async def rules(engine: Engine) -> None:
    for name in ("nginx", "ginger", "quiet"):
        await engine.rules.create(
            RuleDraft(f"example-{name}", f"{LOGIN_SERVER}/{name}/*", f"{name}/*")
        )


async def test_letters_behind_the_key_of_the_filter_are_typed_into_it(
    rules: None, person: Person
) -> None:
    # Each of them is a key of this screen too: n makes a rule, g moves, q quits.
    type_at_once(person, "2/ngq")
    await person.sees("0 of 4 match   / ngq")
    type_at_once(person, "\x1b/nginx\r")
    await person.sees("1 of 4 match   / nginx", "> example-nginx")


async def test_enter_opens_the_row_of_the_keys_before_it_and_later_keys_are_for_what_opens(
    rules: None, person: Person
) -> None:
    type_at_once(person, "2jj/q\r\x1bG/ginger\r")
    await person.sees("1 of 4 match   / ginger", "> example-ginger")
    type_at_once(person, "5pother/thing:1\r\r")
    await person.sees("Pull an image into the cache", "No cache rule answers", "other/thing")


async def test_letters_behind_the_key_of_the_palette_are_typed_into_it(person: Person) -> None:
    type_at_once(person, "2:new rule")
    await person.sees("new rule")
    await person.until(lambda: getattr(person.app.focused, "value", "") == "new rule")


async def test_escape_closes_what_is_just_being_opened(person: Person) -> None:
    type_at_once(person, "2?\x1b:\x1b5p\x1b")
    await person.sees("Nothing has been pulled yet.")
    await person.until(lambda: not person.app._queued_keys and len(person.app.screen_stack) == 1)
    type_at_once(person, "p\x1bp")
    await person.sees("Pull an image into the cache")


async def test_letters_behind_the_key_of_a_wizard_reach_it(person: Person) -> None:
    type_at_once(person, "2nG\rghcr.example/team/app")
    await person.until(lambda: getattr(person.app.focused, "value", "") == "ghcr.example/team/app")


async def test_a_whole_wizard_typed_by_heart(person: Person, engine: Engine) -> None:
    type_at_once(person, "2nGk\rteam/app\r-two\rg\rg\r")
    await person.sees("Nothing is created yet.", "Name available", "--target-repo team/app-two")
    assert len(engine.documents.rules) == 1


async def test_what_is_typed_while_the_engine_is_asked_goes_where_it_was_meant_to(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_at_once(person, "2nGk\rteam/app")
    await person.sees("Source valid:")
    requested, may_answer = asyncio.Event(), asyncio.Event()
    check = engine.rules.validate

    async def slowly(*arguments: object, **options: object) -> object:
        requested.set()
        await may_answer.wait()
        return await check(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.rules, "validate", slowly)
    # Enter four times more: a key that was leant on.
    type_at_once(person, "\r\r\r\r\r-more")
    await asyncio.wait_for(requested.wait(), 30)
    await person.sees("Which repository of Example?")
    assert getattr(person.app.focused, "value", "") == "team/app"
    may_answer.set()
    await person.sees("Where does it appear here?")
    await person.until(lambda: getattr(person.app.focused, "value", "") == "team/app-more")


async def test_escape_waits_for_nothing(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_at_once(person, "2nGk\rteam/app")
    await person.sees("Source valid:")
    requested = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        requested.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(engine.rules, "validate", never)
    type_at_once(person, "\rmore")
    await asyncio.wait_for(requested.wait(), 30)
    type_at_once(person, "\x1b")
    await person.sees("Which source registry does it pull from?")


async def test_keys_behind_the_answer_to_a_question_are_for_the_screen_below(
    person: Person, engine: Engine
) -> None:
    # All are queued before the question is drawn: escape is for it, the others for nothing
    # (F66).
    type_at_once(person, "2d\x1bn")
    await person.until(lambda: person.app._taken_count == 3 and len(person.app.screen_stack) == 1)
    type_at_once(person, "d")
    await person.sees("Delete the cache rule example-library?")
    type_at_once(person, "\x1bn")
    await person.sees("Which source registry does it pull from?")
    assert len(engine.documents.rules) == 1


async def test_a_name_that_was_typed_before_the_question_was_drawn_deletes_nothing(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    """F66: it was meant for something else. Once the question is there the name can be typed as
    quickly as one likes."""
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    type_at_once(person, "4")
    await person.sees("> library/nginx")
    type_at_once(person, "dlibrary/nginx\r")
    await person.sees("Delete the cached repository library/nginx?")
    await person.until(lambda: not person.app._queued_keys)
    assert getattr(person.app.focused, "value", None) == ""
    assert len(await engine.repositories.list()) == 1
    type_at_once(person, "library/nginx\r")
    await person.sees("Nothing is cached yet.")
    assert await engine.repositories.list() == []


async def test_the_platform_that_is_typed_ahead_is_the_one_that_is_pulled(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[tuple[object, ...]] = []
    start = engine.pulls.start

    async def told(*arguments: object, **options: object) -> object:
        requested.append(arguments)
        return await start(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.pulls, "start", told)
    type_at_once(person, "5plibrary/nginx:1.27\rlinux/amd64\r")
    await person.until(lambda: bool(requested))
    assert requested[0][:2] == ("library/nginx:1.27", "linux/amd64")


async def test_a_key_pressed_while_the_terminal_is_too_small_is_never_taken_later(
    person: Person, engine: Engine
) -> None:
    type_at_once(person, "2d")
    await person.sees("Delete the cache rule example-library?")
    await person.press("right")
    person.app.post_message(events.Resize(Size(50, 12), Size(50, 12)))
    type_at_once(person, "\r")
    person.app.post_message(events.Resize(Size(80, 24), Size(80, 24)))
    # It is written where what comes last is known to have come.
    person.app.post_message(events.Key("f1", None))
    await person.sees("Keys", "Change nothing")
    type_at_once(person, "\x1b\x1b/zz")
    await person.sees("0 of 1 match   / zz")
    assert len(engine.documents.rules) == 1


async def test_an_eviction_typed_by_heart(
    person: Person, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1.27")
    await pulled(engine, "library/nginx:1.27")
    clock.now += 1000
    type_at_once(person, "4")
    await person.sees("> library/nginx")
    # The line is proposed; it is typed again from its begin.
    person.app.post_message(events.Key("v", "v"))
    person.app.post_message(events.Key("ctrl+u", None))
    # The word that the eviction wants typed is for a question that was not drawn yet (F66).
    type_at_once(person, "0 B\revict\r")
    await person.sees("Evict 1 image?")
    await person.until(lambda: not person.app._queued_keys)
    type_at_once(person, "evict\r")
    await person.sees("1 image evicted")


async def test_escape_gives_up_what_the_engine_is_slow_to_answer(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_at_once(person, "2")
    await person.sees("> example-library")
    requested = asyncio.Event()

    async def never(*_: object) -> None:
        requested.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(engine.rules, "preview_delete", never)
    type_at_once(person, "dn/x")
    await asyncio.wait_for(requested.wait(), 30)
    type_at_once(person, "\x1b/lib")
    await person.sees("1 of 1 match   / lib")
    assert not any(
        worker.name == "action_delete" and not worker.is_finished for worker in person.app.workers
    )
