"""What the dashboard costs: how soon it is there, what it sends, what it takes of a processor and
of memory. On a pseudo-terminal of 80 by 24."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.contenders import write_rules
from tests.bench.measurement import ENTREPOT, Load, Measurement
from tests.bench.scenarios import fill_catalog
from tests.e2e.clients.entrepot import Entrepot
from tests.tui.pty import Program

NOWHERE = "http://127.0.0.1:9"
"""A source registry without requests."""

LIVE = """
import time
from functools import partial
from types import SimpleNamespace
from entrepot.cache.pull import PullProgress, Pulls
from entrepot.core.states import PullState

START = time.time()

def progress(number):
    # 60 seconds for a pull of a gigabyte, again and again.
    passed = (time.time() - START + number * 3) % 60
    return PullProgress(
        id=str(number), repository=f"library/image-{number:02}", tag="1.27", digest=None,
        platform="linux/amd64", rule="bench-0", login_server="registry.example.com",
        source_repository=f"registry.example.com/library/image-{number:02}",
        state=PullState.RUNNING, started=START, size=10**9,
        received=int(10**9 * passed / 60), speed=16.6e6 + passed * 1e4, time_left=60 - passed,
        asked_by=("10.0.4.17",),
    )

Pulls.all = lambda self: [
    SimpleNamespace(state=PullState.RUNNING, progress=partial(progress, number))
    for number in reversed(range(20))
]
Pulls.running_count = lambda self: 20
from entrepot.cli import main
main()
"""
"""An engine that says that it has 20 pulls."""

WATCHED = 8.0
"""Seconds that are watched for what goes on by itself."""


def dashboard(bench: Bench, repositories: int) -> list[Measurement]:
    """All of it, on an engine with 1,000 rules and many cached repositories, and on one with 20
    live pulls."""
    since = len(bench.found)
    with bench.directory() as root:
        engine = Entrepot(root, NOWHERE)
        write_rules(
            engine, [(f"upstream-{number}/*", f"team-{number}/*") for number in range(1_000)]
        )
        asyncio.run(
            fill_catalog(
                engine.directories,
                [f"team-{number % 1_000}/app-{number // 1_000}" for number in range(repositories)],
            )
        )
        with engine.start():
            for _ in range(bench.rounds):
                _opens(bench, root)
                _lists(bench, root, repositories)
                _commands(bench, root)
            engine.stop()
    with bench.directory() as root:
        engine = Entrepot(root, NOWHERE, program=("-c", LIVE))
        write_rules(engine, [("library/*", "library/*")])
        with engine.start():
            for _ in range(bench.rounds):
                _pulls(bench, root)
            engine.stop()
    return bench.ended(since)


def _environment(root: Path) -> dict[str, str]:
    names = {"CONFIG_HOME": "c", "DATA_HOME": "d", "RUNTIME_DIR": "r", "STATE_HOME": "s"}
    (root / "h").mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "h"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **{f"XDG_{name}": str(root / short) for name, short in names.items()},
    }


@contextmanager
def _opened(root: Path) -> Iterator[Program]:
    program = Program([sys.executable, "-m", "entrepot"], _environment(root))
    try:
        yield program
    finally:
        program.close()


def _found(
    bench: Bench, scenario: str, load: Load, *, processor_seconds: float = 0.0, memory: int = 0
) -> None:
    bench.found_out(
        Measurement(
            f"dashboard {scenario}",
            ENTREPOT,
            load,
            processor_seconds=processor_seconds,
            peak_memory=memory,
        )
    )


def _seconds(program: Program, since: float) -> float:
    """From a moment to that when the last was sent that has come."""
    return program.times[-1][0] - since


def _watch(bench: Bench, program: Program, scenario: str) -> None:
    time.sleep(2.5)
    mark, used, started = program.mark(), program.processor_seconds, time.monotonic()
    time.sleep(WATCHED)
    passed, used = time.monotonic() - started, program.processor_seconds - used
    _found(
        bench,
        scenario,
        Load(passed, received=len(program.since(mark))),
        processor_seconds=used,
        memory=program.memory,
    )


def _opens(bench: Bench, root: Path) -> None:
    with _opened(root) as program:
        program.sees("1 Overview")
        _found(bench, "opens, first picture", Load(_seconds(program, program.started)))
        program.sees("1,000 of 1,000 rules")
        _found(
            bench,
            "opens with 1,000 rules",
            Load(_seconds(program, program.started)),
            memory=program.memory,
        )
        _watch(bench, program, "at rest")
        program.type("2")
        program.sees("Cache rules", "> bench-0")
        for _ in range(10):
            time.sleep(0.1)
            started, mark = time.monotonic(), program.mark()
            program.type("j")
            program.until(lambda: len(program.sent) > mark, "a first byte")  # noqa: B023
            first = next(moment for moment, sent in program.times if sent > mark)
            _found(bench, "key, first byte", Load(first - started))


def _lists(bench: Bench, root: Path, repositories: int) -> None:
    many = f"{repositories:,}"
    with _opened(root) as program:
        program.sees("1,000 of 1,000 rules")
        started = time.monotonic()
        program.type("4")
        program.sees("Cached repositories", many, "> team-")
        _found(bench, f"shows {many} repositories", Load(_seconds(program, started)))
        program.type("/")
        time.sleep(0.5)
        started = time.monotonic()
        program.type("7")
        program.sees("match / 7")
        _found(bench, f"filters {many} repositories", Load(_seconds(program, started)))
        program.type("\x1b")
        program.sees("? help", gone="match /")
        started = time.monotonic()
        program.type("o")
        program.sees("Repository ^")
        _found(
            bench,
            f"sorts {many} repositories",
            Load(_seconds(program, started)),
            memory=program.memory,
        )


def _pulls(bench: Bench, root: Path) -> None:
    with _opened(root) as program:
        program.sees("1 Overview", "running")
        program.type("5")
        program.sees("20 running", "> library/image-", "MB/s")
        _watch(bench, program, "with 20 live pulls")


def _commands(bench: Bench, root: Path) -> None:
    started = time.monotonic()
    output = subprocess.run(
        [sys.executable, "-m", "entrepot", "rule", "list", "--json"],
        env=_environment(root),
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    _found(bench, "aside: entrepot rule list --json", Load(time.monotonic() - started))
    assert len(json.loads(output)) == 1_000
