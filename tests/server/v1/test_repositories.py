"""``/entrepot/v1/repositories``: cached repositories as the dashboard shows them."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from entrepot.core.reference import Repository, Tag
from entrepot.engine.engine import Engine
from entrepot.store.connections import CatalogFailed
from tests.fakes import FakeRegistry
from tests.server.cached_images import cache
from tests.store.statements import recorded_reads


async def test_the_dashboard_s_view_has_names_in_camel_case(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1.27")
    [listed] = (await management.get("/entrepot/v1/repositories")).json()
    keys = {
        "name",
        "rule",
        "sourceRepository",
        "tags",
        "manifests",
        "size",
        "created",
        "lastPull",
        "pulls",
        "locked",
    }
    assert listed.keys() == keys
    detail = (await management.get("/entrepot/v1/repositories/library/nginx")).json()
    assert detail["repository"] == listed
    assert [(tag["name"], tag["platforms"]) for tag in detail["tags"]] == [
        ("1.27", ["linux/amd64"])
    ]


async def test_what_is_behind_a_tag(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image] = await cache(engine, source, "library/nginx:1.27")
    document = (await management.get("/entrepot/v1/repositories/library/nginx/_tags/1.27")).json()
    assert (document["repository"], document["tag"]["name"], document["isIndex"]) == (
        "library/nginx",
        "1.27",
        True,
    )
    assert {each["platform"]: (each["digest"], each["holding"]) for each in document["images"]} == {
        "linux/amd64": (str(image.platforms["linux/amd64"].digest), "whole"),
        "linux/arm64": (str(image.platforms["linux/arm64"].digest), "nothing"),
    }
    [layer] = document["images"][0]["layers"]
    assert (layer["digest"], layer["held"], layer["sharedImages"]) == (
        str(image.platforms["linux/amd64"].layers[0].digest),
        True,
        0,
    )
    detail = (await management.get("/entrepot/v1/repositories/library/nginx")).json()
    assert detail["tags"] == [document["tag"]]


@pytest.mark.parametrize(
    ("path", "code"),
    [("library/nginx/_tags/2", "ResourceNotFound"), ("library/redis/_tags/1", "ResourceNotFound")],
)
async def test_what_is_behind_a_tag_that_is_not_there(
    path: str, code: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    answer = await management.get(f"/entrepot/v1/repositories/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


async def test_a_repository_may_be_named_as_if_it_were_a_tag(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/tags/plan:plan")
    assert (await management.get("/entrepot/v1/repositories/library/tags/plan")).json()[
        "repository"
    ]["name"] == "library/tags/plan"
    assert (await management.get("/entrepot/v1/repositories/library/tags/plan/_tags/plan")).json()[
        "tag"
    ]["name"] == "plan"


async def test_a_plan_says_what_goes_and_what_stays_and_is_right(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    common = b"common" * 1000
    for image, layers in (
        ("library/nginx:1", [common, b"own" * 1000]),
        ("library/redis:7", [common]),
    ):
        repository, _, tag = image.partition(":")
        source.add_image(repository, tag, layers=layers, platforms=["linux/amd64"])
        pull = engine.cache.pulls.get((await engine.pulls.start(image, "linux/amd64", "test")).id)
        async with asyncio.timeout(30):
            await pull.finished.wait()
    before = await engine.catalog.repositories(Repository("library/nginx"))
    plan = (await management.get("/entrepot/v1/repositories/library/nginx/_plan")).json()
    assert (
        plan["kind"],
        plan["tags"],
        plan["tagCount"],
        plan["manifestCount"],
        plan["refused"],
    ) == ("repository", ["1"], 1, 2, None)
    assert (plan["shared"], plan["freed"], plan["fetchedAgainBy"]) == (
        len(common),
        before[0].size - len(common),
        "example-library",
    )
    tag = (await management.get("/entrepot/v1/repositories/library/nginx/_tags/1/_plan")).json()
    assert (tag["name"], tag["freed"], tag["untagged"], tag["shared"]) == (
        "library/nginx:1",
        0,
        plan["freed"],
        len(common),
    )
    assert [each.name for each in await engine.catalog.repositories()] == [
        "library/nginx",
        "library/redis",
    ]
    size_before = sum(each.size for each in await engine.catalog.repositories())
    assert (await management.delete("/acr/v1/library/nginx")).status_code == 202
    assert (
        size_before - sum(each.size for each in await engine.catalog.repositories())
        == before[0].size
    )
    blobs = await engine.catalog.blobs_size()
    redis = await engine.catalog.manifests(Repository("library/redis"))
    [remaining] = await engine.catalog.repositories()
    assert blobs == remaining.size - sum(each.size for each in redis)


async def test_a_plan_for_what_is_locked_says_so(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    await engine.repositories.lock_tag("library/nginx", "1")
    for path in ("library/nginx/_plan", "library/nginx/_tags/1/_plan"):
        plan = (await management.get(f"/entrepot/v1/repositories/{path}")).json()
        assert (
            "library/nginx:1, is locked" in plan["refused"]
            or "library/nginx:1 is locked" in plan["refused"]
        )
        assert (
            plan["refusedCode"],
            (await management.delete("/acr/v1/library/nginx")).json()["error"]["code"],
        ) == (plan["refusedCode"], plan["refusedCode"])
    assert (await management.get("/entrepot/v1/repositories/library/none/_plan")).status_code == 404
    assert (
        await management.get("/entrepot/v1/repositories/library/nginx/_tags/2/_plan")
    ).status_code == 404


async def test_a_long_listing_is_streamed_a_page_at_a_time(
    management: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await cache(engine, source, *(f"library/{name}:1" for name in "abcde"))
    await cache(engine, source, *(f"library/c:{number}" for number in range(2, 6)))
    paths = ["/entrepot/v1/repositories", "/entrepot/v1/repositories/library/c"]
    whole = [(await management.get(path)) for path in paths]
    assert all("content-length" in answer.headers for answer in whole)
    for size in (1, 2, 5):
        monkeypatch.setattr("entrepot.engine.repositories.ENTRIES_AT_ONCE", size)
        for path, answer in zip(paths, whole, strict=True):
            with recorded_reads(engine.catalog) as statements:
                streamed = await management.get(path)
            assert streamed.json() == answer.json()
            assert max(statement.rows() for statement in statements) == size


async def test_a_listing_that_the_client_has_reads_nothing(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    for path in ("/entrepot/v1/repositories", "/entrepot/v1/repositories/library/nginx"):
        etag = (await management.get(path)).headers["etag"]
        with recorded_reads(engine.catalog) as statements:
            answer = await management.get(path, headers={"If-None-Match": etag})
        assert (answer.status_code, answer.content, statements) == (304, b"", [])


async def test_a_confirmed_tag_changes_its_repository_and_not_the_list_of_repositories(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    paths = ("/entrepot/v1/repositories", "/entrepot/v1/repositories/library/nginx")
    before = [(await management.get(path)).headers["etag"] for path in paths]
    await engine.cache.refresh(Repository("library/nginx"), Tag("1"))
    after = [(await management.get(path)).headers["etag"] for path in paths]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


async def test_a_listing_that_fails_at_once_is_an_error(
    management: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: object) -> None:
        raise CatalogFailed("The catalog fails.")

    monkeypatch.setattr(engine.catalog, "repositories", fail)
    answer = await management.get("/entrepot/v1/repositories")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "CatalogFailed")


@pytest.mark.parametrize("listing", ["rules", "credentialSets", "repositories"])
async def test_a_listing_that_the_caller_has_is_not_sent_again(
    listing: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    path = f"/entrepot/v1/{listing}"
    whole = await management.get(path)
    tag = whole.headers["etag"]
    assert (await management.get(path)).content == whole.content
    for condition in (tag, f'"another", W/{tag}'):
        answer = await management.get(path, headers={"If-None-Match": condition})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    for condition in ('"another"', tag.strip('"')):
        assert (
            await management.get(path, headers={"If-None-Match": condition})
        ).json() == whole.json()


async def test_a_listing_is_sent_again_when_something_was_pulled_or_deleted(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    etag = (await management.get("/entrepot/v1/repositories")).headers["etag"]

    async def news() -> dict[str, int]:
        nonlocal etag
        answer = await management.get("/entrepot/v1/repositories", headers={"If-None-Match": etag})
        assert answer.status_code == 200
        etag = answer.headers["etag"]
        return {each["name"]: each["tags"] for each in answer.json()}

    await cache(engine, source, "library/nginx:2")
    assert await news() == {"library/nginx": 2}
    await engine.repositories.delete_tag("library/nginx", "1")
    assert await news() == {"library/nginx": 1}
    await engine.repositories.delete("library/nginx")
    assert await news() == {}
