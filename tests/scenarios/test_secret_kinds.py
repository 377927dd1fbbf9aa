"""S13: which secret identifiers may be made over the management API on TCP. The Unix socket takes
all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.config.settings import ManagementOverTcp, Settings, SettingsInvalid
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.permitted_identifiers import (
    EVERY_IDENTIFIER,
    PermittedIdentifiers,
    SecretKindNotAllowed,
)
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.engine.engine import Engine
from entrepot.server.run import management_app
from tests.conftest import LOGIN_SERVER

SETS = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/r/credentialSets"
TOKEN = "a-token-of-thirty-characters.."
RUNS, READS = "command:/bin/sh -c 'touch ran'", "keyring:entrepot/token"


def body(
    username: str = READS, password: str = READS, login_server: str = LOGIN_SERVER
) -> dict[str, Any]:
    credential = {
        "name": "Credential1",
        "usernameSecretIdentifier": username,
        "passwordSecretIdentifier": password,
    }
    return {"properties": {"loginServer": login_server, "authCredentials": [credential]}}


def draft(
    username: str = READS, password: str = READS, login_server: str = LOGIN_SERVER
) -> dict[str, str]:
    return {
        "name": "example-set",
        "loginServer": login_server,
        "usernameId": username,
        "passwordId": password,
    }


def text(username: str = READS, password: str = READS) -> str:
    return f'[[credential_sets]]\nname = "example-set"\nlogin_server = "{LOGIN_SERVER}"\nusername_id = "{username}"\npassword_id = "{password}"\n'


@asynccontextmanager
async def api(engine: Engine, *, token: str | None = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(management_app(engine, token=token), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://entrepot", headers=headers, timeout=30
    ) as client:
        yield client


@pytest.fixture
async def far(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A program on another machine, which has the token."""
    async with api(engine) as client:
        yield client


@pytest.fixture
async def near(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A program on the Unix socket."""
    async with api(engine, token=None) as client:
        yield client


@pytest.mark.parametrize(
    "identifier",
    [
        RUNS,
        "docker-helper:ecr-login/password",
        "file:/etc/shadow",
        "env:AWS_SECRET_ACCESS_KEY",
        "docker-config:password",
    ],
)
async def test_over_tcp_no_route_makes_or_tries_what_runs_programs_or_reads_freely(
    far: httpx.AsyncClient, engine: Engine, identifier: str
) -> None:
    for username, password, field in (
        (identifier, READS, "usernameSecretIdentifier"),
        (READS, identifier, "passwordSecretIdentifier"),
    ):
        for answer in (
            await far.put(f"{SETS}/example-set", json=body(username, password)),
            await far.post("/entrepot/v1/signIn", json=draft(username, password)),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["target"]) == (
                403,
                "SecretKindNotAllowed",
                field,
            )
            assert "secret_" in error["message"]
            assert identifier not in error["message"]
        [problem] = (
            await far.post("/entrepot/v1/checks/credentialSet", json=draft(username, password))
        ).json()["problems"]
        assert (problem["code"], problem["field"]) == ("SecretKindNotAllowed", field)
        [entry] = (
            await far.post("/entrepot/v1/checks/import", json={"text": text(username, password)})
        ).json()["entries"]
        assert (entry["outcome"], entry["problems"][0]["code"]) == (
            "conflict",
            "SecretKindNotAllowed",
        )
        refused = await far.post("/entrepot/v1/imports", json={"text": text(username, password)})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ImportRefused")
    assert len(engine.documents.credential_sets) == 0


async def test_over_tcp_a_set_of_permitted_kinds_is_made_and_changed_only_to_such(
    far: httpx.AsyncClient, engine: Engine
) -> None:
    assert (await far.put(f"{SETS}/example-set", json=body())).status_code == 201
    for method in (far.put, far.patch):
        answer = await method(f"{SETS}/example-set", json=body(RUNS, READS))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "SecretKindNotAllowed")
    assert str(engine.documents.credential_sets.get("example-set").username) == READS
    assert (await far.patch(f"{SETS}/example-set", json=body("keyring:a/b"))).status_code == 200


async def test_the_unix_socket_takes_all_kinds(near: httpx.AsyncClient) -> None:
    assert (
        await near.put(
            f"{SETS}/example-set", json=body("env:NOT_SET_ANYWHERE", "file:/no/such/file")
        )
    ).status_code == 201
    assert (
        await near.post(
            "/entrepot/v1/checks/credentialSet", json=draft(RUNS, RUNS) | {"name": "another"}
        )
    ).json()["problems"] == []
    [entry] = (
        await near.post(
            "/entrepot/v1/checks/import",
            json={"text": text(RUNS).replace("example-set", "another-set")},
        )
    ).json()["entries"]
    assert (entry["outcome"], entry["usernameId"], entry["passwordId"], entry["runsProgram"]) == (
        "create",
        RUNS,
        READS,
        True,
    )


async def test_a_set_created_on_the_machine_can_be_tested_but_not_moved_over_tcp(
    far: httpx.AsyncClient, engine: Engine
) -> None:
    await engine.credential_sets.create(
        CredentialSetDraft("example-set", LOGIN_SERVER, "env:NOT_SET_HERE", "env:NOT_SET_EITHER")
    )
    same = body("env:NOT_SET_HERE", "keyring:a/b")
    assert (await far.patch(f"{SETS}/example-set", json=same)).status_code == 200
    assert (await far.post("/entrepot/v1/signIn", json=draft("env:NOT_SET_HERE", READS))).json()[
        "health"
    ] == "Unhealthy"
    elsewhere = draft("env:NOT_SET_HERE", READS, "contoso.azurecr.io")
    assert (await far.post("/entrepot/v1/signIn", json=elsewhere)).status_code == 403
    swapped = draft(READS, "env:NOT_SET_HERE")
    assert (await far.post("/entrepot/v1/signIn", json=swapped)).status_code == 403


def test_files_are_allowed_below_a_directory_wherever_links_and_dots_lead(tmp_path: Path) -> None:
    secrets, outside = tmp_path / "secrets", tmp_path / "outside"
    for folder in (secrets / "deep", outside, tmp_path / "secrets-too"):
        folder.mkdir(parents=True)
    (secrets / "link").symlink_to(outside)
    (tmp_path / "way").symlink_to(secrets)
    for root in (secrets, tmp_path / "way"):
        permitted = PermittedIdentifiers(files=root)
        for inside in (secrets / "hub", secrets / "deep/hub", root / "deep/../hub"):
            permitted.check(SecretIdentifier.parse(f"file:{inside}"))
        for place in (
            outside / "hub",
            root / "link/hub",
            f"{root}/../outside/hub",
            tmp_path / "secrets-too/hub",
            secrets,
            "/etc/shadow",
        ):
            with pytest.raises(SecretKindNotAllowed, match="secret_files"):
                permitted.check(SecretIdentifier.parse(f"file:{place}"))


def test_variables_are_allowed_by_how_they_begin_and_kinds_by_name() -> None:
    permitted = PermittedIdentifiers(kinds=frozenset({"command"}), variables="ENTREPOT_SECRET_")
    for allowed in ("env:ENTREPOT_SECRET_HUB", RUNS):
        permitted.check(SecretIdentifier.parse(allowed))
    for refused, setting in (
        ("env:ENTREPOT_TOKEN", "secret_variables"),
        (READS, "secret_kinds"),
        ("file:/run/secrets/hub", "secret_files"),
    ):
        with pytest.raises(SecretKindNotAllowed, match=setting):
            permitted.check(SecretIdentifier.parse(refused))
        EVERY_IDENTIFIER.check(SecretIdentifier.parse(refused))


async def test_the_settings_say_what_is_taken_over_tcp(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        '[management]\nlisten = "127.0.0.1:5001"\ntoken_file = "token"\nsecret_kinds = ["keyring"]\n'
        'secret_files = "/run/secrets"\nsecret_variables = "ENTREPOT_SECRET_"\n'
    )
    management = Settings.load(tmp_path / "settings.toml").management
    assert management is not None
    assert management.secret_identifiers == PermittedIdentifiers(
        frozenset({"keyring"}), Path("/run/secrets"), "ENTREPOT_SECRET_"
    )
    engine.settings = replace(engine.settings, management=management)
    async with api(engine) as client:
        assert (
            await client.put(
                f"{SETS}/example-set", json=body("env:ENTREPOT_SECRET_HUB", "file:/run/secrets/hub")
            )
        ).status_code == 201
        assert (
            await client.put(
                f"{SETS}/another-set", json=body("https://contoso.vault.azure.net/secrets/hub")
            )
        ).status_code == 403


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'secret_kinds = ["shell"]',
            "line 4: In management: 'shell' is not a kind of secret identifier. There are: env, file, keyring",
        ),
        (
            'secret_files = "run/secrets"',
            "line 4: In management: 'run/secrets' is not a directory below which",
        ),
        ('secret_files = "/"', "line 4: In management: '/' is not a directory"),
        (
            'secret_variables = "A-B"',
            "line 4: In management: 'A-B' can't be the beginning of the name of a variable",
        ),
    ],
)
def test_a_setting_that_can_not_be_used_is_refused_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "settings.toml").write_text(
        f'[management]\nlisten = "127.0.0.1:5001"\ntoken_file = "token"\n{line}\n'
    )
    with pytest.raises(SettingsInvalid) as raised:
        Settings.load(tmp_path / "settings.toml")
    assert message in raised.value.message


def test_without_settings_only_what_reads_nothing_freely_is_taken() -> None:
    assert ManagementOverTcp(
        "127.0.0.1:0", Path("token")
    ).secret_identifiers == PermittedIdentifiers(frozenset({"keyring", "https"}))
