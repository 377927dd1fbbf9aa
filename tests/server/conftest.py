"""The management side of an engine, in the same process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from entrepot.engine.engine import Engine
from entrepot.server.run import management_app


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """An engine that is served sets up the log of its process, which here is that of all tests."""
    logger = logging.getLogger("entrepot")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
async def management(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A program that speaks to the management API. What fails in an unforeseen way is answered, and
    not raised here."""
    transport = httpx.ASGITransport(management_app(engine), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://entrepot", timeout=30
    ) as client:
        yield client
