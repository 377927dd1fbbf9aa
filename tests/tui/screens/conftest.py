"""A dashboard that only reads."""

from __future__ import annotations

import msgspec
import pytest

from entrepot.api.models import EngineStatus
from entrepot.api.system import SystemClient


@pytest.fixture
def is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says that nothing may be changed."""
    status = SystemClient.status

    async def read_only(self: SystemClient) -> EngineStatus:
        return msgspec.structs.replace(await status(self), read_only=True)

    monkeypatch.setattr(SystemClient, "status", read_only)
