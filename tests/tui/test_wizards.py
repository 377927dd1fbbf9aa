"""Both wizards, driven by keys against a real engine."""

from __future__ import annotations

import pytest
from textual import events

from entrepot.credentials import CredentialSetDraft
from entrepot.engine import Engine
from entrepot.rules import RuleDraft
from entrepot.snapshots import PullState
from tests.conftest import LOGIN_SERVER
from tests.standin import StandIn
from tests.tui.conftest import Person

DOWN_TO_EXAMPLE = 40
"""More than there are source registries: the declared one is the last of the list."""


async def choose_example(person: Person) -> None:
    await person.press("2")
    await person.sees("Cache rules", "example-library")
    await person.press("n")
    await person.sees("Which source registry does it pull from?", "Docker Hub", "needs credentials")
    await person.press("G")
    await person.press("enter")
    await person.sees("Which repository of Example?", f"{LOGIN_SERVER}/")


async def test_a_rule_is_made_and_its_first_image_pulled(person: Person, engine: Engine, source: StandIn) -> None:
    source.add_image("team/app", "1")
    await choose_example(person)
    await person.type("team/*")
    await person.sees(f"Fine: {LOGIN_SERVER}/team/*", "1 rule uses")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Fine: 127.0.0.1:0/team/* comes from")
    await person.press("enter")
    await person.sees("It may also do without.", "> no credential set", "+ new credential set")
    await person.press("enter")
    await person.sees("What shall the rule be called?", "Fine: the name is free.", "[[rules]]", "--target-repo 'team/*'")
    assert len(engine.documents.rules) == 1
    await person.press("enter")
    await person.sees("The cache rule registry-example-com-team is made.")
    await person.type(":")
    await person.press("enter")
    await person.sees("Not possible: '' is not a tag.", "ReferenceInvalid")
    await person.press("backspace")
    assert engine.documents.rules.get("registry-example-com-team").target.path == "team"
    await person.type("app:1")
    await person.press("enter")
    await person.sees("Pulls", "team/app:1", "complete")
    [pull] = engine.cache.pulls.all()
    assert (pull.state, list(pull.asked_by)) == (PullState.COMPLETED, ["dashboard"])


async def test_keys_that_come_in_one_go_are_taken_in_their_order(person: Person) -> None:
    await person.press("2", "n")
    await person.sees("Which source registry does it pull from?", "> Docker Hub")
    for key in ("down", "down", "down", "enter"):
        person.app.post_message(events.Key(key, None))
    await person.sees("Which repository of Microsoft Artifact Registry?")


async def test_a_refusal_stands_beside_its_field_in_the_engines_words(person: Person, engine: Engine) -> None:
    await choose_example(person)
    await person.type("team/app:1.0")
    await person.sees("Not possible: Repository name 'team/app:1.0' is invalid", "carries a tag", "GenericRepositoryNameInvalid")
    await person.press("enter")
    await person.sees("Which repository of Example?")
    await person.press("ctrl+u")
    await person.type("more/*")
    await person.sees("Fine:")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Fine:")
    await person.press("ctrl+u")
    await person.type("library/x/*")
    await person.sees("Not possible: The target library/x/* lies inside the target library/* of rule", "example-library", "CacheRuleTargetOverlap")
    await person.press("enter")
    await person.sees("Where does it appear here?")
    assert len(engine.documents.rules) == 1


async def test_going_back_loses_nothing(person: Person) -> None:
    await choose_example(person)
    await person.type("team/app")
    await person.sees("Fine:")
    await person.press("enter")
    await person.sees("Where does it appear here?")
    await person.press("ctrl+u")
    await person.type("mine/app")
    await person.sees("Fine: 127.0.0.1:0/mine/app")
    await person.press("escape")
    await person.sees("Which repository of Example?", "team/app")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Fine: 127.0.0.1:0/mine/app")


async def test_leaving_the_wizard_makes_nothing_and_letters_do_not_leave_it(person: Person, engine: Engine) -> None:
    await choose_example(person)
    await person.press("escape")
    await person.sees("Which source registry")
    await person.press("q", "2", "5")
    await person.sees("Which source registry")
    await person.press("ctrl+c")
    await person.sees("Cache rules", "example-library")
    assert len(engine.documents.rules) == 1


async def test_docker_hub_needs_a_credential_set_which_can_be_made_on_the_way(person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_USER", "user")
    monkeypatch.setenv("HUB_TOKEN", "token")
    await person.press("2")
    await person.sees("example-library")
    await person.press("n")
    await person.sees("Which source registry")
    await person.press("enter")
    await person.sees("Which repository of Docker Hub?")
    await person.type("redis")
    await person.sees("Fine: docker.io/library/redis", "library/ was put in front")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Fine:")
    await person.press("enter")
    await person.sees("Without credentials it lets nobody pull", "> + new credential set")
    await person.press("enter")
    await person.sees("Where are the user name and password for docker.io kept?")
    await person.type("env:HUB_USER")
    await person.press("enter")
    await person.type("hunter2")
    await person.sees("Not possible:")
    await person.press("ctrl+u")
    await person.type("env:HUB_TOKEN")
    await person.until(lambda: "Not possible" not in person.seen())
    await person.press("enter")
    await person.sees("What shall it be called?", "docker-login")
    await person.press("enter")
    await person.sees("How does it sign in to docker.io?", "> docker-login")
    await person.press("enter")
    await person.sees("What shall the rule be called?", "--cred-set docker-login")
    await person.press("enter")
    await person.sees("The cache rule docker-io-library-redis is made.")
    assert engine.documents.rules.get("docker-io-library-redis").credential_set == "docker-login"
    assert str(engine.documents.credential_sets.get("docker-login").password) == "env:HUB_TOKEN"


async def test_a_registry_that_takes_no_credentials_offers_none(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("n")
    await person.sees("Microsoft")
    await person.press("down", "down", "down", "enter")
    await person.sees("Which repository of Microsoft Artifact Registry?")
    await person.type("dotnet/*")
    await person.sees("Fine:")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Fine:")
    await person.press("enter")
    await person.sees("takes no credentials", "> no credential set")
    assert "new credential set" not in person.seen()


async def test_a_name_that_is_taken_is_refused_in_the_review(person: Person, engine: Engine) -> None:
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Fine:")
    for text in ("Where does it appear here?", "It may also do without.", "What shall the rule be called?"):
        await person.press("enter")
        await person.sees(text)
    await person.sees("Fine: the name is free.")
    await person.press("ctrl+u")
    await person.type("Example-Library")
    await person.sees("There is a cache rule example-library already.", "CacheRuleAlreadyExists")
    await person.press("enter")
    await person.sees("What shall the rule be called?")
    assert len(engine.documents.rules) == 1


async def test_a_credential_set_is_made(person: Person, engine: Engine) -> None:
    await person.press("3")
    await person.sees("There is no credential set yet.")
    await person.press("n")
    await person.sees("Which source registry does it sign in to?", "Docker Hub")
    await person.press("G", "enter")
    await person.sees(f"Where are the user name and password for {LOGIN_SERVER} kept?")
    await person.type("env:EXAMPLE_USER")
    await person.press("enter")
    await person.type("file:/run/secrets/example")
    await person.press("enter")
    await person.sees("What shall it be called?", "entrepot credential-set create")
    await person.press("ctrl+u")
    await person.type("example-login")
    await person.sees("--name example-login")
    await person.press("enter")
    await person.sees("Credential sets", "example-login", "env:EXAMPLE_USER")
    made = engine.documents.credential_sets.get("example-login")
    assert (made.login_server, str(made.password)) == (LOGIN_SERVER, "file:/run/secrets/example")


async def test_the_identifiers_of_a_credential_set_are_changed(engine: Engine, person: Person) -> None:
    await engine.create_credential_set(CredentialSetDraft("example-login", LOGIN_SERVER, "env:OLD_USER", "env:OLD_PASSWORD"))
    await person.press("3")
    await person.sees("example-login")
    await person.press("e")
    await person.sees("env:OLD_USER", "env:OLD_PASSWORD")
    await person.press("enter")
    await person.press("ctrl+u")
    await person.type("env:NEW_PASSWORD")
    await person.press("enter")
    await person.sees("This will be changed:", "credential-set update")
    await person.press("enter")
    await person.sees("Credential sets")
    changed = engine.documents.credential_sets.get("example-login")
    assert (str(changed.username), str(changed.password)) == ("env:OLD_USER", "env:NEW_PASSWORD")


async def test_two_wizards_at_once_meet_at_the_engine(person: Person, engine: Engine) -> None:
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Fine:")
    for text in ("Where does it appear here?", "It may also do without.", "What shall the rule be called?"):
        await person.press("enter")
        await person.sees(text)
    await person.sees("Fine: the name is free.")
    await engine.create_rule(RuleDraft("somebody-else", f"{LOGIN_SERVER}/team/*", "team/*"))
    await person.press("enter")
    await person.sees("Not possible: The target team/* is the target of rule somebody-else already.")


async def test_a_key_tries_the_sign_in_and_says_how_it_went(engine: Engine, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "PASSWORD"):
        monkeypatch.setenv(f"EXAMPLE_{name}", "s3cret")
    await engine.create_credential_set(CredentialSetDraft("example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"))
    await person.press("3")
    await person.sees("example-login", "check")
    await person.press("c")
    await person.sees("example-login is healthy.")
    monkeypatch.delenv("EXAMPLE_PASSWORD")
    await person.press("c")
    await person.sees("example-login is unhealthy", "EXAMPLE_PASSWORD is not set")
