"""A dashboard that only reads."""

from __future__ import annotations

import msgspec
import pytest

from entrepot.api.client import CacheClient
from entrepot.api.models import EngineStatus


@pytest.fixture
def is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says that nothing may be changed."""
    status = CacheClient.status

    async def read_only(self: CacheClient) -> EngineStatus:
        return msgspec.structs.replace(await status(self), read_only=True)

    monkeypatch.setattr(CacheClient, "status", read_only)
