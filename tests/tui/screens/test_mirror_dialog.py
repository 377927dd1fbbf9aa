"""The configuration of clients that pull unchanged image names, by keys on a real engine."""

from __future__ import annotations

import pytest

from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was sent to the clipboard."""
    texts: list[str] = []
    monkeypatch.setattr(
        "tui.app.Dashboard.copy_to_clipboard", lambda self, text: texts.append(text)
    )
    return texts


async def test_the_overview_copies_the_configuration_of_a_client(
    person: Person, copied: list[str]
) -> None:
    await person.press("y")
    await person.sees("Pull by unchanged image names", "> containerd", "the images of all rules")
    await person.press("y")
    await person.sees("Sent to the terminal's clipboard:", "configuration of containerd")
    assert copied[0].splitlines()[1] == f'server = "https://{LOGIN_SERVER}"'
    await person.press("G", "k", "Y")
    await person.until(lambda: len(copied) == 2)
    assert copied[1] == "entrepot mirror k3s --write"
    await person.press("escape")
    await person.until(lambda: "Pull by unchanged" not in person.seen())


async def test_docker_can_not_be_configured_before_the_engine_has_a_mirror(
    person: Person, copied: list[str]
) -> None:
    await person.press("y")
    await person.sees("not possible yet")
    await person.press("down")
    await person.sees("Docker uses mirrors for images of Docker Hub only")
    await person.press("enter", "down", "enter")
    await person.until(lambda: bool(copied))
    assert len(copied) == 1
    assert copied[0].splitlines()[1] == "[[registry]]"


async def test_a_rule_copies_the_configuration_for_its_images(
    person: Person, engine: Engine, copied: list[str]
) -> None:
    await engine.rules.create(RuleDraft("team-api", f"{LOGIN_SERVER}/acme/api", "acme/api"))
    await person.press("2")
    await person.sees("> example-library", "team-api")
    await person.press("y")
    await person.sees("Copy example-library")
    await person.press("down", "down")
    await person.sees(f"Clients go on to pull {LOGIN_SERVER}/library/*")
    await person.press("enter")
    await person.sees("the images of example-library")
    await person.press("down", "down", "y")
    await person.until(lambda: bool(copied))
    assert f"{LOGIN_SERVER}/library" in copied[0]
    assert "acme" not in copied[0]


async def test_the_configuration_can_be_read_to_its_end(engine: Engine) -> None:
    for name in ("first", "second", "third"):
        await engine.rules.create(RuleDraft(f"{name}-rule", f"{LOGIN_SERVER}/{name}", name))
    async with dashboard(engine, size=(60, 15)) as person:
        await person.press("y")
        await person.sees("> containerd", "Podman, skopeo, Buildah")
        await person.press("down", "down", "tab", "end")
        await person.sees("entrepot mirror podman --write")


async def test_the_wizard_offers_it_after_the_first_rule(
    engine: Engine, source: FakeRegistry, copied: list[str]
) -> None:
    source.add_image("team/app", "1")
    await engine.rules.delete("example-library")
    async with dashboard(engine) as person:
        await person.press("2")
        await person.sees("There is no cache rule yet.")
        await person.press("n")
        await person.sees("Which source registry does it pull from?", "step 1 of 8")
        await person.press("G", "k", "enter")
        await person.sees(f"{LOGIN_SERVER}/")
        await person.type("team/*")
        await person.sees("Source valid")
        await person.press("enter")
        await person.sees("Target available")
        await person.press("enter")
        await person.sees("> no credential set")
        await person.press("enter")
        await person.sees("> the default")
        await person.press("enter")
        await person.sees("Name available")
        await person.press("enter")
        await person.sees("The cache rule registry-example-com-team is created.")
        await person.type("app:1")
        await person.press("enter", "enter")
        await person.sees("Let your clients use it without changing image names?", "> containerd")
        await person.press("y")
        await person.sees("configuration of containerd")
        assert f'server = "https://{LOGIN_SERVER}"' in copied[0]
        await person.press("enter")
        await person.sees("team/app:1", "completed")


async def test_the_wizard_offers_it_without_a_first_pull_too(
    engine: Engine, source: FakeRegistry
) -> None:
    await engine.rules.delete("example-library")
    async with dashboard(engine) as person:
        await person.press("2", "n")
        await person.sees("Which source registry does it pull from?")
        await person.press("G", "k", "enter")
        await person.sees(f"{LOGIN_SERVER}/")
        await person.type("team/*")
        for seen in ("Source valid", "Target available", "> no credential set", "> the default"):
            await person.sees(seen)
            await person.press("enter")
        await person.sees("Name available")
        await person.press("enter")
        await person.sees("is created.")
        await person.press("escape")
        await person.sees("Let your clients use it")
        await person.press("escape")
        await person.sees("Cache rules", "registry-example-com-team answers for team/*")
