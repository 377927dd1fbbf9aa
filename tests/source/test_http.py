from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.source.addresses import is_local
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceFailed,
    SourceUnreachable,
)
from entrepot.source.sources import Sources
from tests.fakes import (
    BasicSignIn,
    FakeRegistry,
    Hang,
    Headers,
    NoAnswer,
    NoContentLength,
    Redirect,
    Status,
    TokenSignIn,
    TruncateAt,
)
from tests.source.conftest import Clock, Pauses, registry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")


async def read(client: SourceClient, digest: Digest) -> bytes:
    async with client.blob(NGINX, digest) as stream:
        return b"".join([chunk async for chunk in stream])


# Redirects


async def test_a_blob_behind_a_redirect_is_read_without_the_authorization(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"})) as source, FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        source.fault(
            "/blobs/",
            Redirect(f"{storage.url}/store/1?X-Amz-Credential=AK%2F1&X-Amz-Signature=a%2Bb"),
        )
        # The stand-in spoils its 401 too, unless the way in is known: a manifest comes first, as it
        # does in a pull.
        client = sources.client(registry(source.url), credential_set)
        await client.manifest(NGINX, LATEST)
        assert await read(client, layer.digest) == layer.content
        assert "authorization" in source.received("GET", "/blobs/")[-1].headers
        assert [("authorization" in each.headers, each.target) for each in storage.requests] == [
            (False, "/store/1?X-Amz-Credential=AK%2F1&X-Amz-Signature=a%2Bb")
        ]


async def test_basic_credentials_do_not_follow_a_redirect_either(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(BasicSignIn({"ann": "s3cret"})) as source, FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        client = sources.client(registry(source.url), credential_set)
        await client.manifest(NGINX, LATEST)
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        assert await read(client, layer.digest) == layer.content
        assert "authorization" not in storage.requests[0].headers


async def test_basic_credentials_are_sent_as_utf_8(
    sources: Sources, credential_set: CredentialSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F87: umlauts in user name and password (RFC 7617, 2.1), out of a file that an editor began
    with a byte order mark."""
    (tmp_path / "password").write_text("\ufeffpässwörd für Ωmega\r\n")
    (tmp_path / "password").chmod(0o600)
    monkeypatch.setenv("ENTREPOT_TEST_NAME", "jörg")
    identifiers = (
        SecretIdentifier.parse("env:ENTREPOT_TEST_NAME"),
        SecretIdentifier.parse(f"file:{tmp_path}/password"),
    )
    named = replace(credential_set, username=identifiers[0], password=identifiers[1])
    async with FakeRegistry(BasicSignIn({"jörg": "pässwörd für Ωmega"})) as source:
        image = source.add_image("library/nginx", "latest")
        assert (
            await sources.client(registry(source.url), named).manifest(NGINX, LATEST)
        ).digest == image.digest


async def test_once_lost_the_authorization_does_not_come_back(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(BasicSignIn({"ann": "s3cret"})) as source, FakeRegistry() as other:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        client = sources.client(registry(source.url), credential_set)
        await client.manifest(NGINX, LATEST)
        source.files["/back"] = layer.content
        source.fault("/blobs/", Redirect(f"{other.url}/away"))
        other.fault("/away", Redirect(f"{source.url}/back"))
        assert await read(client, layer.digest) == layer.content
        assert "authorization" not in source.received("GET", "/back")[0].headers


async def test_a_redirect_on_the_same_host_keeps_the_authorization(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(BasicSignIn({"ann": "s3cret"})) as source:
        image = source.add_image("library/nginx", "latest")
        client = sources.client(registry(source.url), credential_set)
        await client.head_manifest(NGINX, LATEST)
        source.fault(
            "/manifests/latest", Redirect(f"/v2/library/nginx/manifests/{image.digest}", 303)
        )
        assert (await client.manifest(NGINX, LATEST)).digest == image.digest


async def test_a_range_goes_along_with_a_redirect(sources: Sources) -> None:
    async with FakeRegistry() as source, FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        async with sources.client(registry(source.url), None).blob(
            NGINX, layer.digest, offset=100
        ) as stream:
            assert (stream.offset, stream.size) == (100, layer.size)
            assert b"".join([chunk async for chunk in stream]) == layer.content[100:]


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("ftp://127.0.0.1/x", "that is not http or https"),
        ("file:///etc/passwd", "that is not http or https"),
        ("http://user:word@127.0.0.1/x", "that is not http or https"),
        ("http://[/x", "that is not http or https"),
        ("http://127.0.0.1:port/x", "can't be read"),
        ("{path}", "redirects in circles"),
    ],
)
async def test_a_redirect_that_must_not_be_followed_is_an_invalid_answer(
    client: SourceClient, source: FakeRegistry, location: str, text: str
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Redirect(location))
    with pytest.raises(SourceAnswerInvalid, match=text):
        await client.manifest(NGINX, LATEST)
    assert len(source.requests) <= 6


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("http://cdn.example.com/x?sig=hidden", "from https to http, at cdn.example.com"),
        (
            "https://169.254.169.254/latest/meta-data?sig=hidden",
            "169.254.169.254, a local address",
        ),
        (
            "https://localhost:9200/?sig=hidden",
            "localhost, a local address",
        ),
        ("https://[::1]/?sig=hidden", "::1, a local address"),
    ],
)
async def test_a_public_registry_can_not_send_us_to_unsafe_places(
    opened: Callable[..., Sources], location: str, text: str
) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, headers={"Location": location})

    client = opened(transport=httpx.MockTransport(answer)).client(
        registry("https://registry-1.docker.io"), None
    )
    with pytest.raises(SourceAnswerInvalid, match=text) as raised:
        await client.manifest(NGINX, LATEST)
    assert seen == ["registry-1.docker.io"]
    assert "hidden" not in str(raised.value)


async def test_the_query_of_a_presigned_address_is_in_no_log_and_no_error(
    client: SourceClient, source: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1?X-Amz-Signature=hidden"))
        storage.fault("/store/1", Status(503))
        with pytest.raises(SourceFailed) as raised:
            await read(client, layer.digest)
        storage.clear_faults()
        storage.fault("/store/1", NoAnswer())
        with pytest.raises(SourceUnreachable) as unreachable:
            await read(client, layer.digest)
    assert "attempt 2 failed" in caplog.text, "nothing was logged, so nothing was tested"
    assert "hidden" not in caplog.text
    assert "hidden" not in f"{raised.value}{unreachable.value}"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("0.0.0.0", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("demo.localhost", True),
        ("10.0.0.1", False),
        ("docker.io", False),
        ("localhost.example.com", False),
    ],
)
def test_what_is_local(host: str, local: bool) -> None:
    assert is_local(host) is local


async def test_what_stands_behind_a_redirect_can_not_ask_us_to_sign_in(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry() as source, FakeRegistry(BasicSignIn({"ann": "s3cret"})) as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        with pytest.raises(SourceFailed, match="refuses it with status 401"):
            await read(sources.client(registry(source.url), credential_set), layer.digest)
        assert len(source.requests) == len(storage.requests) == 1


# Retries


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_source_that_fails_for_a_moment_is_asked_again(
    client: SourceClient, source: FakeRegistry, pauses: Pauses, status: int
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(status, times=2))
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest
    assert source.count("GET", "/manifests/") == 3
    first, second = pauses.taken
    assert 0.1 <= first <= 0.2
    assert 0.2 <= second <= 0.4


async def test_a_source_that_goes_on_failing_is_believed_after_three_attempts(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(503))
    with pytest.raises(SourceFailed, match="fails with status 503"):
        await client.head_manifest(NGINX, LATEST)
    assert source.count("HEAD", "/manifests/") == 3


async def test_a_failing_source_is_given_the_seconds_that_it_asks_for(
    client: SourceClient, source: FakeRegistry, pauses: Pauses
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(503, {"Retry-After": "2"}, times=1))
    await client.head_manifest(NGINX, LATEST)
    assert pauses.taken == [2.0]


async def test_a_failing_source_that_asks_for_minutes_is_believed_at_once(
    client: SourceClient, source: FakeRegistry, pauses: Pauses
) -> None:
    source.fault("/manifests/", Status(503, {"Retry-After": "120"}))
    with pytest.raises(SourceFailed):
        await client.head_manifest(NGINX, LATEST)
    assert source.count("HEAD", "/manifests/") == 1
    assert pauses.taken == []


@pytest.mark.parametrize("status", [400, 500, 501])
async def test_other_failures_are_not_tried_again(
    client: SourceClient, source: FakeRegistry, status: int
) -> None:
    source.fault("/manifests/", Status(status))
    with pytest.raises((SourceFailed, SourceAnswerInvalid), match=f"status {status}"):
        await client.manifest(NGINX, LATEST)
    assert source.count("GET", "/manifests/") == 1


async def test_a_connection_that_ends_without_an_answer_is_made_anew(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", NoAnswer(times=2))
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest


async def test_a_kept_alive_connection_that_died_is_made_anew(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    await client.head_manifest(NGINX, LATEST)
    await source.stop()
    await source.start()
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest


async def test_a_manifest_that_breaks_off_is_fetched_again(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", TruncateAt(20, times=2))
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest


@pytest.mark.parametrize("fault", [TruncateAt(20, times=None), NoContentLength()])
async def test_a_manifest_that_always_breaks_off_is_never_taken_for_whole(
    client: SourceClient, source: FakeRegistry, fault: TruncateAt | NoContentLength
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", fault)
    source.fault("/manifests/", TruncateAt(20, times=None))
    with pytest.raises(
        SourceBrokeOff,
        match=r"docker\.io broke off after 20 bytes of docker\.io/library/nginx:latest",
    ):
        await client.manifest(NGINX, LATEST)
    assert source.count("GET", "/manifests/") == 3


async def test_a_redirect_to_storage_that_fails_is_asked_for_anew(
    client: SourceClient, source: FakeRegistry
) -> None:
    async with FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        storage.fault("/store/1", Status(503, times=1))
        assert await read(client, layer.digest) == layer.content
        assert source.count("GET", "/blobs/") == 2


# No answer


async def test_a_source_that_is_down_is_unreachable(
    client: SourceClient, source: FakeRegistry, pauses: Pauses
) -> None:
    await source.stop()
    with pytest.raises(
        SourceUnreachable,
        match=r"docker\.io \(127\.0\.0\.1\) can't be reached: it accepts no connections",
    ) as raised:
        await client.head_manifest(NGINX, LATEST)
    assert raised.value.oci_status == 503
    assert len(pauses.taken) == 2


async def test_a_silent_source_is_unreachable_after_the_read_time_out(
    opened: Callable[..., Sources], source: FakeRegistry
) -> None:
    source.fault("/manifests/", Hang())
    client = opened(read_timeout=0.05).client(registry(source.url), None)
    with pytest.raises(SourceUnreachable, match="does not answer in time"):
        await client.head_manifest(NGINX, LATEST)
    assert source.count("HEAD", "/manifests/") == 2


async def test_a_source_that_falls_silent_within_a_blob_broke_off(
    opened: Callable[..., Sources], source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    source.fault("/blobs/", Hang(5000))
    client = opened(read_timeout=0.05).client(registry(source.url), None)
    with pytest.raises(SourceBrokeOff, match="fell silent after 5,000 bytes"):
        await read(client, layer.digest)


async def test_a_short_body_is_noticed_even_if_the_network_layer_does_not(
    opened: Callable[..., Sources],
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers={"Content-Length": "10"}, stream=httpx.ByteStream(b"short")
        )

    client = opened(transport=httpx.MockTransport(answer)).client(
        registry("https://registry-1.docker.io"), None
    )
    with pytest.raises(SourceBrokeOff, match="sent 5 of 10 bytes"):
        await read(client, Digest.of(b"x"))


def refused_with(cause: BaseException) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no") from cause

    return httpx.MockTransport(answer)


async def test_of_a_redirect_into_nowhere_the_host_is_named(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/manifests/", Redirect("http://127.0.0.2:9/x"))
    with pytest.raises(SourceUnreachable, match=r"docker\.io \(127\.0\.0\.2\) can't be reached"):
        await client.manifest(NGINX, LATEST)


async def test_an_unknown_name_is_told_apart(opened: Callable[..., Sources]) -> None:
    client = opened(
        transport=refused_with(socket.gaierror(-2, "Name or service not known"))
    ).client(registry("https://registry-1.docker.io"), None)
    with pytest.raises(
        SourceUnreachable,
        match=r"docker\.io \(registry-1\.docker\.io\) can't be reached: its name is not known",
    ):
        await client.head_manifest(NGINX, LATEST)


async def test_a_certificate_that_is_not_trusted_is_told_apart_and_not_tried_again(
    opened: Callable[..., Sources], pauses: Pauses
) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    client = opened(transport=refused_with(error)).client(
        registry("https://registry-1.docker.io"), None
    )
    with pytest.raises(
        SourceUnreachable, match="its certificate is not trusted: self-signed certificate"
    ):
        await client.head_manifest(NGINX, LATEST)
    assert pauses.taken == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (httpx.ConnectTimeout(""), "accepts no connection in time"),
        (httpx.ProxyError(""), "the proxy of this machine's environment refuses"),
        (httpx.RemoteProtocolError(""), "ends the connection without an answer"),
    ],
)
async def test_other_ways_of_not_answering_are_told_apart(
    opened: Callable[..., Sources], error: httpx.TransportError, text: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    client = opened(transport=httpx.MockTransport(answer)).client(
        registry("https://registry-1.docker.io"), None
    )
    with pytest.raises(SourceUnreachable, match=text):
        await client.head_manifest(NGINX, LATEST)


async def test_who_leaves_while_a_source_is_silent_leaves_no_connection_behind(
    client: SourceClient, source: FakeRegistry
) -> None:
    gate = source.hold("/manifests/")
    asking = asyncio.create_task(client.head_manifest(NGINX, LATEST))
    request = await gate.reached
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.open()
    await request.ended.wait()
    assert not source.received("GET", "/")


async def test_a_date_for_coming_back_is_understood(
    client: SourceClient, source: FakeRegistry, clock: Clock, pauses: Pauses
) -> None:
    clock.now = 1_800_000_000.0
    source.add_image("library/nginx", "latest")
    source.fault(
        "/manifests/", Status(503, {"Retry-After": "Fri, 15 Jan 2027 08:00:01 GMT"}, times=1)
    )
    await client.head_manifest(NGINX, LATEST)
    assert pauses.taken == [1.0]


async def test_everything_is_asked_for_without_compression_and_under_our_name(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/v2/", Headers({"Content-Encoding": "gzip"}))
    assert (await client.manifest(NGINX, LATEST)).content == image.manifest.content
    layer = image.platforms["linux/amd64"].layers[0]
    assert await read(client, layer.digest) == layer.content
    assert {each.headers["accept-encoding"] for each in source.requests} == {"identity"}
    assert {each.headers["user-agent"].partition("/")[0] for each in source.requests} == {
        "entrepot"
    }
