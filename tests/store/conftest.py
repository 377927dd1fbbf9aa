"""Fixtures of the tests of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entrepot.store.catalog import (
    Catalog,
)


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog
