"""``/entrepot/v1/credentialSets``: credential sets as the dashboard lists them."""

from __future__ import annotations

import httpx
import pytest

from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER

ARM = (
    "/subscriptions/0/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/r/"
    "credentialSets"
)


@pytest.fixture
async def credential_set(engine: Engine) -> None:
    draft = CredentialSetDraft("example-set", LOGIN_SERVER, "env:A", "env:B")
    await engine.credential_sets.create(draft)


async def test_one_credential_set_is_what_the_listing_says_of_it(
    management: httpx.AsyncClient, credential_set: None
) -> None:
    listed = (await management.get("/entrepot/v1/credentialSets")).json()
    answer = await management.get("/entrepot/v1/credentialSets/Example-Set")
    assert answer.status_code == 200
    assert [answer.json()] == listed
    assert answer.json()["loginServer"] == LOGIN_SERVER


async def test_a_credential_set_that_does_not_exist_is_404_with_its_code(
    management: httpx.AsyncClient,
) -> None:
    answer = await management.get("/entrepot/v1/credentialSets/no-such-set")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "CredentialSetNotFound")


async def test_a_delete_says_whether_there_was_a_set(
    management: httpx.AsyncClient, credential_set: None
) -> None:
    first = await management.delete(f"{ARM}/example-set")
    again = await management.delete(f"{ARM}/example-set")
    assert [first.status_code, again.status_code] == [204, 204]
    assert [first.headers["entrepot-deleted"], again.headers["entrepot-deleted"]] == ["1", "0"]


async def test_a_credential_set_is_checked_as_far_as_it_is_written(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    assert (await management.post("/entrepot/v1/checks/credentialSet", json={})).json() == {
        "problems": []
    }
    document = (
        await management.post(
            "/entrepot/v1/checks/credentialSet",
            json={"passwordId": "s3cret", "loginServer": "mcr.microsoft.com"},
        )
    ).json()
    assert {each["field"] for each in document["problems"]} == {
        "passwordSecretIdentifier",
        "loginServer",
    }
    assert list(engine.documents.credential_sets) == []


async def test_a_plan_for_a_credential_set_names_the_rules_that_use_it(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    await engine.credential_sets.create(
        CredentialSetDraft("example-login", LOGIN_SERVER, "env:A", "env:B")
    )
    assert (await management.get("/entrepot/v1/credentialSets/example-login/plan")).json()[
        "refused"
    ] is None
    await engine.rules.create(
        RuleDraft("acme-app", f"{LOGIN_SERVER}/acme/*", "acme/*", "example-login")
    )
    used = (await management.get("/entrepot/v1/credentialSets/example-login/plan")).json()
    assert (used["refusedCode"], used["usedBy"]) == ("CredentialSetInUse", ["acme-app"])
    assert (await management.get("/entrepot/v1/credentialSets/none-such/plan")).status_code == 404


async def test_a_sign_in_is_tried_without_a_credential_set_and_nothing_is_kept_of_it(
    management: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = {
        "name": "example-set",
        "loginServer": LOGIN_SERVER,
        "usernameId": "env:TRIED_USER",
        "passwordId": "env:TRIED_PASSWORD",
    }
    monkeypatch.setenv("TRIED_USER", "ann")
    failed = (await management.post("/entrepot/v1/signIn", json=draft)).json()
    assert (failed["health"], failed["errorCode"]) == ("Unhealthy", "SecretUnavailable")
    assert "TRIED_PASSWORD" in failed["errorMessage"]
    monkeypatch.setenv("TRIED_PASSWORD", "s3cret")
    assert (await management.post("/entrepot/v1/signIn", json=draft)).json() == {
        "health": "Healthy",
        "errorCode": None,
        "errorMessage": None,
    }
    assert len(engine.documents.credential_sets) == 0
    refused = await management.post(
        "/entrepot/v1/signIn", json=draft | {"loginServer": "mcr.microsoft.com"}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        400,
        "UpstreamTakesNoCredentials",
    )
