"""``/entrepot/v1/rules``: cache rules as the dashboard lists them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from entrepot.config import documents
from entrepot.config.directories import Directories
from entrepot.config.document_files import Signature, write_document
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.errors import EngineError
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry

IMPORTED = f"""
[[credential_sets]]
name = "example-login"
login_server = "{LOGIN_SERVER}"
username_id = "env:USER"
password_id = "env:TOKEN"

[[rules]]
name = "acme-app"
source_repository = "{LOGIN_SERVER}/acme/*"
target_repository = "acme/*"
credential_set = "example-login"
"""


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


async def test_a_rule_is_checked_as_far_as_it_is_written(management: httpx.AsyncClient) -> None:
    document = (
        await management.post(
            "/entrepot/v1/checks/cacheRule", json={"sourceRepository": "docker.io/nginx"}
        )
    ).json()
    assert (document["sourceRepository"], document["loginServer"], document["signIn"]) == (
        "docker.io/library/nginx",
        "docker.io",
        "required",
    )
    assert document["proposedTarget"] is not None
    assert document["problems"] == []
    assert "library/" in document["remarks"][0]
    document = (
        await management.post(
            "/entrepot/v1/checks/cacheRule", json={"name": "abc", "targetRepository": "other/*"}
        )
    ).json()
    assert [(each["code"], each["field"]) for each in document["problems"]] == [
        ("InvalidResourceName", "name")
    ]


async def test_which_rule_answers(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64", "linux/arm64"])
    pull = engine.cache.pulls.get(
        (await engine.pulls.start("library/nginx:1.27", "linux/amd64", "test")).id
    )
    async with asyncio.timeout(30):
        await pull.finished.wait()
    for image in (
        "library/nginx:1.27",
        f"{engine.address}/library/nginx:1.27",
        f"{LOGIN_SERVER}/library/nginx:1.27",
    ):
        document = (await management.get("/entrepot/v1/match", params={"image": image})).json()
        assert (document["rule"], document["repository"], document["sourceRepository"]) == (
            "example-library",
            "library/nginx",
            f"{LOGIN_SERVER}/library/nginx",
        )
        assert (document["holding"], document["pull"], document["credentialSet"]) == (
            "whole",
            f"{engine.address}/library/nginx:1.27",
            None,
        )
    cached_parts = {}
    for image in (
        "library/nginx",
        "library/nginx:2",
        "library/redis",
        f"library/nginx@sha256:{'0' * 64}",
    ):
        cached_parts[image] = (
            await management.get("/entrepot/v1/match", params={"image": image})
        ).json()["holding"]
    assert list(cached_parts.values()) == ["whole", "nothing", "nothing", "nothing"]
    none = (await management.get("/entrepot/v1/match", params={"image": "nginx"})).json()
    assert (none["rule"], none["pull"], none["near"][0]["name"]) == (None, None, "example-library")


@pytest.mark.parametrize("query", ["", "?image=", "?image=Not+A+Name"])
async def test_which_rule_answers_for_what_is_no_image(
    query: str, management: httpx.AsyncClient
) -> None:
    answer = await management.get(f"/entrepot/v1/match{query}")
    assert answer.status_code == 400


async def test_an_import_is_planned_and_then_done(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    planned = (await management.post("/entrepot/v1/checks/import", json={"text": IMPORTED})).json()
    assert [
        (each["kind"], each["name"], each["outcome"], each["line"]) for each in planned["entries"]
    ] == [
        ("credentialSet", "example-login", "create", 2),
        ("rule", "acme-app", "create", 8),
    ]
    assert (
        planned["applied"],
        len(engine.documents.rules),
        len(engine.documents.credential_sets),
    ) == (False, 1, 0)
    answer = await management.post("/entrepot/v1/imports", json={"text": IMPORTED})
    assert (answer.status_code, answer.json()["applied"]) == (200, True)
    assert engine.documents.rules.get("acme-app").credential_set == "example-login"
    again = (await management.post("/entrepot/v1/checks/import", json={"text": IMPORTED})).json()
    assert {each["outcome"] for each in again["entries"]} == {"unchanged"}
    assert [each.message for each in engine.events.recent() if each.kind == "imported"] == [
        "Imported 1 cache rule and 1 credential set."
    ]


async def test_of_an_import_with_a_conflict_nothing_is_done(
    management: httpx.AsyncClient, engine: Engine
) -> None:
    text = f'{IMPORTED}\n[[rules]]\nname = "second-acme"\nsource_repository = "{LOGIN_SERVER}/acme/*"\ntarget_repository = "acme/*"\n'
    answer = await management.post("/entrepot/v1/imports", json={"text": text})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "ImportRefused")
    assert "Line 14: second-acme: " in answer.json()["error"]["message"]
    assert (len(engine.documents.rules), len(engine.documents.credential_sets)) == (1, 0)


async def test_an_import_that_the_disk_takes_half_of_changes_nothing(
    management: httpx.AsyncClient,
    engine: Engine,
    directories: Directories,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def refuse_rules(file: Path, content: bytes) -> Signature:
        if file == directories.rules:
            raise EngineError(
                "rules.toml can't be written: No space left on device.", "Free space."
            )
        return write_document(file, content)

    monkeypatch.setattr(documents, "write_document", refuse_rules)
    assert (
        await management.post("/entrepot/v1/imports", json={"text": IMPORTED})
    ).status_code == 503
    assert b"example-login" not in directories.credentials.read_bytes()
    assert len(engine.documents.credential_sets) == 0
    monkeypatch.undo()
    assert (
        await management.post("/entrepot/v1/imports", json={"text": IMPORTED})
    ).status_code == 200


async def test_a_plan_for_a_rule_names_the_repositories_that_stay(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await engine.rules.create(
        RuleDraft("only-nginx", f"{LOGIN_SERVER}/library/nginx", "library/nginx")
    )
    await engine.rules.create(RuleDraft("acme-app", f"{LOGIN_SERVER}/acme/app", "app"))
    for repository, image in (("library/nginx", "library/nginx:1"), ("acme/app", "app:1")):
        source.add_image(repository, "1", platforms=["linux/amd64"])
        pull = engine.cache.pulls.get((await engine.pulls.start(image, "linux/amd64", "test")).id)
        async with asyncio.timeout(30):
            await pull.finished.wait()
    inside = (await management.get("/entrepot/v1/rules/only-nginx/plan")).json()
    assert (inside["kind"], inside["repositories"], inside["fetchedAgainBy"]) == (
        "rule",
        [],
        "example-library",
    )
    alone = (await management.get("/entrepot/v1/rules/Acme-App/plan")).json()
    assert (
        alone["name"],
        alone["repositories"],
        alone["repositoryCount"],
        alone["fetchedAgainBy"],
    ) == ("acme-app", ["app"], 1, None)
    assert (await management.get("/entrepot/v1/rules/none-such/plan")).status_code == 404
    assert len(engine.documents.rules) == 3
