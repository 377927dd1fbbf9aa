"""Is the cache well, and what is it doing?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from entrepot.api.models import (
    Activity,
    ActivityCounts,
    Event,
    PullSnapshot,
    SourceRegistrySnapshot,
)
from tui.polling import IDLE_POLL_INTERVAL
from tui.presentation.overview import (
    SERVER_WIDTH,
    WIDTH_FOR_TWO_COLUMNS,
    distribute_height,
    figures,
    history,
    last_events,
    more_pulls,
    needs,
    shortened,
    sources,
    space,
)
from tui.presentation.pulls import (
    PROGRESS_COLUMNS,
    PROGRESS_WIDTH,
    STEADY_COLUMNS,
    pull_progress,
    pull_row,
    running_summary,
)
from tui.screens.base import WIDE, EngineScreen
from widgets.bars import update_line
from widgets.charts import Sparkline
from widgets.row_list import Column, RowList
from widgets.text import Plain

HISTORY_INTERVAL = 30.0
"""Seconds between two looks at the 24 hours: they are kept in steps of five minutes."""

EVENTS_ASKED = 40
"""Events that are asked for: more than any terminal has lines for."""

LABEL = 10
"""Cells before the bars of the history, with the two that indent it."""


def _block(id: str, *columns: Column) -> RowList:
    """Lines that are only looked at."""
    block = RowList(columns, id=id, header=False, cursor=False)
    block.can_focus = False
    return block


class OverviewScreen(EngineScreen):
    """The whole in one look."""

    area = 0
    CHANGES = frozenset({"new", "pull"})
    DEFAULT_CSS = f"""
    OverviewScreen {{
        & #progress {{ width: {PROGRESS_WIDTH}; }}
        & #idle {{ height: 1; padding: 0 2; color: $text-muted; }}
        & .head {{ height: 1; padding: 0 1; text-style: bold; }}
        & #right {{ width: 1fr; }}
        & #figures {{ height: 4; }}
        & .space, & #needs, & #events {{ height: 1; }}
        & .space > .head {{ width: 7; }}
        & #needs-head {{ color: $warning; &.-begin {{ color: $accent; }} &.-well {{ color: $success; }} }}
        & .gap {{ height: 1; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new rule", tooltip="Make a cache rule", id="overview.new"),
        Binding("p", "pull", "pull", tooltip="Pull an image into the cache", id="overview.pull"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._pulls: Sequence[PullSnapshot] = ()
        self._upstreams: Sequence[SourceRegistrySnapshot] = ()
        self._events: Sequence[Event] = ()
        self._activity: Activity | None = None
        self._counted: ActivityCounts | None = None
        self._next_rest = 0.0
        self._next_history = 0.0

    def body(self) -> ComposeResult:
        """Pulls, figures beside sources, space, what needs attention, events."""
        with Horizontal(classes="title"):
            yield Plain("Pulling now", classes="title--name")
            yield Plain("", classes="title--count")
        with Horizontal(id="pulls"):
            steady = _block("pulling", *STEADY_COLUMNS)
            volatile = RowList(
                PROGRESS_COLUMNS, id="progress", header=False, marker=False, cursor=False
            )
            volatile.follow(steady)
            yield steady
            yield volatile
        yield Plain("Nothing is being pulled.", id="idle")
        yield Plain("", classes="gap")
        with Horizontal(id="halves"):
            with Vertical(id="left"):
                yield Plain("Last 24 hours", classes="head")
                yield _block("figures", Column("", weight=1))
                yield Sparkline("  hits", label_width=LABEL, id="hits")
                yield Sparkline("  misses", label_width=LABEL, id="misses")
            with Vertical(id="right"):
                yield Plain("Sources", classes="head")
                yield _block(
                    "sources",
                    Column("", SERVER_WIDTH, needs=WIDTH_FOR_TWO_COLUMNS),
                    Column("", weight=1, sentence=True),
                )
        yield Plain("", classes="gap")
        with Horizontal(classes="space"):
            yield Plain("Space", classes="head")
            yield _block("space", Column("", weight=1))
        yield Plain("", classes="gap")
        yield Plain("", classes="head", id="needs-head")
        yield _block("needs", Column("", weight=1))
        yield Plain("", classes="gap", id="before-events")
        yield Plain("Last events", classes="head", id="events-head")
        yield _block("events", Column("", 12), Column("", weight=1, sentence=True))

    def on_screen_resume(self) -> None:
        """Ask for all of it again."""
        self._next_rest = self._next_history = 0.0

    def on_resize(self) -> None:
        """Share the height out anew."""
        self.call_after_refresh(self._show)

    async def fetch(self) -> None:
        """The pulls as long as any goes on, at every look; the rest every two seconds; the history
        when it has changed."""
        client, status = self.app.client, self.app.status
        assert status is not None
        self._pulls = await client.pulls.list_running() if status.pulls_running else ()
        if time.monotonic() >= self._next_rest:
            self._upstreams = await client.system.source_registries()
            self._events = await client.system.recent_events(EVENTS_ASKED)
            self._next_rest = time.monotonic() + IDLE_POLL_INTERVAL * 0.9
        if time.monotonic() >= self._next_history or (
            self._activity is None and status.last_day != self._counted
        ):
            self._activity = await client.system.activity()
            self._counted = status.last_day
            self._next_history = time.monotonic() + HISTORY_INTERVAL
        self._show()

    def _show(self) -> None:
        status = self.app.status
        if status is None or not self.is_mounted:
            return
        now = time.time()
        width, height = self.size.width, self.size.height - 3
        head, tone, wanted = needs(status, width, self.app.demo_images)
        left = 38 if 76 <= width < WIDE else width // 2
        right = width - left
        told_sources = sources(self._upstreams, now, right - 3, lines=height)
        heights = distribute_height(
            height,
            running=len(self._pulls),
            needs=1 + len(wanted),
            sources=len(told_sources),
            events=len(self._events),
        )
        if (
            side := self.query_one("#left")
        ).styles.width is None or side.styles.width.cells != left:
            side.styles.width = left
        self._lay_out(
            heights.pulls,
            heights.halves,
            heights.history,
            heights.needs,
            heights.events,
            heights.gaps,
        )
        shown = self._pulls[: heights.pulls]
        self.query_one("#pulling", RowList).set_rows([pull_row(pull) for pull in shown])
        self.query_one("#progress", RowList).set_rows([pull_progress(pull, now) for pull in shown])
        running = running_summary(self._pulls)
        self._tell(
            ".title--count",
            f"{more_pulls(len(self._pulls), len(shown))}{running}" if running else "",
        )
        self.query_one("#figures", RowList).set_rows(figures(status, left - 3))
        self.query_one("#sources", RowList).set_rows(
            sources(self._upstreams, now, right - 3, lines=heights.halves - 1)
        )
        self.query_one("#space", RowList).set_rows([space(status, width - 7)])
        self._tell("#needs-head", head)
        self.query_one("#needs-head").set_class(tone == "accent", "-begin").set_class(
            tone == "good", "-well"
        )
        self.query_one("#needs", RowList).set_rows(
            shortened(wanted, heights.needs - 1) if tone == "warn" else wanted[: heights.needs - 1]
        )
        self.query_one("#events", RowList).set_rows(last_events(self._events, now, heights.events))
        if self._activity is not None and heights.history:
            hits, misses, most = history(self._activity, left - LABEL - 1)
            self.query_one("#hits", Sparkline).show(hits, most)
            self.query_one("#misses", Sparkline).show(misses, most)

    def _lay_out(
        self, pulls: int, halves: int, has_history: bool, needed: int, events: int, gaps: bool
    ) -> None:
        self.query_one("#pulls").display = bool(self._pulls)
        self.query_one("#idle").display = not self._pulls
        for name, lines in (
            ("pulls", pulls),
            ("halves", halves),
            ("needs", needed - 1),
            ("events", events),
        ):
            widget = self.query_one(f"#{name}")
            if widget.styles.height is None or widget.styles.height.cells != lines:
                widget.styles.height = lines
        for gap in self.query(".gap"):
            gap.display = gaps
        for name, is_shown in (
            ("hits", has_history),
            ("misses", has_history),
            ("needs", needed > 1),
            ("events-head", events > 0),
            ("events", events > 0),
        ):
            self.query_one(f"#{name}").display = is_shown
        self.query_one("#before-events").display = gaps and events > 0

    def _tell(self, selector: str, told: str) -> None:
        update_line(self.query_one(selector, Plain), told)

    async def action_new(self) -> None:
        """Go to the rules and open the wizard."""
        await self.app.show_area("Rules")
        self.app.call_after_refresh(self.app.screen.run_action, "new")

    def action_pull(self) -> None:
        """Pull an image."""
        self.app.prompt_pull("")
