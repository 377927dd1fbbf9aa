"""Events as rows and sentences."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.api.models import Event
from entrepot.event_kinds import EventKind, Severity
from entrepot.formatting import since
from tui.presentation.status import clock_time
from widgets.detail import Detail
from widgets.row_list import Cell, Row

_SEVERITIES = {
    Severity.INFO: ("", ""),
    Severity.WARNING: ("warning", "warn"),
    Severity.ERROR: ("error", "bad"),
}
"""The word and the tone of each severity; an ordinary event needs no word."""

_DELETIONS = frozenset(
    {EventKind.RULE_DELETED, EventKind.CREDENTIAL_SET_DELETED, EventKind.REPOSITORY_DELETED}
)


@dataclass(frozen=True, slots=True)
class EventSubject:
    """The subject of an event: the row *key* of an *area*.

    *label* names it in a sentence.
    """

    area: str
    key: str
    label: str


def events_by_key(events: Sequence[Event]) -> dict[str, Event]:
    """Events by a key, newest first.

    The key stays the same while older events are dropped.
    """
    repeats: Counter[tuple[float, str, str]] = Counter()
    by_key = {}
    for event in events:
        same = (event.time, event.kind, event.message)
        by_key[f"{event.time!r} {event.kind} {repeats[same]} {event.message}"] = event
        repeats[same] += 1
    return dict(reversed(by_key.items()))


def severity(event: Event) -> tuple[str, str]:
    """The word for the severity of an event, and its tone."""
    return _SEVERITIES[event.severity]


def when(event: Event, now: float) -> str:
    """``20:26:40`` today, ``27 May 20:26`` on another day."""
    then, here = time.localtime(event.time), time.localtime(now)
    if then[:3] == here[:3]:
        return clock_time(event.time)
    month_format = "%b %H:%M" if then.tm_year == here.tm_year else "%b %Y"
    return f"{then.tm_mday:>2} {time.strftime(month_format, then)}"


def event_row(key: str, event: Event, now: float) -> Row:
    """The row of an event: time, severity and message."""
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
    """What an event is about; None where no screen shows it."""
    subject = event.subject
    if subject is None or event.kind in _DELETIONS:
        return None
    if event.kind.startswith("rule-"):
        return EventSubject("Rules", subject, f"the cache rule {subject}")
    if event.kind.startswith("credential-set-"):
        return EventSubject("Credentials", subject, f"the credential set {subject}")
    if event.kind.startswith("pull-"):
        return EventSubject("Pulls", subject, "the pull")
    if event.kind.startswith("source-"):
        return EventSubject("Sources", subject, f"the source registry {subject}")
    if event.kind.startswith(("tag-", "manifest-")) or event.kind in {
        EventKind.LOCKED,
        EventKind.UNLOCKED,
    }:
        repository = subject.partition("@")[0].partition(":")[0]
        return EventSubject("Repositories", repository, f"the cached repository {repository}")
    return None


def event_detail(event: Event, now: float) -> Detail:
    """An event in a list: the whole message, and what it is about."""
    word, _ = severity(event)
    parts = [since(event.time, now), event.kind, word]
    parts += [f"about {event.subject}"] if event.subject else []
    facts = (
        ("When", f"{when(event, now)}, {since(event.time, now)}"),
        ("Kind", event.kind),
        ("Severity", word or "none"),
        ("About", event.subject or "-"),
    )
    return Detail(
        "Event",
        (event.message, "   ".join(part for part in parts if part)),
        facts,
        (event.message,),
    )


def event_cells(event: Event, now: float) -> list[Cell]:
    """The cells of an opened event."""
    word, tone = severity(event)
    subject = event_subject(event)
    cells = [
        Cell(event.message, tone),
        Cell(""),
        Cell(
            "   ".join(
                part
                for part in (f"{when(event, now)}, {since(event.time, now)}", event.kind, word)
                if part
            ),
            "dim",
        ),
    ]
    if subject is not None:
        cells.append(Cell(f"It is about {subject.label}.", "dim"))
    return cells
