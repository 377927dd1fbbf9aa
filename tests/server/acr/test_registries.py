"""What az and the SDKs ask of ARM before they come to cache rules."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.engine.engine import Engine
from entrepot.server.run import management_app
from tests.conftest import LOGIN_SERVER

TYPE = "Microsoft.ContainerRegistry/registries"
ID = f"/subscriptions/s/resourceGroups/local/providers/{TYPE}/entrepot"


async def value_of(management: httpx.AsyncClient, path: str, **params: str) -> list[dict[str, Any]]:
    answer = await management.get(path, params=params)
    assert answer.status_code == 200
    value: list[dict[str, Any]] = answer.json()["value"]
    return value


@pytest.mark.parametrize(
    ("odata_filter", "names"),
    [
        (f"resourceType eq '{TYPE}'", ["entrepot"]),
        ("resourceType eq 'microsoft.containerregistry/Registries'", ["entrepot"]),
        (f"resourceType eq '{TYPE}' and name eq 'myregistry'", ["myregistry"]),
        ("resourceType eq 'Microsoft.KeyVault/vaults'", []),
        ("", ["entrepot"]),
        ("(" * 4000 + "resourceType eq", ["entrepot"]),
    ],
)
async def test_a_registry_is_found_without_its_resource_group(
    odata_filter: str, names: list[str], management: httpx.AsyncClient
) -> None:
    """``az acr cache list --registry entrepot`` without ``--resource-group``."""
    query = {"$filter": odata_filter, "api-version": "2024-11-01"}
    resources = await value_of(management, "/subscriptions/s/resources", **query)
    assert [(each["name"], each["type"]) for each in resources] == [(name, TYPE) for name in names]
    for resource in resources:
        assert resource["id"] == ID.replace("entrepot", resource["name"])
        assert (await management.get(f"{resource['id']}/cacheRules")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/subscriptions/s/providers/{TYPE}",
        f"/subscriptions/s/resourceGroups/local/providers/{TYPE}",
    ],
)
async def test_the_list_of_registries_has_one(
    path: str, management: httpx.AsyncClient, engine: Engine
) -> None:
    [registry] = await value_of(management, path)
    assert registry["id"] == ID
    assert registry["properties"]["loginServer"] == engine.address
    assert (await management.get(ID)).json() == registry


async def test_every_name_of_a_registry_is_this_one(management: httpx.AsyncClient) -> None:
    path = f"/subscriptions/a/resourceGroups/b/providers/{TYPE}/myregistry"
    registry = (await management.get(path)).json()
    assert (registry["id"], registry["name"], registry["type"]) == (path, "myregistry", TYPE)
    assert registry["sku"] == {"name": "Premium", "tier": "Premium"}
    assert registry["properties"]["provisioningState"] == "Succeeded"


async def test_a_rule_made_by_our_own_command_is_below_the_listed_registry(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    async with CacheClient.of_app(management_app(engine)) as client:
        await client.rules.create("second-rule", f"{LOGIN_SERVER}/acme/*", "acme/*")
    [registry] = await value_of(management, "/subscriptions/s/resources")
    rules = await value_of(management, f"{registry['id']}/cacheRules")
    assert f"{ID}/cacheRules/second-rule" in [rule["id"] for rule in rules]


@pytest.mark.parametrize("path", ["/metadata/endpoints", "//metadata/endpoints"])
async def test_the_endpoints_of_the_cloud_are_listed_without_a_token(
    path: str, engine: Engine
) -> None:
    """``az cloud register`` has no token yet, and writes two slashes after an address with one."""
    transport = httpx.ASGITransport(management_app(engine, token="s3cret"))
    base = "https://cache.example:8451"
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        answer = await client.get(f"{base}{path}", params={"api-version": "2022-09-01"})
        assert answer.status_code == 200
        document = answer.json()
        assert (await client.post(f"{base}{path}")).status_code == 401
        assert (await client.get(ID)).status_code == 401
        assert (await client.get("/metadata/endpoints/")).status_code == 401
    addresses = [value for value in document.values() if isinstance(value, str)]
    addresses += [document["authentication"]["loginEndpoint"]]
    addresses += document["authentication"]["audiences"]
    assert {*addresses} - {base} == {"Entrepot"}
    assert {"acrLoginServer", "keyVaultDns", "sqlServerHostname", "storage"} <= document[
        "suffixes"
    ].keys()


@pytest.mark.parametrize("host", ["[", "a b", "", "x" * 5000, "\x7f"])
async def test_an_odd_host_is_no_failure(host: str, management: httpx.AsyncClient) -> None:
    for path, status in (
        ("/metadata/endpoints", 200),
        ("/acr/v1/_catalog", 200),
        ("/acr/v1/nothing/_tags", 404),
        ("/nothing", 404),
        ("/entrepot/v1/status", 200),
    ):
        answer = await management.get(path, headers={"Host": host})
        assert answer.status_code == status, path
