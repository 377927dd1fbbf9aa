"""Text that was meant for something else (F66): pasted without brackets, with them, or typed into
the wrong pane. It destroys nothing, wherever it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from textual.widgets import Input

from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry
from tests.scenarios.fuzz.conftest import examples
from tests.tui.conftest import Person, dashboard, pulled
from tui.terminal_input import RUN_GAP, RUN_LIMIT, KeyReader
from tui.wizards.wizard import Wizard
from widgets.dialogs.question import Question

PLACES: dict[str, tuple[tuple[str, ...], str]] = {
    "overview": (("1",), "Pulling now"),
    "rules": (("2",), "> a-rule"),
    "credentials": (("3",), "> free-login"),
    "repositories": (("4",), "> library/nginx"),
    "a repository": (("4", "enter"), "rule example-library"),
    "a tag": (("4", "enter", "enter"), "Layers of"),
    "pulls": (("5",), "x cancel"),
    "a pull": (("5", "enter"), "asked by"),
    "sources": (("6",), "Source registries"),
    "events": (("7",), "What happened"),
    "help": (("2", "question_mark"), "This screen"),
    "the palette": (("2", "colon"), "what do you want to do?"),
    "a filter": (("2", "slash"), "words to filter by"),
    "a question": (("2", "d"), "Delete the cache rule a-rule?"),
    "a question, at delete": (("2", "d", "right"), "Delete the cache rule a-rule?"),
    "a set's question, at delete": (("3", "d", "right"), "Delete the credential set free-login?"),
    "a question for a name": (("4", "d"), "Type library/nginx"),
    "the question before quitting, at stop": (("2", "q", "right", "right"), "Stop it"),
    "a rule's sign-in": (("2", "s"), "How does a-rule sign in?"),
    "a rule's sign-in, at another set": (("2", "s", "down"), "How does a-rule sign in?"),
    "a rule's freshness": (("2", "f"), "How long are the tags of a-rule trusted?"),
    "an eviction": (("4", "v"), "How much may stay cached?"),
    "an eviction's question": (("4", "v", "ctrl+u", "0", "space", "B", "enter"), "Type evict"),
    "a pull's dialog": (("5", "p"), "Pull an image into the cache"),
    "a new rule": (("2", "n"), "Which source registry does it pull from?"),
    "a new rule's repository": (("2", "n", "end", "up", "enter"), "Which repository of Example?"),
    "an import": (("2", "i"), "Which file holds the rules?"),
    "a set's review": (
        ("3", "enter", "end", "x", "enter", "enter"),
        "Nothing is changed yet. Is this what you want?",
    ),
    "the question before quitting a wizard": (
        ("3", "enter", "end", "x", "ctrl+c"),
        "Quit the wizard?",
    ),
    "a lock's question, at unlock": (("4", "down", "l", "right"), "Unlock library/redis?"),
}

TEXTS = (
    "dy\r",
    "d\t\r",
    "q s\r\n",
    "sj\r",
    "evict\r",
    "library/nginx\r",
    "docker.io/library/nginx:1.27\r",
    "for each in 1 2 3; do\r\tdocker rmi library/nginx:$each\r\tdone\r\r"
    "yes | docker system prune -a\r",
)


@dataclass(frozen=True)
class Stock:
    """What can be lost."""

    rules: frozenset[tuple[str, str | None, str | None]]
    sets: frozenset[str]
    tags: frozenset[tuple[str, str, str]]
    locked: frozenset[str]
    pulls: int

    def survive_in(self, later: Stock) -> bool:
        return (
            self.rules <= later.rules
            and self.sets <= later.sets
            and self.tags <= later.tags
            and self.locked <= later.locked
        )


async def stock_of(engine: Engine) -> Stock:
    details = [
        await engine.repositories.get(each.name) for each in await engine.repositories.list()
    ]
    return Stock(
        frozenset(
            (each.name, each.credential_set, str(each.freshness)) for each in engine.documents.rules
        ),
        frozenset(map(str, engine.documents.credential_sets)),
        frozenset(
            (each.repository.name, tag.name, tag.digest) for each in details for tag in each.tags
        ),
        frozenset(each.repository.name for each in details if each.repository.locked),
        len(engine.cache.pulls.all()),
    )


@pytest.fixture
async def stocked(engine: Engine, source: FakeRegistry, clock: Clock) -> Engine:
    """An engine that has one of everything, and images that may be evicted."""
    for name in ("library/nginx", "library/redis"):
        source.add_image(name, "1")
        await pulled(engine, f"{name}:1")
    await engine.repositories.lock("library/redis")
    for name in ("free-login", "used-login"):
        await engine.credential_sets.create(
            CredentialSetDraft(name, LOGIN_SERVER, "env:NO_SUCH_USER", "env:NO_SUCH_PASSWORD")
        )
    await engine.rules.create(RuleDraft("a-rule", f"{LOGIN_SERVER}/team/*", "team/*", "used-login"))
    clock.now += 1000
    return engine


async def go_to(person: Person, place: str) -> None:
    keys, text = PLACES[place]
    for number, key in enumerate(keys):
        await person.press(key)
        if number == 0:
            await person.sees("? help")
            # The text before may have moved the cursor, or filtered the list.
            await person.press("escape", "home")
        await still(person)
    await person.sees(text)


async def go_home(person: Person) -> None:
    """Out of whatever is open."""
    for _ in range(12):
        app = person.app
        if len(app.screen_stack) == 1 and not isinstance(app.focused, Input):
            return
        if isinstance(app.screen, Question) and "Quit the wizard?" in person.seen():
            await person.press("right", "enter")
        else:
            await person.press("ctrl+c" if isinstance(app.screen, Wizard) else "escape")
        await still(person)
    raise AssertionError(f"no way out of this:\n{person.seen()}")


async def still(person: Person) -> None:
    """Wait until nothing is on its way that a key has begun."""

    def is_still() -> bool:
        app = person.app
        working = [
            each
            for each in app.workers
            if not each.is_finished
            and each.name in {"_go_on", "_submitted", "_opened", "_checked", "check_soon"}
        ]
        return (
            not (app._queued_keys or app._is_preparing or working)
            and app._handled_count == app._taken_count
        )

    await person.until(is_still)
    await person.pilot.pause()


class Wire:
    """A terminal line into a dashboard of the test, with a clock of its own."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._now = 0.0
        self._reader = KeyReader(clock=lambda: self._now)

    def send(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            self._person.app.post_message(message)

    def silence(self, seconds: float) -> None:
        self._now += seconds
        for message in self._reader.tick():
            self._person.app.post_message(message)


async def paste(person: Person, text: str, cuts: Sequence[int] = ()) -> None:
    """Without brackets, in several reads."""
    wire, data = Wire(person), text.encode()
    begin = 0
    for cut in (*sorted(cuts), len(data)):
        wire.send(data[begin:cut])
        wire.silence(0.002)
        begin = max(begin, cut)
    wire.silence(RUN_GAP)
    await over(person)


async def paste_in_brackets(person: Person, text: str) -> None:
    wire = Wire(person)
    wire.send(b"\x1b[200~" + text.encode() + b"\x1b[201~")
    await over(person)


async def type_slowly(person: Person, text: str) -> None:
    """As a person types: each key has done what it does before the next one comes."""
    wire = Wire(person)
    wire.silence(1)
    for letter in text:
        wire.send(letter.encode())
        wire.silence(0.1)
        await over(person)


async def over(person: Person) -> None:
    await person.pilot.pause()
    if person.app.return_value is None:
        await still(person)


def goes_on(person: Person) -> bool:
    """Whether the engine does, whatever became of the dashboard."""
    return person.app.return_value is None or person.app.return_value.keep_engine


@pytest.mark.parametrize("place", PLACES)
async def test_text_that_comes_at_once_destroys_nothing_anywhere(
    stocked: Engine, place: str
) -> None:
    """F66: with and without brackets, in every place, also where the cursor stands at the dangerous
    button."""
    before = await stock_of(stocked)
    tries = [*((paste, text) for text in TEXTS), (paste_in_brackets, TEXTS[-1])]
    while tries:
        async with dashboard(stocked, started_engine=True) as person:
            while tries and person.app.return_value is None:
                way, text = tries.pop()
                await go_to(person, place)
                await way(person, text)
                after = await stock_of(stocked)
                assert before.survive_in(after), f"{text!r} in {place}"
                if len(text) > RUN_LIMIT or way is paste_in_brackets:
                    assert after == before, f"{text!r} in {place}"
                assert goes_on(person)
                if person.app.return_value is None:
                    await go_home(person)


ORDINARY = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@examples(25)
@given(
    st.sampled_from(sorted(PLACES)),
    st.lists(ORDINARY | st.sampled_from("dqxvlseny"), max_size=4),
    st.lists(st.integers(0, 60), max_size=3),
)
async def test_no_run_of_characters_destroys_anything(
    stocked: Engine, place: str, parts: list[str], cuts: list[int]
) -> None:
    """F66, for any text of any lines that does not begin with a lone enter: that is a decision."""
    assume(not parts or parts[0])
    before = await stock_of(stocked)
    async with dashboard(stocked, started_engine=True) as person:
        await go_to(person, place)
        await paste(person, "\r".join([*parts, ""]), cuts)
        assert before.survive_in(await stock_of(stocked))
        assert goes_on(person)


@examples(10)
@given(
    # An enter in a review is what it is there for.
    st.sampled_from(sorted(set(PLACES) - {"a question for a name", "a set's review"})),
    st.sampled_from(["d", "q", "v", "x", "l", "s", "d\t", "docker images", "cd /srv && ls -l"]),
    ORDINARY,
)
async def test_a_line_typed_into_the_wrong_pane_destroys_nothing(
    stocked: Engine, place: str, begin: str, line: str
) -> None:
    """F66: at typing speed, with an enter behind it. (What makes or changes something in a wizard
    wants several.)"""
    before = await stock_of(stocked)
    async with dashboard(stocked, started_engine=True) as person:
        await go_to(person, place)
        await type_slowly(person, f"{begin}{line}\r")
        assert before.survive_in(await stock_of(stocked))
        assert goes_on(person)


async def test_dropped_pasted_keys_are_reported_in_one_line(stocked: Engine) -> None:
    async with dashboard(stocked) as person:
        await go_to(person, "rules")
        await paste(person, "docker.io/library/nginx:1.27\r")
        await person.sees("29 characters arrived at")
        await person.press("slash")
        await paste(person, "docker.io/library/nginx:1.27\r")
        await person.until(
            lambda: getattr(person.app.focused, "value", "") == "docker.io/library/nginx:1.27"
        )


async def test_an_enter_pasted_with_text_changes_nothing_and_the_next_one_does(
    stocked: Engine,
) -> None:
    async with dashboard(stocked) as person:
        await go_to(person, "a rule's freshness")
        await paste(person, "never\r")
        await person.sees("enter arrived together with", "How long are the tags of a-rule trusted?")
        await person.press("enter")
        await person.sees("Tag lifetime of a-rule: never.")


async def test_an_enter_right_behind_a_paste_that_was_left_out_changes_nothing(
    stocked: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F66: the last line of a paste may come late over a slow line. A second enter is meant."""
    monkeypatch.setattr("tui.key_queue.PASTE_TAIL", 3600.0)
    async with dashboard(stocked) as person:
        await go_to(person, "a question, at delete")
        await person.until(lambda: getattr(person.app.focused, "id", "") == "delete")
        await paste(person, "docker.io/library/nginx:1.27\r")
        await person.press("enter")
        await person.sees("arrived right after a paste", "Delete the cache rule a-rule?")
        await person.press("enter")
        await person.sees("The cache rule a-rule is deleted")


async def test_a_letter_in_a_question_goes_back_to_what_changes_nothing(stocked: Engine) -> None:
    async with dashboard(stocked) as person:
        await go_to(person, "a question, at delete")
        await person.until(lambda: getattr(person.app.focused, "id", "") == "delete")
        await person.press("y")
        await person.until(lambda: getattr(person.app.focused, "id", "") == "keep")
        await person.press("right", "tab")
        await person.until(lambda: getattr(person.app.focused, "id", "") == "keep")
