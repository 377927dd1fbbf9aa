"""Is the cache well, and what is it doing?"""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from entrepot.snapshots import EngineStatus, PullSnapshot, UpstreamSnapshot
from entrepot.words import duration, size
from tui.presentation import pull_progress, pull_row, upstream_state
from tui.screens.area import EngineScreen
from tui.screens.pulls import PROGRESS_COLUMNS
from widgets.row_list import Column, RowList

PULLS_SHOWN = 6


def figures(status: EngineStatus, now: float) -> str:
    """What was served, and what of it from the cache."""
    from_cache = max(0, status.served - status.from_source)
    share = f"{from_cache / status.served:.0%}" if status.served else "-"
    lines = (
        ("served", size(status.served), ""),
        ("from the cache", size(from_cache), share),
        ("from sources", size(status.from_source), ""),
        ("", "", ""),
        ("held", size(status.blobs_size), ""),
        ("repositories", f"{status.repositories:,}", ""),
        ("cache rules", f"{status.rules:,}", f"of {status.rules_limit:,}"),
        ("credential sets", f"{status.credential_sets:,}", ""),
    )
    head = f"Since the start, {duration(now - status.started)} ago"
    return "\n".join([head, *(f"  {name:<16}{value:>10}  {more}".rstrip() for name, value, more in lines)])


def sources(upstreams: list[UpstreamSnapshot]) -> str:
    """The source registries that rules use, and how they are."""
    used = [each for each in upstreams if each.rules]
    if not used:
        return "Sources\n  No rule uses one yet."
    return "\n".join(["Sources", *(f"  {each.login_server:<20}{upstream_state(each)[0]}" for each in used)])


def needs(status: EngineStatus) -> str:
    """What an administrator should know now."""
    if status.notices:
        return "\n".join(["Needs you", *(f"  ! {notice}" for notice in status.notices)])
    if not status.rules:
        return "To begin\n  Press 2 and then n to make the first cache rule."
    return "All is well."


def headed(text: str) -> Text:
    """The first line of a paragraph as its heading."""
    head, newline, rest = text.partition("\n")
    return Text(head, "bold") if not newline else Text().append(head, "bold").append(newline + rest)


class OverviewScreen(EngineScreen):
    """The whole in one look."""

    area = 0
    DEFAULT_CSS = """
    OverviewScreen {
        & .section { height: 1; padding: 0 1; margin-top: 0; }
        & .pulls { height: 8; }
        & #progress { width: 44; }
        & .halves { height: 10; }
        & .halves Static { padding: 0 1; }
        & #figures { width: 44; }
        & #sources { width: 1fr; }
        & #needs { padding: 0 1; height: auto; color: $foreground; }
        & #idle { height: 8; padding: 0 3; color: $text-muted; display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new rule", tooltip="Make a cache rule", id="overview.new"),
        Binding("p", "pull", "pull", tooltip="Pull an image into the cache", id="overview.pull"),
    ]

    def body(self) -> ComposeResult:
        """Pulls, figures and sources, what needs attention."""
        with Horizontal(classes="title"):
            yield Static("Pulling now", classes="title--name")
            yield Static("", classes="title--count", markup=False)
        with Horizontal(classes="pulls"):
            steady = RowList(
                (Column("Image", weight=3), Column("", 5, needs=48), Column("Source", weight=1, needs=60)), id="pulling", header=False, cursor=False
            )
            volatile = RowList(PROGRESS_COLUMNS, id="progress", header=False, marker=False, cursor=False)
            volatile.follow(steady)
            steady.can_focus = False
            yield steady
            yield volatile
        yield Static("Nothing is being pulled.", id="idle")
        with Horizontal(classes="halves"):
            yield Static("", id="figures", markup=False)
            yield Static("", id="sources", markup=False)
        with Vertical():
            yield Static("", id="needs", markup=False)

    async def fetch(self) -> None:
        """Status, pulls, sources."""
        status = await self.app.client.status()
        pulls = await self.app.client.pulls()
        upstreams = await self.app.client.upstreams()
        now = time.time()
        self._show_pulls([pull for pull in pulls if not pull.state.ended][:PULLS_SHOWN] or pulls[:3], status, now)
        for name, told in (("figures", figures(status, now)), ("sources", sources(upstreams)), ("needs", needs(status))):
            widget = self.query_one(f"#{name}", Static)
            if str(widget.content) != told:
                widget.update(headed(told))

    def _show_pulls(self, shown: list[PullSnapshot], status: EngineStatus, now: float) -> None:
        self.query_one(".pulls").display = bool(shown)
        self.query_one("#idle").display = not shown
        self.query_one("#pulling", RowList).set_rows([pull_row(pull) for pull in shown])
        self.query_one("#progress", RowList).set_rows([pull_progress(pull, now) for pull in shown])
        told = f"{status.pulls_running:,} running   {size(status.speed)}/s" if status.pulls_running else ("the last ones" if shown else "")
        count = self.query_one(".title--count", Static)
        if str(count.content) != told:
            count.update(told)

    async def action_new(self) -> None:
        """Go to the rules and open the wizard."""
        await self.app.action_area(2)
        self.app.call_after_refresh(self.app.screen.run_action, "new")

    def action_pull(self) -> None:
        """Pull an image."""
        self.app.ask_for_pull("")
