"""S03, S04: an image that says hostile things, in the real dashboard on a terminal of its own."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shlex
from pathlib import Path

import httpx
import pytest

from entrepot.engine.engine import Engine
from entrepot.store import manifests
from tests.fakes import FakeRegistry
from tests.hostile import COMMANDS, HOSTILE, evil_image, obeyed
from tests.tui.conftest import Looks, Opened, sees

SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\](?:52;c;[A-Za-z0-9+/=]*|22;default)\x07|\x1b[=>78c]"
)
"""What the dashboard sends to a terminal besides text."""


@pytest.fixture(params=["dropped", "stored"])
def grammar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the platform is dropped where it is read, or is as a catalog may still have it that
    was written before there was a grammar."""
    if request.param == "stored":
        monkeypatch.setattr(manifests, "PLATFORM_PART", re.compile(r".*", re.DOTALL))
        monkeypatch.setattr(manifests, "PLATFORM_PART_LENGTH", 1_000)
        monkeypatch.setattr(manifests, "_known_platform", manifests._checked_platform)
    return str(request.param)


async def _cached(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, variant: str
) -> None:
    image = evil_image(source, variant=variant)
    [amd] = image.platforms.values()
    for path in (
        "manifests/1",
        f"manifests/{amd.digest}",
        *(f"blobs/{blob.digest}" for blob in amd.blobs),
    ):
        assert (await registry.get(f"/v2/library/evil/{path}")).status_code == 200
    for pull in engine.cache.pulls.all():
        await pull.finished.wait()


async def test_a_line_that_was_copied_runs_nothing_but_its_program(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    looks: Looks,
    opened: Opened,
    grammar: str,
    tmp_path: Path,
) -> None:
    await _cached(registry, engine, source, COMMANDS)
    program = await opened()
    await sees(program, "Pulling now")
    program.type("4")
    await sees(program, "library/evil")
    program.type("\r")
    await sees(program, "1", "refresh")
    program.type("\r")
    await sees(program, "Layers of linux/amd64")
    program.type("y")
    await sees(program, "docker", "podman", "skopeo")
    program.type("\r")
    await asyncio.to_thread(
        program.until, lambda: bool(program.picture.clipboard), "a line for the clipboard"
    )
    line = base64.b64decode(program.picture.clipboard[-1]).decode()
    assert line.startswith("docker pull --platform ")
    if grammar == "dropped":
        assert line == f"docker pull --platform linux/amd64 {engine.address}/library/evil:1"
    # It is pasted into a shell whose docker only prints its arguments.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "bin" / "docker").chmod(0o755)
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    )
    output, _ = await shell.communicate(f"{line}\n".encode())
    assert output.decode().split("\0")[:-1] == shlex.split(line)[1:]
    assert os.listdir(tmp_path) == ["bin"]


async def test_no_screen_sends_what_a_terminal_obeys(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    looks: Looks,
    opened: Opened,
    grammar: str,
) -> None:
    await _cached(registry, engine, source, HOSTILE)
    program = await opened(size=(120, 40))
    await sees(program, "Pulling now")
    for keys, text, absent in (
        ("4", "Cached repositories", None),
        ("\r", "Platforms", "Cached repositories"),
        ("\r", "Layers of", None),
        ("\t", "Media type", None),
        ("5", "Asked by", "Layers of"),
        ("y", "clipboard", None),
        ("\r", "Blob", None),
        ("7", "What happened", "Progress"),
        ("\r", "esc closes", None),
        ("\x1b", "What happened", "esc closes"),
        ("y", "clipboard", None),
    ):
        program.type(keys)
        await sees(program, text, gone=absent)
        # What says where it wants to stand does not stand there.
        assert not any("OBEYED" in line[:10] for line in program.picture.text().splitlines()), text
    output = program.since(0).decode()
    assert obeyed(SEQUENCE.sub("", output).replace("\r", "")) == []
    for copied in program.picture.clipboard:
        assert base64.b64decode(copied).decode().isprintable()
    # A title, a place for text and a copy of its own are among what it says.
    assert "\x1b]0;" not in output
    assert base64.b64encode(b"evil").decode() not in program.picture.clipboard
