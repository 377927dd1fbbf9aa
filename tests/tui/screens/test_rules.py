"""Cache rules on the screen of a real engine."""

from __future__ import annotations

import pytest

from entrepot.api.errors import EngineRefused
from entrepot.api.rules import RulesClient
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard, disabled_reason, poll_is_over, pulled
from tests.tui.grid import lines

STRICT = "strict.example.com"
"""A source registry that requires a sign-in."""


async def credential_set(engine: Engine, name: str, login_server: str = LOGIN_SERVER) -> None:
    await engine.credential_sets.create(
        CredentialSetDraft(name, login_server, "env:NO_SUCH_USER", "env:NO_SUCH_PASSWORD")
    )


async def test_a_rule_shows_what_it_does_and_what_it_saved(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await pulled(engine, "library/nginx:1")
    async with dashboard(engine, size=(120, 40)) as person:
        await person.press("2")
        await person.sees(
            "example-library",
            "Requests made",
            "5 min (default)",
            "Credential set none",
            "Last pull",
        )
    async with dashboard(engine) as person:
        await person.press("2")
        await person.sees(
            "example-library answers for library/* with",
            "credential set none",
            "n new",
            "s sign-in",
            "d delete",
            "q quit",
        )


async def test_a_rule_is_deleted_only_after_what_stays_was_shown(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await pulled(engine, "library/nginx:1")
    await person.press("2")
    await person.sees("example-library")
    await person.press("d")
    await person.sees(
        "Delete the cache rule example-library?",
        "What it cached stays, and can still be pulled: 1 repository",
        "(library/nginx).",
    )
    await person.press("enter")
    await person.until(lambda: "Delete the cache rule" not in person.seen())
    assert len(engine.documents.rules) == 1
    await person.press("d")
    await person.sees("Delete the cache rule example-library?")
    await person.press("right", "enter")
    await person.sees("There is no cache rule yet.")
    assert len(engine.documents.rules) == 0
    await person.press("4")
    await person.sees("library/nginx", "no rule any more")


async def test_a_rule_gets_another_credential_set_and_loses_it_again(
    person: Person, engine: Engine
) -> None:
    await credential_set(engine, "example-login")
    await credential_set(engine, "other-login")
    await person.press("2")
    await person.sees("example-library")
    await person.press("s")
    await person.sees(
        "How does example-library sign in?", "example-login", "other-login", "> no credential set"
    )
    await person.press("home", "down", "enter")
    await person.sees("credential set other-login")
    assert engine.documents.rules.get("example-library").credential_set == "other-login"
    await person.press("s")
    await person.sees("> other-login")
    await person.press("end", "enter")
    await person.sees("credential set none")
    assert engine.documents.rules.get("example-library").credential_set is None


async def test_escape_leaves_the_sign_in_as_it_is(person: Person, engine: Engine) -> None:
    await credential_set(engine, "example-login")
    await person.press("2")
    await person.sees("example-library")
    await person.press("s")
    await person.sees("How does example-library sign in?")
    await person.press("g", "escape")
    await person.until(lambda: "How does" not in person.seen())
    assert engine.documents.rules.get("example-library").credential_set is None


async def test_a_refused_sign_in_is_told_in_place(person: Person, engine: Engine) -> None:
    await credential_set(engine, "example-login")
    await person.press("2")
    await person.sees("example-library")
    await person.press("s")
    await person.sees("example-login")
    await engine.credential_sets.delete("example-login")
    await person.press("home", "enter")
    await person.sees(
        "How does example-library sign in?",
        "Not possible: There is no credential set example-login.",
    )


class TestASourceThatWantsSomebodyToSignIn:
    @pytest.fixture
    def settings(self, source: FakeRegistry) -> Settings:
        declared = (
            DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, source.url),
            DeclaredRegistry(STRICT, "Strict", SignIn.REQUIRED, source.url),
        )
        return Settings(listen="127.0.0.1:0", upstreams=declared)

    async def test_offers_no_rule_to_go_without_a_credential_set(
        self, person: Person, engine: Engine
    ) -> None:
        await credential_set(engine, "strict-login", STRICT)
        await engine.rules.create(
            RuleDraft("a-strict-rule", f"{STRICT}/x/*", "x/*", "strict-login")
        )
        await person.press("2")
        await person.sees("a-strict-rule")
        await person.press("g", "s")
        await person.sees("How does a-strict-rule sign in?", "strict-login")
        assert "no credential set" not in person.seen()


async def test_without_a_credential_set_for_it_the_dialog_says_how_to_make_one(
    person: Person,
) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("s")
    await person.sees(
        "There is no credential set for registry.example.com.", "with n in Credentials."
    )


async def test_the_freshness_of_a_rule_is_judged_while_it_is_typed(
    person: Person, engine: Engine
) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("f")
    await person.sees("How long are the tags of example-library trusted?", "Now 5 min (default).")
    await person.type("soon")
    await person.sees("Not possible:", "soon")
    await person.press("enter")
    await person.sees("How long are the tags")
    await person.press("ctrl+u")
    await person.type("10 min")
    await person.press("enter")
    await person.sees("tag lifetime 10 min")
    assert engine.documents.rules.get("example-library").freshness == 600
    await person.press("f")
    await person.sees("Now 10 min.")
    await person.press("ctrl+u", "enter")
    await person.sees("5 min (default)")
    assert engine.documents.rules.get("example-library").freshness is None


async def test_which_rule_answers_is_told_while_it_is_typed_and_enter_goes_there(
    person: Person, engine: Engine
) -> None:
    await engine.rules.create(RuleDraft("team-api", f"{LOGIN_SERVER}/acme/api", "acme/api"))
    await person.press("2")
    await person.sees("> example-library", "team-api")
    await person.press("w")
    await person.sees("Which rule applies to ...?")
    await person.type("acme/api:5")
    await person.sees(
        "team-api answers, with registry.example.com/acme/api", "no credential set", "not cached"
    )
    await person.press("enter")
    await person.sees("> team-api")
    assert "Which rule applies to" not in person.seen()


async def test_where_no_rule_answers_the_reason_is_told(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("w")
    await person.sees("Which rule applies to")
    await person.type("other/thing:1")
    await person.sees("No cache rule answers")
    await person.press("escape")
    await person.until(lambda: "Which rule applies to" not in person.seen())


async def test_a_rule_is_copied_as_a_command_or_as_toml(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    monkeypatch.setattr(
        type(person.app), "copy_to_clipboard", lambda self, text: copied.append(text)
    )
    await person.press("2")
    await person.sees("example-library")
    await person.press("y")
    await person.sees("Copy example-library", "entrepot rule create --name example-library")
    await person.press("down")
    await person.sees("[[rules]]", 'target_repository = "library/*"')
    await person.press("enter")
    await person.until(lambda: bool(copied))
    assert copied[0].startswith("[[rules]]\n")


async def test_enter_shows_what_came_through_the_rule(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    source.add_image("acme/api", "5")
    await engine.rules.create(RuleDraft("team-api", f"{LOGIN_SERVER}/acme/api", "acme/api"))
    await pulled(engine, "library/nginx:1")
    await pulled(engine, "acme/api:5")
    await person.press("2")
    await person.sees("> example-library", "team-api")
    await person.press("down", "enter")
    await person.sees("Cached repositories", "1 of 2 match / team-api", "acme/api")


async def test_a_thousand_rules_are_not_made_anew_when_nothing_changed(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await person.press("2")
    await person.sees("example-library")
    built: list[object] = []
    monkeypatch.setattr("tui.screens.rules.rule_row", lambda *arguments: built.append(arguments))
    for _ in range(2):
        person.app.poll_now()
        person.app.screen.poll()  # type: ignore[attr-defined]
        await person.pilot.pause()
        await person.until(lambda: poll_is_over(person))
    assert built == []


async def test_a_dashboard_that_only_reads_offers_no_change_of_a_rule(
    engine: Engine, is_read_only: None
) -> None:
    async with dashboard(engine) as person:
        await person.press("2")
        await person.sees("example-library", "never pulled")
        await person.press("n", "s", "d", "p", "f")
        await person.pilot.pause()
        assert len(person.app.screen_stack) == 1
        for action in ("new", "sign_in", "delete", "pull", "freshness"):
            assert disabled_reason(person, action).startswith("This dashboard only reads")
        assert disabled_reason(person, "which") == ""


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40)])
async def test_without_a_rule_the_screen_says_what_a_rule_is(
    person: Person, engine: Engine, size: tuple[int, int]
) -> None:
    await engine.rules.delete("example-library")
    await person.pilot.resize_terminal(*size)
    await person.press("2")
    await person.sees(
        "There is no cache rule yet.", "Press n to create the first one.", "n new", "q quit"
    )
    assert max(len(line) for line in lines(person.app)) <= size[0]


async def test_the_readers_of_a_rule_are_chosen_and_named(person: Person, engine: Engine) -> None:
    await engine.readers.create_token("ci", groups=("build",))
    await person.press("2")
    await person.sees("> example-library", "readers everyone")
    await person.press("r")
    await person.sees("Who may read what example-library caches?", "> the default", "everyone")
    await person.press("down", "enter")
    await person.sees("readers all who sign in")
    assert engine.documents.rules.get("example-library").access.anonymous is False
    await person.press("r")
    await person.sees("> all who sign in")
    await person.press("down", "enter")
    await person.sees("Which readers and groups may read")
    await person.type("no")
    await person.sees("No reader or group is known yet as no.")
    await person.press("ctrl+u")
    await person.type("ci")
    await person.press("comma", "space", "at")
    await person.type("build")
    await person.sees("Only ci, @build may read, from now on.")
    await person.press("enter")
    await person.sees("readers ci, @build")
    access = engine.documents.rules.get("example-library").access
    assert (access.readers, access.anonymous) == (("ci", "@build"), None)
    await person.press("r")
    await person.sees("> these readers and groups")
    await person.press("down", "enter")
    await person.sees("readers everyone")
    assert engine.documents.rules.get("example-library").access.anonymous is True


async def test_readers_that_the_engine_refuses_stay_to_be_corrected(
    person: Person, engine: Engine
) -> None:
    await person.press("2")
    await person.sees("> example-library")
    await person.press("r")
    await person.sees("> the default")
    await person.press("down", "down", "enter")
    await person.sees("Write at least one name")
    await person.type("a/b")
    await person.sees("Not possible:", "can't be the name of a reader")
    await person.press("enter", "escape")
    await person.sees("readers everyone")
    assert engine.documents.rules.get("example-library").access.readers == ()


async def test_an_older_engine_has_no_readers_of_rules(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_route(self: RulesClient, name: str, *changes: object, **more: object) -> None:
        raise EngineRefused("MethodNotAllowed", "Not allowed.", field=None, status=405)

    monkeypatch.setattr(RulesClient, "update", no_route)
    await person.press("2")
    await person.sees("> example-library")
    await person.press("r")
    await person.sees("> the default")
    await person.press("down", "enter")
    await person.sees("The engine is of an older version")
    await person.press("escape")
    await person.sees("readers everyone")


async def test_where_there_is_room_a_column_says_who_may_read(engine: Engine) -> None:
    await engine.rules.update("example-library", readers=("ci", "@ops"))
    async with dashboard(engine, size=(100, 30)) as person:
        await person.press("2")
        await person.sees("Readers")
        [header] = [line for line in lines(person.app) if "Source" in line and "Target" in line]
        [row] = [line for line in lines(person.app) if line.startswith("> example-library")]
        assert row[header.index("Readers") :].startswith("ci, @ops")
