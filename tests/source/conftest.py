"""Clients of fake source registries, with clocks that the tests move and no waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSet
from entrepot.core.registries import SourceRegistry
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.core.states import SignIn
from entrepot.source.client import SourceClient
from entrepot.source.sources import Sources
from tests.fakes import FakeRegistry


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
