"""The wizard for a personal token, driven by keys against a real engine."""

from __future__ import annotations

import re

import pytest

from entrepot.api.errors import EngineUnreachable
from entrepot.api.readers import ReadersClient
from entrepot.core.readers import Reader
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.tui.conftest import Person
from tests.tui.grid import lines
from tui.wizards.token import TokenWizard

TOKEN = re.compile(r"entrepot_[A-Za-z0-9_-]{43}")


async def open_wizard(person: Person) -> None:
    await person.press("8", "n")
    await person.sees("Who signs in with the token?")


async def review_is_ready(person: Person) -> None:
    """Wait for the review, which discards the keys that were typed before it was shown."""
    await person.sees("The same as a command", "enter create")
    screen = person.app.screen
    await person.until(lambda: isinstance(screen, TokenWizard) and not screen.queues_keys)


async def to_the_review(person: Person, name: str = "ci") -> None:
    await open_wizard(person)
    await person.type(name)
    await person.sees("Name available")
    await person.press("enter", "enter")
    await person.sees("For how long is the token valid?", "> 90 days")
    await person.press("enter")
    await review_is_ready(person)


async def test_a_token_is_created_shown_once_and_signs_its_reader_in(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(
        type(person.app), "copy_to_clipboard", lambda self, text: copied.append(text)
    )
    await engine.rules.create(
        RuleDraft("example-secret", f"{LOGIN_SERVER}/secret/*", "secret/*", readers=("@ops",))
    )
    await open_wizard(person)
    await person.type("ci")
    await person.press("enter")
    await person.type("@ops")
    await person.press("comma")
    await person.type("web")
    await person.press("enter")
    await person.sees("> 90 days", "without end", "another time")
    await person.press("down", "enter")
    await person.sees(
        "ci, a member of @ops, @web, signs in with it until",
        "2 of 2 rules: example-library, example-secret",
        "entrepot token create ci --expires 30d --group ops --group web",
    )
    assert engine.readers.tokens() == []
    await review_is_ready(person)
    await person.press("enter")
    await person.sees("Store it now: it is not shown again.", "docker login -u ci 127.0.0.1:0")
    [secret] = TOKEN.findall(person.seen())
    signed_in = engine.readers.of_bearer(secret)
    assert signed_in is not None
    assert signed_in.reader == Reader("ci", frozenset({"ops", "web"}))
    await person.press("l", "y")
    await person.until(lambda: len(copied) == 2)
    assert copied == ["docker login -u ci 127.0.0.1:0", secret]
    # It was copied, so nothing is asked.
    await person.press("enter")
    await person.sees("> ci", "8 Readers")
    assert TOKEN.search(person.app.screen.title_text or "") is None  # type: ignore[attr-defined]


async def test_a_token_that_was_not_copied_is_not_closed_without_a_question(
    person: Person, engine: Engine
) -> None:
    await to_the_review(person)
    await person.press("enter")
    await person.sees("Store it now")
    [secret] = TOKEN.findall(person.seen())
    await person.press("escape")
    await person.sees("Have you stored the token?")
    await person.press("enter")
    await person.until(lambda: "Have you stored" not in person.seen())
    assert secret in person.seen()
    await person.press("escape")
    await person.sees("Have you stored the token?")
    await person.press("right", "enter")
    await person.sees("> ci", "8 Readers")
    assert len(engine.readers.tokens()) == 1


@pytest.mark.parametrize(
    ("typed", "refusal"),
    [
        ("-ci", "can't be the name of a token"),
        ("CI", "There is a personal token CI already."),
    ],
)
async def test_a_name_is_refused_while_it_is_typed(
    person: Person, engine: Engine, typed: str, refusal: str
) -> None:
    await engine.readers.create_token("ci")
    await open_wizard(person)
    await person.type(typed)
    await person.sees("Not possible:", refusal)
    await person.press("enter", "enter")
    await person.sees("Who signs in with the token?")


async def test_groups_are_judged_and_those_that_are_known_are_named(
    person: Person, engine: Engine
) -> None:
    await engine.readers.create_token("other", groups=("build",))
    await open_wizard(person)
    await person.type("ci")
    await person.press("enter")
    await person.sees("Known groups: @build")
    await person.type("a/b")
    await person.sees("can't be the name of a group")
    await person.press("enter")
    await person.sees("Who signs in with the token?")


async def test_another_time_is_typed_and_judged(person: Person, engine: Engine) -> None:
    await open_wizard(person)
    await person.type("ci")
    await person.press("enter", "enter")
    await person.sees("> 90 days")
    await person.press("G", "enter")
    await person.type("soon")
    await person.sees("is not a time for which a token can be valid")
    await person.press("ctrl+u")
    await person.type("12h")
    await person.sees("Until ")
    await person.press("enter")
    await person.sees("entrepot token create ci --expires 12h")
    await review_is_ready(person)
    await person.press("enter")
    await person.sees("Store it now")
    [token] = engine.readers.tokens()
    assert token.expires is not None
    assert token.expires - token.created == 12 * 3600


async def test_a_token_without_end_is_warned_about(person: Person, engine: Engine) -> None:
    await open_wizard(person)
    await person.type("ci")
    await person.press("enter", "enter")
    await person.sees("> 90 days")
    await person.press("G", "k")
    await person.sees("> without end", "A token that leaks then works until somebody notices.")
    await person.press("enter")
    await person.sees("signs in with it until it is revoked")
    await review_is_ready(person)
    await person.press("enter")
    await person.sees("valid until it is revoked")
    [token] = engine.readers.tokens()
    assert token.expires is None


async def test_going_back_loses_nothing_and_quitting_asks(person: Person, engine: Engine) -> None:
    await to_the_review(person)
    await person.press("escape", "escape")
    await person.sees("Who signs in with the token?", "ci")
    await person.press("ctrl+c")
    await person.sees("Quit the wizard?", "Nothing has been created.")
    await person.press("right", "enter")
    await person.sees("There is no reader yet")
    assert engine.readers.tokens() == []


async def test_a_name_that_was_taken_meanwhile_is_refused_in_the_review(
    person: Person, engine: Engine
) -> None:
    await to_the_review(person)
    await engine.readers.create_token("ci")
    await person.press("enter")
    await person.sees("Not possible: There is a personal token ci already.", "TokenAlreadyExists")
    assert isinstance(person.app.screen, TokenWizard)


async def test_an_engine_that_is_gone_loses_nothing_of_what_was_entered(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(self: ReadersClient, *arguments: object, **options: object) -> None:
        raise EngineUnreachable("No engine is running.")

    await to_the_review(person)
    with monkeypatch.context() as patched:
        patched.setattr(ReadersClient, "create_token", gone)
        patched.setattr(ReadersClient, "tokens", gone)
        await person.press("enter")
        await person.sees("No engine is running.", "Nothing that you entered is lost")
    await person.until(lambda: "No engine is running." not in person.seen())
    await person.press("enter")
    await person.sees("Store it now")


@pytest.mark.parametrize("size", [(60, 15), (80, 24)])
async def test_the_token_is_whole_in_a_narrow_terminal(
    person: Person, size: tuple[int, int]
) -> None:
    await person.pilot.resize_terminal(*size)
    await to_the_review(person)
    await person.press("enter")
    await person.sees("Store it now", "docker login -u ci 127.0.0.1:0")
    assert any(TOKEN.search(line) for line in lines(person.app))
