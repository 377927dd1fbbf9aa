"""The wizard for a credential set, driven by keys against a real engine."""

from __future__ import annotations

import pytest
from textual import events

from entrepot.core.credentials import CredentialSetDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard


async def to_secrets(person: Person) -> None:
    await person.press("3")
    await person.sees("Credential sets")
    await person.press("n")
    await person.sees("Which source registry does it sign in to?", "Docker Hub")
    await person.press("G", "k", "enter")
    await person.sees(f"Where are user name and password for {LOGIN_SERVER} kept?")


async def test_a_credential_set_is_made(person: Person, engine: Engine) -> None:
    await person.press("3")
    await person.sees("There is no credential set yet.")
    await person.press("n")
    await person.sees("Which source registry does it sign in to?", "Docker Hub")
    await person.press("G", "k", "enter")
    await person.sees(f"Where are user name and password for {LOGIN_SERVER} kept?")
    await person.type("env:EXAMPLE_USER")
    await person.press("enter")
    await person.type("file:/run/secrets/example")
    await person.press("enter")
    await person.sees("Nothing is created yet.", "entrepot credential-set create")
    await person.press("tab", "ctrl+u")
    await person.type("example-login")
    await person.sees("--name example-login")
    await person.press("enter")
    await person.sees("Credential sets", "example-login", "env:EXAMPLE_USER")
    created = engine.documents.credential_sets.get("example-login")
    assert (created.login_server, str(created.password)) == (
        LOGIN_SERVER,
        "file:/run/secrets/example",
    )


async def test_the_identifiers_of_a_credential_set_are_changed(
    engine: Engine, person: Person
) -> None:
    await engine.credential_sets.create(
        CredentialSetDraft("example-login", LOGIN_SERVER, "env:OLD_USER", "env:OLD_PASSWORD")
    )
    await person.press("3")
    await person.sees("example-login")
    await person.press("e")
    await person.sees("env:OLD_USER", "env:OLD_PASSWORD")
    await person.press("enter")
    await person.press("ctrl+u")
    await person.type("env:NEW_PASSWORD")
    await person.press("enter")
    await person.sees(
        "Nothing is changed yet.",
        "stays env:OLD_USER",
        "before env:OLD_PASSWORD",
        "after env:NEW_PASSWORD",
        "credential-set update",
    )
    assert "--username-id" not in person.seen()
    await person.press("enter")
    await person.sees("Credential sets")
    changed = engine.documents.credential_sets.get("example-login")
    assert (str(changed.username), str(changed.password)) == ("env:OLD_USER", "env:NEW_PASSWORD")


async def test_a_key_tries_the_sign_in_and_says_how_it_went(
    engine: Engine, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "PASSWORD"):
        monkeypatch.setenv(f"EXAMPLE_{name}", "s3cret")
    await engine.credential_sets.create(
        CredentialSetDraft(
            "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
        )
    )
    await person.press("3")
    await person.sees("example-login", "check")
    await person.press("c")
    await person.sees("example-login is healthy.")
    monkeypatch.delenv("EXAMPLE_PASSWORD")
    await person.press("c")
    await person.sees("example-login is unhealthy", "EXAMPLE_PASSWORD is not set")


async def test_the_sign_in_is_tried_before_the_set_is_made(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_USER", "ann")
    await to_secrets(person)
    await person.type("env:EXAMPLE_USER")
    await person.press("enter")
    await person.type("env:EXAMPLE_PASSWORD")
    await person.press("enter")
    await person.sees("Nothing is created yet.", "c signs in with it now", "c try it")
    await person.press("c")
    await person.sees(
        "The sign-in does not work:", "EXAMPLE_PASSWORD is not set", "SecretUnavailable"
    )
    monkeypatch.setenv("EXAMPLE_PASSWORD", "s3cret")
    await person.press("c")
    await person.sees("The sign-in works: registry-login is healthy.")
    assert len(engine.documents.credential_sets) == 0
    assert "s3cret" not in person.seen()


async def test_after_it_is_made_or_changed_the_reason_why_it_can_t_sign_in_is_shown(
    person: Person, engine: Engine
) -> None:
    """Newcomer: the reason was shown only on request, with c."""
    await to_secrets(person)
    await person.type("env:EXAMPLE_USER")
    await person.press("enter")
    await person.type("env:EXAMPLE_PASSWORD")
    await person.press("enter")
    await person.sees("Nothing is created yet.")
    await person.press("enter")
    await person.sees("Credential sets", "registry-login is unhealthy:", "EXAMPLE_USER is not set")
    await person.press("e")
    await person.sees("Edit credential set")
    await person.press("ctrl+u")
    await person.type("env:OTHER_USER")
    await person.press("enter", "enter")
    await person.sees("Nothing is changed yet.")
    await person.press("enter")
    await person.sees("Credential sets", "OTHER_USER is not set")


async def test_each_kind_of_secret_has_an_example_that_begins_an_entry(
    person: Person, engine: Engine
) -> None:
    await to_secrets(person)
    await person.sees(
        "env:HUB_USER", "docker-helper:ecr-login/username", "never stored, shown or logged"
    )
    await person.press("enter")
    await person.sees("docker-helper:ecr-login/password", "tab kinds")
    await person.press("tab")
    await person.sees("enter insert this kind", "An environment variable of the engine")
    await person.press("j")
    await person.sees("mode 600")
    await person.press("enter")
    await person.sees("Password file:/run/secrets/hub-token", "enter next")


async def test_a_kind_is_explained_as_soon_as_it_is_typed(person: Person) -> None:
    await to_secrets(person)
    await person.type("https:")
    await person.sees("Not possible:", "SecretIdentifierInvalid", "a rotated one is picked up")
    await person.press("ctrl+u")
    await person.type("command:/usr/bin/hub")
    await person.sees("no shell is involved")
    await person.until(lambda: "Not possible" not in person.seen())


async def test_a_password_that_is_pasted_by_mistake_is_refused_and_nothing_is_made_of_it(
    person: Person, engine: Engine
) -> None:
    await to_secrets(person)
    focused = person.app.screen.focused
    assert focused is not None
    focused.post_message(events.Paste(" env:EXAMPLE_USER\n"))
    await person.press("enter")
    person.app.screen.focused.post_message(events.Paste("hunter2\n"))  # type: ignore[union-attr]
    await person.sees("Not possible: This is not a secret identifier.", "Entrepot never keeps one.")
    await person.press("enter")
    await person.sees("step 2 of 3")
    await person.press("ctrl+c")
    await person.sees("Quit the wizard?")
    await person.press("right", "enter")
    await person.sees("There is no credential set yet.")
    assert len(engine.documents.credential_sets) == 0


async def test_an_edit_that_changes_nothing_says_so_and_leaves_it(
    engine: Engine, person: Person
) -> None:
    await engine.credential_sets.create(
        CredentialSetDraft("example-login", LOGIN_SERVER, "env:OLD_USER", "env:OLD_PASSWORD")
    )
    before = engine.documents.credential_sets.get("example-login")
    await person.press("3")
    await person.sees("example-login")
    await person.press("e")
    await person.sees("step 1 of 2", "env:OLD_USER")
    await person.press("enter", "enter")
    await person.sees(
        "Nothing has changed; enter changes nothing.",
        "stays env:OLD_USER",
        "stays env:OLD_PASSWORD",
    )
    await person.press("enter")
    await person.sees("Credential sets", "example-login")
    assert engine.documents.credential_sets.get("example-login") == before
    assert [
        each.kind for each in engine.events.recent() if each.kind == "credential-set-updated"
    ] == []


@pytest.mark.parametrize("size", [(60, 15), (80, 24)])
async def test_each_step_has_its_question_and_its_next_key(
    engine: Engine, source: FakeRegistry, size: tuple[int, int]
) -> None:
    async with dashboard(engine, size=size) as person:
        await to_secrets(person)
        await person.sees(
            "step 2 of 3", "enter password", "tab password", "esc back", "ctrl+c quit"
        )
        await person.type("env:EXAMPLE_USER")
        await person.press("enter")
        await person.type("env:EXAMPLE_PASSWORD")
        await person.sees("enter next", "tab kinds", "esc back", "ctrl+c quit")
        await person.press("enter")
        await person.sees(
            "step 3 of 3",
            "user name env:EXAMPLE_USER",
            "enter create",
            "c try it",
            "esc back",
            "ctrl+c quit",
        )


async def test_the_list_has_the_keys_after_its_first_row_was_made(
    person: Person, engine: Engine
) -> None:
    await to_secrets(person)
    await person.type("env:EXAMPLE_USER")
    await person.press("enter")
    await person.type("env:EXAMPLE_PASSWORD")
    await person.press("enter")
    await person.sees("Nothing is created yet.")
    await person.press("enter")
    await person.sees("Credential sets", "registry-login")
    await person.press("e")
    await person.sees("Edit credential set")


async def test_a_program_is_tried_and_made_only_after_a_question(
    person: Person, engine: Engine
) -> None:
    """S13."""
    await to_secrets(person)
    await person.type("env:EXAMPLE_USER")
    await person.press("enter")
    await person.type("command:/no/such/program")
    await person.press("enter")
    await person.sees("Nothing is created yet.", "c try it")
    for key in ("c", "enter"):
        await person.press(key)
        await person.sees(
            "Run a program on the engine's machine?", "command:/no/such/program", "No", "Run it"
        )
        await person.press("escape")
        await person.sees("Nothing is created yet.", "c try it")
    assert len(engine.documents.credential_sets) == 0
    await person.press("c")
    await person.sees("Run a program on the engine's machine?")
    await person.press("right", "enter")
    await person.sees("The sign-in does not work", "c try it")
    await person.press("enter")
    await person.sees("Run a program on the engine's machine?")
    await person.press("right", "enter")
    await person.sees("Credential sets", "registry-login")
    # An edit that leaves the program as it is asks nothing.
    await person.press("e")
    await person.sees("Edit credential set")
    await person.press("enter", "enter", "c")
    await person.sees("The sign-in does not work")
