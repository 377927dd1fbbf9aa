"""``entrepot credential-set`` on a real engine."""

from __future__ import annotations

import asyncio
import re

import pytest

from entrepot.api.client import CacheClient
from entrepot.cli.credential_sets import sign_in_remark
from entrepot.config.directories import Directories
from entrepot.core.states import HealthStatus
from entrepot.engine.engine import Engine
from entrepot.source.client import SourceClient
from tests.cli.conftest import SET, CommandLine
from tests.conftest import LOGIN_SERVER, answering

SET_KEYS = {
    "name",
    "loginServer",
    "usernameId",
    "passwordId",
    "created",
    "health",
    "errorCode",
    "errorMessage",
    "checked",
    "usedBy",
}


async def test_a_credential_set_from_its_creation_to_its_end(
    entrepot: CommandLine, engine: Engine
) -> None:
    made = await entrepot.ask("credential-set", "create", "--name", "example-set", *SET)
    assert made.keys() == SET_KEYS
    assert (made["loginServer"], made["usernameId"], made["passwordId"]) == (
        LOGIN_SERVER,
        "env:EXAMPLE_USER",
        "env:EXAMPLE_PASSWORD",
    )
    assert [each["name"] for each in await entrepot.ask("credential-set", "list")] == [
        "example-set"
    ]
    changed = await entrepot.ask(
        "credential-set", "update", "-n", "example-set", "-u", "env:OTHER_USER"
    )
    assert (changed["usernameId"], changed["passwordId"]) == (
        "env:OTHER_USER",
        "env:EXAMPLE_PASSWORD",
    )
    await entrepot.done("rule", "update", "-n", "example-library", "-c", "example-set")
    refused = await entrepot.run("credential-set", "delete", "-n", "example-set", "--yes")
    assert refused.status == 1
    assert "example-library" in refused.errors
    assert refused.errors.endswith("(CredentialSetInUse)\n")
    await engine.credential_sets.verify("example-set")
    output = (await entrepot.done("credential-set", "show", "-n", "example-set")).output
    assert "Used by       example-library\n" in output
    assert "Health        unhealthy\n" in output
    assert (await entrepot.done("credential-set", "list")).output.splitlines()[1].split()[-2:] == [
        "1",
        "rule",
    ]
    await entrepot.done("rule", "update", "-n", "example-library", "--remove-cred-set")
    result = await entrepot.done("credential-set", "delete", "-n", "example-set", "--yes")
    assert result.errors == "The credential set example-set is deleted.\n"
    assert list(engine.documents.credential_sets) == []


async def test_a_check_of_a_credential_set_tells_its_health_with_its_status(
    entrepot: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "PASSWORD"):
        monkeypatch.setenv(f"EXAMPLE_{name}", "s3cret")
    await entrepot.done("credential-set", "create", "--name", "example-set", *SET)
    document = await entrepot.ask("credential-set", "check", "--name", "Example-Set")
    assert (document["name"], document["health"]) == ("example-set", "Healthy")
    monkeypatch.delenv("EXAMPLE_PASSWORD")
    result = await entrepot.run("credential-set", "check", "--name", "example-set")
    assert result.status == 1
    assert "Health        unhealthy\n" in result.output
    assert "EXAMPLE_PASSWORD is not set" in result.output
    verified = await entrepot.run("credential-set", "verify", "--name", "example-set")
    assert verified == result
    missing = await entrepot.run("credential-set", "verify", "--name", "none-such")
    assert (missing.status, "(CredentialSetNotFound)" in missing.errors) == (1, True)


async def test_a_set_that_can_t_sign_in_is_made_and_the_reason_is_printed_at_once(
    entrepot: CommandLine, engine: Engine
) -> None:
    """Newcomer: it ended with "Health Unknown" and no reason. It is made all the same, so the exit
    status is 0."""
    result = await entrepot.run("credential-set", "create", "--name", "example-set", *SET)
    assert result.status == 0
    assert "Health        unhealthy\n" in result.output
    assert re.search(r"^Reason +.*EXAMPLE_USER is not set", result.output, re.MULTILINE)
    assert result.errors == (
        "! The credential set example-set is stored, but its sign-in fails, for the reason above. "
        "When it is corrected, try again with: entrepot credential-set verify --name example-set\n"
    )
    changed = await entrepot.ask(
        "credential-set", "update", "--name", "example-set", "--username-id", "env:OTHER_USER"
    )
    assert (changed["health"], changed["errorCode"]) == ("Unhealthy", "SecretUnavailable")
    assert "OTHER_USER is not set" in changed["errorMessage"]
    assert len(engine.documents.credential_sets) == 1


async def test_a_set_that_can_sign_in_says_so_and_no_more(
    entrepot: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "PASSWORD"):
        monkeypatch.setenv(f"EXAMPLE_{name}", "s3cret")
    result = await entrepot.done("credential-set", "create", "--name", "example-set", *SET)
    assert "Health        healthy\n" in result.output
    assert result.errors == ""


async def test_a_sign_in_without_an_answer_yet_is_not_waited_for_for_ever(
    engine: Engine, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source may be silent for minutes: the command ends after its patience and says what is not
    known."""
    answer = asyncio.Event()

    async def silent(_: SourceClient) -> None:
        await answer.wait()

    monkeypatch.setattr(SourceClient, "verify_credentials", silent)
    async with answering(engine), CacheClient.at(directories.socket) as client:
        await client.credential_sets.create(
            "example-set", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
        )
        current = await client.credential_sets.wait_for_sign_in("example-set", max_wait=0)
        assert (current.health, current.checked) == (HealthStatus.UNKNOWN, None)
        assert sign_in_remark(current) == (
            "! The credential set example-set is stored. Whether it can sign in is not known yet: registry.example.com has not answered. "
            "Check it later with: entrepot credential-set verify --name example-set"
        )
        answer.set()
        assert (
            await client.credential_sets.wait_for_sign_in("example-set", max_wait=60)
        ).health is HealthStatus.HEALTHY


@pytest.mark.parametrize(
    "identifier", ["command:/bin/echo hub", "docker-helper:ecr-login/password"]
)
async def test_a_program_is_run_only_after_somebody_said_so(
    entrepot: CommandLine, engine: Engine, identifier: str
) -> None:
    """S13: without a terminal nobody can be asked, and the sentence names the option."""
    create = (
        "credential-set",
        "create",
        "--name",
        "example-login",
        "--login-server",
        LOGIN_SERVER,
        "--username-id",
        "env:U",
        "--password-id",
        identifier,
    )
    refused = await entrepot.run(*create)
    assert refused.status == 2
    assert f"The engine runs this each time it signs in: {identifier}." in refused.errors
    assert "Without a terminal, confirm with --yes." in refused.errors
    assert len(engine.documents.credential_sets) == 0
    await entrepot.done(*create, "--yes")
    update = ("credential-set", "update", "--name", "example-login", "--username-id", identifier)
    assert (await entrepot.run(*update)).status == 2
    await entrepot.done(*update, "--yes")
    await entrepot.done(
        "credential-set",
        "update",
        "--name",
        "example-login",
        "--username-id",
        "env:U",
        "--password-id",
        "env:P",
    )
