"""Cached repositories in the shape of ACR's data API, and as the dashboard wants them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from entrepot.core.reference import Repository, Tag
from entrepot.engine.engine import Engine
from tests.conftest import Clock
from tests.fakes import FakeRegistry
from tests.server.cached_images import cache
from tests.store.statements import recorded_reads

ATTRIBUTES = {
    "deleteEnabled": True,
    "writeEnabled": False,
    "readEnabled": True,
    "listEnabled": True,
}


async def test_the_catalog_comes_in_pages(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    assert (await management.get("/acr/v1/_catalog")).json() == {"repositories": []}
    names = [f"library/app{letter}" for letter in "abcde"]
    await cache(engine, source, *(f"{name}:1" for name in reversed(names)))
    whole = await management.get("/acr/v1/_catalog")
    assert whole.json() == {"repositories": names}
    assert "link" not in whole.headers
    pages: list[list[str]] = []
    path: str | None = "/acr/v1/_catalog?n=2"
    while path is not None:
        page = await management.get(path)
        pages.append(page.json()["repositories"])
        path = page.links["next"]["url"] if "next" in page.links else None
    assert pages == [names[:2], names[2:4], names[4:]]
    assert (await management.get("/acr/v1/_catalog", params={"last": "library/appd"})).json() == {
        "repositories": names[4:]
    }


@pytest.mark.parametrize(
    "path", ["/acr/v1/_catalog", "/acr/v1/library/nginx/_tags", "/acr/v1/library/nginx/_manifests"]
)
async def test_a_page_of_no_number_is_refused(
    path: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    """S25 is a number of 5,000 digits."""
    await cache(engine, source, "library/nginx:1")
    for n in ("-1", "x", "1.5", "", "²", "1" * 5000):
        answer = await management.get(path, params={"n": n})
        assert (
            answer.status_code,
            answer.json()["error"]["code"],
            answer.json()["error"]["target"],
        ) == (400, "InvalidRequest", "n"), n[:10]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/acr/v1/_catalog", "repositories"),
        ("/acr/v1/library/nginx/_tags", "tags"),
        ("/acr/v1/library/nginx/_manifests", "manifests"),
    ],
)
async def test_f77_s25_a_page_of_no_entries_is_empty_and_has_no_link(
    path: str, key: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1")
    answer = await management.get(path, params={"n": "0"})
    assert (answer.status_code, answer.json()[key], answer.links) == (200, [], {})


async def test_a_repository_is_shown_in_acrs_shape(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1", "library/nginx:2")
    document = (await management.get("/acr/v1/library/nginx")).json()
    assert document.pop("createdTime").endswith("Z")
    assert document.pop("lastUpdateTime").endswith("Z")
    assert document == {
        "registry": "entrepot",
        "imageName": "library/nginx",
        "manifestCount": 4,
        "tagCount": 2,
        "changeableAttributes": ATTRIBUTES,
    }


async def test_tags_and_manifests_are_shown_in_acrs_shape(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image] = await cache(engine, source, "library/nginx:1.27")
    tags = (await management.get("/acr/v1/library/nginx/_tags")).json()
    assert (tags["registry"], tags["imageName"]) == ("entrepot", "library/nginx")
    [tag] = tags["tags"]
    assert tag.keys() == {
        "name",
        "digest",
        "createdTime",
        "lastUpdateTime",
        "signed",
        "changeableAttributes",
    }
    assert (tag["name"], tag["digest"], tag["changeableAttributes"]) == (
        "1.27",
        str(image.digest),
        ATTRIBUTES,
    )
    answer = await management.get("/acr/v1/library/nginx/_tags/1.27")
    assert answer.json() == {"registry": "entrepot", "imageName": "library/nginx", "tag": tag}

    manifests = (await management.get("/acr/v1/library/nginx/_manifests")).json()["manifests"]
    assert [each["digest"] for each in manifests] == sorted(
        [str(image.digest), str(image.platforms["linux/amd64"].digest)]
    )
    of_platform = next(
        each for each in manifests if each["digest"] == str(image.platforms["linux/amd64"].digest)
    )
    assert (of_platform["os"], of_platform["architecture"], of_platform["tags"]) == (
        "linux",
        "amd64",
        [],
    )
    index = next(each for each in manifests if each is not of_platform)
    assert (index["tags"], index["mediaType"]) == (["1.27"], image.manifest.media_type)
    assert "architecture" not in index
    one = await management.get(f"/acr/v1/library/nginx/_manifests/{image.digest}")
    assert one.json()["manifest"] == index


async def test_tags_come_in_pages(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, *(f"library/nginx:{number}" for number in range(1, 4)))
    first = await management.get("/acr/v1/library/nginx/_tags?n=2")
    assert [tag["name"] for tag in first.json()["tags"]] == ["1", "2"]
    second = await management.get(first.links["next"]["url"])
    assert [tag["name"] for tag in second.json()["tags"]] == ["3"]
    assert "link" not in second.headers


@pytest.mark.parametrize("kind", ["tags", "manifests"])
async def test_pages_in_the_order_of_time_go_on_though_entries_are_cached_or_deleted(
    kind: str,
    management: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    for number in (2, 3, 1):
        await cache(engine, source, f"library/nginx:{number}")
        clock.now += 60
    path = f"/acr/v1/library/nginx/_{kind}"
    key = "name" if kind == "tags" else "digest"

    async def listed(order: str) -> list[str]:
        answer = await management.get(path, params={"orderby": order})
        return [entry[key] for entry in answer.json()[kind]]

    newest_first = await listed("timedesc")
    assert newest_first == list(reversed(await listed("timeasc")))
    assert sorted(newest_first) == await listed("none")
    if kind == "tags":
        assert newest_first == ["1", "3", "2"]
    first = await management.get(path, params={"orderby": "timedesc", "n": "1"})
    assert [entry[key] for entry in first.json()[kind]] == newest_first[:1]
    if kind == "tags":
        # The place is kept although its entry is gone.
        await engine.repositories.delete_tag("library/nginx", newest_first[0])
    await cache(engine, source, "library/nginx:4")
    names = newest_first[:1]
    link: str | None = first.links["next"]["url"]
    while link is not None:
        page = await management.get(link)
        names += [entry[key] for entry in page.json()[kind]]
        link = page.links["next"]["url"] if "next" in page.links else None
    assert names == newest_first
    after = await management.get(path, params={"orderby": "timedesc", "last": newest_first[1]})
    assert [entry[key] for entry in after.json()[kind]] == newest_first[2:]


async def test_tags_of_one_digest(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image, _] = await cache(engine, source, "library/nginx:1", "library/nginx:2")
    await engine.catalog.point_tag(Repository("library/nginx"), Tag("3"), image.digest, now=1.0)
    path = "/acr/v1/library/nginx/_tags"
    answer = await management.get(path, params={"digest": str(image.digest), "n": "1"})
    assert [tag["name"] for tag in answer.json()["tags"]] == ["1"]
    answer = await management.get(answer.links["next"]["url"])
    assert [tag["name"] for tag in answer.json()["tags"]] == ["3"]
    other = await management.get(path, params={"digest": f"sha256:{0:064}"})
    assert (other.status_code, other.json()["tags"]) == (200, [])
    assert (await management.get(path, params={"digest": "no-digest"})).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "_catalog?n=2",
        "library/nginx",
        "library/nginx/_tags?n=2",
        "library/nginx/_tags?n=2&orderby=timedesc",
        "library/nginx/_tags/1",
        "library/nginx/_manifests?n=2",
    ],
)
async def test_a_page_is_one_query_whatever_is_cached(
    path: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, *(f"library/nginx:{number}" for number in range(5)))
    with recorded_reads(engine.catalog) as statements:
        assert (await management.get(f"/acr/v1/{path}")).status_code == 200
    [statement] = statements
    assert statement.rows() <= 3


async def test_a_deleted_tag_is_fetched_again_at_the_next_pull(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1", "library/nginx:2")
    answer = await management.delete("/acr/v1/library/nginx/_tags/1")
    assert (answer.status_code, answer.content) == (202, b"")
    assert (await management.get("/acr/v1/library/nginx/_tags/1")).status_code == 404
    assert [
        tag["name"] for tag in (await management.get("/acr/v1/library/nginx/_tags")).json()["tags"]
    ] == ["2"]
    assert (await management.delete("/acr/v1/library/nginx/_tags/1")).status_code == 404


async def test_a_deleted_manifest_takes_its_tags_along(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image, _ = await cache(engine, source, "library/nginx:1", "library/nginx:2")
    assert (
        await management.delete(f"/acr/v1/library/nginx/_manifests/{image.digest}")
    ).status_code == 202
    assert (
        await management.get(f"/acr/v1/library/nginx/_manifests/{image.digest}")
    ).status_code == 404
    assert [
        tag["name"] for tag in (await management.get("/acr/v1/library/nginx/_tags")).json()["tags"]
    ] == ["2"]


async def test_a_deleted_repository_says_what_went_with_it(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image] = await cache(engine, source, "library/nginx:1")
    answer = await management.delete("/acr/v1/library/nginx")
    assert answer.status_code == 202
    document = answer.json()
    assert sorted(document["manifestsDeleted"]) == sorted(
        [str(image.digest), str(image.platforms["linux/amd64"].digest)]
    )
    assert document["tagsDeleted"] == ["1"]
    assert (await management.get("/acr/v1/_catalog")).json() == {"repositories": []}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/acr/v1/library/nothing", 404, "ResourceNotFound"),
        ("/acr/v1/library/nothing/_tags/1", 404, "ResourceNotFound"),
        (f"/acr/v1/library/nothing/_manifests/sha256:{'0' * 64}", 404, "ResourceNotFound"),
        ("/acr/v1/library/nginx/_tags/9", 404, "ResourceNotFound"),
        (f"/acr/v1/library/nginx/_manifests/sha256:{'0' * 64}", 404, "ResourceNotFound"),
        ("/acr/v1/Library/Nginx", 400, "GenericRepositoryNameInvalid"),
        ("/acr/v1/library/nginx/_tags/-x", 400, "ReferenceInvalid"),
        ("/acr/v1/library/nginx/_manifests/sha256:0", 400, "DigestInvalid"),
    ],
)
async def test_what_is_not_there_or_has_no_name(
    method: str,
    path: str,
    status: int,
    code: str,
    management: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
) -> None:
    await cache(engine, source, "library/nginx:1")
    answer = await management.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/acr/v1/library/nothing", 404, "NAME_UNKNOWN"),
        ("GET", "/acr/v1/no/such", 404, "NAME_UNKNOWN"),
        ("GET", "/acr/v1/Library/Nginx", 400, "NAME_INVALID"),
        ("GET", "/acr/v1/library/nginx/_tags/-x", 400, "MANIFEST_INVALID"),
        ("GET", "/acr/v1/library/nginx/_manifests/sha256:0", 400, "DIGEST_INVALID"),
        ("GET", "/acr/v1/_catalog?n=x", 400, "UNSUPPORTED"),
        ("PATCH", "/acr/v1/library/nginx", 400, "UNSUPPORTED"),
        ("POST", "/acr/v1/_catalog", 405, "UNSUPPORTED"),
        ("DELETE", "/acr/v1/library/nginx", 405, "REGISTRY_DISALLOWED_OPERATION"),
    ],
)
async def test_errors_of_the_data_api_have_the_shape_that_az_reads(
    method: str,
    path: str,
    status: int,
    code: str,
    management: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
) -> None:
    """ARM's shape stays beside it, for programs that were written for earlier versions."""
    await cache(engine, source, "library/nginx:1")
    await engine.repositories.lock(Repository("library/nginx"), locked=True)
    answer = await management.request(method, path)
    document = answer.json()
    assert answer.status_code == status
    assert [(error["code"], error["message"]) for error in document["errors"]] == [
        (code, document["error"]["message"])
    ]
    assert document["errors"][0]["detail"] == {"code": document["error"]["code"]}


async def test_errors_of_the_management_api_have_arms_shape_only(
    management: httpx.AsyncClient,
) -> None:
    assert (await management.get("/entrepot/v1/repositories/library/none")).json().keys() == {
        "error"
    }


@pytest.mark.parametrize(
    "path",
    [
        "/acr/v1/library/nothing/_tags",
        "/acr/v1/library/nothing/_manifests",
        "/entrepot/v1/repositories/library/nothing",
    ],
)
async def test_listings_of_a_repository_that_is_not_there(
    path: str, management: httpx.AsyncClient
) -> None:
    answer = await management.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")


LOCKABLE = [
    "/acr/v1/library/nginx",
    "/acr/v1/library/nginx/_tags/1.27",
    "/acr/v1/library/nginx/_manifests/DIGEST",
]


def attributes(document: dict[str, Any]) -> dict[str, bool]:
    """Those of a repository, of a tag or of a manifest."""
    lock_attributes: dict[str, bool] = (
        document.get("tag") or document.get("manifest") or document
    )["changeableAttributes"]
    return lock_attributes


@pytest.mark.parametrize("path", LOCKABLE)
async def test_what_has_delete_enabled_false_can_not_be_deleted(
    path: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image] = await cache(engine, source, "library/nginx:1.27")
    path = path.replace("DIGEST", str(image.digest))
    locked = await management.patch(path, json={"deleteEnabled": False})
    assert locked.status_code == 200
    assert attributes(locked.json()) == ATTRIBUTES | {"deleteEnabled": False}
    assert (await management.get(path)).json() == locked.json()
    for locked_path in (path, "/acr/v1/library/nginx"):
        refused = await management.delete(locked_path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            405,
            "REGISTRY_DISALLOWED_OPERATION",
        )
        assert "entrepot repository unlock library/nginx" in refused.json()["error"]["message"]
    unlocked = await management.patch(path, json={"deleteEnabled": True})
    assert attributes(unlocked.json()) == ATTRIBUTES
    assert (await management.delete(path)).status_code == 202


async def test_a_locked_tag_keeps_the_manifests_that_it_needs(
    management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image] = await cache(engine, source, "library/nginx:1.27")
    await management.patch("/acr/v1/library/nginx/_tags/1.27", json={"deleteEnabled": False})
    for digest in (image.digest, image.platforms["linux/amd64"].digest):
        assert (
            await management.delete(f"/acr/v1/library/nginx/_manifests/{digest}")
        ).status_code == 405
    assert [
        tag["changeableAttributes"]["deleteEnabled"]
        for tag in (await management.get("/acr/v1/library/nginx/_tags")).json()["tags"]
    ] == [False]
    assert attributes((await management.get("/acr/v1/library/nginx")).json()) == ATTRIBUTES
    detail = (await management.get("/entrepot/v1/repositories/library/nginx")).json()
    assert (detail["repository"]["locked"], detail["tags"][0]["locked"]) == (False, True)


@pytest.mark.parametrize("path", LOCKABLE)
async def test_attributes_that_can_not_be_changed_are_refused(
    path: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    [image] = await cache(engine, source, "library/nginx:1.27")
    path = path.replace("DIGEST", str(image.digest))
    for name, value in (("writeEnabled", True), ("readEnabled", False), ("listEnabled", False)):
        refused = await management.patch(path, json={"deleteEnabled": False, name: value})
        assert (
            refused.status_code,
            refused.json()["error"]["code"],
            refused.json()["error"]["target"],
        ) == (400, "InvalidRequest", name)
        assert "Only deleteEnabled can be changed." in refused.json()["error"]["message"]
    answer = await management.patch(path, json={name: not value})
    assert (answer.status_code, attributes(answer.json())) == (200, ATTRIBUTES)


@pytest.mark.parametrize("body", ["", "[]", '{"deleteEnabled": "no"}', '{"delete": false}'])
async def test_a_change_that_can_not_be_read_is_refused_with_what_to_send(
    body: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1.27")
    refused = await management.patch("/acr/v1/library/nginx", content=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "InvalidRequest")
    assert '{"deleteEnabled": false}' in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/acr/v1/library/no",
        "/acr/v1/library/nginx/_tags/no",
        f"/acr/v1/library/nginx/_manifests/sha256:{'0' * 64}",
    ],
)
async def test_what_is_not_there_can_not_be_locked(
    path: str, management: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    await cache(engine, source, "library/nginx:1.27")
    answer = await management.patch(path, json={"deleteEnabled": False})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound")
