from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    # The path of a Unix socket has to be short, and that of pytest's own directories is not where
    # tests run side by side.
    with tempfile.TemporaryDirectory(prefix="b-") as root:
        yield Bench(Path(root), rounds=1)
