"""Events as rows and sentences."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.api.models import Event
from entrepot.formatting import since
from tui.presentation.status import clock_time
from widgets.detail import Detail
from widgets.row_list import Cell, Row

ERRORS = frozenset(
    {"engine-unready", "disk-refuses", "documents-refused", "blob-damaged", "catalog-read-only"}
)
WARNINGS = frozenset(
    {
        "credential-set-unhealthy",
        "credential-set-unknown",
        "source-unreachable",
        "eviction-impossible",
        "tag-gone",
        "catalog-recovered",
        "foreign-names",
    }
)
"""What the engine's log calls so too."""


@dataclass(frozen=True, slots=True)
class EventSubject:
    """What an event is about: *area* and *key* say where it is to be found."""

    area: str
    key: str
    label: str


def events_by_key(events: Sequence[Event]) -> dict[str, Event]:
    """Events by a key that stays theirs while older ones are forgotten, newest first."""
    seen: Counter[tuple[float, str, str]] = Counter()
    found = {}
    for event in events:
        same = (event.time, event.kind, event.message)
        found[f"{event.time!r} {event.kind} {seen[same]} {event.message}"] = event
        seen[same] += 1
    return dict(reversed(found.items()))


def severity(event: Event) -> tuple[str, str]:
    """How bad it is, by word, and the tone; an ordinary event needs no word."""
    if event.kind in ERRORS:
        return "error", "bad"
    if event.kind in WARNINGS or (event.kind == "pull-ended" and " failed: " in event.message):
        return "warning", "warn"
    return "", ""


def when(event: Event, now: float) -> str:
    """``20:26:40`` today, ``27 May 20:26`` on another day."""
    then, here = time.localtime(event.time), time.localtime(now)
    if then[:3] == here[:3]:
        return clock_time(event.time)
    return f"{then.tm_mday:>2} {time.strftime('%b %H:%M' if then.tm_year == here.tm_year else '%b %Y', then)}"


def event_row(key: str, event: Event, now: float) -> Row:
    """When, how bad, and what happened."""
    word, tone = severity(event)
    cells = (
        Cell(when(event, now), "dim"),
        Cell(word, tone),
        Cell(event.message, tone if tone == "bad" else ""),
    )
    return Row(
        key,
        cells,
        search=f"{event.message} {event.kind} {word} {event.subject or ''}",
        order=(event.time, word, event.message),
    )


def event_subject(event: Event) -> EventSubject | None:
    """What an event is about, where that can be shown."""
    subject = event.subject
    if subject is None or event.kind in {
        "rule-deleted",
        "credential-set-deleted",
        "repository-deleted",
    }:
        return None
    if event.kind.startswith("rule-"):
        return EventSubject("Rules", subject, f"the cache rule {subject}")
    if event.kind.startswith("credential-set-"):
        return EventSubject("Credentials", subject, f"the credential set {subject}")
    if event.kind.startswith("pull-"):
        return EventSubject("Pulls", subject, "the pull")
    if event.kind.startswith("source-"):
        return EventSubject("Sources", subject, f"the source registry {subject}")
    if event.kind.startswith(("tag-", "manifest-")) or event.kind in {"locked", "unlocked"}:
        repository = subject.partition("@")[0].partition(":")[0]
        return EventSubject("Repositories", repository, f"the cached repository {repository}")
    return None


def event_detail(event: Event, now: float) -> Detail:
    """The whole message, and what it is about."""
    word, _ = severity(event)
    told = f"{since(event.time, now)}   {event.kind}{f'   {word}' if word else ''}{f'   about {event.subject}' if event.subject else ''}"
    facts = (
        ("When", f"{when(event, now)}, {since(event.time, now)}"),
        ("Kind", event.kind),
        ("Severity", word or "none"),
        ("About", event.subject or "-"),
    )
    return Detail("Event", (event.message, told), facts, (event.message,))


def event_cells(event: Event, now: float) -> list[Cell]:
    """An event that is opened."""
    word, tone = severity(event)
    about = event_subject(event)
    lines = [
        Cell(event.message, tone),
        Cell(""),
        Cell(
            f"{when(event, now)}, {since(event.time, now)}   {event.kind}{f'   {word}' if word else ''}",
            "dim",
        ),
    ]
    if about is not None:
        lines.append(Cell(f"It is about {about.label}.", "dim"))
    return lines
