"""``docs/architecture.md`` names files and rooms that exist."""

from __future__ import annotations

import re
import tomllib

from entrepot.cache.fill import FillState
from tests.documents import CHECKOUT

PAGE = (CHECKOUT / "docs/architecture.md").read_text()


def test_each_file_that_the_page_names_exists() -> None:
    paths = set(re.findall(r"`((?:entrepot/|tui/)?(?:[a-z0-9_]+/)+[a-z0-9_]+\.py)`", PAGE))
    assert len(paths) > 20
    roots = (CHECKOUT, CHECKOUT / "entrepot")
    assert {path for path in paths if not any((root / path).is_file() for root in roots)} == set()


def test_each_room_of_the_import_contracts_is_on_the_page() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    [rooms] = [c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "rooms"]
    modules = {module for layer in rooms["layers"] for module in re.findall(r"[\w.]+", layer)}
    packages = {
        module.replace(".", "/")
        for module in modules
        if (CHECKOUT / module.replace(".", "/")).is_dir()
    }
    assert len(packages) >= 10
    assert {package for package in packages if f"`{package}`" not in PAGE} == set()


def test_the_drawing_of_a_fill_has_its_states() -> None:
    [drawing] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert set(re.findall(r"[A-Z]{3,}", drawing)) == {state.name for state in FillState}
