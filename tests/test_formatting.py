"""Numbers, times and tables in the words of people."""

from __future__ import annotations

import json
import time

import pytest
from rich.cells import cell_len

from entrepot.formatting import (
    TableColumn,
    ago,
    bar,
    cells,
    counted,
    duration,
    last_cells,
    moment,
    out_of,
    padded,
    parse_size,
    printable,
    printable_json,
    printable_lines,
    rate,
    short_digest,
    since,
    size,
    table,
)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (71_234_567, "71.2 MB"),
        (999_960, "1.0 MB"),
        (85e9, "85.0 GB"),
        (12.3e12, "12.3 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes_have_human_units(count: float, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("512 B", 512),
        ("1.5 kB", 1500),
        ("500 GB", 500 * 10**9),
        ("2TiB", 2 * 2**40),
        (" 3 mib ", 3 * 2**20),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "1 XB", "-1 GB", "1,5 GB", "1 ib", "1 GB 2", "٣ GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "60 min"), (7200, "2 h"), (3 * 86_400, "3 d")],
)
def test_durations_have_their_largest_unit(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_what_never_happened_is_never() -> None:
    assert (ago(None, 100.0), ago(40.0, 100.0), ago(200.0, 100.0)) == ("never", "1 min", "now")
    assert (since(None, 100.0), since(40.0, 100.0), since(200.0, 100.0)) == (
        "never",
        "1 min ago",
        "just now",
    )


def test_what_was_less_than_a_minute_ago_was_now_so_that_no_second_changes_it() -> None:
    assert {ago(1000.0, 1000.0 + second) for second in range(60)} == {"now"}
    assert ago(1000.0, 1060.0) == "1 min"


def test_a_moment_is_shown_by_the_hour_today_and_by_the_day_before() -> None:
    noon = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    assert moment(noon - 7200, noon) == "10:00"
    assert moment(noon - 86_400, noon) == "23 Nov"
    assert moment(noon - 365 * 86_400, noon) == "2025-11-24"


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (0.0, "0 B/s"),
        (5.3e6, "5.3 MB/s"),
        (31.4e6, "31 MB/s"),
        (999.6e3, "1.0 MB/s"),
        (1.26e9, "1.3 GB/s"),
    ],
)
def test_a_speed_has_no_more_digits_than_can_be_followed(speed: float, expected: str) -> None:
    assert rate(speed) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [(41.2e9, "41.2 of 80.0 GB"), (12e6, "12.0 MB of 80.0 GB"), (0, "0 B of 80.0 GB")],
)
def test_a_part_of_a_size_says_its_unit_once(part: float, expected: str) -> None:
    assert out_of(part, 80e9) == expected


def test_one_is_not_many() -> None:
    assert (
        counted(1, "pull"),
        counted(1204, "pull"),
        counted(0, "repository", "repositories"),
    ) == ("1 pull", "1,204 pulls", "0 repositories")


def test_a_table_aligns_and_cuts_nothing() -> None:
    text = table(
        (TableColumn("Name"), TableColumn("Size", right=True)),
        [("a-rather-long-name", "1"), ("b", "1,000")],
    )
    assert text.splitlines() == [
        "Name                 Size",
        "a-rather-long-name      1",
        "b                   1,000",
    ]


@pytest.mark.parametrize(
    ("share", "expected"), [(-1.0, "[----]"), (0.5, "[##--]"), (1.0, "[####]"), (7.0, "[####]")]
)
def test_a_bar_is_plain_characters(share: float, expected: str) -> None:
    assert bar(share, 4) == expected


def test_a_digest_is_shown_by_its_beginning() -> None:
    assert short_digest("sha256:" + "0123456789abcdef" * 4) == "0123456789ab"
    assert short_digest("") == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("linux/arm64", "linux/arm64"),
        ("two\r\nlines\tand\x0bmore", "two lines and more"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9d52;c;ZXZpbA==\x9c", "\\x9d52;c;ZXZpbA==\\x9c"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800\x00", "\\ud800\\x00"),
        ("no\u00a0break\u2028 ", "no break"),
        ("層 日本", "層 日本"),
    ],
)
def test_foreign_text_becomes_one_printable_line(text: str, line: str) -> None:
    assert printable(text) == line
    assert printable(line).isprintable()


def test_foreign_text_is_cut_where_a_limit_is_named() -> None:
    assert printable("x" * 10, 10) == "x" * 10
    assert printable("x" * 11, 10) == "x" * 9 + "…"


WIDE = ("plain", "層レイヤ", "e\u0301te\u0301", "ﾊﾝｶｸ", "\uff21", "", "가나다", "x層y")


@pytest.mark.parametrize("text", WIDE)
def test_a_text_takes_as_many_cells_as_a_terminal_gives_it(text: str) -> None:
    """F89: rich, which knows it, is not imported for a command."""
    assert cells(text) == cell_len(text)
    for right in (False, True):
        assert cell_len(padded(text, 12, right=right)) == 12
    assert padded(text, 1).strip() == text
    for width in range(8):
        end = last_cells(text, width)
        assert cell_len(end) <= width
        assert text.endswith(end)
        assert len(end) == len(text) or cell_len(text[len(text) - len(end) - 1 :]) > width


def test_the_columns_of_a_table_stand_below_each_other_whatever_is_in_them() -> None:
    """F89."""
    lines = table(
        [TableColumn("Name"), TableColumn("Size", right=True), TableColumn("End")],
        [(text, text, "|") for text in WIDE],
    ).splitlines()
    assert {cell_len(line.partition("|")[0]) for line in lines[1:]} == {
        cell_len(lines[0].removesuffix("End"))
    }


def test_a_text_of_our_own_keeps_its_lines_and_blanks() -> None:
    assert printable_lines("a  b\n\n  c") == "a  b\n\n  c"
    assert printable_lines("a\tb\r\n\x1b[1m\x9b\u202e") == "a b \n\\x1b[1m\\x9b\\u202e"


@pytest.mark.parametrize("text", ["plain 層", "\x9b31m\u202e\u2028", "\U000e0041\n\x1b", "\ud800"])
def test_a_document_says_the_same_when_a_terminal_obeys_none_of_it(text: str) -> None:
    document = printable_json(json.dumps({"a": text}, ensure_ascii=False, indent=1))
    assert all(line.isprintable() for line in document.split("\n"))
    assert json.loads(document) == {"a": text}
