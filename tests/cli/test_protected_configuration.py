"""F78: the engine and its commands where configuration and home can't be written, as processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from entrepot.config.directories import Directories
from tests.cli.conftest import PATIENCE, CommandLine
from tests.processes import tied
from tests.programs import require_program, require_root

RULES = """\
[[rules]]
name = "acme-app"
source_repository = "ghcr.io/acme/app"
target_repository = "app"
"""

READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


async def served(alone: CommandLine, read_only: Path) -> asyncio.subprocess.Process:
    """An engine that sees a directory as a read-only mount."""
    require_root("a mount namespace")
    require_program("mount")
    process = await asyncio.create_subprocess_exec(
        *tied(
            [
                str(require_program("unshare")),
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                READ_ONLY,
                "sh",
                str(read_only),
            ]
        ),
        *(sys.executable, "-m", "entrepot", "serve", "--listen", "127.0.0.1:0"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=alone.environment,
        cwd=alone.root,
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stderr.readline()).decode()
    if "permission denied" in line:
        pytest.skip(f"nothing can be mounted here: {line}")
    assert "answers container clients" in line, line
    return process


async def test_an_engine_with_read_only_configuration_serves_and_refuses_changes(
    alone: CommandLine, directories: Directories
) -> None:
    directories.config.mkdir(parents=True)
    directories.rules.write_text(RULES)
    process = await served(alone, directories.config)
    try:
        refused = await alone.run(
            "rule", "create", "-n", "acme-api", "-s", "ghcr.io/acme/api", "-t", "api"
        )
        assert refused.status == 1
        assert (
            f"Error: {directories.rules} can't be written: it is on a read-only file system. Nothing is changed. Edit it where it"
            in refused.errors
        )
        assert "(ConfigurationReadOnly)" in refused.errors
        assert [rule["name"] for rule in await alone.ask("rule", "list")] == ["acme-app"]
    finally:
        process.terminate()
        await process.wait()
    assert directories.rules.read_text() == RULES


async def test_an_engine_starts_without_a_place_for_configuration_and_log(
    alone: CommandLine, directories: Directories
) -> None:
    """Only data and the socket need one: a container with a read-only root, or a user without a
    home."""
    home = alone.root / "read-only"
    home.mkdir()
    alone.environment |= {"XDG_CONFIG_HOME": str(home / "c"), "XDG_STATE_HOME": str(home / "s")}
    process = await served(alone, home)
    try:
        assert await alone.ask("rule", "list") == []
        refused = await alone.run(
            "rule", "create", "-n", "acme-api", "-s", "ghcr.io/acme/api", "-t", "api"
        )
        assert (
            refused.status,
            "is on a read-only file system. Nothing is changed." in refused.errors,
        ) == (1, True)
    finally:
        process.terminate()
        await process.wait()
    assert list(home.iterdir()) == []


async def test_a_dashboard_whose_log_has_no_place_says_why(alone: CommandLine) -> None:
    """F78: not that its directory is missing, which is what opening the file says."""
    require_root("a mount namespace")
    home = alone.root / "read-only"
    home.mkdir()
    alone.environment["XDG_STATE_HOME"] = str(home / "s")
    unshare = [str(require_program("unshare")), "--mount", "--propagation", "private"]
    alone.before = [*unshare, "sh", "-c", READ_ONLY, "sh", str(home)]
    begun = await alone.in_terminal()
    if "permission denied" in begun[1]:
        pytest.skip(f"nothing can be mounted here: {begun[1]}")
    log = home / "s" / "entrepot" / "log" / "engine.log"
    assert begun == (
        1,
        f"Error: The log {log} can't be written: Read-only file system. Let this user write there,"
        " or set XDG_STATE_HOME to another directory. (EngineUnavailable)\n",
    )


@pytest.mark.parametrize("command", ["serve", "paths", "status"])
async def test_a_user_without_a_home_is_told_which_variables_to_set(
    command: str, alone: CommandLine, tmp_path: Path
) -> None:
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        del alone.environment[variable]
    # The password database has no entry for this user: there is no home to be learnt from it.
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef nobody(*_): raise KeyError\npwd.getpwuid = nobody\n"
    )
    alone.environment["PYTHONPATH"] = f"{tmp_path}:{alone.environment['PYTHONPATH']}"
    refused = await alone.run(command)
    assert refused.errors == (
        "Error: This user has no home directory. Set HOME, or each of XDG_CONFIG_HOME, XDG_STATE_HOME to a directory of this user. (EngineUnavailable)\n"
    )
    assert refused.status != 0
