"""F88: a file system without locks, made by a small preloaded library, on the running product."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.cli.dashboard import start_engine
from entrepot.config.directories import Directories
from entrepot.errors import EngineError
from tests.programs import require_program

LIBRARY = """
#include <errno.h>
int flock(int descriptor, int operation) { (void)descriptor; (void)operation; errno = ENOLCK; return -1; }
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Directories of their own, where nothing can be locked."""
    source, library = tmp_path / "no_locks.c", tmp_path / "no_locks.so"
    source.write_text(LIBRARY)
    subprocess.run(
        [require_program("gcc"), "-shared", "-fPIC", "-o", library, source], check=True, timeout=60
    )
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    # The path of a socket has 107 characters at the most.
    with tempfile.TemporaryDirectory(prefix="e-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield {**os.environ, "LD_PRELOAD": str(library)}


def output(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "entrepot", *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return result.returncode, result.stderr


def test_serve_doctor_and_dashboard_have_the_same_words_for_it(environment: dict[str, str]) -> None:
    directories = Directories.of_user()
    status, served = output(environment, "serve")
    assert status == 1
    sentence = served.splitlines()[-1].removeprefix("Error: ").removesuffix(" (EngineUnavailable)")
    assert sentence.startswith(f"The file system of {directories.data} (")
    assert (
        "can't lock files: No locks available. Set XDG_DATA_HOME to a directory on a local file system"
        in sentence
    )
    status, examined = output(environment, "doctor")
    assert status == 3
    assert f"FAIL  this machine: start: {sentence}\n" in examined
    # The dashboard starts an engine where none runs.
    with pytest.raises(EngineError) as refused:
        start_engine(directories, {"LD_PRELOAD": environment["LD_PRELOAD"]})
    assert refused.value.what == f"The engine did not start. {sentence}"
