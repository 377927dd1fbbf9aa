"""What most tests need: a source registry that fails on command, and a real engine that pulls from
it."""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import httpx
import hypothesis
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from entrepot.server.run import listening, registry_app
from entrepot.source.sources import tls_context
from tests.engine.waiting import settled
from tests.fakes import FakeRegistry
from tests.processes import Leftovers, adopt

LOGIN_SERVER = "registry.example.com"
"""The name under which the fake is declared as a source registry."""


class Clock:
    """A clock that goes on only when a test says so, in seconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now


# The same examples every time, and no time is asserted: a busy machine must not make a test fail.
# `tests.scenarios.fuzz` says how to try others.
hypothesis.settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "long",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(
    "long" if os.environ.get("ENTREPOT_TESTS") == "long" else "default"
)


def pytest_configure(config: pytest.Config) -> None:
    """In pytest, and in each of its workers: see `tests.processes`."""
    adopt()
    config.pluginmanager.register(Leftovers(), "leftovers")


@pytest.fixture(autouse=True, scope="session")
def generator_of_hypothesis() -> None:
    """Engine and dashboard take what there is from the garbage collector (`gc.freeze`). After that
    hypothesis would miss its own generator of numbers, which it makes with its first example."""

    @hypothesis.settings(max_examples=1)
    @hypothesis.given(hypothesis.strategies.booleans())
    def draw(value: bool) -> None:
        pass

    draw()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """An engine that is served sets up the log; what it did must not reach the next test."""
    logger = logging.getLogger("entrepot")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user of the machine can enter, which `tmp_path` is not, and `TMPDIR`
    need not be."""
    with tempfile.TemporaryDirectory(prefix="entrepot-open-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
async def source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as source:
        yield source


@pytest.fixture
def settings(source: FakeRegistry) -> Settings:
    return Settings(
        listen="127.0.0.1:0",
        upstreams=(DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, source.url),),
    )


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories.under(tmp_path / "e")


@cache
def default_tls_context() -> ssl.SSLContext:
    """What engines trust whose sources are reached without TLS: the certificates of the system take
    40 ms of processor time to load."""
    return tls_context(Settings())


@pytest.fixture
async def engine(
    directories: Directories, settings: Settings, clock: Clock
) -> AsyncIterator[Engine]:
    """A real engine, with one rule: everything below ``library/`` comes from the fake.

    Its background tasks have had their first round.
    """
    async with Engine.open(directories, settings, clock=clock) as engine:
        if settings.ca_file is None:
            engine.sources._tls = default_tls_context()
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        await settled(engine)
        yield engine


@asynccontextmanager
async def answering(engine: Engine) -> AsyncIterator[None]:
    """Within it an engine answers on TCP and on its socket, as `entrepot.server.run.serve` has it:
    event streams end with it and are not waited for."""
    async with listening(engine):
        try:
            yield
        finally:
            engine.stopping.set()


@pytest.fixture
async def registry(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A container client's view of the engine, in the same process."""
    transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://entrepot", timeout=30
    ) as client:
        yield client
