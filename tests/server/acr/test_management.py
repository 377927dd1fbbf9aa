"""Cache rules and credential sets in the shapes of ACR's management API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.config.settings import Settings
from entrepot.core.registries import DeclaredRegistry
from entrepot.engine.engine import Engine
from entrepot.httpd.server import bind_tcp, serving
from entrepot.server.request_body import BODY_LIMIT
from entrepot.server.run import management_app
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry

EXAMPLES: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "data/swagger-examples-2023-01-01-preview.json").read_text()
)
REGISTRY = str(EXAMPLES["registry_id"])
RULES, SETS = f"{REGISTRY}/cacheRules", f"{REGISTRY}/credentialSets"
SECRET_IDS = {
    "https://myvault.vault.azure.net/secrets/username": "env:HUB_USERNAME",
    "https://myvault.vault.azure.net/secrets/password": "env:HUB_PASSWORD",
    "https://myvault.vault.azure.net/secrets/username2": "env:HUB_USERNAME2",
    "https://myvault.vault.azure.net/secrets/password2": "env:HUB_PASSWORD2",
}
"""Where the secrets of the examples are kept here."""


@pytest.fixture
def settings(settings: Settings, source: FakeRegistry) -> Settings:
    """The fake source is Docker Hub too."""
    return replace(
        settings,
        upstreams=(*settings.upstreams, DeclaredRegistry("docker.io", endpoint=source.url)),
    )


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for identifier in SECRET_IDS.values():
        monkeypatch.setenv(identifier.removeprefix("env:"), "s3cret")


def example(name: str) -> dict[str, Any]:
    """An example of the specification, with secrets that can be read here."""
    text = json.dumps(EXAMPLES[name])
    # The longer ones first: one identifier is the beginning of another.
    for there, here in sorted(SECRET_IDS.items(), key=lambda each: -len(each[0])):
        text = text.replace(there, here)
    document: dict[str, Any] = json.loads(text)
    return document


def settled(document: Any, like: Any) -> Any:
    """A resource, or a list of them, with the moment of creation of the example when it has one of
    its own that is in ARM's form."""
    if isinstance(document, list):
        return [settled(each, other) for each, other in zip(document, like, strict=True)]
    created = datetime.fromisoformat(document["properties"]["creationDate"])
    assert created.tzinfo is not None
    assert abs((datetime.now(UTC) - created).total_seconds()) < 300
    return document | {
        "properties": document["properties"] | {"creationDate": like["properties"]["creationDate"]}
    }


async def ask(management: httpx.AsyncClient, name: str) -> httpx.Response:
    request = example(name)
    return await management.request(request["method"], request["path"], json=request.get("body"))


def error(response: httpx.Response) -> dict[str, str]:
    """The error of an answer, in ARM's shape and nothing besides but the one of ACR's data API
    there."""
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document.keys() == {"error"} | (
        {"errors"} if response.url.path.startswith("/acr/v1/") else set()
    )
    fields: dict[str, str] = document["error"]
    assert {"code", "message"} <= fields.keys() <= {"code", "message", "target"}
    assert fields["message"].endswith((".", "'")), fields["message"]
    return fields


def rule_body(
    source: str = f"{LOGIN_SERVER}/acme/api", target: str = "api", **more: Any
) -> dict[str, Any]:
    return {"properties": {"sourceRepository": source, "targetRepository": target, **more}}


def set_body(
    login_server: str = LOGIN_SERVER, username: str = "env:A", password: str = "env:B"
) -> dict[str, Any]:
    credential = {
        "name": "Credential1",
        "usernameSecretIdentifier": username,
        "passwordSecretIdentifier": password,
    }
    return {"properties": {"loginServer": login_server, "authCredentials": [credential]}}


# The examples of the specification


async def test_the_examples_of_the_specification_are_answered_in_their_shapes(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    await engine.rules.delete("example-library")
    for name in ("CredentialSetCreate", "CredentialSetUpdate"):
        answer = await ask(management, name)
        assert answer.status_code == (201 if name == "CredentialSetCreate" else 200)
        await engine.credential_sets.verify("myCredentialSet")
        expected = example(name)["responses"]["200"]["body"]
        document = (await management.get(f"{SETS}/myCredentialSet")).json()
        assert settled(document, expected) == expected
    await management.put(f"{SETS}/myCredentialSet2", json=example("CredentialSetCreate")["body"])

    created = await ask(management, "CacheRuleCreate")
    expected = example("CacheRuleCreate")["responses"]["200"]["body"]
    assert created.status_code == 201
    assert settled(created.json(), expected) == expected
    listed = await ask(management, "CacheRuleList")
    expected = example("CacheRuleList")["responses"]["200"]["body"]
    assert listed.status_code == 200
    assert {"value": settled(listed.json()["value"], expected["value"])} == expected
    updated = await ask(management, "CacheRuleUpdate")
    expected = example("CacheRuleUpdate")["responses"]["200"]["body"]
    assert updated.status_code == 200
    assert settled(updated.json(), expected) == expected
    assert (await management.get(f"{RULES}/mycacherule")).json() == updated.json()
    deleted = await ask(management, "CacheRuleDelete")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert list(engine.documents.rules) == []


async def test_a_set_that_was_not_tried_yet_has_no_health(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    gate = source.hold("/v2/")
    document = (
        await management.put(
            f"{SETS}/example-set",
            json=set_body(username="env:HUB_USERNAME", password="env:HUB_PASSWORD"),
        )
    ).json()
    assert "credentialHealth" not in document["properties"]["authCredentials"][0]
    gate.open()


async def test_an_unhealthy_set_says_why(management: httpx.AsyncClient, engine: Engine) -> None:
    await management.put(f"{SETS}/example-set", json=set_body(username="env:NOT_SET_ANYWHERE"))
    await engine.credential_sets.verify("example-set")
    health = (await management.get(f"{SETS}/example-set")).json()["properties"]["authCredentials"][
        0
    ]["credentialHealth"]
    assert health.keys() == {"status", "errorCode", "errorMessage"}
    assert (health["status"], health["errorCode"]) == ("Unhealthy", "SecretUnavailable")
    assert "NOT_SET_ANYWHERE" in health["errorMessage"]


async def test_ids_carry_the_names_of_the_request(management: httpx.AsyncClient) -> None:
    other = (
        "/subscriptions/s1/resourceGroups/g1/providers/Microsoft.ContainerRegistry/registries/r1"
    )
    assert (await management.get(f"{other}/cacheRules/example-library")).json()[
        "id"
    ] == f"{other}/cacheRules/example-library"


# Creating and changing


async def test_a_put_on_an_existing_rule_changes_its_credential_set(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    await management.put(f"{SETS}/example-set", json=set_body())
    assert (await management.put(f"{RULES}/acme-api", json=rule_body())).status_code == 201
    again = await management.put(
        f"{RULES}/ACME-API", json=rule_body(credentialSetResourceId=f"{SETS}/example-set")
    )
    assert again.status_code == 200
    assert again.json()["name"] == "acme-api"
    assert again.json()["properties"]["credentialSetResourceId"] == f"{SETS}/example-set"
    assert engine.documents.rules.get("acme-api").credential_set == "example-set"


async def test_a_put_without_a_credential_set_keeps_it(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    await management.put(f"{SETS}/example-set", json=set_body())
    await management.put(
        f"{RULES}/acme-api", json=rule_body(credentialSetResourceId=f"{SETS}/example-set")
    )
    assert (await management.patch(f"{RULES}/acme-api", json={"properties": {}})).status_code == 200
    assert engine.documents.rules.get("acme-api").credential_set == "example-set"


async def test_null_detaches_the_credential_set(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    await management.put(f"{SETS}/example-set", json=set_body())
    await management.put(f"{RULES}/acme-api", json=rule_body(credentialSetResourceId="example-set"))
    answer = await management.patch(
        f"{RULES}/acme-api", json={"properties": {"credentialSetResourceId": None}}
    )
    assert answer.status_code == 200
    assert "credentialSetResourceId" not in answer.json()["properties"]
    assert engine.documents.rules.get("acme-api").credential_set is None


async def test_what_the_engine_answered_may_be_sent_back(management: httpx.AsyncClient) -> None:
    for path, body in ((f"{RULES}/acme-api", rule_body()), (f"{SETS}/example-set", set_body())):
        await management.put(path, json=body)
        document = (await management.get(path)).json()
        again = await management.put(path, json=document)
        assert (again.status_code, again.json()["name"]) == (200, document["name"])


async def test_deleting_what_is_not_there_is_done_already(management: httpx.AsyncClient) -> None:
    for path in (f"{RULES}/no-such-rule", f"{SETS}/no-such-set"):
        assert (await management.delete(path)).status_code == 204


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "target"),
    [
        ("PUT", f"{RULES}/abc", rule_body(), 400, "InvalidResourceName", "name"),
        (
            "PUT",
            f"{RULES}/acme-api",
            rule_body(source="docker.io/library/nginx"),
            400,
            "EnforceDockerAuthentication",
            "credentialSet",
        ),
        (
            "PUT",
            f"{RULES}/acme-api",
            rule_body(source="nowhere.example.org/a"),
            400,
            "UpstreamNotSupported",
            "sourceRepository",
        ),
        (
            "PUT",
            f"{RULES}/acme-api",
            rule_body(source=f"{LOGIN_SERVER}/a:1"),
            400,
            "GenericRepositoryNameInvalid",
            "sourceRepository",
        ),
        (
            "PUT",
            f"{RULES}/acme-api",
            rule_body(source=f"{LOGIN_SERVER}/a/*", target="library/*"),
            409,
            "CacheRuleTargetOverlap",
            "targetRepository",
        ),
        (
            "PUT",
            f"{RULES}/acme-api",
            rule_body(credentialSetResourceId=f"{SETS}/no-such-set"),
            400,
            "CredentialSetNotFound",
            "credentialSet",
        ),
        (
            "PUT",
            f"{RULES}/acme-api",
            rule_body(credentialSetResourceId=f"{RULES}/acme-api"),
            400,
            "InvalidRequest",
            "credentialSetResourceId",
        ),
        (
            "PUT",
            f"{RULES}/example-library",
            rule_body(source=f"{LOGIN_SERVER}/other/*", target="library/*"),
            409,
            "CacheRuleImmutable",
            "sourceRepository",
        ),
        (
            "PATCH",
            f"{RULES}/example-library",
            {"properties": {"targetRepository": "other/*"}},
            409,
            "CacheRuleImmutable",
            "targetRepository",
        ),
        ("PATCH", f"{RULES}/no-such-rule", {"properties": {}}, 404, "CacheRuleNotFound", None),
        ("GET", f"{RULES}/no-such-rule", None, 404, "CacheRuleNotFound", None),
        ("GET", f"{SETS}/no-such-set", None, 404, "CredentialSetNotFound", None),
        ("PATCH", f"{SETS}/no-such-set", set_body(), 404, "CredentialSetNotFound", None),
        ("PUT", f"{SETS}/abc", set_body(), 400, "InvalidResourceName", "name"),
        (
            "PUT",
            f"{SETS}/example-set",
            set_body(username="me"),
            400,
            "SecretIdentifierInvalid",
            "usernameSecretIdentifier",
        ),
        (
            "PUT",
            f"{SETS}/example-set",
            set_body(password="s3cret"),
            400,
            "SecretIdentifierInvalid",
            "passwordSecretIdentifier",
        ),
        (
            "PUT",
            f"{SETS}/example-set",
            set_body(login_server="nowhere.example.org"),
            400,
            "UpstreamNotSupported",
            "loginServer",
        ),
        (
            "PUT",
            f"{SETS}/example-set",
            {"properties": {"loginServer": LOGIN_SERVER, "authCredentials": [{}, {}]}},
            400,
            "InvalidRequest",
            "authCredentials",
        ),
        (
            "PUT",
            f"{SETS}/used-set",
            set_body(login_server="docker.io"),
            409,
            "CacheRuleImmutable",
            "loginServer",
        ),
        ("DELETE", f"{SETS}/used-set", None, 409, "CredentialSetInUse", None),
    ],
)
async def test_a_refusal_has_its_code_and_its_field_and_changes_nothing(
    method: str,
    path: str,
    body: Any,
    status: int,
    code: str,
    target: str | None,
    management: httpx.AsyncClient,
    engine: Engine,
) -> None:
    await management.put(f"{SETS}/used-set", json=set_body())
    await management.put(
        f"{RULES}/uses-it", json=rule_body(target="used", credentialSetResourceId="used-set")
    )
    before = engine.directories.rules.read_bytes(), engine.directories.credentials.read_bytes()
    answer = await management.request(method, path, json=body)
    refusal = error(answer)
    assert (answer.status_code, refusal["code"]) == (status, code), refusal
    if target is not None:
        assert refusal["target"] == target
    assert (
        engine.directories.rules.read_bytes(),
        engine.directories.credentials.read_bytes(),
    ) == before


@pytest.mark.parametrize("path", [f"{RULES}/example-library", f"{SETS}/example-set"])
async def test_if_none_match_refuses_a_name_that_is_taken(
    path: str, management: httpx.AsyncClient
) -> None:
    body = (
        rule_body(source=f"{LOGIN_SERVER}/library/*", target="library/*")
        if path.startswith(RULES)
        else set_body()
    )
    await management.put(path, json=body)
    answer = await management.put(
        path.upper().replace(path.rpartition("/")[0].upper(), path.rpartition("/")[0]),
        json=body,
        headers={"If-None-Match": "*"},
    )
    assert answer.status_code == 409
    assert error(answer)["code"] == (
        "CacheRuleAlreadyExists" if path.startswith(RULES) else "CredentialSetAlreadyExists"
    )
    assert error(answer)["target"] == "name"


BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'"\xff"',
    b'{"properties": null}',
    b'{"properties": {"sourceRepository": 5}}',
    b'{"properties": {"authCredentials": {}}}',
    b'{"properties": {}, "tags": {}}',
    b'{"properties": {"nonsense": 1}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", f"{RULES}/example-library"),
        ("PATCH", f"{RULES}/example-library"),
        ("PUT", f"{SETS}/example-set"),
        ("PATCH", f"{SETS}/example-set"),
        ("POST", "/entrepot/v1/checks/cacheRule"),
        ("POST", "/entrepot/v1/checks/credentialSet"),
        ("POST", "/entrepot/v1/pulls"),
    ],
)
async def test_a_body_that_can_not_be_read_is_refused(
    method: str, path: str, management: httpx.AsyncClient
) -> None:
    for content in BODIES:
        answer = await management.request(method, path, content=content)
        assert (answer.status_code, error(answer)["code"]) == (400, "InvalidRequest"), content[:30]


@pytest.mark.parametrize("path", [f"{RULES}/acme-api", f"{SETS}/example-set"])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(
    path: str, management: httpx.AsyncClient
) -> None:
    bytes_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal bytes_sent
        yield b'{"properties": {"sourceRepository": "'
        for _ in range(100):
            bytes_sent += 65536
            yield b"a" * 65536

    answer = await management.put(path, content=endless())
    assert (answer.status_code, error(answer)["code"]) == (400, "InvalidRequest")
    assert f"{BODY_LIMIT:,} bytes" in error(answer)["message"]
    assert bytes_sent <= BODY_LIMIT + 2 * 65536


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{RULES}/example-library"),
        ("POST", f"{SETS}/example-set"),
        ("PUT", RULES),
        ("DELETE", SETS),
        ("PUT", "/entrepot/v1/rules"),
        ("GET", "/entrepot/v1/checks/cacheRule"),
        ("DELETE", "/entrepot/v1/status"),
        ("PUT", "/entrepot/v1/pulls"),
        ("GET", "/entrepot/v1/stop"),
        ("POST", "/acr/v1/_catalog"),
        ("PUT", "/acr/v1/library/nginx/_tags/1"),
    ],
)
async def test_a_method_that_is_not_known_is_refused(
    method: str, path: str, management: httpx.AsyncClient
) -> None:
    answer = await management.request(method, path)
    assert (answer.status_code, error(answer)["code"]) == (405, "MethodNotAllowed")
    assert "allow" in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nonsense",
        "/entrepot/v1/nonsense",
        f"{REGISTRY}/webhooks",
        f"{RULES}/a/b",
        "/entrepot/v2/status",
    ],
)
async def test_what_is_not_there_is_not_found(path: str, management: httpx.AsyncClient) -> None:
    answer = await management.get(path)
    assert (answer.status_code, error(answer)["code"]) == (404, "NotFound")
    assert path in error(answer)["message"]


async def test_an_unforeseen_error_is_reported_without_its_details(
    management: httpx.AsyncClient,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("an inner detail")

    monkeypatch.setattr(engine.credential_sets, "list", fails)
    with caplog.at_level(logging.ERROR, logger="entrepot.management"):
        answer = await management.get("/entrepot/v1/credentialSets")
    assert (answer.status_code, error(answer)["code"]) == (500, "InternalError")
    assert "inner detail" not in answer.text
    assert "inner detail" in caplog.text


# Azure's own SDK


@asynccontextmanager
async def on_tcp(engine: Engine) -> AsyncIterator[str]:
    """The management API on loopback, where the SDK can reach it."""
    listener = bind_tcp("127.0.0.1", 0)
    host, port = listener.getsockname()
    async with serving(management_app(engine), listener):
        yield f"http://{host}:{port}"


def _use_the_sdk(address: str) -> None:
    from azure.core.credentials import AccessToken
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
    from azure.core.pipeline.policies import SansIOHTTPPolicy
    from azure.core.serialization import NULL
    from azure.mgmt.containerregistry import ContainerRegistryManagementClient
    from azure.mgmt.containerregistry import models as generated_models

    # The SDK's models take the flattened names that their own annotations do not have.
    models: Any = generated_models

    class AnonymousCredential:
        def get_token(self, *_: object, **__: object) -> AccessToken:
            return AccessToken("none", 2**31)

    registry = ("group", "registry")
    with ContainerRegistryManagementClient(
        AnonymousCredential(),
        "00000000-0000-0000-0000-000000000000",
        base_url=address,
        polling_interval=0,
        authentication_policy=SansIOHTTPPolicy(),
    ) as azure:
        credential = models.AuthCredential(
            name="Credential1",
            username_secret_identifier="env:HUB_USERNAME",
            password_secret_identifier="env:HUB_PASSWORD",
        )
        made_set = azure.credential_sets.begin_create(
            *registry,
            "hub-login",
            models.CredentialSet(login_server="docker.io", auth_credentials=[credential]),
        ).result()
        assert (made_set.name, made_set.login_server, made_set.provisioning_state) == (
            "hub-login",
            "docker.io",
            "Succeeded",
        )

        rule = models.CacheRule(
            source_repository="docker.io/library/nginx",
            target_repository="nginx",
            credential_set_resource_id=made_set.id,
        )
        created_rule = azure.cache_rules.begin_create(*registry, "hub-nginx", rule).result()
        assert (created_rule.source_repository, created_rule.target_repository) == (
            "docker.io/library/nginx",
            "nginx",
        )
        assert created_rule.credential_set_resource_id == made_set.id
        assert created_rule.creation_date is not None
        assert [each.name for each in azure.cache_rules.list(*registry)] == [
            "example-library",
            "hub-nginx",
        ]
        assert azure.cache_rules.get(*registry, "hub-nginx").id == created_rule.id
        with pytest.raises(HttpResponseError, match="CredentialSetInUse"):
            azure.credential_sets.begin_delete(*registry, "hub-login").result()
        with pytest.raises(HttpResponseError, match="EnforceDockerAuthentication"):
            azure.cache_rules.begin_update(
                *registry,
                "hub-nginx",
                models.CacheRuleUpdateParameters(credential_set_resource_id=NULL),
            ).result()

        changed = models.AuthCredential(
            name="Credential1",
            username_secret_identifier="env:HUB_USERNAME2",
            password_secret_identifier="env:HUB_PASSWORD2",
        )
        updated = azure.credential_sets.begin_update(
            *registry, "hub-login", models.CredentialSetUpdateParameters(auth_credentials=[changed])
        ).result()
        assert updated.auth_credentials[0].username_secret_identifier == "env:HUB_USERNAME2"

        azure.cache_rules.begin_delete(*registry, "hub-nginx").result()
        azure.credential_sets.begin_delete(*registry, "hub-login").result()
        azure.credential_sets.begin_delete(*registry, "hub-login").result()
        assert list(azure.credential_sets.list(*registry)) == []
        with pytest.raises(ResourceNotFoundError, match="CacheRuleNotFound"):
            azure.cache_rules.get(*registry, "hub-nginx")


async def test_azure_s_own_sdk_steers_the_engine(engine: Engine) -> None:
    pytest.importorskip("azure.mgmt.containerregistry")
    async with on_tcp(engine) as address, asyncio.timeout(60):
        await asyncio.to_thread(_use_the_sdk, address)
    assert [rule.name for rule in engine.documents.rules] == ["example-library"]


async def test_a_rule_may_have_a_freshness_which_acr_does_not_know(
    management: httpx.AsyncClient,
) -> None:
    answer = await management.put(f"{RULES}/acme-api", json=rule_body(freshness=90))
    assert (answer.status_code, answer.json()["properties"]["freshness"]) == (201, "90 s")
    unchanged = await management.patch(
        f"{RULES}/acme-api", json={"properties": {"credentialSetResourceId": None}}
    )
    assert unchanged.json()["properties"]["freshness"] == "90 s"
    changed = await management.patch(
        f"{RULES}/acme-api", json={"properties": {"freshness": "always"}}
    )
    assert changed.json()["properties"]["freshness"] == "always"
    assert (await management.put(f"{RULES}/acme-api", json=changed.json())).json() == changed.json()
    refused = await management.patch(
        f"{RULES}/acme-api", json={"properties": {"freshness": "soon"}}
    )
    assert (refused.status_code, error(refused)["code"], error(refused)["target"]) == (
        400,
        "FreshnessInvalid",
        "freshness",
    )
    default = await management.patch(f"{RULES}/acme-api", json={"properties": {"freshness": None}})
    assert "freshness" not in default.json()["properties"]


async def test_a_rule_without_a_freshness_has_none_in_its_shape(
    management: httpx.AsyncClient,
) -> None:
    assert (
        "freshness"
        not in (await management.put(f"{RULES}/acme-api", json=rule_body())).json()["properties"]
    )
