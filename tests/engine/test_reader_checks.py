"""What ``entrepot doctor`` says about readers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.config.directories import Directories
from entrepot.config.reader_settings import ReaderSettings
from entrepot.config.settings import Settings
from entrepot.core.states import Outcome
from entrepot.engine.engine import Engine
from entrepot.engine.reader_checks import check_password_file, check_readers

COSTS = {"alice": "05", "bob": "10"}


async def test_who_may_pull_is_said_and_who_can_not_is_warned_of(engine: Engine) -> None:
    def finding() -> tuple[Outcome, str]:
        found = check_readers(engine.documents, engine.readers)
        return found.outcome, found.what

    assert finding() == (Outcome.OK, "everyone who reaches the registry may pull")
    await engine.rules.update("example-library", readers=["ci", "@ops"])
    assert finding() == (
        Outcome.WARNING,
        "Nobody can pull through example-library: its readers can't sign in.",
    )
    await engine.readers.create_token("ci")
    assert finding() == (
        Outcome.WARNING,
        "Cache rules name readers who can't sign in: @ops.",
    )
    await engine.readers.create_token("alice", groups=["ops"])
    assert finding() == (Outcome.OK, "1 cache rule for readers who sign in, 0 for everyone")
    [examined] = [
        each for each in (await engine.doctor().examine()).findings if each.check == "readers"
    ]
    assert examined.outcome is Outcome.OK


@pytest.fixture
async def guarded(
    directories: Directories, settings: Settings, open_directory: Path
) -> AsyncIterator[Engine]:
    """An engine with a password file: ``alice`` at a cost of 5, ``bob`` at one of 10."""
    file = open_directory / "readers.htpasswd"
    file.write_text("".join(f"{name}:$2y${cost}${'a' * 53}\n" for name, cost in COSTS.items()))
    settings = replace(settings, readers=ReaderSettings(file, {}))
    async with Engine.open(directories, settings) as engine:
        yield engine


@pytest.mark.parametrize(
    ("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)]
)
async def test_a_weak_password_and_an_open_password_file_are_warned_of(
    guarded: Engine, open_directory: Path, mode: int, *, is_open: bool
) -> None:
    file = open_directory / "readers.htpasswd"
    file.chmod(mode)
    weak, *opened = await check_password_file(guarded.readers)
    assert weak.outcome is Outcome.WARNING
    assert weak.what.startswith("The bcrypt cost of alice is below 10: ")
    assert "htpasswd -B -C 10 " in weak.advice
    assert [f"(mode {mode:04o})" in finding.what for finding in opened] == [True] * is_open


async def test_the_password_file_is_part_of_what_doctor_says(guarded: Engine) -> None:
    findings = (await guarded.doctor().examine()).findings
    assert "passwords" in {finding.check for finding in findings}
