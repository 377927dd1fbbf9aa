"""Standard input, output and error that are closed, or whose other end has left (F79)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from entrepot.config.directories import Directories
from tests.cli.conftest import CommandLine
from tests.processes import tied

PROGRAM = shlex.join([sys.executable, "-m", "entrepot"])


def in_shell(line: CommandLine, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        env=line.environment,
        cwd=line.root,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command",
    [
        "paths | true",
        "paths --json | true",
        "--help | true",
        "paths 2>&- | true",
        "status 2>&1 | true",
        "rule list >&- 2>&-",
        "paths <&- 2>&-",
    ],
)
def test_f79_a_command_whose_reader_has_left_or_never_was_ends_quietly(
    alone: CommandLine, command: str
) -> None:
    done = in_shell(alone, f"{PROGRAM} {command}")
    # 1 and 141 (SIGPIPE) where the reader has left before the end; 3 is that no engine runs.
    assert done.returncode in {0, 1, 3, 141}
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_f79_an_engine_whose_descriptors_are_closed_gives_their_numbers_to_no_file(
    alone: CommandLine, directories: Directories
) -> None:
    """The catalog had number 2, and the log was written into it."""
    script = f"exec {PROGRAM} serve --listen 127.0.0.1:0 <&- >&- 2>&-"
    engine = subprocess.Popen(tied(["bash", "-c", script]), env=alone.environment, cwd=alone.root)
    try:
        while in_shell(alone, f"{PROGRAM} status").returncode:
            assert engine.poll() is None
        assert [os.readlink(f"/proc/{engine.pid}/fd/{number}") for number in range(3)] == [
            "/dev/null"
        ] * 3
    finally:
        engine.terminate()
    assert engine.wait(60) == 0
    assert directories.catalog.read_bytes().startswith(b"SQLite format 3\0")
