"""Clients of fake source registries, with clocks that the tests move and no waiting."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.registries import SourceRegistry
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.core.states import SignIn
from entrepot.source.addresses import Reach
from entrepot.source.blob_transport import BlobTransport
from entrepot.source.blobs import BlobStream
from entrepot.source.client import SourceClient
from entrepot.source.dns import Lookups
from entrepot.source.errors import SourceError
from entrepot.source.sources import Sources, _Transports
from entrepot.source.transport import SourceTransport
from tests.authority import CertificateAuthority
from tests.fakes import FakeRegistry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")
ABSENT = Digest("sha256", "0" * 64)


async def read(stream: BlobStream, received: bytearray | None = None) -> bytes:
    """The bytes of a blob; those before a failure are in *received*."""
    received = bytearray() if received is None else received
    async for chunk in stream:
        received += chunk
    return bytes(received)


@dataclass
class Clock:
    """A clock that stands still unless it is moved."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Pauses:
    """Records the pauses between attempts instead of waiting."""

    taken: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        yield running


@pytest.fixture
async def opened(clock: Clock, pauses: Pauses) -> AsyncIterator[Callable[..., Sources]]:
    """Opens `Sources` that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def make(*, transport: httpx.AsyncBaseTransport | None = None, **settings: Any) -> Sources:
            sources = Sources(
                Settings(**settings),
                transport=transport,
                pause=pauses,
                clock=clock,
                wall_clock=clock,
            )
            stack.push_async_exit(sources)
            return sources

        yield make


@pytest.fixture(params=["small", "blobs"])
def new_transport(
    request: pytest.FixtureRequest,
) -> Callable[..., SourceTransport | BlobTransport]:
    """Makes transports, of small requests and of blobs: both must do the same."""

    def make(
        tls: ssl.SSLContext, *, connections: int, reach: Reach | None = None
    ) -> SourceTransport | BlobTransport:
        if request.param == "small":
            return SourceTransport(tls, connections=connections, reach=reach)
        return BlobTransport(tls, Lookups(10), connections=connections, reach=reach)

    return make


@pytest.fixture(params=["small", "blobs"])
def each_transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests over the transport of small ones, or over that of blobs."""
    transports_to = Sources._transports_to

    def one_transport(self: Sources, endpoint: str, reach: Reach) -> _Transports:
        transports = transports_to(self, endpoint, reach)
        transport = getattr(transports, request.param)
        return _Transports(transport, transport)

    monkeypatch.setattr(Sources, "_transports_to", one_transport)


@pytest.fixture
def sources(opened: Callable[..., Sources]) -> Sources:
    return opened()


def registry(endpoint: str, login_server: str = "docker.io") -> SourceRegistry:
    return SourceRegistry("Fake registry", login_server, SignIn.OPTIONAL, endpoint, True)


@pytest.fixture
def client(sources: Sources, source: FakeRegistry) -> SourceClient:
    """The fake registry without credentials."""
    return sources.client(registry(source.url), None)


@pytest.fixture
def credential_set(monkeypatch: pytest.MonkeyPatch) -> CredentialSet:
    """User ``ann`` with password ``s3cret``, kept in the environment."""
    monkeypatch.setenv("SOURCE_USER", "ann")
    monkeypatch.setenv("SOURCE_PASSWORD", "s3cret")
    return CredentialSet(
        "hub-login",
        "docker.io",
        SecretIdentifier.parse("env:SOURCE_USER"),
        SecretIdentifier.parse("env:SOURCE_PASSWORD"),
        datetime(2025, 1, 1, tzinfo=UTC),
    )


async def failure(sources: Sources, url: str) -> SourceError:
    """How a request to a source fails."""
    with pytest.raises(SourceError) as raised:
        await sources.client(registry(url), None).head_manifest(NGINX, LATEST)
    error = raised.value
    state = sources.state("docker.io")
    assert (state.problem, state.advice, state.cause) == (error.what, error.hint, error.cause), (
        "the same words"
    )
    return error


def verify_paths(cafile: str | None, capath: str | None) -> ssl.DefaultVerifyPaths:
    """Where OpenSSL finds no certificates but those that are given."""
    return ssl.DefaultVerifyPaths(
        cafile,  # type: ignore[arg-type]  # CPython has None where the file is missing
        capath,  # type: ignore[arg-type]
        "SSL_CERT_FILE",
        "/nowhere",
        "SSL_CERT_DIR",
        "/nowhere",
    )


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path, "Example Root")
