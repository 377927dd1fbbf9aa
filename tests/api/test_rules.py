"""One request per question, also to an engine of an older version."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from entrepot.api.errors import EngineRefused
from entrepot.api.models import CredentialSetSnapshot, RuleSnapshot
from tests.api.fakes import client_of

RULE = RuleSnapshot(
    name="acme-api",
    source_repository="docker.io/acme/api",
    target_repository="api",
    credential_set=None,
    created=0.0,
    login_server="docker.io",
)
CREDENTIAL_SET = CredentialSetSnapshot(
    name="hub-login", login_server="docker.io", username_id="env:U", password_id="env:P", created=0
)


class FakeEngine:
    """An engine with one rule and one credential set; *is_old* lacks the routes of one of them."""

    def __init__(self, *, is_old: bool = False) -> None:
        self.is_old = is_old
        self.requests: list[str] = []
        self.deleted = {} if is_old else {"Entrepot-Deleted": "1"}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.requests.append(f"{request.method} {path.removeprefix('/entrepot/v1/')}")
        if request.method == "DELETE":
            return httpx.Response(204, headers=self.deleted)
        for listing, element in (("rules", RULE), ("credentialSets", CREDENTIAL_SET)):
            if path == f"/entrepot/v1/{listing}":
                return httpx.Response(200, content=msgspec.json.encode([element]))
            if path.lower() == f"/entrepot/v1/{listing}/{element.name}".lower() and not self.is_old:
                return httpx.Response(200, content=msgspec.json.encode(element))
        if path.startswith("/subscriptions/") and "none-such" not in path:
            return httpx.Response(200, json={})
        code = "NotFound" if path.startswith("/entrepot/") and self.is_old else "CacheRuleNotFound"
        document = {"error": {"code": code, "message": "There is no such thing."}}
        return httpx.Response(404, json=document)


async def test_one_rule_is_one_request() -> None:
    engine = FakeEngine()
    async with client_of(engine) as client:
        assert await client.rules.get("acme-api") == RULE
        assert await client.credential_sets.get("hub-login") == CREDENTIAL_SET
    assert engine.requests == ["GET rules/acme-api", "GET credentialSets/hub-login"]


async def test_an_engine_without_the_route_is_asked_for_the_listing() -> None:
    engine = FakeEngine(is_old=True)
    async with client_of(engine) as client:
        assert await client.rules.get("ACME-api") == RULE
        assert await client.credential_sets.get("HUB-login") == CREDENTIAL_SET
    assert engine.requests.count("GET rules") == engine.requests.count("GET credentialSets") == 1


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_rule_that_does_not_exist_is_refused(is_old: bool) -> None:
    async with client_of(FakeEngine(is_old=is_old)) as client:
        with pytest.raises(EngineRefused) as refused:
            await client.rules.get("none-such")
    assert refused.value.code == "CacheRuleNotFound"


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_deletion_is_one_request(is_old: bool) -> None:
    engine = FakeEngine(is_old=is_old)
    async with client_of(engine) as client:
        await client.rules.delete("acme-api")
    [request] = engine.requests
    assert request.startswith("DELETE ")


async def test_a_deletion_of_nothing_is_refused() -> None:
    engine = FakeEngine()
    engine.deleted = {"Entrepot-Deleted": "0"}
    async with client_of(engine) as client:
        for delete in (client.rules.delete, client.credential_sets.delete):
            with pytest.raises(EngineRefused, match="There is no such thing"):
                await delete("none-such")
