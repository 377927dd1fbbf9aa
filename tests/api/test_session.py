"""Requests, refusals and listings, below the parts of the client."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from entrepot.api.errors import EngineAnswerInvalid, EngineRefused
from entrepot.api.session import (
    LISTINGS,
    ApiSession,
    decode,
    path_segment,
    path_segments,
    refusal,
    resource_path,
)
from entrepot.api.transport import HttpxTransport


class Item(msgspec.Struct):
    """Something with a name."""

    name: str


def session(handler: httpx.MockTransport, token: str | None = None) -> ApiSession:
    http = httpx.AsyncClient(transport=handler, base_url="http://entrepot")
    return ApiSession(HttpxTransport(http), token=token, absent="No engine.")


@pytest.mark.parametrize(
    ("name", "segment"),
    [("nginx", "nginx"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), (".", "%2E"), ("a?b#c", "a%3Fb%23c")],
)
def test_a_name_can_not_leave_its_segment_of_a_path(name: str, segment: str) -> None:
    assert path_segment(name) == segment


def test_a_repository_keeps_its_slashes_and_escapes_dots() -> None:
    assert path_segments("library/../nginx") == "library/%2E%2E/nginx"


def test_rules_and_sets_are_created_below_acr_s_management_api() -> None:
    path = resource_path("cacheRules", "a b")
    assert path.startswith("/subscriptions/")
    assert path.endswith("/registries/entrepot/cacheRules/a%20b")


def test_a_refusal_keeps_code_field_and_status() -> None:
    error = refusal(b'{"error": {"code": "A", "message": "No.", "target": "name"}}', 400)
    assert (error.code, error.message, error.field, error.status) == ("A", "No.", "name", 400)


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"errors": []}'])
def test_an_answer_without_an_error_is_not_an_engine_s(content: bytes) -> None:
    with pytest.raises(EngineAnswerInvalid, match="is no engine"):
        refusal(content, 500)


def test_json_of_another_type_is_not_an_engine_s() -> None:
    with pytest.raises(EngineAnswerInvalid):
        decode(b'"text"', int)


async def test_only_the_last_listings_are_kept() -> None:
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append((request.url.path, request.headers.get("If-None-Match")))
        return httpx.Response(200, json=[], headers={"ETag": '"1"'})

    client = session(httpx.MockTransport(answer))
    for number in range(LISTINGS + 1):
        await client.listing(f"/{number}", list[Item])
    requests.clear()
    await client.listing("/0", list[Item])
    await client.listing(f"/{LISTINGS}", list[Item])
    await client.close()
    assert requests == [("/0", None), (f"/{LISTINGS}", '"1"')]


async def test_a_listing_is_the_same_object_while_the_engine_answers_304() -> None:
    etags = []

    def answer(request: httpx.Request) -> httpx.Response:
        etags.append(request.headers.get("If-None-Match"))
        if etags[-1] == '"1"':
            return httpx.Response(304)
        return httpx.Response(200, json=["a"], headers={"ETag": '"1"'})

    api = session(httpx.MockTransport(answer))
    first = await api.listing("/x", list[str])
    assert await api.listing("/x", list[str]) is first
    assert etags == [None, '"1"']
    await api.close()


@pytest.mark.parametrize(("code", "is_missing"), [("NotFound", True), ("CacheRuleNotFound", False)])
async def test_a_route_that_is_missing_differs_from_a_resource_that_is(
    code: str, is_missing: bool
) -> None:
    document = {"error": {"code": code, "message": "No."}}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/x":
            return httpx.Response(404, json=document)
        return httpx.Response(200, json={})

    async def listing() -> list[Item]:
        return [Item("one"), Item("Two")]

    api = session(httpx.MockTransport(answer))
    if is_missing:
        item = await api.get_named("/x", Item, "two", resource="/acr/two", listing=listing)
        assert item == Item("Two")
    else:
        with pytest.raises(EngineRefused):
            await api.get_named("/x", Item, "two", resource="/acr/two", listing=listing)
    await api.close()


async def test_the_token_goes_with_each_request() -> None:
    authorizations = []

    def answer(request: httpx.Request) -> httpx.Response:
        authorizations.append(request.headers["Authorization"])
        return httpx.Response(200, json=1)

    api = session(httpx.MockTransport(answer), token="s3cret")
    await api.get("/a", int)
    await api.send("POST", "/b", int, {})
    assert authorizations == ["Bearer s3cret"] * 2
    await api.close()
