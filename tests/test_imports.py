"""Who imports whom: the arrows between the rooms, and what a start of the command line must not load."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "causes",
            "certificates",
            "directories",
            "encoding",
            "errors",
            "events",
            "jsontext",
            "platforms",
            "reference",
            "running_engine",
            "snapshots",
            "tasks",
            "toml",
            "wire",
            "words",
        }
    ),
    frozenset({"client", "credentials", "freshness", "importing", "mapping", "matching", "rules", "secrets", "settings", "upstreams"}),
    frozenset({"documents", "source", "store"}),
    frozenset({"activity", "cache"}),
    frozenset({"data_directory", "doctor", "engine", "health", "housekeeping", "repositories", "revision", "sign_ins", "verification"}),
    frozenset({"server"}),
    frozenset({"demo"}),
    frozenset({"cli", "__main__"}),
)
"""The rooms of the engine's package, from the ground up. A room imports of its own floor and of those below, never of one above."""

SEPARATE = frozenset({"documents", "source", "store"})
"""Rooms of one floor that know nothing of each other."""

FOR_THE_DASHBOARD = frozenset(
    {"entrepot.client", "entrepot.encoding", "entrepot.errors", "entrepot.platforms", "entrepot.snapshots", "entrepot.toml", "entrepot.words"}
)
"""The dashboard is a client: it speaks to an engine, knows the pictures that come back, tells sizes and times in the same words as the command line, and reads
its user's files and refuses what is wrong in them as the engine does."""

EVERY_MODULE = """
import importlib, json, pkgutil, sys
import entrepot
for module in pkgutil.walk_packages(entrepot.__path__, "entrepot."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None})))
"""

HEAVY = frozenset({"textual", "tui", "widgets", "rich", "sqlalchemy", "aiosqlite", "starlette", "aiohttp", "truststore", "keyring"})
"""What no command needs that asks one thing. httpx brings rich with it: with both and an event loop a start took 330 ms, and takes 110 without."""

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


@dataclass(frozen=True)
class Import:
    """One import statement's module, absolute; *lazy* when it is within a function."""

    importer: str
    imported: str
    lazy: bool
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported}"


def imports(package: str) -> Iterator[Import]:
    for path in sorted((CHECKOUT / package).rglob("*.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        importer = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield from _imports_of(ast.parse(path.read_text(), str(path)), importer, lazy=False)


def _imports_of(node: ast.AST, importer: str, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names):
                yield from (Import(importer, each.name, lazy, child.lineno) for each in names)
            case ast.ImportFrom(module, names, level):
                assert level == 0, f"{importer}, line {child.lineno}: imports are absolute here"
                assert module is not None
                for each in names:
                    below = f"{module}.{each.name}"
                    yield Import(importer, below if _is_module(below) else module, lazy, child.lineno)
        yield from _imports_of(child, importer, lazy=lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def _is_module(name: str) -> bool:
    path = CHECKOUT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _is_of(module: str, *packages: str) -> bool:
    return module.partition(".")[0] in packages


def _room(module: str) -> str | None:
    """``cache`` for ``entrepot.cache.fill``; None for the package itself, which holds the version."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def _floor(room: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), -1)


def _told(wrong: list[Import]) -> str:
    return "\n".join(map(str, wrong))


def test_the_packages_are_really_looked_at() -> None:
    assert len(list(imports("entrepot"))) > 200
    assert any(each.imported == "textual.app" for each in imports("tui"))
    assert any(_is_of(each.imported, "textual") for each in imports("widgets"))


def test_the_engine_knows_nothing_of_the_dashboard() -> None:
    wrong = [each for each in imports("entrepot") if _is_of(each.imported, "tui", "widgets", "textual", "rich")]
    assert not wrong, _told(wrong)


def test_widgets_know_neither_the_engine_nor_the_dashboard() -> None:
    wrong = [each for each in imports("widgets") if _is_of(each.imported, "entrepot", "tui")]
    assert not wrong, _told(wrong)


def test_the_dashboard_is_a_client_of_the_engine_and_nothing_more() -> None:
    wrong = [each for each in imports("tui") if _is_of(each.imported, "entrepot") and each.imported not in FOR_THE_DASHBOARD]
    assert not wrong, _told(wrong)


def test_every_room_has_its_floor() -> None:
    rooms = {_room(each.importer) for each in imports("entrepot")} - {None}
    assert rooms == set().union(*FLOORS)


def test_no_room_imports_upwards() -> None:
    wrong = []
    for each in imports("entrepot"):
        room, other = _room(each.importer), _room(each.imported)
        if room is None or other is None or not _is_of(each.imported, "entrepot") or room == other:
            continue
        if _floor(other) > _floor(room) or (room in SEPARATE and other in SEPARATE):
            wrong.append(each)
    assert not wrong, _told(wrong)


def test_the_client_knows_only_the_pictures_and_the_wire() -> None:
    wrong = [each for each in imports("entrepot") if each.importer == "entrepot.client" and _is_of(each.imported, "entrepot")]
    assert {each.imported for each in wrong} == {"entrepot.snapshots", "entrepot.wire"}, _told(wrong)


def test_the_command_line_imports_the_engine_only_where_it_runs_one() -> None:
    heavy = {room for room in set().union(*FLOORS[2:]) if room not in {"cli", "__main__"}}
    wrong = [
        each
        for each in imports("entrepot")
        if _room(each.importer) == "cli" and not each.lazy and _is_of(each.imported, "entrepot") and _room(each.imported) in heavy
    ]
    assert not wrong, _told(wrong)


def _run(code: str, *arguments: str, home: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_all_of_the_engine_loads_nothing_of_the_dashboard(tmp_path: Path) -> None:
    loaded = set(json.loads(_run(EVERY_MODULE, home=tmp_path)))
    assert loaded >= {"entrepot", "starlette", "sqlalchemy"}
    assert not loaded & {"textual", "tui", "widgets"}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["--version"], 0), (["paths", "--json"], 0), (["rule", "list", "--json"], 3), (["status"], 3), (["pull", "library/nginx:1"], 3)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_loads_neither_the_dashboard_nor_the_engine(arguments: list[str], status: int, tmp_path: Path) -> None:
    ended, loaded = json.loads(_run(COMMAND, *arguments, home=tmp_path).splitlines()[-1])
    assert ended == status
    assert "click" in loaded
    assert not set(loaded) & (HEAVY | {"asyncio", "httpx", "ssl"} if arguments[0] != "pull" else HEAVY - {"rich"})
