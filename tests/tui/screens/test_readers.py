"""Readers and personal tokens on the screen of a real engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import bcrypt
import pytest

from entrepot.api.errors import EngineRefused
from entrepot.api.models import EngineStatus
from entrepot.api.readers import ReadersClient
from entrepot.config.directories import Directories
from entrepot.config.reader_settings import ReaderSettings
from entrepot.config.settings import Settings
from entrepot.core.tokens import TokenNotFound, hash_of
from entrepot.engine.engine import Engine
from tests.conftest import Clock
from tests.tui.conftest import dashboard, disabled_reason
from tests.tui.grid import lines, looks_like
from tests.tui.scripted import changed, look, settled

DAY = 86_400.0
SIZES = ((60, 15), (80, 24), (120, 40))


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """alice and bob have passwords; carol is in a group and can't sign in."""
    htpasswd = tmp_path / "readers.htpasswd"
    hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()
    htpasswd.write_text(f"alice:{hashed}\nbob:{hashed}\n")
    htpasswd.chmod(0o600)
    return replace(settings, readers=ReaderSettings(htpasswd, {"ops": ("alice", "carol")}))


@pytest.fixture
def tokens(directories: Directories) -> None:
    """ci has a token, that of nightly ends soon, and bob has one beside the password.

    They are there before the engine is: a token that it creates is as old as the test.
    """
    entries = [
        f"""[[tokens]]
name = "{name}"
sha256 = "{hash_of(name)}"
groups = {["build"] if name == "ci" else []}
created = {moment(-DAY)}
expires = {moment(life)}
"""
        for name, life in (
            ("ci", 90 * DAY),
            ("nightly", 3 * DAY),
            ("bob", 30 * DAY),
            ("short", DAY / 2),
        )
    ]
    directories.tokens.parent.mkdir(parents=True, exist_ok=True)
    directories.tokens.write_text("\n".join(entries))


def moment(seconds: float) -> str:
    """A time so many seconds after that of the test."""
    return datetime.fromtimestamp(Clock().now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.usefixtures("fixed_time", "tokens")
@pytest.mark.parametrize("size", SIZES)
async def test_the_readers_look_as_agreed(
    engine: Engine, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    get_status = engine.status.get

    async def steady() -> EngineStatus:
        return changed(await get_status(), space_limit=80 * 10**9)

    monkeypatch.setattr(engine.status, "get", steady)
    async with dashboard(engine, size=size) as person:
        await person.press("8")
        await person.sees(
            "nightly",
            "can't sign in",
            "alice signs in with password" if size[0] < 110 else "May read",
        )
        await look(person)
        await looks_like(person.app, "readers")


@pytest.mark.usefixtures("tokens")
async def test_enter_shows_what_a_reader_may_read_and_goes_to_the_rules(
    engine: Engine,
) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice")
        await person.press("enter")
        await person.sees("What alice may read", "example-library", "read by all who sign in")
        await person.press("enter")
        await person.sees("Cache rules")


@pytest.mark.usefixtures("tokens")
async def test_a_token_is_revoked_only_after_what_stops_was_shown(engine: Engine) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice")
        await person.press("slash", *"ci", "enter")
        await person.sees("> ci")
        await person.press("d")
        await person.sees(
            "Revoke the personal token ci?",
            "From now on nothing signs in with it",
            "ci can no longer read 1 rule: example-library.",
        )
        await person.press("enter")
        await person.until(lambda: "Revoke the personal token" not in person.seen())
        assert len(engine.readers.tokens()) == 4
        await person.press("d")
        await person.sees("Revoke the personal token ci?")
        await person.press("right", "enter")
        await person.sees("The personal token ci is revoked.")
        assert {token.name for token in engine.readers.tokens()} == {"bob", "nightly", "short"}


async def test_a_reader_without_a_token_says_why_there_is_nothing_to_revoke(
    engine: Engine,
) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice")
        await person.press("d")
        await person.sees("alice has no personal token.")
        await person.press("G")
        await person.sees("> carol")
        assert disabled_reason(person, "revoke") == "carol has no personal token."


@pytest.mark.usefixtures("tokens")
async def test_a_token_that_another_administrator_revoked_is_refused_in_words(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(self: ReadersClient, name: str) -> bool:
        missing = TokenNotFound(f"There is no personal token {name}.")
        raise EngineRefused(missing.code, missing.message, field=None, status=404)

    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice")
        await person.press("down")
        await person.sees("> bob")
        await person.press("d")
        await person.sees("bob can still sign in with a password.")
        monkeypatch.setattr(ReadersClient, "revoke_token", gone)
        await person.press("right", "enter")
        await person.sees("There is no personal token bob.")


@pytest.mark.usefixtures("tokens")
async def test_y_copies_the_line_that_signs_in(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    async with dashboard(engine) as person:
        monkeypatch.setattr(
            type(person.app), "copy_to_clipboard", lambda self, text: copied.append(text)
        )
        await person.press("8")
        await person.sees("> alice")
        await person.press("y")
        await person.until(lambda: bool(copied))
    assert copied == ["docker login -u alice 127.0.0.1:0"]


@pytest.mark.usefixtures("tokens", "is_read_only")
async def test_a_dashboard_that_only_reads_creates_and_revokes_no_token(engine: Engine) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice", "y copy login")
        await person.press("down", "d")
        await person.sees("This dashboard only reads")
        assert disabled_reason(person, "new").startswith("This dashboard only reads")


@pytest.mark.usefixtures("tokens")
async def test_a_token_that_expires_while_it_is_shown_becomes_expired(
    engine: Engine, fixed_time: Clock
) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("ends in 12 h")
        fixed_time.now += 13 * 3600
        await look(person)
        await person.until(
            lambda: any("short" in line and "expired" in line for line in lines(person.app))
        )


async def test_an_engine_of_an_older_version_is_named_as_such(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_route(self: ReadersClient) -> None:
        raise EngineRefused("NotFound", "There is no such resource.", field=None, status=404)

    monkeypatch.setattr(ReadersClient, "list", no_route)
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("The engine is of an older version", "entrepot serve")
        await person.press("n")
        await person.sees("which has no personal tokens")
        assert person.app.screen_stack[-1].title_text == "Readers"  # type: ignore[attr-defined]
        monkeypatch.undo()
        await look(person)
        await person.sees("> alice")


async def test_an_engine_that_refuses_the_list_keeps_what_was_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice")

        async def busy(self: ReadersClient) -> None:
            raise EngineRefused("CatalogFailed", "The disk fails.", field=None, status=503)

        monkeypatch.setattr(ReadersClient, "list", busy)
        await look(person)
        await person.sees("The disk fails.", "> alice")
        await settled(person)


async def test_the_commands_have_those_of_the_readers(engine: Engine) -> None:
    async with dashboard(engine) as person:
        await person.press("8")
        await person.sees("> alice")
        await person.press("colon")
        await person.type("token")
        await person.sees("Create a personal token", "Revoke the personal token")
