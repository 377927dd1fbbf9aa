"""The dashboard's life in a terminal: suspended, resized, without colours, in ASCII, ended from
outside, and with an engine that dies."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from entrepot.config.directories import Directories
from entrepot.engine.engine import Engine
from entrepot.event_kinds import EventKind
from tests.e2e.clients.processes import Process
from tests.fakes import FakeRegistry
from tests.tui.conftest import ENTREPOT, Looks, Opened, sees
from tests.tui.pty import Program

ESCAPE = "\x1b"
PLACES: tuple[tuple[str, str, str], ...] = (
    ("1", "Pulling now", ""),
    ("2", "Cache rules", ""),
    ("3", "There is no credential set yet.", ""),
    ("4", "Cached repositories", ""),
    ("5", "x cancel", ""),
    ("6", "Source registries", ""),
    ("7", "What happened", ""),
    ("2", "example-library", ""),
    ("?", "This screen", ESCAPE),
    (":", "Create a cache rule", ESCAPE),
    ("d", "Delete the cache rule", ESCAPE),
    ("p", "Pull an image into the cache", ESCAPE),
    ("n", "Which source registry does it pull from?", ""),
    ("\r", "Which repository of", ""),
    ("\x03", "Quit the wizard?", "\x1b[C\r"),
    ("3", "There is no credential set yet.", ""),
    ("n", "Which source registry does it sign in to?", "\x03"),
)
"""Keys that lead to a place, what is seen there, and the key that leads back."""

ENDED = {"7", "25"}
"""The modes of a terminal after a program that ended in order: lines wrap, the cursor shows."""


async def visit(program: Program, places: tuple[tuple[str, str, str], ...] = PLACES) -> None:
    """Go everywhere and back."""
    for keys, text, back in places:
        for key in keys:
            program.type(key)
        await sees(program, text)
        if back:
            program.type(back)
            await sees(program, "? help", gone=text)


async def test_suspended_anywhere_it_comes_back_whole(opened: Opened, looks: Looks) -> None:
    program = await opened()
    await sees(program, "Healthy")
    for keys, text, back in PLACES:
        for key in keys:
            program.type(key)
        await sees(program, text)
        program.type("\x1a")
        await asyncio.to_thread(program.stopped)
        await asyncio.to_thread(
            program.until,
            lambda: "1049" not in program.picture.modes,
            "the way out of the alternate screen",
        )
        program.signal(signal.SIGCONT)
        await sees(program, text)
        if back:
            program.type(back)
            await sees(program, "? help", gone=text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_with_the_terminal_in_order(
    opened: Opened, looks: Looks, number: signal.Signals
) -> None:
    program = await opened()
    await sees(program, "Healthy")
    program.type("2n")
    await sees(program, "Which source registry")
    program.signal(number)
    assert await asyncio.to_thread(program.ended) == 128 + number
    assert program.picture.modes == ENDED
    assert "Traceback" not in program.picture.text()


async def test_it_ends_when_its_terminal_is_gone(opened: Opened, looks: Looks) -> None:
    program = await opened()
    await sees(program, "Healthy")
    assert await asyncio.to_thread(program.hang_up) == 128 + signal.SIGHUP


async def test_a_signal_to_go_on_while_it_runs_takes_no_keys_and_no_end_from_it(
    opened: Opened, looks: Looks
) -> None:
    program = await opened()
    await sees(program, "Healthy")
    for key, text in (("2", "Cache rules"), ("3", "There is no credential set yet.")) * 3:
        mark = program.mark()
        program.signal(signal.SIGCONT)
        # Keys that were typed before are discarded, as after a suspension.
        await asyncio.to_thread(
            program.until,
            lambda: b"\x1b[?1049h" in program.since(mark),  # noqa: B023
            "the way back into the alternate screen",
        )
        await sees(program, "? help")
        program.type(key)
        await sees(program, text)
    program.signal(signal.SIGCONT)
    program.signal(signal.SIGTERM)
    assert await asyncio.to_thread(program.ended) == 128 + signal.SIGTERM
    assert program.picture.modes == ENDED


async def test_it_ends_when_its_terminal_is_gone_while_it_is_suspended(
    opened: Opened, looks: Looks
) -> None:
    program = await opened()
    await sees(program, "Healthy")
    program.type("\x1a")
    await asyncio.to_thread(program.stopped)
    # As the system does with the stopped programs of a terminal that is closed (setpgid(2)).
    program.signal(signal.SIGHUP)
    program.signal(signal.SIGCONT)
    assert await asyncio.to_thread(program.hang_up) == 128 + signal.SIGHUP


async def test_quitting_restores_the_terminal(opened: Opened, looks: Looks) -> None:
    program = await opened()
    await sees(program, "Healthy")
    program.type("\x11")
    await sees(program, "Quit the dashboard?")
    program.type("\x1b[C\r")
    assert await asyncio.to_thread(program.ended) == 0
    assert program.picture.modes == ENDED


async def test_without_colours_it_sends_none(opened: Opened, looks: Looks) -> None:
    program = await opened(NO_COLOR="1")
    await sees(program, "Healthy")
    await visit(program)
    numbers = {int(each) for style in program.picture.styles for each in style.split(";") if each}
    assert numbers <= {0, 1, 2, 3, 4, 7}
    assert 7 in numbers  # the cursor of a list


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ((), {"TERM": "xterm", "COLORTERM": ""}),
        ((), {"TERM": "linux", "COLORTERM": ""}),
        (("--theme", "ansi-dark"), {}),
        (("--theme", "ansi-light"), {}),
    ],
    ids=str,
)
async def test_a_terminal_of_sixteen_colours_and_an_ansi_theme_get_no_others(
    opened: Opened, looks: Looks, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    program = await opened(*arguments, **variables)
    await sees(program, "Healthy")
    await visit(program, PLACES[:11])
    assert not [style for style in program.picture.styles if "38;" in style or "48;" in style]


async def test_a_terminal_of_256_colours_gets_no_more(opened: Opened, looks: Looks) -> None:
    program = await opened(TERM="xterm-256color", COLORTERM="")
    await sees(program, "Healthy")
    await visit(program, PLACES[:11])
    assert any("38;5;" in style for style in program.picture.styles)
    assert not any("38;2;" in style or "48;2;" in style for style in program.picture.styles)


async def test_in_ascii_not_one_other_byte_is_sent(
    opened: Opened, looks: Looks, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    started = await engine.pulls.start("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()
    engine.events.record(EventKind.ENGINE_READY, "Eine Quelle spricht Käse: “…” 名")
    program = await opened("--ascii")
    await sees(program, "Healthy")
    await visit(program)
    program.type("4")
    await sees(program, "library/nginx")
    program.type("\r")
    await sees(program, "Platforms")
    program.type("5")
    await sees(program, "library/nginx:1.27")
    program.type("\r")
    await sees(program, "verified")
    program.type("7")
    await sees(program, "spricht K?se")
    assert program.sent.isascii()
    assert "+--" in program.picture.text() or "---" in program.picture.text()


async def test_where_the_language_has_no_unicode_ascii_is_used(
    opened: Opened, looks: Looks
) -> None:
    program = await opened(PYTHONIOENCODING="latin-1")
    await sees(program, "Healthy")
    program.type("2")
    await sees(program, "> example-library")
    program.type("d")
    await sees(program, "Delete the cache rule", "+---")
    assert program.sent.isascii()


@pytest.mark.parametrize(("arguments", "reports"), [((), True), (("--no-mouse",), False)])
async def test_the_mouse_can_be_left_to_the_terminal(
    opened: Opened, looks: Looks, arguments: tuple[str, ...], reports: bool
) -> None:
    program = await opened(*arguments)
    await sees(program, "Healthy")
    assert ("1000" in program.picture.modes) is reports
    assert (b"\x1b[?1003h" in program.sent) is reports


async def test_the_users_file_chooses_and_the_command_line_goes_before_it(
    opened: Opened, looks: Looks, directories: Directories
) -> None:
    (directories.config / "dashboard.toml").write_text(
        'ascii = true\nmouse = false\ntheme = "entrepot-light"\nthem = "x"\n'
    )
    program = await opened("--theme", "ansi-dark")
    await sees(program, "Healthy", "them.")
    assert program.sent.isascii()
    assert "1000" not in program.picture.modes
    assert not any("38;2" in style for style in program.picture.styles)


async def test_a_theme_that_there_is_not_is_refused_with_the_nearest(
    opened: Opened, looks: Looks
) -> None:
    program = await opened("--theme", "entrepot-drak")
    assert await asyncio.to_thread(program.ended) == 1
    assert (
        "There is no theme entrepot-drak. Did you mean entrepot-dark?"
        in program.picture.text().replace("\n", "")
    )
    assert "1049" not in program.picture.modes


@pytest.mark.parametrize("size", [(59, 15), (60, 14)])
async def test_below_the_floor_nothing_can_be_done(
    opened: Opened, looks: Looks, engine: Engine, size: tuple[int, int]
) -> None:
    program = await opened(size=size)
    await sees(program, "This terminal is too small.", "60 columns and 15 lines")
    for key in ("2", "n", "d", "y", "\r", ":", "?"):
        program.type(key)
    await asyncio.to_thread(program.keys_read)
    program.resize(60, 15)
    await sees(program, "Pulling now", "? help", gone="too small")
    assert len(engine.documents.rules) == 1


async def test_a_wizard_and_a_dialog_survive_a_resize_to_too_small_and_back(
    opened: Opened, looks: Looks, engine: Engine
) -> None:
    program = await opened()
    await sees(program, "Healthy")
    program.type("2")
    await sees(program, "> example-library")
    program.type("d")
    await sees(program, "Delete the cache rule example-library?")
    program.resize(50, 12)
    await sees(program, "too small")
    program.type("y")
    await asyncio.to_thread(program.keys_read)
    program.resize(100, 30)
    await sees(program, "Delete the cache rule example-library?", gone="too small")
    assert len(engine.documents.rules) == 1
    program.type(ESCAPE)
    await sees(program, "? help", gone="Delete the cache rule")
    program.type("n")
    await sees(program, "Which source registry")
    program.type("\r")
    await sees(program, "Which repository of")
    program.type("nginx")
    await sees(program, "library/nginx")
    program.resize(40, 10)
    await sees(program, "too small")
    program.type("x")
    await asyncio.to_thread(program.keys_read)
    program.resize(80, 24)
    await sees(program, "Which repository of", "nginx", gone="too small")
    assert "nginxx" not in program.picture.text()


async def test_an_exception_restores_the_terminal_and_names_the_log(
    opened: Opened, looks: Looks, directories: Directories
) -> None:
    broken = (
        "import widgets.bars as l; l.TabLine.render = lambda self: 1 / 0; "
        "from entrepot.cli import main; main()"
    )
    program = await opened(command=(sys.executable, "-c", broken))
    assert await asyncio.to_thread(program.ended) == 1
    screen_text = " ".join(program.picture.text().split())
    log = directories.log / "dashboard.log"
    assert (
        "Error: The dashboard itself has failed and has ended; the engine keeps running. "
        "The details are in" in screen_text
    )
    assert "Traceback" not in screen_text
    assert program.picture.modes == ENDED
    assert "ZeroDivisionError" in log.read_text()


async def test_what_a_library_warns_of_goes_into_the_log_and_not_across_the_screen(
    opened: Opened, looks: Looks, directories: Directories
) -> None:
    # As asyncio does where a callback fails: here when Textual is gone, and Python's own way would
    # be the terminal.
    warned = (
        "import logging, textual.app as t; r = t.App.run; t.App.run = lambda *a, **k: "
        "(r(*a, **k), logging.getLogger('asyncio').error('A callback failed'))[0]"
    )
    program = await opened(
        command=(sys.executable, "-c", f"{warned}; from entrepot.cli import main; main()")
    )
    await sees(program, "Healthy")
    program.type("\x11")
    await sees(program, "Quit the dashboard?")
    program.type("\x1b[C\r")
    assert await asyncio.to_thread(program.ended) == 0
    assert "A callback failed" not in program.picture.text()
    assert "asyncio: A callback failed" in (directories.log / "dashboard.log").read_text()


@pytest.fixture
def serve(environment: dict[str, str]) -> Iterator[Callable[[], Process]]:
    """Starts engines, which are killed after the test."""
    with ExitStack() as engines:

        def start() -> Process:
            engine = Process(
                [*ENTREPOT, "serve", "--listen", "127.0.0.1:0"], environment=environment
            )
            engines.callback(engine.kill)
            return engine

        yield start


async def test_an_engine_that_is_killed_is_missed_with_the_time_and_found_again(
    opened: Opened, serve: Callable[[], Process]
) -> None:
    process = serve()
    await asyncio.to_thread(process.wait_for_line, "answers container clients on")
    program = await opened()
    await sees(program, "Get started")
    await asyncio.to_thread(process.kill)
    await sees(program, "no answer from the engine since", "Get started")
    # Nothing is frozen: the keys work, and what was seen last stays.
    program.type("2?")
    await sees(program, "This screen")
    program.type(ESCAPE)
    await sees(program, "? help", gone="This screen")
    program.type("1")
    await sees(program, "no answer from the engine since", "Get started")
    serve()
    await sees(program, "0 of 1,000 rules", gone="no answer")
    program.type("q")
    assert await asyncio.to_thread(program.ended) == 0


async def test_an_engine_that_is_stopped_half_way_is_missed_too(
    opened: Opened, serve: Callable[[], Process]
) -> None:
    process = serve()
    await asyncio.to_thread(process.wait_for_line, "answers container clients on")
    program = await opened()
    await sees(program, "Get started")
    process.send(signal.SIGSTOP)
    await sees(program, "no answer from the engine since")
    program.type("?")
    await sees(program, "This screen")
    program.type(ESCAPE)
    process.send(signal.SIGCONT)
    await sees(program, "Get started", gone="no answer")


async def test_incremental_output_equals_a_full_repaint(
    opened: Opened, looks: Looks, engine: Engine, source: FakeRegistry, tmp_path: Path
) -> None:
    source.add_image("library/nginx", "1.27")
    started = await engine.pulls.start("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()
    program = await opened()
    await sees(program, "Healthy")
    await visit(program)
    for key, text in (
        ("2", "example-library"),
        ("1", "Pulling now"),
        ("5", "x cancel"),
        ("4", "library/nginx"),
        ("7", "What happened"),
    ):
        program.type(key)
        await sees(program, text)
        await looks.more(3)
        before, mark = program.picture.looks(), program.mark()
        program.type("\x0c")
        await asyncio.to_thread(
            program.until,
            lambda: len(program.sent) > mark + 500,  # noqa: B023
            "a picture",
        )
        await looks.more(2)
        differ = [
            (line, column, old, new)
            for line, (one, other) in enumerate(zip(before, program.picture.looks(), strict=True))
            for column, (old, new) in enumerate(zip(one, other, strict=True))
            if old != new
        ]
        assert differ == [], text
