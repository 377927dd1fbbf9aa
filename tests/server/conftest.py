"""The management side of an engine, in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.engine import Engine
from entrepot.server.run import management_app


@pytest.fixture
async def management(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A program that speaks to the management API. What fails in an unforeseen way is answered, and not raised here."""
    transport = httpx.ASGITransport(management_app(engine), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=30) as client:
        yield client
