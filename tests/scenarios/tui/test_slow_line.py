"""The real program on a line that cuts what is sent, and at a terminal that says odd things of
itself."""

from __future__ import annotations

import asyncio
import re
import subprocess

import pytest

from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.tui.conftest import ENTREPOT, Looks, Opened, sees
from tests.tui.pty import Program

ESCAPE = "\x1b"
STATUS_QUERY, STATUS_REPLY = b"\x1b[5n", "\x1b[0n"


async def status_query_sent(program: Program, mark: int) -> None:
    """Wait until it has asked the terminal, which answers all that came before."""
    await asyncio.to_thread(
        program.until, lambda: STATUS_QUERY in program.since(mark), "a question to the terminal"
    )


@pytest.fixture
async def two_rules(engine: Engine) -> None:
    await engine.rules.create(RuleDraft("another-rule", f"{LOGIN_SERVER}/another/*", "another/*"))


async def test_an_arrow_in_two_pieces_is_an_arrow(
    opened: Opened, looks: Looks, two_rules: None
) -> None:
    """F86: it closed the wizard and typed ``[A``. The terminal answers after all that it has sent:
    until then the escape is no key."""
    program = await opened()
    await sees(program, "Healthy")
    program.type("2")
    await sees(program, "> another-rule")
    program.type("n")
    await sees(program, "Which source registry does it pull from?")
    program.answers = False
    for _ in range(3):
        mark = program.mark()
        program.type(ESCAPE)
        await status_query_sent(program, mark)
        program.type("[")
        await asyncio.to_thread(program.keys_read)
        program.type("B")
        program.type(STATUS_REPLY)
    await asyncio.to_thread(program.keys_read)
    assert "Which source registry does it pull from?" in program.picture.text()
    mark = program.mark()
    program.type(ESCAPE)
    await status_query_sent(program, mark)
    program.type(STATUS_REPLY)
    await sees(program, "> another-rule", gone="Which source registry")


async def test_text_in_pieces_and_invalid_bytes_keep_the_keyboard_working(
    opened: Opened, looks: Looks, two_rules: None
) -> None:
    program = await opened()
    await sees(program, "Healthy")
    program.type("2")
    await sees(program, "> another-rule")
    for piece in (
        b"\xff\xfe",
        b"\xd0",
        b"\x96",
        b"\x1b]11;rgb:0/0/0\x1b\\",
        b"\x1b[?1;2c",
        b"\x1b[99999999999999u",
    ):
        program.send(piece)
        await asyncio.to_thread(program.keys_read)
    program.type("/")
    await sees(program, "words to filter by")
    program.send("é".encode()[:1])
    await asyncio.to_thread(program.keys_read)
    program.send("é".encode()[1:])
    await sees(program, "0 of 2 match / é")


async def test_a_paste_without_an_end_lets_go_of_the_keyboard(
    opened: Opened, looks: Looks, two_rules: None
) -> None:
    """F86: no key was taken any more, not even the one that quits."""
    program = await opened()
    await sees(program, "Healthy")
    program.type("2")
    await sees(program, "> another-rule")
    program.type(f"{ESCAPE}[200~dy\r")
    await sees(program, "3 characters arrived at once")
    program.type("?")
    await sees(program, "This screen")


# Sizes (F76)


async def test_the_terminals_own_size_wins_against_an_exported_one(
    opened: Opened, looks: Looks
) -> None:
    program = await opened(size=(100, 30), COLUMNS="61", LINES="16")
    await sees(program, "Healthy")
    await asyncio.to_thread(
        program.until, lambda: edges(program) == (100, 30), "the size of the terminal"
    )
    program.resize(120, 40)
    await asyncio.to_thread(
        program.until, lambda: edges(program) == (120, 40), "the new size of the terminal"
    )
    await sees(program, "Healthy", "q quit")


def edges(program: Program) -> tuple[int, int]:
    """Columns and lines that are painted: the line of keys fills the last one to its edge."""
    painted = [line for line in program.picture.looks() if any(style for _, style in line)]
    width = max(
        (index + 1 for line in painted for index, (_, style) in enumerate(line) if style), default=0
    )
    return width, program.picture.text().count("\n") + 1 if painted else 0


async def test_a_terminal_that_knows_no_size_gets_80_columns_and_24_lines(
    environment: dict[str, str], looks: Looks
) -> None:
    """F76: serial lines and some CI say 0x0."""
    program = Program(ENTREPOT, environment, reported=(0, 0))
    try:
        await sees(program, "Healthy", "q quit")
        await asyncio.to_thread(
            program.until, lambda: edges(program) == (80, 24), "80 columns and 24 lines"
        )
    finally:
        await asyncio.to_thread(program.close)


async def test_help_is_as_wide_as_the_terminal_or_as_columns_without_one(
    environment: dict[str, str],
) -> None:
    """F76: for the command line too."""
    program = Program([*ENTREPOT, "pull", "--help"], environment | {"COLUMNS": "200"}, columns=60)
    try:
        assert await asyncio.to_thread(program.ended) == 0
        assert max(len(line) for line in re.split("\r?\n", program.sent.decode())) <= 60
    finally:
        await asyncio.to_thread(program.close)
    command = [*ENTREPOT, "pull", "--help"]
    piped = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment | {"COLUMNS": "60"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert max(map(len, piped.stdout.splitlines())) <= 60


@pytest.mark.parametrize(
    "variables",
    [
        {"TERM": "unknown"},
        {"LANG": "C", "LC_ALL": "C"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
async def test_odd_terminals_and_languages_are_no_end(
    opened: Opened, looks: Looks, variables: dict[str, str]
) -> None:
    program = await opened(**variables)
    await sees(program, "Healthy")
    program.send("2Ж".encode())
    await sees(program, "> example-library")
