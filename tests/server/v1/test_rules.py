"""``/entrepot/v1/rules``: cache rules as the dashboard lists them."""

from __future__ import annotations

import httpx

from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER

ARM = (
    "/subscriptions/0/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/r/"
    "cacheRules"
)


async def test_one_rule_is_what_the_listing_says_of_it(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    listed = (await management.get("/entrepot/v1/rules")).json()
    answer = await management.get("/entrepot/v1/rules/Example-Library")
    assert answer.status_code == 200
    assert [answer.json()] == listed
    assert answer.json()["sourceRepository"] == f"{LOGIN_SERVER}/library/*"


async def test_a_rule_that_does_not_exist_is_404_with_acrs_code(
    management: httpx.AsyncClient,
) -> None:
    answer = await management.get("/entrepot/v1/rules/no-such-rule")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "CacheRuleNotFound")


async def test_a_delete_says_whether_there_was_a_rule(management: httpx.AsyncClient) -> None:
    first = await management.delete(f"{ARM}/example-library")
    again = await management.delete(f"{ARM}/example-library")
    assert [first.status_code, again.status_code] == [204, 204]
    assert [first.headers["entrepot-deleted"], again.headers["entrepot-deleted"]] == ["1", "0"]
