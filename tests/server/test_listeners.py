"""The registry and its mirrors, over plain HTTP and TLS, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.config.directories import Directories
from entrepot.config.mirror_settings import Mirror
from entrepot.config.settings import Settings, SettingsInvalid, TlsFiles
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.engine import Engine
from entrepot.errors import EngineError
from entrepot.events import EventLog
from entrepot.httpd.asgi import Receive, Scope, Send
from entrepot.httpd.server import HttpServer
from entrepot.server.listeners import RegistryListeners, check_listen
from entrepot.server.request_scope import NAMESPACE
from entrepot.server.run import listening
from entrepot.server.tls import TlsCertificates
from tests.e2e.registries.certificates import Authority

BROWSER = {"Accept-Language": "en"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    root = tmp_path_factory.mktemp("authority")
    authority = Authority(root)
    authority.server("localhost")
    (root / "localhost.pem").chmod(0o600)
    return authority


@pytest.fixture
def tls(authority: Authority) -> TlsFiles:
    pem = authority.path.with_name("localhost.pem")
    return TlsFiles(pem, pem)


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.path))


async def answer_namespace(scope: Scope, _receive: Receive, send: Send) -> None:
    """An application that answers with the namespace of the request."""
    body = f"{scope['scheme']} {scope.get(NAMESPACE)}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def offered(settings: Settings) -> AsyncIterator[Endpoints]:
    server = HttpServer(answer_namespace)
    endpoints = Endpoints("")
    with RegistryListeners.bound(settings) as listeners:
        listeners.describe(endpoints)
        certificates = TlsCertificates(EventLog(time.time))
        await listeners.listen(server, answer_namespace, certificates)
        try:
            yield endpoints
        finally:
            await server.stop(grace=0)


async def test_each_address_has_its_own_namespace_and_tls(
    tls: TlsFiles, trust: ssl.SSLContext
) -> None:
    settings = Settings(
        listen="localhost:0",
        mirrors=(
            Mirror("docker.io", "localhost:0"),
            Mirror("quay.io", "localhost:0", tls=tls),
            Mirror("ghcr.io", host="ghcr.cache.example"),
        ),
    )
    async with offered(settings) as endpoints, httpx.AsyncClient(verify=trust) as client:
        hub, quay, ghcr = endpoints.mirrors
        assert [mirror.has_tls for mirror in endpoints.mirrors] == [False, True, False]
        port = endpoints.registry.rpartition(":")[2]
        assert ghcr.address == f"ghcr.cache.example:{port}"
        assert (await client.get(f"http://{endpoints.registry}/")).text == "http None"
        assert (await client.get(f"http://{hub.address}/")).text == "http docker.io"
        assert (await client.get(f"https://{quay.address}/")).text == "https quay.io"
        for headers in ({"Host": "ghcr.cache.example"}, {"Host": ghcr.address}):
            response = await client.get(f"http://{endpoints.registry}/", headers=headers)
            assert response.text == "http ghcr.io"
            response = await client.get(f"http://{hub.address}/", headers=headers)
            assert response.text == "http docker.io"


async def test_s36_a_browser_may_name_a_mirror_and_no_other_host() -> None:
    settings = Settings(
        listen="localhost:0",
        mirrors=(Mirror("docker.io", "127.0.0.1:0"), Mirror("ghcr.io", host="ghcr.cache.example")),
    )
    async with offered(settings) as endpoints, httpx.AsyncClient(headers=BROWSER) as client:
        for address in (endpoints.registry, endpoints.mirrors[0].address):
            for host, status in (("ghcr.cache.example", 200), ("evil.example", 421)):
                response = await client.get(f"http://{address}/", headers={"Host": host})
                assert response.status_code == status


async def test_the_registry_speaks_tls_and_the_status_says_so(
    tls: TlsFiles, trust: ssl.SSLContext, directories: Directories, settings: Settings
) -> None:
    with_tls = replace(
        settings, listen="localhost:0", tls=tls, mirrors=(Mirror("docker.io", "127.0.0.1:0"),)
    )
    async with (
        Engine.open(directories, with_tls) as engine,
        listening(engine),
        httpx.AsyncClient(verify=trust) as client,
        CacheClient.at(directories.socket) as management,
    ):
        response = await client.get(f"https://{engine.address}/v2/")
        assert response.status_code == 200
        status = await management.system.status()
        assert status.has_tls
        [certificate] = engine.endpoints.certificates
        assert status.certificate_expires == certificate.expires
        assert status.mirrors == engine.endpoints.mirrors
        assert status.mirrors[0].address.startswith("127.0.0.1:")
        started = engine.events.recent()[-1].message
        assert f"on {engine.address} over TLS" in started
        assert f"those of docker.io on {status.mirrors[0].address}" in started


async def test_other_machines_are_let_in_only_when_that_is_said(
    directories: Directories, settings: Settings
) -> None:
    async with Engine.open(directories, replace(settings, listen="0.0.0.0:0")) as engine:
        with pytest.raises(SettingsInvalid, match="--allow-plain-http --allow-anonymous"):
            async with listening(engine):
                pass


def test_a_mirror_that_can_not_listen_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        taken = replace(settings, mirrors=(Mirror("docker.io", address),))
        with pytest.raises(EngineError, match=r"The mirror of docker\.io can't listen") as caught:
            check_listen(taken)
        assert "below [[mirrors]] in settings.toml" in caught.value.hint
    check_listen(settings)


def issue(authority: Authority, host: str) -> TlsFiles:
    """A certificate for *host*."""
    authority.server(host)
    pem = authority.path.with_name(f"{host}.pem")
    pem.chmod(0o600)
    return TlsFiles(pem, pem)


async def shake_hands(address: str, name: str, trust: ssl.SSLContext) -> None:
    """Send a request over TLS to *address* as to the host *name*, and read the response.

    With TLS 1.3 a client learns only then that its certificate is refused.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trust, server_hostname=name)
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        if not (line := await reader.readline()):
            raise ConnectionResetError
        assert line == b"HTTP/1.1 200 OK\r\n"
    finally:
        writer.transport.abort()


async def test_a_mirror_host_may_have_a_certificate_of_its_own(
    tls: TlsFiles, authority: Authority, trust: ssl.SSLContext
) -> None:
    mirrors = (
        Mirror("docker.io", host="hub.localhost", tls=issue(authority, "hub.localhost")),
        # The same files as those of the registry's address, which does not name hosts.
        Mirror("quay.io", "localhost:0", tls=tls),
    )
    async with offered(Settings(listen="localhost:0", tls=tls, mirrors=mirrors)) as endpoints:
        for name in ("localhost", "hub.localhost"):
            await shake_hands(endpoints.registry, name, trust)
        await shake_hands(endpoints.mirrors[1].address, "localhost", trust)
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await shake_hands(endpoints.mirrors[1].address, "hub.localhost", trust)


async def test_a_mirror_host_with_its_own_certificate_checks_those_of_clients(
    tls: TlsFiles, authority: Authority, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    with_clients = replace(tls, client_authorities=authority.path)
    mirror = Mirror("docker.io", host="hub.localhost", tls=issue(authority, "hub.localhost"))
    settings = Settings(listen="localhost:0", tls=with_clients, mirrors=(mirror,))
    known, foreign = (
        ssl.create_default_context(cafile=str(authority.path)),
        ssl.create_default_context(cafile=str(authority.path)),
    )
    known.load_cert_chain(issue(authority, "client").certificate)
    foreign.load_cert_chain(issue(Authority(tmp_path), "client").certificate)
    async with offered(settings) as endpoints:
        for name in ("localhost", "hub.localhost"):
            await shake_hands(endpoints.registry, name, known)
            for refused in (trust, foreign):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await shake_hands(endpoints.registry, name, refused)
