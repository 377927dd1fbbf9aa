"""Data directories with many repositories or tags, and engines on copies of them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import growth_data
from tests.bench.contenders import write_rules
from tests.bench.growth_data import RULES, repository_name
from tests.bench.process_meter import used_seconds
from tests.e2e.clients.entrepot import Entrepot
from tests.processes import reserved_port

CACHED_MANIFEST = f"/v2/{repository_name(0)}/manifests/latest"
"""The path of a manifest that is in every catalog, the one used last."""

NOWHERE = "http://127.0.0.1:9"
"""A source registry that never answers. No tag needs it: they are trusted for ever."""

IDLE_SHARE = 0.1
"""The share of a processor below which an engine has nothing left to do after its start."""

IDLE_INTERVAL = 0.25
"""Seconds."""

IDLE_AFTER_PREPARATION = 2.0
"""Seconds without work after which an engine has done all that it does to another version's
catalog."""

SETTLING_LIMIT = 120.0
"""Seconds that an engine may work after its start."""


@dataclass(frozen=True)
class Size:
    """What a catalog has, as `growth_data` writes it: repositories, or tags of one repository."""

    what: str
    count: int

    def __str__(self) -> str:
        return f"{self.count:,} {self.what}"


def write(size: Size, directory: Path, python: Path | None) -> None:
    """Write a data directory with the Entrepot of another environment, or with this one: an older
    version can't open what a later one wrote."""
    engine = Entrepot(directory.with_suffix(".new"), NOWHERE, python=python)
    # What an interrupted run left.
    shutil.rmtree(engine.root, ignore_errors=True)
    program = Path(growth_data.__file__)
    arguments: list[str | Path] = [engine.python, program, engine.root, size.what, str(size.count)]
    subprocess.run(arguments, env=engine.environment, check=True)
    engine.root.rename(directory)


def prepare(original: Path, root: Path, python: Path | None) -> None:
    """Copy a data directory and let an engine open it once: what it does to a catalog of another
    version is not measured."""
    _copy(original, root)
    with engine_on(root, python) as engine:
        engine.start()
        settle(engine.process.pid, idle=IDLE_AFTER_PREPARATION)
        engine.stop()


@contextmanager
def copied(original: Path, copy: Path) -> Iterator[Path]:
    """A copy of a data directory for a while."""
    _copy(original, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def engine_on(root: Path, python: Path | None) -> Entrepot:
    """An engine that does not run yet, on a data directory."""
    engine = Entrepot(root, NOWHERE, settings='freshness = "never"\n', python=python)
    rules = [f"team-{number:02}/*" for number in range(RULES)]
    write_rules(engine, [(repositories, repositories) for repositories in rules])
    # Known before it starts, so that a client can wait for it.
    engine.address = f"127.0.0.1:{reserved_port()}"
    return engine


def settle(pid: int, *, idle: float) -> None:
    """Wait until an engine has done nothing for *idle* seconds."""
    process = [Path(f"/proc/{pid}")]
    deadline = time.monotonic() + SETTLING_LIMIT
    idle_since, used = time.monotonic(), used_seconds(process)
    while time.monotonic() - idle_since < idle:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the engine works for {SETTLING_LIMIT:g} s after its start")
        time.sleep(IDLE_INTERVAL)
        used_before, used = used, used_seconds(process)
        if used - used_before > IDLE_SHARE * IDLE_INTERVAL:
            idle_since = time.monotonic()


def _copy(original: Path, copy: Path) -> None:
    """Copy a data directory, its blobs as hard links: an engine never changes them in place."""
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("blobs", "*.sock"))
    blobs = original / "d/entrepot/blobs"
    links = ["--link"] if blobs.stat().st_dev == copy.stat().st_dev else []
    subprocess.run(["cp", "-a", *links, blobs, copy / "d/entrepot"], check=True)
