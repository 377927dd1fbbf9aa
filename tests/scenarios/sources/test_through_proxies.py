"""F75: sources behind the proxies of the environment, from a pull to what it says when the proxy is
at fault."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from entrepot.core.reference import Repository, Tag
from entrepot.source import blob_transport
from entrepot.source import transport as transport_module
from entrepot.source.addresses import Reach
from entrepot.source.blobs import ThreadedBody
from entrepot.source.dns import Lookups, LookupsBusy
from entrepot.source.errors import SourceAnswerInvalid, SourceUnreachable
from entrepot.source.proxies import BehindProxyUnreachable, ProxyFailed
from entrepot.source.sources import Sources
from tests.e2e.registries.certificates import Authority
from tests.fakes import (
    FakeImage,
    FakeProxy,
    FakeRegistry,
    HttpProxy,
    Redirect,
    SocksProxy,
    TokenSignIn,
)
from tests.programs import require_program
from tests.source.conftest import registry

HOST = "registry.example"
NGINX = Repository("library/nginx")

pytestmark = pytest.mark.usefixtures("each_transport")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def source(authority: Authority) -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry(
        TokenSignIn(realm=f"https://{HOST}/token"), tls=authority.server(HOST)
    ) as running:
        yield running


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image(str(NGINX), "latest", [1_000_000], ["linux/amd64"])


@pytest.fixture(params=["http", "https", "socks5", "socks5h"])
async def proxy(
    request: pytest.FixtureRequest,
    source: FakeRegistry,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[FakeProxy]:
    names = {HOST: ("127.0.0.1", source.port)}
    async with AsyncExitStack() as stack:
        if request.param.startswith("socks5"):
            running: FakeProxy = await stack.enter_async_context(
                SocksProxy(names, user="ann", password="s3cret")
            )
        else:
            tls = authority.server("localhost") if request.param == "https" else None
            running = await stack.enter_async_context(
                HttpProxy(names, user="ann", password="s3cret", tls=tls)
            )
        running.scheme = request.param
        host = "localhost" if request.param == "https" else "127.0.0.1"
        monkeypatch.setenv("ALL_PROXY", running.url.replace("127.0.0.1", host))
        yield running


async def test_an_image_is_pulled_through_a_proxy_that_looks_the_names_up(
    opened: Callable[..., Sources],
    authority: Authority,
    proxy: FakeProxy,
    source: FakeRegistry,
    image: FakeImage,
) -> None:
    client = opened(ca_file=authority.path).client(registry(f"https://{HOST}", HOST), None)
    manifest = await client.manifest(NGINX, Tag("latest"))
    assert manifest.digest == image.manifest.digest
    [platform] = image.platforms.values()
    layer = platform.blobs[-1]
    async with client.blob(NGINX, layer.digest) as blob:
        assert b"".join([chunk async for chunk in blob]) == layer.content
    assert set(proxy.destinations) == {(HOST, 443)}
    # Connections are kept alive, also within a tunnel.
    assert len(proxy.destinations) < len(source.requests)
    assert all("proxy-authorization" not in request.headers for request in source.requests)


async def test_a_thread_reads_a_blob_through_every_proxy(
    request: pytest.FixtureRequest,
    opened: Callable[..., Sources],
    authority: Authority,
    proxy: FakeProxy,
    source: FakeRegistry,
    image: FakeImage,
) -> None:
    """With a proxy that speaks TLS itself, in two layers of TLS."""
    client = opened(ca_file=authority.path).client(registry(f"https://{HOST}", HOST), None)
    layer = next(iter(image.platforms.values())).blobs[-1]

    def read_half(body: ThreadedBody) -> bytes:
        received = bytearray()
        buffer = memoryview(bytearray(50_000))
        while len(received) < layer.size // 2:
            received += buffer[: body.read_into(buffer, lambda: None)]
        return bytes(received)

    for _ in range(2):
        async with client.blob(NGINX, layer.digest) as blob:
            assert (blob.body is not None) == (
                request.node.callspec.params["each_transport"] == "blobs"
            )
            begin = b"" if blob.body is None else await asyncio.to_thread(read_half, blob.body)
            assert begin + b"".join([chunk async for chunk in blob]) == layer.content
    assert set(proxy.destinations) == {(HOST, 443)}


async def test_a_proxy_that_wants_another_password_is_at_fault_and_not_the_source(
    opened: Callable[..., Sources], authority: Authority, proxy: FakeProxy, source: FakeRegistry
) -> None:
    proxy.password = "another"
    client = opened(ca_file=authority.path).client(registry(f"https://{HOST}", HOST), None)
    with pytest.raises(SourceUnreachable, match="prox") as refused:
        await client.head_manifest(NGINX, Tag("latest"))
    assert "s3cret" not in refused.value.message
    assert isinstance(refused.value.__cause__, ProxyFailed)
    assert refused.value.__cause__.proxy.variable == "ALL_PROXY"
    assert "(the engine's ALL_PROXY)" in refused.value.what
    if proxy.scheme.startswith("socks5"):
        assert "refuses: Username and password authentication failure" in refused.value.what
    assert refused.value.__cause__.status == (407 if proxy.scheme in {"http", "https"} else None)
    assert not source.requests


async def test_a_proxy_that_does_not_answer_is_at_fault_and_not_the_source(
    opened: Callable[..., Sources],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    proxy: FakeProxy,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ALL_PROXY", f"{proxy.scheme}://127.0.0.1:{unused.getsockname()[1]}")
        client = opened(ca_file=authority.path).client(registry(f"https://{HOST}", HOST), None)
        with pytest.raises(SourceUnreachable) as refused:
            await client.head_manifest(NGINX, Tag("latest"))
    assert isinstance(refused.value.__cause__, ProxyFailed)


async def test_a_name_of_a_proxy_that_is_not_known_is_not_the_name_of_the_source(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch, proxy: FakeProxy
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{proxy.scheme}://proxy.invalid:1080")
    with pytest.raises(SourceUnreachable) as refused:
        await (
            opened()
            .client(registry(f"https://{HOST}", HOST), None)
            .head_manifest(NGINX, Tag("latest"))
        )
    assert isinstance(refused.value.__cause__, ProxyFailed)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (1, "General SOCKS server failure"),
        (2, "Connection not allowed by ruleset"),
        (4, "Host unreachable"),
        (5, "Connection refused by"),
    ],
)
async def test_a_source_that_a_socks_proxy_can_not_reach_is_at_fault_not_the_proxy(
    opened: Callable[..., Sources],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    reply: int,
    reason: str,
) -> None:
    async with SocksProxy({}) as proxy:
        assert isinstance(proxy, SocksProxy)
        proxy.refusal = reply
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        with pytest.raises(SourceUnreachable) as refused:
            await (
                opened(ca_file=authority.path)
                .client(registry(f"https://{HOST}", HOST), None)
                .head_manifest(NGINX, Tag("latest"))
            )
    assert isinstance(refused.value.__cause__, BehindProxyUnreachable)
    assert (
        f"The proxy {proxy.place} (the engine's ALL_PROXY) can't connect to {HOST}: {reason}"
        in refused.value.what
    )


async def test_a_proxy_with_an_untrusted_certificate_is_at_fault_not_the_source(
    opened: Callable[..., Sources], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy({}, tls=authority.server("localhost")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy.port}")
        with pytest.raises(
            SourceUnreachable,
            match=r"The proxy localhost:[0-9]+ .*HTTPS_PROXY\) is not trusted: "
            r"unable to get local issuer",
        ) as refused:
            await (
                opened()
                .client(registry(f"https://{HOST}", HOST), None)
                .head_manifest(NGINX, Tag("latest"))
            )
    assert isinstance(refused.value.__cause__, ProxyFailed)
    assert not proxy.destinations


async def test_a_certificate_that_is_not_trusted_is_named_behind_every_proxy(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch, source: FakeRegistry
) -> None:
    names = {HOST: ("127.0.0.1", source.port)}
    async with HttpProxy(names) as over_http, SocksProxy(names) as over_socks:
        for proxy in (over_http, over_socks):
            monkeypatch.setenv("ALL_PROXY", proxy.url)
            with pytest.raises(
                SourceUnreachable, match="does not trust the issuer of its certificate"
            ) as refused:
                await (
                    opened()
                    .client(registry(f"https://{HOST}", HOST), None)
                    .head_manifest(NGINX, Tag("latest"))
                )
            assert isinstance(refused.value.__cause__, httpx.ConnectError)
            assert not isinstance(refused.value.__cause__, ProxyFailed)
    assert not source.requests


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("answer", [None, b"", b"garbage\r\n\r\n"])
async def test_a_proxy_that_gives_no_answer_is_named_within_the_time_outs(
    opened: Callable[..., Sources],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    answer: bytes | None,
) -> None:
    """F75: the source was not asked, so it is not the one that is silent."""
    test_ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        if answer is None:
            await test_ended.wait()
        else:
            writer.write(answer)
        writer.close()

    async with asyncio.timeout(60), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{place}")
        sources = opened(connect_timeout=0.1, read_timeout=0.1)
        for address in (f"https://{HOST}", f"http://{HOST}"):
            with pytest.raises(SourceUnreachable) as failed:
                await sources.client(registry(address, HOST), None).head_manifest(
                    NGINX, Tag("latest")
                )
            assert f"proxy {place} (the engine's ALL_PROXY)" in failed.value.what
            assert f"put {HOST} into NO_PROXY" in failed.value.hint
        test_ended.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x05",
        b"\x05\x00\x05\x09",
        b"\x05\x09",
        b"\x05\x00" + b"\xff" * 300,
    ],
)
async def test_what_is_no_socks_proxy_is_an_error_of_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    transport = new_transport(ssl.create_default_context(), connections=1)
    async with asyncio.timeout(60):
        with pytest.raises(ProxyFailed):
            await transport.handle_async_request(httpx.Request("GET", f"https://{HOST}/v2/"))
    await transport.aclose()
    server.close()
    await server.wait_closed()


def _socket_of(stream: object) -> socket.socket:
    """The socket of a response."""
    if isinstance(stream, blob_transport._Body):
        return stream._connection._socket
    assert isinstance(stream, transport_module._ResponseBody)
    connection = stream._response.connection
    assert connection is not None
    assert connection.transport is not None
    connected: socket.socket = connection.transport.get_extra_info("socket")
    return connected


async def test_connections_through_a_socks_proxy_notice_a_dead_end(
    monkeypatch: pytest.MonkeyPatch,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    async with FakeRegistry() as source, SocksProxy({HOST: ("127.0.0.1", source.port)}) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        source.files["/x"] = bytes(4_000_000)
        transport = new_transport(ssl.create_default_context(), connections=1)
        response = await transport.handle_async_request(httpx.Request("GET", f"http://{HOST}/x"))
        assert _socket_of(response.stream).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await response.aclose()
        await transport.aclose()


async def test_the_name_of_a_proxy_is_looked_up_as_all_others(
    monkeypatch: pytest.MonkeyPatch,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    """A look-up of the system would take a thread of the event loop's, in which files are read."""
    transport = new_transport(ssl.create_default_context(), connections=1)

    async def busy(_: Lookups, host: str, family: int = 0) -> list[object]:
        raise LookupsBusy(host)

    monkeypatch.setattr(Lookups, "addresses", busy)
    for url in ("socks5://proxy.example", "http://proxy.example"):
        monkeypatch.setenv("ALL_PROXY", url)
        with pytest.raises(ProxyFailed) as refused:
            await transport.handle_async_request(httpx.Request("GET", f"https://{HOST}/v2/"))
        assert "proxy.example" in str(refused.value)
    await transport.aclose()


@pytest.mark.parametrize("host", ["169.254.169.254", "2130706433.", "[::ffff:169.254.169.254]"])
async def test_no_local_literal_address_is_asked_through_a_socks_proxy(
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    new_transport: Callable[..., httpx.AsyncBaseTransport],
) -> None:
    async with SocksProxy({}) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        transport = new_transport(ssl.create_default_context(), connections=1, reach=Reach())
        with pytest.raises(httpx.TransportError):
            await transport.handle_async_request(httpx.Request("GET", f"http://{host}/"))
        await transport.aclose()
        assert not proxy.destinations


async def test_a_redirect_to_a_local_literal_address_is_not_followed_through_a_proxy(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeRegistry() as source, SocksProxy({HOST: ("127.0.0.1", source.port)}) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        source.fault("/manifests/", Redirect("http://169.254.169.254/latest/meta-data"))
        with pytest.raises(SourceAnswerInvalid, match="a local address"):
            await (
                opened()
                .client(registry(f"http://{HOST}", HOST), None)
                .head_manifest(NGINX, Tag("latest"))
            )
        assert {host for host, _ in proxy.destinations} == {HOST}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "socks4://ann:s3cret@proxy.example",
            "ALL_PROXY in the engine's environment names a proxy of the kind socks4",
        ),
        (
            "http://ann:s3cret/@proxy.example:x",
            "ALL_PROXY in the engine's environment can't be read as the address of a proxy",
        ),
    ],
)
async def test_a_pull_says_which_variable_can_not_be_used(
    opened: Callable[..., Sources],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: str,
    sentence: str,
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    sources = opened()
    await sources.prepare()
    assert sentence in caplog.text
    with pytest.raises(SourceUnreachable) as refused:
        await sources.client(registry("https://quay.io", "quay.io"), None).head_manifest(
            NGINX, Tag("latest")
        )
    assert refused.value.what.startswith(sentence)
    assert sources.state("quay.io").problem == refused.value.what
    assert "s3cret" not in refused.value.message + caplog.text


# Real proxies


@pytest.fixture
def machine_address() -> str:
    """An address of this machine that is not loopback, so that a proxy is used for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


async def _started(program: Path, *arguments: str, port: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None
                await asyncio.sleep(0)
            else:
                writer.close()
                return process


@pytest.mark.parametrize("name", ["microsocks", "tinyproxy"])
async def test_an_image_is_pulled_through_a_real_proxy(
    opened: Callable[..., Sources],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    machine_address: str,
    name: str,
) -> None:
    program = require_program(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    if name == "microsocks":
        arguments = ["-i", "127.0.0.1", "-p", str(port), "-u", "ann", "-P", "s3cret"]
        monkeypatch.setenv("ALL_PROXY", f"socks5h://ann:s3cret@127.0.0.1:{port}")
    else:
        settings = tmp_path / "tinyproxy.conf"
        settings.write_text(
            f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nBasicAuth ann s3cret\n"
            f'LogFile "{tmp_path}/log"\n'
        )
        arguments = ["-d", "-c", str(settings)]
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:s3cret@127.0.0.1:{port}")
    async with FakeRegistry(address=machine_address) as source:
        image = source.add_image(str(NGINX), "latest", [300_000], ["linux/amd64"])
        process = await _started(program, *arguments, port=port)
        try:
            client = opened().client(registry(source.url, "registry.example"), None)
            assert (await client.manifest(NGINX, Tag("latest"))).digest == image.manifest.digest
            [platform] = image.platforms.values()
            async with client.blob(NGINX, platform.blobs[-1].digest) as blob:
                assert b"".join([chunk async for chunk in blob]) == platform.blobs[-1].content
            # Without the password nothing passes: it was the proxy that carried it.
            for variable in ("ALL_PROXY", "HTTP_PROXY"):
                monkeypatch.setenv(
                    variable, os.environ.get(variable, "").replace("ann:s3cret@", "")
                )
            with pytest.raises(SourceUnreachable) as refused:
                await client.manifest(NGINX, Tag("latest"))
            assert isinstance(refused.value.__cause__, ProxyFailed)
            assert refused.value.__cause__.status == (None if name == "microsocks" else 407)
        finally:
            process.terminate()
            await process.wait()
