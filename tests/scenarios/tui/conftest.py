"""The fixtures of the dashboard's tests, for its failure stories."""

from __future__ import annotations

from tests.tui.conftest import (  # noqa: F401 (fixtures)
    directories,
    disk,
    environment,
    fixed_time,
    looks,
    opened,
    person,
)
