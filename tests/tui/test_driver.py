"""Little is sent to a terminal, and what it shows is right all the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import obeyed
from tests.tui.pty import Picture
from tui.driver import DiffingDriver, plain

RED, BOLD, PLAIN = "\x1b[38;2;255;0;0m", "\x1b[1;38;2;255;0;0m", "\x1b[0m"
CURSOR = "\x1b[24;80H"


def driver() -> DiffingDriver:
    blank = DiffingDriver.__new__(DiffingDriver)
    blank._lines, blank._cursor, blank._has_begun = {}, "", False
    return blank


def line(number: int, cells: str, column: int = 1) -> str:
    return f"\x1b[{number};{column}H{cells}\n"


def test_what_is_shown_already_is_not_sent_again() -> None:
    terminal_driver = driver()
    picture = line(1, f"{RED}library/nginx{PLAIN}") + line(2, "plain") + CURSOR
    assert (
        terminal_driver._diff(picture) == f"\x1b[1;1H{RED}library/nginx\x1b[2;1H\x1b[mplain{CURSOR}"
    )
    assert terminal_driver._diff(picture) == ""


def test_only_the_cells_that_differ_are_sent() -> None:
    terminal_driver = driver()
    terminal_driver._diff(line(3, "library/nginx    58 %    31 MB/s") + CURSOR)
    assert (
        terminal_driver._diff(line(3, "library/nginx    59 %    31 MB/s") + CURSOR)
        == f"\x1b[3;19H9{CURSOR}"
    )


def test_cells_that_lie_near_to_each_other_go_together() -> None:
    terminal_driver = driver()
    terminal_driver._diff(line(1, "a..b" + "." * 40 + "c") + CURSOR)
    assert (
        terminal_driver._diff(line(1, "A..B" + "." * 40 + "C") + CURSOR)
        == f"\x1b[1;1HA..B\x1b[1;45HC{CURSOR}"
    )


def test_a_colour_is_told_once_and_an_attribute_ends_with_a_reset() -> None:
    terminal_driver = driver()
    assert terminal_driver._diff(
        line(1, f"{RED}a{PLAIN}{RED}b{PLAIN}{BOLD}c{PLAIN}{RED}d{PLAIN}") + CURSOR
    ) == (f"\x1b[1;1H{RED}ab\x1b[1mc\x1b[0;38;2;255;0;0md\x1b[m{CURSOR}")


def test_the_terminals_own_colours_are_not_told() -> None:
    assert (
        driver()._diff(line(1, "\x1b[1;7;39;49mrow\x1b[0m") + CURSOR)
        == f"\x1b[1;1H\x1b[1;7mrow\x1b[m{CURSOR}"
    )


def test_after_a_resize_all_is_sent_again() -> None:
    terminal_driver = driver()
    picture = line(1, "rules") + CURSOR
    first = terminal_driver._diff(picture)
    terminal_driver.invalidate()
    assert terminal_driver._diff(picture) == first


def test_a_line_with_signs_of_two_cells_is_sent_whole() -> None:
    terminal_driver = driver()
    picture = line(1, "名前 library") + CURSOR
    assert "名前 library" in terminal_driver._diff(picture)
    assert "名前 library" in terminal_driver._diff(picture)


@pytest.mark.parametrize(
    ("text", "told"),
    [("╭──╮ 5 %", "+--+ 5 %"), ("no answer…", "no answer."), ("名 x", "?? x"), ("▁▄█", "-##")],
)
def test_ascii_keeps_the_width(text: str, told: str) -> None:
    assert plain(text) == told


cells = st.text("ab #", min_size=1, max_size=20).flatmap(
    lambda text: st.sampled_from(
        [text, f"{RED}{text}{PLAIN}", f"{BOLD}{text}{PLAIN}x", f"x{RED}{text}{PLAIN}"]
    )
)
writings = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 10), cells), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(writings, min_size=1, max_size=6))
def test_a_terminal_shows_the_same_as_if_all_had_been_sent(
    pictures: list[list[tuple[int, int, str]]],
) -> None:
    terminal_driver, all_of_it, little = driver(), Picture(40, 4), Picture(40, 4)
    for runs in pictures:
        picture = "".join(line(number, text, column) for number, column, text in runs) + CURSOR
        all_of_it.feed(picture)
        little.feed(terminal_driver._diff(picture))
        assert little.looks() == all_of_it.looks()


@pytest.mark.parametrize(
    "sign",
    [
        "\x1b",
        "\x00",
        "\x07",
        "\x08",
        "\x7f",
        "\x84",
        "\x9b",
        "\x9c",
        "\x9d",
        "\u200e",
        "\u202e",
        "\u2028",
        "\u2066",
        "\ufeff",
        "\U000e0041",
    ],
)
def test_nothing_that_a_terminal_obeys_passes_besides_what_a_picture_is_made_of(sign: str) -> None:
    """S04: the last line of defence, behind the widgets."""
    for foreign in (f"{sign}[2J", f"{sign}]52;c;ZXZpbA==", f"{RED}a{sign}b{PLAIN}", sign):
        for picture in (line(1, f"x{foreign}y") + CURSOR, CURSOR + f"x{foreign}y"):
            output = driver()._diff(picture)
            assert obeyed(re.sub(r"\x1b\[[0-9;]*[Hm]", "", output).replace("\n", "")) == []
            assert sign == "\x1b" or sign not in output
            assert output.replace("\n", "").count("x") == 1


def test_what_is_drawn_stays_where_it_is_without_such_signs() -> None:
    """None of them takes a cell."""
    assert driver()._diff(line(1, "a\x9b\u202eb") + CURSOR) == f"\x1b[1;1Hab{CURSOR}"
