"""Secrets that a command prints."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets import SECRET_LENGTH, SecretUnavailable, program, read_secret
from tests.secrets.conftest import Script


async def read(command: str) -> str:
    return (await read_secret(SecretIdentifier.parse(f"command:{command}"), "docker.io")).reveal()


async def refused(command: str) -> str:
    with pytest.raises(SecretUnavailable) as caught:
        await read(command)
    assert "hunter2" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


async def test_the_first_line_that_a_command_prints_is_the_secret(script: Script) -> None:
    path = script("token", 'printf "%s\\nsecond line\\n" "hunter2 for $1"; echo noise >&2')
    assert await read(f"{path} 'the hub'") == "hunter2 for the hub"


async def test_a_rotated_secret_is_printed_anew(script: Script, tmp_path: Path) -> None:
    path = script("token", f"cat {tmp_path}/kept")
    (tmp_path / "kept").write_text("one\n")
    assert await read(str(path)) == "one"
    (tmp_path / "kept").write_text("two")
    assert await read(str(path)) == "two"


async def test_no_shell_looks_at_a_command(script: Script, tmp_path: Path) -> None:
    path = script("token", 'echo "$@"')
    assert (
        await read(f"{path} '$HOME' `id` ; touch {tmp_path}/made")
        == f"$HOME `id` ; touch {tmp_path}/made"
    )
    assert not (tmp_path / "made").exists()


async def test_a_command_that_fails_tells_its_status_and_nothing_that_it_printed(
    script: Script,
) -> None:
    path = script("token", "echo hunter2; echo hunter2 >&2; exit 7")
    assert "ended with status 7" in await refused(str(path))
    path = script("killed", "echo hunter2; kill -TERM $$")
    assert "was ended by signal 15" in await refused(str(path))


async def test_a_command_that_is_not_there_or_no_program_is_said_to_be_so(tmp_path: Path) -> None:
    assert "none is not there." in await refused(f"{tmp_path}/none")
    (tmp_path / "text").write_text("hunter2")
    assert "text can't be run by user" in await refused(f"{tmp_path}/text")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("exit 0", "is empty"),
        ("echo; echo hunter2", "is empty"),
        (r"printf '\377\376'", "not UTF-8"),
        (r"printf '\377\376h\0u\0n\0t\0e\0r\0002\0'", "not UTF-8 text but UTF-16"),
        (r"printf 'hunter2\0\0\0'", "holds a zero byte"),
    ],
)
async def test_a_command_without_a_usable_first_line_is_said_to_be_so(
    script: Script, body: str, why: str
) -> None:
    assert why in await refused(str(script("token", body)))


async def test_a_command_that_prints_without_end_is_stopped(script: Script) -> None:
    assert f"more than {SECRET_LENGTH:,} bytes" in await refused(
        str(script("token", "yes hunter2"))
    )


async def test_a_command_that_hangs_is_killed_with_what_it_started(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "never")
    path = script(
        "token",
        f'echo hunter2; sh -c "echo \\$\\$ > {tmp_path}/child; cat {tmp_path}/never" & cat {tmp_path}/never',
    )
    monkeypatch.setattr(program, "PROGRAM_TIMEOUT", 1.0)
    assert "did not end within 1 s" in await refused(str(path))
    child = int((tmp_path / "child").read_text())
    async with asyncio.timeout(60):
        while _lives(child):
            await asyncio.sleep(0)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_a_command_printed_is_in_no_log(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await read(str(script("token", "echo hunter2")))
    await refused(str(script("fails", "echo hunter2; exit 1")))
    assert "hunter2" not in caplog.text
