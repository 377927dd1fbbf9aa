"""Paths of cached repositories, and pages of names for completion."""

from __future__ import annotations

import httpx
import pytest

from tests.api.fakes import client_of


async def test_names_are_a_page_that_begins_at_the_prefix() -> None:
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(dict(request.url.params))
        return httpx.Response(200, json={"repositories": ["library/nginx", "library/os", "team/a"]})

    async with client_of(answer) as client:
        assert await client.repositories.list_names("library/", 10) == [
            "library/nginx",
            "library/os",
        ]
        await client.repositories.list_names("", 10)
    assert requests == [{"n": "10", "last": "library.~"}, {"n": "10"}]


@pytest.mark.parametrize(
    ("tag", "digest", "path"),
    [
        (None, None, "/acr/v1/library/nginx"),
        ("1", None, "/acr/v1/library/nginx/_tags/1"),
        (None, "sha256:ab", "/acr/v1/library/nginx/_manifests/sha256%3Aab"),
    ],
)
async def test_a_lock_is_of_a_repository_a_tag_or_a_manifest(
    tag: str | None, digest: str | None, path: str
) -> None:
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append((request.method, request.url.raw_path.decode(), request.content))
        return httpx.Response(200, json={})

    async with client_of(answer) as client:
        await client.repositories.lock("library/nginx", tag, digest)
        await client.repositories.unlock("library/nginx", tag, digest)
    assert requests == [
        ("PATCH", path, b'{"deleteEnabled":false}'),
        ("PATCH", path, b'{"deleteEnabled":true}'),
    ]
