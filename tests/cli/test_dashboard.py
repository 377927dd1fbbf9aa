"""Opening the dashboard where that can't be, and the demo."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from entrepot.cli.dashboard import start_engine, stop_engine
from entrepot.config.directories import Directories
from entrepot.demo import DEMO_IMAGES
from entrepot.errors import EngineError
from tests.cli.conftest import PATIENCE, CommandLine
from tests.processes import children, is_running

INSTEAD = "entrepot status, entrepot rule list, entrepot pull IMAGE; entrepot serve runs the engine; all commands: entrepot --help\n"
INSTEAD_OF_A_DEMO = "entrepot demo --headless; all commands: entrepot --help\n"
REFUSALS = [
    ([], INSTEAD),
    (["--read-only"], INSTEAD),
    (["--connect", "ssh://localhost"], INSTEAD),
    (["demo"], INSTEAD_OF_A_DEMO),
]


@pytest.mark.parametrize(("arguments", "instead"), REFUSALS)
async def test_without_a_terminal_the_dashboard_refuses_in_one_sentence(
    arguments: list[str], instead: str, alone: CommandLine
) -> None:
    result = await alone.run(*arguments)
    assert (result.status, result.output) == (2, "")
    assert result.errors == f"Error: the dashboard needs a terminal. Without one: {instead}"
    assert not (alone.root / "c").exists()


@pytest.mark.parametrize("missing", ["stdin", "stdout", "stderr"])
async def test_a_terminal_is_needed_to_type_and_to_see(missing: str, alone: CommandLine) -> None:
    keyboard, terminal = os.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal} | {
        missing: asyncio.subprocess.DEVNULL
    }
    alone.environment["TERM"] = "xterm"
    process = await alone.start(**streams)
    os.close(terminal)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 2
    os.close(keyboard)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_demo_answers_clients_and_leaves_nothing_behind(
    end: signal.Signals, alone: CommandLine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A name as short as can be: the path of a Unix socket lies below it.
    temporary = tmp_path_factory.mktemp("t")
    alone.environment["TMPDIR"] = str(temporary)
    process = await alone.start("demo", "--headless")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        output = (await process.stdout.readuntil(b"ctrl+c stops it.\n")).decode()
        address = re.search(r"answers container clients on (127\.0\.0\.1:\d+)\.", output)
        assert address is not None
        # Newcomer: nothing said which images there are.
        assert f"Its source has these images:\n  {', '.join(DEMO_IMAGES)}\n" in output
        [root] = temporary.iterdir()
        async with httpx.AsyncClient(
            base_url=f"http://{address[1]}", timeout=30, verify=False
        ) as client:
            assert (await client.get("/v2/")).status_code == 200
            assert (await client.get("/v2/library/nginx/manifests/1.27")).status_code == 200
        process.send_signal(end)
        _, errors = await process.communicate()
    assert errors.decode().startswith(
        "This is a demo: a simulated source registry, in a temporary directory. Nothing of it stays.\n"
    )
    assert "Traceback" not in errors.decode()
    assert process.returncode == (0 if end is signal.SIGINT else 128 + end)
    assert not root.exists()
    assert list(temporary.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(address[1].rpartition(":")[2]))


async def test_a_demo_that_is_killed_takes_its_engine_and_its_directory_along(
    alone: CommandLine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    temporary = tmp_path_factory.mktemp("t")
    alone.environment["TMPDIR"] = str(temporary)
    process = await alone.start("demo", "--headless")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        await process.stdout.readuntil(b"ctrl+c stops it.\n")
        [engine] = children(process.pid)
        process.kill()
        await process.wait()
        while is_running(engine):
            await asyncio.sleep(0)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("term", ["dumb", ""])
@pytest.mark.parametrize(("arguments", "instead"), REFUSALS)
async def test_a_terminal_that_can_not_place_characters_is_none(
    arguments: list[str], instead: str, term: str, alone: CommandLine
) -> None:
    status, output = await alone.in_terminal(*arguments, term=term)
    assert status == 2
    assert (
        output
        == f"Error: the dashboard needs a terminal that can move its cursor; TERM says that this one can't. Without one: {instead}"
    )


async def test_where_no_engine_runs_a_read_only_dashboard_starts_none(
    alone: CommandLine, directories: Directories
) -> None:
    status, output = await alone.in_terminal("--read-only")
    assert status == 3
    assert output.startswith(
        "Error: No engine is running, and with --read-only none is started. Start one with: entrepot serve"
    )
    assert not directories.socket.exists()
    assert not (directories.log / "engine.log").exists()


# An engine that does not come up


async def test_an_engine_that_can_not_start_is_told_in_its_own_words_and_in_no_older_ones(
    alone: CommandLine, directories: Directories
) -> None:
    directories.make()
    directories.settings.write_text("fresness = 3\n")
    log = directories.log / "engine.log"
    log.write_text(
        "2026-11-02T10:15:00+00:00 An engine of yesterday.\nError: The trouble of yesterday. (EngineUnavailable)\n"
    )
    status, output = await alone.in_terminal()
    assert status == 1
    assert output == (
        f"Error: The engine did not start. {directories.settings}, line 1: There is no key fresness. Did you mean freshness? Fix it and start again. "
        f"Its log: {log} (EngineUnavailable)\n"
    )


async def test_an_error_of_several_lines_is_told_whole(
    alone: CommandLine, directories: Directories
) -> None:
    directories.make()
    directories.settings.write_text('listen = "192.0.2.1:0"\nallow_plain_http = true\n')
    status, output = await alone.in_terminal()
    assert status == 1
    assert output.startswith("Error: The engine did not start. Other machines could reach ")
    assert "settings.toml:\n    allow_anonymous = true\nor start with:\n" in output
    assert "(SettingsInvalid)" not in output


async def test_an_engine_that_breaks_is_told_with_the_last_lines_of_its_log(
    alone: CommandLine, directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.make()
    broken = tmp_path / "broken-python"
    broken.write_text(
        "#!/bin/sh\nfor each in 1 2 3 4 5 6 7; do echo line $each >&2; done\nexit 1\n"
    )
    broken.chmod(0o700)
    monkeypatch.setattr("entrepot.cli.dashboard.sys.executable", str(broken))
    with pytest.raises(EngineError) as raised:
        await asyncio.to_thread(start_engine, directories)
    assert (
        raised.value.what
        == "The engine did not start. It wrote:\n  line 3\n  line 4\n  line 5\n  line 6\n  line 7\n"
    )


async def test_a_log_that_can_not_be_written_is_one_line(
    alone: CommandLine, directories: Directories
) -> None:
    directories.make()
    (directories.log / "engine.log").mkdir()
    status, output = await alone.in_terminal()
    assert status == 1
    assert output.startswith(
        f"Error: The log {directories.log / 'engine.log'} can't be written: Is a directory. "
    )
    assert "XDG_STATE_HOME" in output
    assert output.count("\n") == 1


async def test_a_demo_says_which_variable_moves_its_directory(
    alone: CommandLine, tmp_path: Path
) -> None:
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()
    result = await alone.run("demo", "--headless", variables={"TMPDIR": str(temporary)})
    assert result.status == 1
    assert "The path of the management socket is too long" in result.errors
    assert "Set TMPDIR to another directory" in result.errors
    assert "XDG_RUNTIME_DIR" not in result.errors
    assert list(temporary.iterdir()) == []


class EndingProcess:
    """An engine that ends after it was waited for some times."""

    def __init__(self, waits: int) -> None:
        self._waits = waits
        self.calls: list[str] = []

    def terminate(self) -> None:
        self.calls.append("terminate")

    def wait(self, timeout: float) -> int:
        self.calls.append("wait")
        if self._waits <= self.calls.count("wait"):
            return 0
        raise subprocess.TimeoutExpired("entrepot", timeout)


@pytest.mark.parametrize(
    ("waits", "says"),
    [
        (1, ["The engine is stopped."]),
        (
            2,
            [
                "The engine is stopping: running transfers have 20 seconds.",
                "The engine is stopped.",
            ],
        ),
        (
            3,
            [
                "The engine is stopping: running transfers have 20 seconds.",
                "The engine has not stopped yet. See: entrepot status",
            ],
        ),
    ],
)
def test_an_engine_is_said_to_be_stopped_when_it_is(
    waits: int, says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    process = EndingProcess(waits)
    stop_engine(process)  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert (captured.out + captured.err).splitlines() == says
    assert process.calls == ["terminate"] + ["wait"] * min(waits, 2)
