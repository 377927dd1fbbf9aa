"""The fake registry does on command what other tests rely on.

It is asked over a bare socket, so that no client smooths anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from entrepot.demo.images import DOCKER
from tests.fakes import (
    BasicSignIn,
    Content,
    DropAfter,
    FakeRegistry,
    FlipByte,
    Hang,
    Headers,
    Html,
    IgnoreRange,
    NoAnswer,
    NoContentLength,
    Redirect,
    Shorten,
    Status,
    TokenSignIn,
    TruncateAt,
)


@dataclass
class Raw:
    """What came over the socket, the head parted from the rest."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    source: FakeRegistry, target: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> Raw:
    """Ask on a connection of its own, and read until it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: x",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    received = b""
    try:
        while chunk := await reader.read(65536):
            received += chunk
    except ConnectionResetError:
        received += b"<reset>"
    writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    return Raw(
        int(first.split()[1]) if first else 0,
        {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)},
        body,
    )


@pytest.fixture
async def source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        yield running


async def test_an_image_has_an_index_manifests_configs_and_layers(source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[20_480, b"as it is"])
    index = await ask(source, "/v2/library/nginx/manifests/1.27")
    assert index.body == image.manifest.content
    assert index.headers["docker-content-digest"] == str(image.index_digest)
    for child in image.platforms.values():
        assert (
            await ask(source, f"/v2/library/nginx/manifests/{child.digest}")
        ).body == child.manifest.content
        for blob in child.blobs:
            assert (
                await ask(source, f"/v2/library/nginx/blobs/{blob.digest}")
            ).body == blob.content
    amd64, arm64 = image.platforms.values()
    assert amd64.layers[0].digest != arm64.layers[0].digest
    assert amd64.layers[1].content == arm64.layers[1].content == b"as it is"


async def test_an_image_may_be_a_bare_manifest_of_dockers_kind(source: FakeRegistry) -> None:
    image = source.add_image(
        "acme/api", "1", platforms=["linux/amd64"], index=False, media_types=DOCKER
    )
    assert image.digest == image.platforms["linux/amd64"].digest
    assert (await ask(source, "/v2/acme/api/manifests/1")).headers[
        "content-type"
    ] == DOCKER.manifest


async def test_layers_may_differ_by_platform(source: FakeRegistry) -> None:
    image = source.add_image(
        "acme/api", "1", layers={"linux/amd64": [b"one"], "linux/arm64": [b"two", b"three"]}
    )
    assert [
        [each.content for each in platform.layers] for platform in image.platforms.values()
    ] == [[b"one"], [b"two", b"three"]]


async def test_a_tag_moves_and_goes_and_its_old_manifest_stays(source: FakeRegistry) -> None:
    old = source.add_image("library/nginx", "1.27", layers=[b"old"])
    new = source.add_image("library/nginx", "1.27", layers=[b"new"])
    assert (await ask(source, "/v2/library/nginx/manifests/1.27")).body == new.manifest.content
    assert (
        await ask(source, f"/v2/library/nginx/manifests/{old.digest}")
    ).body == old.manifest.content
    source.remove_tag("library/nginx", "1.27")
    assert (await ask(source, "/v2/library/nginx/manifests/1.27")).status == 404


async def test_a_digest_opens_nothing_in_another_repository(source: FakeRegistry) -> None:
    blob = source.add_blob("library/nginx", b"x")
    assert (await ask(source, f"/v2/acme/api/blobs/{blob.digest}")).status == 404


@pytest.mark.parametrize(
    ("asked", "status", "told", "body"),
    [
        ("bytes=2-", 206, "bytes 2-9/10", b"23456789"),
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=2-99", 206, "bytes 2-9/10", b"23456789"),
        ("bytes=10-", 416, "bytes */10", None),
        ("nonsense", 200, None, b"0123456789"),
    ],
)
async def test_ranges_are_answered(
    source: FakeRegistry, asked: str, status: int, told: str | None, body: bytes | None
) -> None:
    blob = source.add_blob("a", b"0123456789")
    answer = await ask(source, f"/v2/a/blobs/{blob.digest}", headers={"Range": asked})
    assert (answer.status, answer.headers.get("content-range")) == (status, told)
    assert body is None or answer.body == body
    whole = await ask(
        source, f"/v2/a/blobs/{blob.digest}", headers={"Range": asked, "If-Range": '"another"'}
    )
    assert whole.status == 200


async def test_what_was_asked_and_sent_is_remembered(source: FakeRegistry) -> None:
    blob = source.add_blob("a", b"x" * 1000)
    await ask(source, f"/v2/a/blobs/{blob.digest}", headers={"X-Test": "1"})
    await ask(source, f"/v2/a/blobs/{blob.digest}?q=1", method="HEAD")
    get, head = source.requests
    assert (
        get.method,
        get.path,
        get.headers["x-test"],
        get.bytes_sent,
        get.finished,
        get.status,
    ) == (
        "GET",
        f"/v2/a/blobs/{blob.digest}",
        "1",
        1000,
        True,
        200,
    )
    assert (head.method, head.query, head.bytes_sent, head.repository) == (
        "HEAD",
        {"q": ["1"]},
        0,
        "a",
    )
    assert (
        source.count("GET", "/blobs/"),
        source.count("HEAD", "q=1"),
        source.count("GET", "/manifests/"),
    ) == (1, 1, 0)
    assert source.bytes_sent == 1000


async def test_connections_are_kept_alive(source: FakeRegistry) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
    for _ in range(2):
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(2) == b"{}"
    writer.close()
    assert [each.connection for each in source.requests] == [1, 1]


async def test_it_comes_back_on_the_same_port(source: FakeRegistry) -> None:
    port = source.port
    await source.stop()
    with pytest.raises(ConnectionRefusedError):
        await ask(source, "/v2/")
    await source.start()
    assert source.port == port
    assert (await ask(source, "/v2/")).status == 200


# Faults

BODY = bytes(range(200)) * 1000


async def spoiled(
    source: FakeRegistry,
    *faults: object,
    headers: dict[str, str] | None = None,
    method: str = "GET",
) -> Raw:
    blob = source.add_blob("a", BODY)
    for fault in faults:
        source.fault("/blobs/", fault)  # type: ignore[arg-type]
    return await ask(source, f"/v2/a/blobs/{blob.digest}", headers=headers, method=method)


async def test_a_status_comes_as_often_as_it_should(source: FakeRegistry) -> None:
    source.fault("/v2/", Status(503, {"Retry-After": "1"}, times=2))
    answers = [await ask(source, "/v2/") for _ in range(3)]
    assert [each.status for each in answers] == [503, 503, 200]
    assert answers[0].headers["retry-after"] == "1"
    source.fault("/v2/", Status(500))
    assert [(await ask(source, "/v2/")).status for _ in range(3)] == [500] * 3
    source.clear_faults()
    assert (await ask(source, "/v2/")).status == 200


async def test_a_fault_may_be_for_one_method_alone(source: FakeRegistry) -> None:
    source.fault("/v2/", Status(500), method="HEAD")
    assert (await ask(source, "/v2/", method="HEAD")).status == 500
    assert (await ask(source, "/v2/")).status == 200


async def test_a_drop_is_a_reset_after_exactly_so_many_bytes(source: FakeRegistry) -> None:
    answer = await spoiled(source, DropAfter(150_000))
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.body == BODY[:150_000] + b"<reset>"
    assert source.requests[0].bytes_sent == 150_000
    assert not source.requests[0].finished
    assert (await spoiled(source)).body == BODY


async def test_a_truncation_is_an_orderly_end_after_exactly_so_many_bytes(
    source: FakeRegistry,
) -> None:
    answer = await spoiled(source, TruncateAt(150_000))
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.body == BODY[:150_000]


async def test_a_shortened_answer_is_well_formed(source: FakeRegistry) -> None:
    answer = await spoiled(source, Shorten(10))
    assert (answer.headers["content-length"], answer.body) == ("10", BODY[:10])


async def test_one_byte_is_another(source: FakeRegistry) -> None:
    answer = await spoiled(source, FlipByte(at=-1))
    assert len(answer.body) == len(BODY)
    assert [
        number
        for number, (one, other) in enumerate(zip(answer.body, BODY, strict=True))
        if one != other
    ] == [len(BODY) - 1]


async def test_without_a_length_the_body_comes_in_chunks_or_until_the_end(
    source: FakeRegistry,
) -> None:
    chunked = await spoiled(source, NoContentLength(times=1))
    assert chunked.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in chunked.headers
    assert chunked.body.startswith(b"10000\r\n")
    assert chunked.body.endswith(b"\r\n0\r\n\r\n")
    closed = await spoiled(source, NoContentLength(close=True, times=1))
    assert (
        "content-length" not in closed.headers | {"transfer-encoding": ""}
        or "transfer-encoding" not in closed.headers
    )
    assert closed.body == BODY
    head = await spoiled(source, NoContentLength(times=1), method="HEAD")
    assert "content-length" not in head.headers


async def test_faults_add_up(source: FakeRegistry) -> None:
    answer = await spoiled(source, NoContentLength(), TruncateAt(10))
    assert answer.body == b"a\r\n" + BODY[:10] + b"\r\n"


async def test_a_page_for_people_comes_with_status_200(source: FakeRegistry) -> None:
    answer = await spoiled(source, Html())
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_a_range_is_ignored(source: FakeRegistry) -> None:
    answer = await spoiled(source, IgnoreRange(), headers={"Range": "bytes=10-"})
    assert (answer.status, answer.body) == (200, BODY)
    assert source.requests[0].headers["range"] == "bytes=10-"


async def test_headers_are_changed_and_left_out(source: FakeRegistry) -> None:
    answer = await spoiled(
        source, Headers({"etag": '"mine"', "X-New": "1"}, remove=("docker-content-digest",))
    )
    assert (answer.headers["etag"], answer.headers["x-new"]) == ('"mine"', "1")
    assert "docker-content-digest" not in answer.headers


async def test_a_redirect_leads_elsewhere(source: FakeRegistry) -> None:
    answer = await spoiled(source, Redirect("http://storage.example{path}?sig=1"))
    assert answer.status == 307
    assert answer.headers["location"].startswith("http://storage.example/v2/a/blobs/sha256:")
    assert answer.headers["location"].endswith("?sig=1")


async def test_no_answer_is_not_a_byte(source: FakeRegistry) -> None:
    assert (
        await spoiled(source, NoAnswer()) == Raw(0, {"": ""}, b"")
        or (await spoiled(source, NoAnswer())).status == 0
    )


@pytest.mark.parametrize("after", [None, 0, 10])
async def test_a_hanging_answer_says_nothing_more_until_the_client_leaves(
    source: FakeRegistry, after: int | None
) -> None:
    blob = source.add_blob("a", BODY)
    source.fault("/blobs/", Hang(after))
    reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
    writer.write(f"GET /v2/a/blobs/{blob.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    if after is not None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(after) == BODY[:after]
    await source.arrived("GET", "/blobs/")
    assert not source.requests[0].ended.is_set()
    writer.close()
    await source.requests[0].ended.wait()
    assert source.requests[0].bytes_sent == (after or 0)


async def test_a_gate_holds_until_it_is_opened(source: FakeRegistry) -> None:
    blob = source.add_blob("a", BODY)
    gate = source.hold("/blobs/", after_bytes=70_000)
    asking = [asyncio.create_task(ask(source, f"/v2/a/blobs/{blob.digest}")) for _ in range(2)]
    request = await gate.reached
    assert request.bytes_sent == 70_000
    assert (await ask(source, "/v2/")).status == 200
    gate.open()
    assert [(await each).body for each in asking] == [BODY, BODY]
    assert (await ask(source, f"/v2/a/blobs/{blob.digest}")).body == BODY


async def test_a_gate_before_the_head_holds_the_head(source: FakeRegistry) -> None:
    gate = source.hold("/v2/")
    reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    await gate.reached
    assert gate.waiting == 1
    gate.open()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_the_throttle_waits_as_long_as_the_bytes_should_take(source: FakeRegistry) -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    source.throttle, source.pause = 1000.0, pause
    await spoiled(source)
    assert sum(waited) == pytest.approx(len(BODY) / 1000.0)


# Sign-in


async def test_basic_credentials_let_in() -> None:
    async with FakeRegistry(BasicSignIn({"ann": "word"})) as source:
        refused = await ask(source, "/v2/")
        assert (refused.status, refused.headers["www-authenticate"]) == (
            401,
            'Basic realm="stand-in"',
        )
        assert (
            await ask(source, "/v2/", headers={"Authorization": "Basic YW5uOndvcmQ="})
        ).status == 200
        assert (
            await ask(source, "/v2/", headers={"Authorization": "Basic YW5uOndyb25n"})
        ).status == 401
        assert (await ask(source, "/v2/", headers={"Authorization": "Basic ###"})).status == 401


async def test_a_token_opens_its_own_repository_alone() -> None:
    async with FakeRegistry(TokenSignIn({"ann": "word"}, private=("acme/*",))) as source:
        source.add_manifest("acme/api", Content.of("x/y", b"{}"), "1")
        source.add_manifest("library/nginx", Content.of("x/y", b"{}"), "1")
        refused = await ask(source, "/v2/acme/api/manifests/1")
        assert (
            refused.headers["www-authenticate"]
            == f'Bearer realm="{source.url}/token",service="stand-in",'
            'scope="repository:acme/api:pull"'
        )
        signed = {"Authorization": "Basic YW5uOndvcmQ="}
        token = (await ask(source, "/token?scope=repository:acme/api:pull", headers=signed)).body
        assert token == b'{"token": "token-1", "expires_in": 300}'
        assert (
            await ask(
                source, "/v2/acme/api/manifests/1", headers={"Authorization": "Bearer token-1"}
            )
        ).status == 200
        assert (
            await ask(
                source, "/v2/library/nginx/manifests/1", headers={"Authorization": "Bearer token-1"}
            )
        ).status == 401
        await ask(source, "/token?scope=repository:acme/api:pull")
        assert (
            await ask(
                source, "/v2/acme/api/manifests/1", headers={"Authorization": "Bearer token-2"}
            )
        ).status == 401
        wrong = {"Authorization": "Basic YW5uOndyb25n"}
        assert (
            await ask(source, "/token?scope=repository:acme/api:pull", headers=wrong)
        ).status == 401


async def test_tokens_are_revoked() -> None:
    sign_in = TokenSignIn()
    async with FakeRegistry(sign_in) as source:
        await ask(source, "/token")
        assert (
            await ask(source, "/v2/", headers={"Authorization": "Bearer token-1"})
        ).status == 200
        sign_in.revoke_tokens()
        assert (
            await ask(source, "/v2/", headers={"Authorization": "Bearer token-1"})
        ).status == 401
