"""What a dashboard costs on the line: counted on a real terminal, at the design size. Bytes are
asserted, times never."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tui.pty import Program
from tui.polling import POLL_INTERVAL

BUDGET = 5000
"""Bytes a second for twenty pulls."""

LOOKS = 10
"""Looks at the engine over which bytes are counted."""

LATE = 5
"""Frames that may be on their way when counting begins."""


class Watcher(Program):
    """A dashboard on scripted pulls that counts every poll of its engine."""

    def __init__(
        self, folder: Path, under_way: int, ended: int, looks_of_a_pull: int, **environment: str
    ) -> None:
        self._polls = folder / "looks"
        self._polls.touch()
        program = Path(__file__).parent / "watched_pulls.py"
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            **environment,
        }
        super().__init__(
            [
                sys.executable,
                str(program),
                str(under_way),
                str(ended),
                str(looks_of_a_pull),
                str(self._polls),
            ],
            variables,
        )

    @property
    def looks(self) -> int:
        return self._polls.stat().st_size

    def after(self, looks: int) -> None:
        """Wait for further looks."""
        target = self.looks + looks
        self.until(lambda: self.looks >= target, f"look {target}")

    def frames(self) -> list[int]:
        """The bytes of each whole frame that is sent during some looks."""
        self.after(1)
        mark, looks = self.mark(), self.looks
        self.after(LOOKS)
        frames = self.since(mark).split(b"\x1b[?2026h")[1:]
        # What belongs to looks before the mark may come late where the machine is busy.
        assert len(frames) <= self.looks - looks + LATE, "a look is painted once"
        return [len(frame) for frame in frames]


@contextmanager
def watcher(
    folder: Path, under_way: int, ended: int, looks_of_a_pull: int, **environment: str
) -> Iterator[Watcher]:
    watcher = Watcher(folder, under_way, ended, looks_of_a_pull, **environment)
    try:
        yield watcher
    finally:
        watcher.close()


@pytest.mark.parametrize("looks_of_a_pull", [20, 120, 1200], ids=["10 s", "1 min", "10 min"])
def test_twenty_pulls_cost_less_than_the_budget_however_fast_they_are(
    tmp_path: Path, looks_of_a_pull: int
) -> None:
    with watcher(tmp_path, 20, 100, looks_of_a_pull) as terminal:
        terminal.sees("20 running")
        terminal.type("5")
        terminal.sees("library/image-0:1.27", "[#", "MB/s")
        terminal.after(2)
        frames = terminal.frames()
        assert 0 < sum(frames) / len(frames) <= BUDGET * POLL_INTERVAL


def test_where_nothing_is_pulled_nothing_is_sent(tmp_path: Path) -> None:
    with watcher(tmp_path, 0, 100, 100) as terminal:
        for key, text in (
            ("1", "Nothing is being pulled."),
            ("5", "library/image-0:1.27"),
            ("6", "docker.io"),
            ("7", "Nothing has happened"),
        ):
            terminal.type(key)
            terminal.sees(text)
            terminal.after(2)
            mark = terminal.mark()
            terminal.after(2)
            assert terminal.since(mark) == b""


def test_without_colour_no_colour_is_sent_and_the_cursor_is_reversed(tmp_path: Path) -> None:
    with watcher(tmp_path, 2, 1, 100, NO_COLOR="1") as terminal:
        terminal.type("5")
        terminal.sees("2 running", "Progress")
        coloured = {
            style
            for style in terminal.picture.styles
            if re.search(r"(^|;)([34][0-8]|9[0-7]|10[0-7])(;|$)", style)
        }
        assert coloured == set()
        assert any("7" in style.split(";") for style in terminal.picture.styles)
