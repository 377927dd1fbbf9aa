"""``/entrepot/v1/credentialSets``: credential sets as the dashboard lists them."""

from __future__ import annotations

import httpx
import pytest

from entrepot.core.credentials import CredentialSetDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER

ARM = (
    "/subscriptions/0/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/r/"
    "credentialSets"
)


@pytest.fixture(autouse=True)
async def credential_set(engine: Engine) -> None:
    draft = CredentialSetDraft("example-set", LOGIN_SERVER, "env:A", "env:B")
    await engine.credential_sets.create(draft)


async def test_one_credential_set_is_what_the_listing_says_of_it(
    management: httpx.AsyncClient,
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


async def test_a_delete_says_whether_there_was_a_set(management: httpx.AsyncClient) -> None:
    first = await management.delete(f"{ARM}/example-set")
    again = await management.delete(f"{ARM}/example-set")
    assert [first.status_code, again.status_code] == [204, 204]
    assert [first.headers["entrepot-deleted"], again.headers["entrepot-deleted"]] == ["1", "0"]
