"""Who may do what at the management API: read-only engines, clients that bind themselves, and
tokens."""

from __future__ import annotations

import re
from dataclasses import replace

import httpx
import pytest
from starlette.routing import Route

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused
from entrepot.config.settings import Settings
from entrepot.engine.engine import Engine
from entrepot.server.acr.registries import METADATA_PATHS
from entrepot.server.routes import READING_METHODS
from entrepot.server.run import management_app
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry

REGISTRY = (
    "/subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.ContainerRegistry/registries/{r}"
)

CHANGES = {
    *((method, f"{REGISTRY}/cacheRules/{{name}}") for method in ("PUT", "PATCH", "DELETE")),
    *((method, f"{REGISTRY}/credentialSets/{{name}}") for method in ("PUT", "PATCH", "DELETE")),
    *((method, "/acr/v1/{name:path}") for method in ("PATCH", "DELETE")),
    *((method, "/acr/v1/{name:path}/_tags/{tag}") for method in ("PATCH", "DELETE")),
    *((method, "/acr/v1/{name:path}/_manifests/{digest}") for method in ("PATCH", "DELETE")),
    ("POST", "/entrepot/v1/rules"),
    ("PATCH", "/entrepot/v1/rules/{name}"),
    ("POST", "/entrepot/v1/tokens"),
    ("DELETE", "/entrepot/v1/tokens/{name}"),
    ("POST", "/entrepot/v1/pulls"),
    ("DELETE", "/entrepot/v1/pulls/{id}"),
    ("POST", "/entrepot/v1/refresh"),
    *((method, "/entrepot/v1/evict") for method in ("POST", "DELETE")),
    # It removes what is damaged.
    *((method, "/entrepot/v1/verify") for method in ("POST", "DELETE")),
    ("POST", "/entrepot/v1/imports"),
    *(
        ("PUT", f"/entrepot/v1/content/{{name:path}}/_{kind}/{{digest}}")
        for kind in ("blobs", "manifests", "images")
    ),
    ("POST", "/entrepot/v1/signIn"),
    ("POST", "/entrepot/v1/stop"),
}
"""Routes that change something. A new route with another method than GET is added here or below."""

QUESTIONS = {
    ("POST", "/entrepot/v1/checks/cacheRule"),
    ("POST", "/entrepot/v1/checks/credentialSet"),
    ("POST", "/entrepot/v1/checks/eviction"),
    ("POST", "/entrepot/v1/checks/import"),
    ("POST", "/entrepot/v1/content/plan"),
    ("POST", "/entrepot/v1/credentialSets/{name}/check"),
    ("POST", "/entrepot/v1/doctor"),
}
"""What is asked with another method than GET, and changes nothing."""

BOUND = {"Entrepot-Read-Only": "1"}


def all_ways(engine: Engine) -> set[tuple[str, str]]:
    """Every method at every route of the management API."""
    routes = management_app(engine).routes
    assert all(isinstance(each, Route) for each in routes), (
        "A route of another kind would not be looked at here."
    )
    return {
        (method, each.path)
        for each in routes
        if isinstance(each, Route)
        for method in each.methods or ()
    }


def path_of(template: str) -> str:
    """An address that a route answers for."""
    return re.sub(r"\{\w+(:path)?\}", "example", template)


@pytest.fixture
async def reading(engine: Engine) -> Engine:
    """A read-only engine, with the rule ``example-library``."""
    engine.settings = replace(engine.settings, read_only=True)
    return engine


def client_of(engine: Engine, *, token: str | None = None, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(management_app(engine, token=token), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://entrepot", headers=headers)


def test_every_way_to_the_management_api_is_known_to_read_or_to_change(engine: Engine) -> None:
    assert {
        each for each in all_ways(engine) if each[0] not in READING_METHODS
    } == CHANGES | QUESTIONS


@pytest.mark.parametrize("headers", [{}, BOUND], ids=["engine", "client"])
async def test_each_change_is_refused_and_each_question_is_answered(
    headers: dict[str, str], engine: Engine
) -> None:
    if not headers:
        engine.settings = replace(engine.settings, read_only=True)
    before = (
        await engine.rules.list(),
        engine.credential_sets.list(),
        engine.cache.pulls.all(),
        engine.events.recent(),
    )
    async with client_of(engine, **headers) as client:
        for method, path in sorted(all_ways(engine)):
            if (method, path) == ("GET", "/entrepot/v1/events"):
                path += "?recent=1"  # Without it the answer never ends.
            elif (method, path) == ("HEAD", "/entrepot/v1/events"):
                continue
            answer = await client.request(
                method, path_of(path), json=None if method in READING_METHODS else {}
            )
            code = answer.json()["error"]["code"] if answer.is_error and answer.content else None
            if method in READING_METHODS or (method, path) in QUESTIONS:
                assert code != "EngineReadOnly", (method, path)
                assert answer.status_code < 500, (method, path)
            else:
                assert (answer.status_code, code) == (403, "EngineReadOnly"), (method, path)
    assert (
        await engine.rules.list(),
        engine.credential_sets.list(),
        engine.cache.pulls.all(),
        engine.events.recent(),
    ) == before
    assert not engine.stopping.is_set()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "MERGE"])
@pytest.mark.parametrize(
    "path",
    [
        "/entrepot/v1/none-such",
        "/entrepot/v1/doctor/",
        "/entrepot/v1/checks/a/b",
        "/entrepot/v1/status",
    ],
)
async def test_an_unclassified_route_counts_as_a_change(
    method: str, path: str, reading: Engine
) -> None:
    async with client_of(reading) as client:
        assert (await client.request(method, path)).status_code == 403


async def test_a_read_only_engine_says_so_and_what_to_do(reading: Engine) -> None:
    async with CacheClient.of_app(management_app(reading)) as client:
        assert (await client.system.status()).read_only
        with pytest.raises(EngineRefused) as refused:
            await client.rules.delete("example-library")
        assert (refused.value.code, refused.value.status) == ("EngineReadOnly", 403)
        assert "this engine is read-only" in refused.value.message
        assert "read_only in settings.toml" in refused.value.message
        assert (await client.rules.validate(name="example-library")).problems
        assert (await client.system.preview_eviction(target=0)).dry_run


async def test_a_read_only_client_makes_no_other_client_read_only(engine: Engine) -> None:
    async with (
        CacheClient.of_app(management_app(engine), read_only=True) as bound,
        CacheClient.of_app(management_app(engine)) as free,
    ):
        assert (await bound.system.status()).read_only
        assert not (await free.system.status()).read_only
        with pytest.raises(EngineRefused, match="without --read-only"):
            await bound.rules.delete("example-library")
        await free.rules.delete("example-library")
        assert await bound.rules.list() == []


async def test_a_client_can_not_free_itself_from_a_read_only_engine(reading: Engine) -> None:
    async with client_of(reading, **{"Entrepot-Read-Only": "0"}) as client:
        assert (await client.post("/entrepot/v1/stop")).status_code == 403
        assert (await client.get("/entrepot/v1/status")).json()["readOnly"] is True


async def test_container_clients_pull_from_a_read_only_engine_through_its_rules(
    reading: Engine, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27").platforms["linux/amd64"]
    layer = image.layers[0]
    assert (await registry.get("/v2/library/nginx/manifests/1.27")).status_code == 200
    answer = await registry.get(f"/v2/library/nginx/blobs/{layer.digest}")
    assert (answer.content, answer.headers["entrepot-origin"]) == (layer.content, "upstream")


async def test_a_rule_that_an_administrator_writes_by_hand_is_taken(reading: Engine) -> None:
    document = reading.directories.rules
    document.write_text(
        document.read_text()
        + f'\n[[rules]]\nname = "by-hand"\nsource_repository = "{LOGIN_SERVER}/acme/*"\ntarget_repository = "acme/*"\n'
    )
    await reading.documents.reload_if_changed()
    assert "by-hand" in {each.name for each in await reading.rules.list()}


# Tokens

TOKEN = "0123456789abcdefghij"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer x {TOKEN}",
        "Bearer \xe9\xe9",
    ],
)
async def test_without_the_token_nothing_is_revealed(
    authorization: str | None, engine: Engine
) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    # The endpoints of the cloud: az has no token yet when it asks for them.
    open_to_all = {(method, path) for method in READING_METHODS for path in METADATA_PATHS}
    async with client_of(engine, token=TOKEN) as client:
        for method, path in sorted(all_ways(engine) - open_to_all):
            answer = await client.request(method, path_of(path), headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (
                401,
                'Bearer realm="entrepot"',
            )
            assert TOKEN not in answer.text
            if method == "HEAD":
                continue
            error = answer.json()["error"]
            assert error["code"] == "TokenInvalid"
            assert "--token-file" in error["message"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_with_the_token_all_is_as_on_the_socket(scheme: str, engine: Engine) -> None:
    async with client_of(engine, token=TOKEN, authorization=f"{scheme} {TOKEN}") as client:
        assert (await client.get("/entrepot/v1/status")).json()["rules"] == 1


async def test_a_token_does_not_free_from_reading_only(settings: Settings, reading: Engine) -> None:
    async with client_of(reading, token=TOKEN, authorization=f"Bearer {TOKEN}") as client:
        assert (await client.post("/entrepot/v1/stop")).json()["error"]["code"] == "EngineReadOnly"
