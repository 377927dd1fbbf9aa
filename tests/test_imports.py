"""What a start of the command line must not load. Who imports whom is written as import-linter
contracts in pyproject.toml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

EVERY_MODULE = """
import importlib, json, pkgutil, sys
import entrepot
for module in pkgutil.walk_packages(entrepot.__path__, "entrepot."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None})))
"""

HEAVY = frozenset(
    {
        "textual",
        "tui",
        "widgets",
        "rich",
        "sqlalchemy",
        "aiosqlite",
        "starlette",
        "aiohttp",
        "truststore",
        "keyring",
    }
)
"""What no command needs that asks one thing. httpx brings rich with it: with both and an event loop
a start took 330 ms, and takes 110 without."""

COMMAND = """
import json, sys
from entrepot.cli import main
status = 0
try:
    main()
except SystemExit as end:
    status = end.code or 0
print(json.dumps([status, sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None})]))
"""


def _run(code: str, *arguments: str, home: Path) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": str(CHECKOUT),
    }
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_all_of_the_engine_loads_nothing_of_the_dashboard(tmp_path: Path) -> None:
    loaded = set(json.loads(_run(EVERY_MODULE, home=tmp_path)))
    assert loaded >= {"entrepot", "starlette", "sqlalchemy"}
    assert not loaded & {"textual", "tui", "widgets"}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["paths", "--json"], 0),
        (["rule", "list", "--json"], 3),
        (["status"], 3),
        (["pull", "library/nginx:1"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_loads_neither_the_dashboard_nor_the_engine(
    arguments: list[str], status: int, tmp_path: Path
) -> None:
    exit_status, loaded = json.loads(_run(COMMAND, *arguments, home=tmp_path).splitlines()[-1])
    assert exit_status == status
    assert "click" in loaded
    assert not set(loaded) & (
        HEAVY | {"asyncio", "httpx", "ssl"} if arguments[0] != "pull" else HEAVY - {"rich"}
    )
