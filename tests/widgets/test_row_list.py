"""A list that stays quick with many rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.geometry import Region
from textual.strip import Strip

from tests.tui.grid import lines
from widgets.row_list import Cell, Column, Row, RowList, fitted
from widgets.text import escaped, wrapped


class ListApp(App[None]):
    """A list and a follower of it."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[str | None] = []
        self.opened: list[str] = []

    def compose(self) -> ComposeResult:
        steady = RowList(
            (Column("Name", weight=1), Column("Size", 6, right=True, needs=20)), id="steady"
        )
        volatile = RowList((Column("Share", 5, right=True),), id="volatile", marker=False)
        volatile.follow(steady)
        with Horizontal():
            yield steady
            yield volatile

    def on_row_list_moved(self, event: RowList.Moved) -> None:
        self.moved.append(event.row.key if event.row else None)

    def on_row_list_opened(self, event: RowList.Opened) -> None:
        self.opened.append(event.row.key)


@asynccontextmanager
async def shown_list(rows: Sequence[Row]) -> AsyncIterator[tuple[ListApp, RowList]]:
    app = ListApp()
    async with app.run_test(size=(50, 10)) as pilot:
        app.query_one("#volatile").styles.width = 8
        row_list = app.query_one("#steady", RowList)
        row_list.focus()
        row_list.set_rows(rows)
        await pilot.pause()
        yield app, row_list


def rows(count: int, text: str = "row") -> list[Row]:
    return [
        Row(str(number), (Cell(f"{text} {number}"), Cell(f"{number}"))) for number in range(count)
    ]


async def test_of_ten_thousand_rows_only_those_on_the_screen_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    render_line = RowList.render_line

    def counted(self: RowList, y: int) -> Strip:
        drawn.append(y)
        return render_line(self, y)

    monkeypatch.setattr(RowList, "render_line", counted)
    app = ListApp()
    async with app.run_test(size=(50, 10)) as pilot:
        row_list = app.query_one("#steady", RowList)
        row_list.set_rows(rows(10_000))
        row_list.action_last()
        await pilot.pause()
        assert any("row 9999" in line for line in lines(app))
        assert len(drawn) < 200


async def test_the_cursor_moves_pages_and_stops_at_both_ends() -> None:
    async with shown_list(rows(30)) as (app, row_list):
        for action, expected in (
            ("move(1)", 1),
            ("move(-5)", 0),
            ("page(1)", 9),
            ("page(0.5)", 13),
            ("last", 29),
            ("move(1)", 29),
            ("first", 0),
        ):
            await row_list.run_action(action)
            assert row_list.cursor == expected
        assert app.moved[-1] == "0"


async def test_the_cursor_stays_on_its_row_when_others_come_and_go() -> None:
    async with shown_list(rows(5)) as (_, row_list):
        row_list.move_to("3")
        row_list.set_rows([Row("new", (Cell("new"), Cell(""))), *rows(5)])
        assert row_list.current is not None
        assert (row_list.current.key, row_list.cursor) == ("3", 4)
        row_list.set_rows(rows(3))
        assert row_list.cursor == 2


async def test_only_lines_that_changed_are_painted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown_list(rows(5)) as (_, row_list):
        painted: list[tuple[Region, ...]] = []

        def refresh(*regions: Region, **_: object) -> RowList:
            painted.append(regions)
            return row_list

        monkeypatch.setattr(row_list, "refresh", refresh)
        row_list.set_rows(rows(5))
        assert painted == []
        changed = rows(5)
        changed[2] = Row("2", (Cell("another text"), Cell("2")))
        row_list.set_rows(changed)
        assert painted == [(Region(0, 3, row_list.size.width, 1),)]


async def test_a_filter_looks_for_every_word_and_counts_against_all() -> None:
    async with shown_list([*rows(20), Row("x", (Cell("Something ELSE"), Cell("")))]) as (
        _,
        row_list,
    ):
        row_list.set_filter("else some")
        assert [row.key for row in row_list.rows] == ["x"]
        assert row_list.total == 21
        row_list.set_filter("")
        assert len(row_list.rows) == 21


async def test_a_follower_scrolls_and_points_along() -> None:
    async with shown_list(rows(100)) as (app, row_list):
        follower = app.query_one("#volatile", RowList)
        follower.set_rows([Row(str(number), (Cell(f"{number}%"),)) for number in range(100)])
        row_list.action_last()
        assert follower.cursor == 99
        assert follower.scroll_offset.y == row_list.scroll_offset.y


async def test_numbers_stand_at_the_right_and_long_names_lose_their_middle() -> None:
    long = "registry.example.com/a/very/long/path/to/an/image"
    async with shown_list([Row("a", (Cell(long), Cell("12")))]) as (app, _):
        row = lines(app)[1]
        assert "registry.examp..th/to/an/image" in row
        assert row.endswith("12")


async def test_enter_opens_the_row_under_the_cursor() -> None:
    app = ListApp()
    async with app.run_test(size=(50, 10)) as pilot:
        row_list = app.query_one("#steady", RowList)
        row_list.set_rows(rows(3))
        row_list.focus()
        await pilot.press("j", "enter")
        assert app.opened == ["1"]


@pytest.mark.parametrize(
    ("text", "width", "right", "expected"),
    [
        ("ab", 4, False, "ab  "),
        ("ab", 4, True, "  ab"),
        ("abcdefgh", 6, False, "ab..gh"),
        ("abcdef", 3, False, "abc"),
        ("", 2, False, "  "),
    ],
)
def test_a_text_has_exactly_its_width(text: str, width: int, right: bool, expected: str) -> None:
    assert fitted(text, width, right=right) == expected


async def test_refreshed_texts_are_built_for_the_rows_on_the_screen_and_painted_where_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0
    worded: list[int] = []

    def cells(number: int) -> tuple[Cell, ...]:
        worded.append(number)
        return (Cell(f"row {number}"), Cell(f"{now}" if number == 3 else "-"))

    async with shown_list([Row(str(number), partial(cells, number)) for number in range(1000)]) as (
        app,
        row_list,
    ):
        painted: list[Region] = []
        monkeypatch.setattr(row_list, "refresh", lambda *regions, **_: painted.extend(regions))
        worded.clear()
        now = 7
        row_list.refresh_texts()
        assert len(painted) == 1
        assert painted[0].y == 4
        assert max(worded) < 10
        row_list.refresh_texts()
        assert len(painted) == 1
        assert row_list.rows[3].cells[1].text == "7"
        assert app.moved == ["0"]


class EvenApp(App[None]):
    """A list whose columns have more to say, or less, than their shares."""

    def compose(self) -> ComposeResult:
        yield RowList(
            (
                Column("Name", 6),
                Column("Source", weight=1),
                Column("Target", weight=1),
                Column("Used", 5, right=True),
            ),
            id="list",
        )


async def test_a_column_gets_what_another_does_not_need() -> None:
    app = EvenApp()
    async with app.run_test(size=(60, 5)) as pilot:
        row_list = app.query_one("#list", RowList)
        short = Row("1", (Cell("a"), Cell("registry/a"), Cell("a"), Cell("now")))
        row_list.set_rows([short])
        await pilot.pause()
        before = lines(app)[0]
        assert before.index("Target") - before.index("Source") == 22
        long = Row(
            "2",
            (
                Cell("nginx-of-us"),
                Cell("registry.example.com/library/nginx"),
                Cell("b"),
                Cell("1,234,567"),
            ),
        )
        row_list.set_rows([short, long])
        await pilot.pause()
        # Not the numbers at the right, whose column keeps its width.
        assert lines(app)[2].split() == ["nginx-of-us", "registry.exa..library/nginx", "b", "1..67"]
        wide = lines(app)[0]
        # What was needed once is kept: nothing moves to and fro.
        row_list.set_rows([short])
        await pilot.pause()
        assert lines(app)[0] == wide


async def test_columns_that_all_need_more_keep_their_shares() -> None:
    app = EvenApp()
    async with app.run_test(size=(60, 5)) as pilot:
        row_list = app.query_one("#list", RowList)
        row_list.set_rows([Row("1", (Cell("name"), Cell("s" * 40), Cell("t" * 40), Cell("now")))])
        await pilot.pause()
        _, source, target, _ = lines(app)[1].split()[-4:]
        assert (len(source), len(target)) == (20, 20)


async def test_a_longer_text_that_is_scrolled_to_gets_its_room() -> None:
    app = EvenApp()
    async with app.run_test(size=(60, 5)) as pilot:
        row_list = app.query_one("#list", RowList)
        rows = [
            Row(str(number), (Cell("a"), Cell("s"), Cell("t"), Cell("now"))) for number in range(20)
        ]
        row_list.set_rows([*rows, Row("long", (Cell("a"), Cell("s" * 25), Cell("t"), Cell("now")))])
        await pilot.pause()
        assert not any("s" * 25 in line for line in lines(app))
        row_list.action_last()
        await pilot.pause()
        assert any("s" * 25 in line for line in lines(app))


WIDE = (
    "層レイヤ-library/nginx",
    "library/層",
    "層" * 30,
    "e\u0301" * 20,
    "\x1b[3;3Hx",
    "\x9b31m\u202e",
    "a\nb\tc",
    "plain",
)


@pytest.mark.parametrize("text", WIDE)
@pytest.mark.parametrize("options", [{}, {"right": True}, {"sentence": True}])
def test_a_text_takes_exactly_its_cells_whatever_is_in_it(
    text: str, options: dict[str, bool]
) -> None:
    """F89, S04: a character of two cells is never split, and a control character is shown and not
    obeyed."""
    for cells in range(1, 40):
        line = fitted(text, cells, **options)
        assert cell_len(line) == cells, (line, cells)
        assert line.isprintable()
        assert all(part.strip() in escaped(text) for part in line.split("..", 1)) or cells < 5


async def test_columns_stand_below_each_other_behind_wide_names() -> None:
    """F89."""
    wide = [Row(str(number), (Cell(text), Cell("12 kB"))) for number, text in enumerate(WIDE)]
    async with shown_list(wide) as (app, _):
        ends = {cell_len(line.partition("12 kB")[0]) for line in lines(app) if "12 kB" in line}
        assert len(ends) == 1


@pytest.mark.parametrize(
    "text",
    ["a few plain words that go on", "層レイヤ 層 レイヤレイヤレイヤ und x", "e\u0301 " * 9, ""],
)
@pytest.mark.parametrize("cells", [2, 5, 9, 80])
def test_sentences_are_broken_at_blanks_into_lines_that_fit(text: str, cells: int) -> None:
    """F89."""
    broken = wrapped(text, cells)
    assert all(cell_len(line) <= cells for line in broken)
    assert "".join(broken).replace(" ", "") == text.replace(" ", "")
