"""Credential sets on the screen of a real engine."""

from __future__ import annotations

import pytest

from entrepot.core.credentials import CredentialSetDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.fakes.sign_in import BasicSignIn
from tests.tui.conftest import Person, dashboard
from tests.tui.grid import lines


@pytest.fixture
async def login(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential set whose secrets are there."""
    monkeypatch.setenv("EXAMPLE_USER", "ann")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "secret-word")
    await engine.credential_sets.create(
        CredentialSetDraft(
            "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
        )
    )


async def test_c_tries_to_sign_in_and_says_how_it_went(
    engine: Engine, source: FakeRegistry, login: None
) -> None:
    source.sign_in = BasicSignIn({"ann": "secret-word"})
    async with dashboard(engine, size=(120, 40)) as person:
        await person.press("3")
        await person.sees(
            "example-login", "Health", "env:EXAMPLE_USER", "The secrets themselves are"
        )
        await person.press("c")
        await person.sees("example-login is healthy.", "Checked")
        source.sign_in = BasicSignIn({"ann": "another"})
        await person.press("c")
        await person.sees("example-login is unhealthy", "Reason", "Code")
        assert "secret-word" not in person.seen()


async def test_a_set_that_rules_use_is_not_deleted_and_the_dialog_names_them(
    person: Person, engine: Engine, login: None
) -> None:
    await engine.rules.update("example-library", "example-login")
    await person.press("3")
    await person.sees("example-login", "used by example-library")
    await person.press("d")
    await person.sees(
        "example-login can't be deleted now", "example-library. Give it another credential set"
    )
    assert "Delete" not in person.seen()
    await person.press("y", "enter")
    await person.until(lambda: "can't be deleted now" not in person.seen())
    assert len(engine.documents.credential_sets) == 1


async def test_a_set_that_nobody_uses_is_deleted_after_yes_and_its_secrets_stay(
    person: Person, engine: Engine, login: None
) -> None:
    await person.press("3")
    await person.sees("example-login")
    await person.press("d")
    await person.sees(
        "Delete the credential set example-login?",
        "The secrets themselves stay where they are: env:EXAMPLE_USER",
    )
    await person.press("right", "enter")
    await person.sees("There is no credential set yet.")
    assert len(engine.documents.credential_sets) == 0


async def test_a_set_is_copied_as_a_command_without_its_secrets(
    person: Person, login: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(
        type(person.app), "copy_to_clipboard", lambda self, text: copied.append(text)
    )
    await person.press("3")
    await person.sees("example-login")
    await person.press("y")
    await person.until(lambda: bool(copied))
    assert copied[0].startswith("entrepot credential-set create --name example-login")
    assert "secret-word" not in copied[0]


async def test_enter_changes_where_the_secrets_are_kept(person: Person, login: None) -> None:
    await person.press("3")
    await person.sees("> example-login")
    await person.press("enter")
    await person.sees(
        "Where are user name and password for registry.example.com kept?", "env:EXAMPLE_USER"
    )


async def test_a_dashboard_that_only_reads_changes_no_credential_set(
    engine: Engine, is_read_only: None, login: None
) -> None:
    async with dashboard(engine) as person:
        await person.press("3")
        await person.sees("example-login", "y copy")
        await person.press("enter")
        await person.sees("This dashboard only reads")
        assert len(person.app.screen_stack) == 1


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_without_a_set_the_screen_says_what_one_is(
    person: Person, size: tuple[int, int]
) -> None:
    await person.pilot.resize_terminal(*size)
    await person.press("3")
    await person.sees(
        "There is no credential set yet.", "Press n to create the first one.", "n new", "q quit"
    )
    assert max(len(line) for line in lines(person.app)) <= size[0]
