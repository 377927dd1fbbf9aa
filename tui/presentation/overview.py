"""The whole engine in one look: figures, sources, space, what needs attention, and how the height
is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.api.models import Activity, EngineStatus, Event, SourceRegistrySnapshot
from entrepot.formatting import bar, counted, out_of, size
from tui.presentation.events import events_by_key, severity, when
from tui.presentation.sources import source_summary, used_first
from widgets.charts import grouped
from widgets.row_list import Cell, Row
from widgets.text import wrapped

FIGURES = 4
"""Lines of figures."""

SPACE_LOW = 0.9
"""The share of the space from which on it is worth saying that eviction is near."""

RULES_LOW = 0.95
"""The share of the possible rules from which on they are worth a word."""

SERVER = 18
"""Cells for a login server beside its state."""

OFFERED_SHOWN = 3
"""Images of a demo's source that are named: with more the sentence takes a third line."""

BESIDE = 36
"""Cells from which on it stands beside its state and not before it."""


@dataclass(frozen=True, slots=True)
class Heights:
    """Lines for each part between tabs and keys. *gaps* says whether an empty line stands between
    two parts; no *events*: there is no room for any."""

    pulls: int
    halves: int
    history: bool
    needs: int
    events: int
    gaps: bool


def distribute_height(
    height: int, *, running: int, needs: int, sources: int, events: int
) -> Heights:
    """How *height* lines are best used for that many pulls, lines of what needs attention, lines of
    sources, and events."""
    gaps = height >= 17
    history = height >= 17
    halves = 1 + FIGURES + 2 * history
    if height >= 30:
        halves = max(halves, min(1 + sources, 14))
    # The titles of the pulls and the line of the space, and what stands between the parts.
    left = height - 2 - halves - 3 * gaps
    needs = min(needs, max(1, left - 3) if gaps else 3)
    left -= needs
    # Events have a title and a gap of their own; below three lines they are not worth it.
    most = left - 3 if gaps else left
    if height >= 30:
        most = min(most, max(4, most * 2 // 3))
    pulls = max(1, min(max(1, running), most))
    left -= pulls
    shown = left - 2 if gaps and left >= 3 and events else 0
    return Heights(
        pulls=pulls, halves=halves, history=history, needs=needs, events=shown, gaps=gaps
    )


def figures(status: EngineStatus, width: int) -> list[Row]:
    """What clients got in the last 24 hours, and what of it the cache had."""
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
        Row(name, (Cell(f"{name:<{name_width}}{told if beside else '':>{beside}}{value:>10}"),))
        for name, told, value in lines
    ]


def history(activity: Activity, columns: int) -> tuple[list[float], list[float], float]:
    """Hits and misses over the last 24 hours in at most so many columns, oldest first, and the most
    of either in one column."""
    hits = grouped([bucket.hits for bucket in activity.buckets], columns)
    misses = grouped([bucket.misses for bucket in activity.buckets], columns)
    return hits, misses, max([*hits, *misses], default=0.0)


def sources(
    upstreams: Sequence[SourceRegistrySnapshot], now: float, width: int, lines: int
) -> list[Row]:
    """The source registries that rules use, and how they are: what is not well comes first when
    there is too little room. A long state takes two lines."""
    used = [each for each in used_first(upstreams) if each.rules]
    if not used:
        told = Cell("none is in use yet", "dim")
        return [Row("none", (told, Cell("")) if width >= BESIDE else (Cell(""), told))]
    states = [(each.login_server, source_summary(each, now)) for each in used]
    if width < BESIDE:
        groups = [
            [Row(name, (Cell(""), Cell(f"{name}  {state.text}", state.tone)))]
            for name, state in states
        ]
    else:
        groups = [_source(name, state, width - SERVER - 2) for name, state in states]
    if sum(len(group) for group in groups) > lines:
        groups.sort(key=lambda group: group[0].cells[1].tone not in {"bad", "warn"})
    rows: list[Row] = []
    for number, group in enumerate(groups):
        follow = number < len(groups) - 1
        if len(rows) + len(group) + follow > lines:
            more = Cell(f"and {len(groups) - number} more", "dim")
            return [*rows, Row("more", (more, Cell("")) if width >= BESIDE else (Cell(""), more))]
        rows.extend(group)
    return rows


def _source(login_server: str, state: Cell, width: int) -> list[Row]:
    parts = wrapped(state.text, max(10, width))
    return [
        Row(f"{login_server} {line}", (Cell("" if line else login_server), Cell(part, state.tone)))
        for line, part in enumerate(parts)
    ]


def space(status: EngineStatus, width: int) -> Row:
    """How much of the space is used, and when eviction begins."""
    if not status.space_limit:
        return Row("space", (Cell(f"{size(status.blobs_size)} held"),))
    share = status.blobs_size / status.space_limit
    told = f"{int(share * 100):>3} %   {out_of(status.blobs_size, status.space_limit)}"
    if width >= 70:
        told += "   evicts when it is full"
    return Row(
        "space",
        (
            Cell(
                f"{bar(share, max(6, min(40, width - len(told) - 7)))}  {told}",
                "warn" if share >= SPACE_LOW else "",
            ),
        ),
    )


def needs(
    status: EngineStatus, width: int, offered: Sequence[str] = ()
) -> tuple[str, str, list[Row]]:
    """What an administrator should know now, or do first: a head, its tone, and sentences in lines.
    *offered* are the images of a demo's source."""
    told = [*status.notices]
    if status.space_limit and status.blobs_size >= SPACE_LOW * status.space_limit:
        share = int(status.blobs_size / status.space_limit * 100)
        told.append(
            f"{share} % of the space is used. Eviction begins at {size(status.space_limit)} with what was used least recently."
        )
    if status.rules >= RULES_LOW * status.rules_limit:
        told.append(f"{status.rules:,} of {status.rules_limit:,} possible cache rules are made.")
    if told:
        return "Needs you", "warn", _wrapped(told, width, "! ")
    if not status.rules:
        first = "Press n to make the first cache rule: it says which repository of which registry appears here, and under which name."
        then = f"Container clients then pull from {status.address}, and the first pull of an image leaves a copy for every pull after it."
        return "To begin", "accent", _wrapped((first, then), width, "")
    if not status.repositories:
        first = f"Nothing is cached yet. Press p to pull an image, or point a container client at {status.address}."
        if offered:
            some, more = (
                ", ".join(offered[:OFFERED_SHOWN]),
                " and more" if len(offered) > OFFERED_SHOWN else "",
            )
            first = f"This demo's source has {some}{more}. Press p, then enter twice, to pull the first."
        return "All is well.", "good", _wrapped((first,), width, "")
    return "All is well.", "good", []


def shortened(rows: Sequence[Row], lines: int) -> list[Row]:
    """As many of the rows as there are *lines* for; the last one says how many more there are, and
    where."""
    if len(rows) <= lines:
        return list(rows)
    more = counted(len(rows) - max(0, lines - 1), "more line")
    return [
        *rows[: max(0, lines - 1)],
        Row("more", (Cell(f"  {more} in: entrepot status", "dim"),)),
    ][:lines]


def last_events(events: Sequence[Event], now: float, lines: int) -> list[Row]:
    """The last events, newest first."""
    shown = list(events_by_key(events).items())[:lines]
    return [
        Row(key, (Cell(when(event, now), "dim"), Cell(event.message, severity(event)[1])))
        for key, event in shown
    ]


def more_pulls(running: int, shown: int) -> str:
    """How many pulls there was no room for: ``12 more``."""
    return f"{counted(running - shown, 'more', 'more')}   " if running > shown else ""


def _wrapped(texts: Sequence[str], width: int, mark: str) -> list[Row]:
    rows = []
    for number, text in enumerate(texts):
        for line, part in enumerate(wrapped(text, max(20, width - 4 - len(mark)))):
            rows.append(
                Row(f"{number} {line}", (Cell(f"{mark if line == 0 else ' ' * len(mark)}{part}"),))
            )
    return rows
