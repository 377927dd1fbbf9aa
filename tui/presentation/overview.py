"""The overview: figures, sources, space, notices, and the layout of its height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.api.models import Activity, EngineStatus, Event, SourceRegistrySnapshot
from entrepot.formatting import bar, counted, out_of, size
from tui.presentation.access import access_line
from tui.presentation.events import events_by_key, severity, when
from tui.presentation.sources import source_summary, used_first
from widgets.charts import grouped
from widgets.row_list import Cell, Row
from widgets.text import wrapped

FIGURES = 4
"""Lines of figures."""

SPACE_LOW = 0.9
"""The share of used space from which the overview warns that eviction is near."""

RULES_LOW = 0.95
"""The share of the possible rules from which the overview mentions their number."""

SERVER_WIDTH = 18
"""Cells of a login server beside its state."""

MAX_OFFERED = 3
"""Images of a demo's source that are named: more would take a third line."""

WIDTH_FOR_TWO_COLUMNS = 36
"""Cells from which a login server has its own column."""


@dataclass(frozen=True, slots=True)
class Heights:
    """Lines for each part between the tabs and the keys.

    *gaps* says whether empty lines separate the parts, and whether there is a line on the access;
    0 *events*: there is no room for them.
    """

    pulls: int
    halves: int
    history: bool
    needs: int
    events: int
    gaps: bool


def distribute_height(
    height: int, *, running: int, needs: int, sources: int, events: int
) -> Heights:
    """Distribute *height* lines among the panels of the overview.

    These are running pulls, notices (*needs*), sources and events.
    """
    gaps = height >= 17
    history = height >= 17
    halves = 1 + FIGURES + 2 * history
    if height >= 30:
        halves = max(halves, min(1 + sources, 14))
    # The title of the pulls, the line of the space, the gaps, and the line of the access.
    free = height - 2 - halves - 4 * gaps
    needs = min(needs, max(1, free - 3) if gaps else 3)
    free -= needs
    # Events have a title and a gap; below three lines they are not worth it.
    most = free - 3 if gaps else free
    if height >= 30:
        most = min(most, max(4, most * 2 // 3))
    pulls = max(1, min(max(1, running), most))
    free -= pulls
    event_lines = free - 2 if gaps and free >= 3 and events else 0
    return Heights(
        pulls=pulls, halves=halves, history=history, needs=needs, events=event_lines, gaps=gaps
    )


def figures(status: EngineStatus, width: int) -> list[Row]:
    """What clients got in the last 24 hours, and how much of it came from the cache."""
    day = status.last_day
    from_cache = max(0, day.served - day.from_source)
    share = f"{from_cache / day.served:.0%}".replace("%", " %") if day.served else ""
    saved = "counted pulls saved" if width >= 35 else "pulls saved"
    lines = (
        ("served", "", size(day.served)),
        ("from the cache", share, size(from_cache)),
        ("from sources", "", size(day.from_source)),
        (saved, "", f"{day.requests_saved:,}"),
    )
    name_width = max(15, min(21, width - 15))
    beside = 5 if width >= name_width + 15 else 0
    return [
        Row(name, (Cell(f"{name:<{name_width}}{share if beside else '':>{beside}}{value:>10}"),))
        for name, share, value in lines
    ]


def history(activity: Activity, columns: int) -> tuple[list[float], list[float], float]:
    """Hits and misses over the last 24 hours, oldest first.

    They have at most *columns* columns. The third value is the highest of both in one column.
    """
    hits = grouped([bucket.hits for bucket in activity.buckets], columns)
    misses = grouped([bucket.misses for bucket in activity.buckets], columns)
    return hits, misses, max([*hits, *misses], default=0.0)


def sources(
    registries: Sequence[SourceRegistrySnapshot], now: float, width: int, lines: int
) -> list[Row]:
    """The source registries that rules use, and their states.

    A long state takes two lines. Where there is too little room, sources with problems come first.
    """
    used = [registry for registry in used_first(registries) if registry.rules]
    if not used:
        return [_in_columns("none", Cell("none is in use yet", "dim"), width)]
    states = [(registry.login_server, source_summary(registry, now)) for registry in used]
    if width < WIDTH_FOR_TWO_COLUMNS:
        groups = [
            [Row(name, (Cell(""), Cell(f"{name}  {state.text}", state.tone)))]
            for name, state in states
        ]
    else:
        groups = [_source(name, state, width - SERVER_WIDTH - 2) for name, state in states]
    if sum(len(group) for group in groups) > lines:
        groups.sort(key=lambda group: group[0].cells[1].tone not in {"bad", "warn"})
    rows: list[Row] = []
    for number, group in enumerate(groups):
        follow = number < len(groups) - 1
        if len(rows) + len(group) + follow > lines:
            more = Cell(f"and {len(groups) - number} more", "dim")
            return [*rows, _in_columns("more", more, width)]
        rows.extend(group)
    return rows


def _in_columns(key: str, cell: Cell, width: int) -> Row:
    """A row of one cell, in the first column where there are two."""
    return Row(key, (cell, Cell("")) if width >= WIDTH_FOR_TWO_COLUMNS else (Cell(""), cell))


def _source(login_server: str, state: Cell, width: int) -> list[Row]:
    parts = wrapped(state.text, max(10, width))
    return [
        Row(f"{login_server} {line}", (Cell("" if line else login_server), Cell(part, state.tone)))
        for line, part in enumerate(parts)
    ]


def space(status: EngineStatus, width: int) -> Row:
    """How much of the space is used, and when eviction starts."""
    if not status.space_limit:
        return Row("space", (Cell(f"{size(status.blobs_size)} cached"),))
    share = status.blobs_size / status.space_limit
    text = f"{int(share * 100):>3} %   {out_of(status.blobs_size, status.space_limit)}"
    if width >= 70:
        text += "   evicts when full"
    return Row(
        "space",
        (
            Cell(
                f"{bar(share, max(6, min(40, width - len(text) - 7)))}  {text}",
                "warn" if share >= SPACE_LOW else "",
            ),
        ),
    )


def access(status: EngineStatus, now: float) -> Row:
    """Who may read, and whether the way is encrypted."""
    return Row("access", (access_line(status, now),))


def needs(
    status: EngineStatus, width: int, offered: Sequence[str] = ()
) -> tuple[str, str, list[Row]]:
    """What an administrator must know now or do first.

    A head, its tone, and sentences in lines. *offered* are the images of a demo's source.
    """
    notices = [*status.notices]
    if status.space_limit and status.blobs_size >= SPACE_LOW * status.space_limit:
        share = int(status.blobs_size / status.space_limit * 100)
        notices.append(
            f"{share} % of the space is used. Eviction starts at {size(status.space_limit)}, "
            "with the least recently used images."
        )
    if status.rules >= RULES_LOW * status.rules_limit:
        notices.append(f"{status.rules:,} of {status.rules_limit:,} possible cache rules exist.")
    if notices:
        return "Needs attention", "warn", _wrapped(notices, width, "! ")
    if not status.rules:
        first = (
            "Press n to create the first cache rule: it says which repository of which registry "
            "appears here, and under which name."
        )
        then = (
            f"Container clients then pull from {status.address}, and the first pull of an image "
            "caches it for later pulls."
        )
        return "Get started", "accent", _wrapped((first, then), width, "")
    if not status.repositories:
        first = (
            "Nothing is cached yet. Press p to pull an image, or point a container client at "
            f"{status.address}."
        )
        if offered:
            examples = ", ".join(offered[:MAX_OFFERED])
            more = " and more" if len(offered) > MAX_OFFERED else ""
            first = (
                f"This demo's source has {examples}{more}. "
                "Press p, then enter twice, to pull the first."
            )
        return "Healthy", "good", _wrapped((first,), width, "")
    return "Healthy", "good", []


def shortened(rows: Sequence[Row], lines: int) -> list[Row]:
    """At most *lines* of the rows.

    The last line says how many more there are, and where.
    """
    if len(rows) <= lines:
        return list(rows)
    more = counted(len(rows) - max(0, lines - 1), "more line")
    return [
        *rows[: max(0, lines - 1)],
        Row("more", (Cell(f"  {more} in: entrepot status", "dim"),)),
    ][:lines]


def last_events(events: Sequence[Event], now: float, lines: int) -> list[Row]:
    """The last events, newest first."""
    latest = list(events_by_key(events).items())[:lines]
    return [
        Row(key, (Cell(when(event, now), "dim"), Cell(event.message, severity(event)[1])))
        for key, event in latest
    ]


def more_pulls(running: int, shown: int) -> str:
    """How many running pulls have no line: ``12 more``."""
    return f"{counted(running - shown, 'more', 'more')}   " if running > shown else ""


def _wrapped(texts: Sequence[str], width: int, mark: str) -> list[Row]:
    rows = []
    for number, text in enumerate(texts):
        for line, part in enumerate(wrapped(text, max(20, width - 4 - len(mark)))):
            rows.append(
                Row(f"{number} {line}", (Cell(f"{mark if line == 0 else ' ' * len(mark)}{part}"),))
            )
    return rows
