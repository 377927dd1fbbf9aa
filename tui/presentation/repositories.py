"""Cached repositories, their tags, and evictions as rows and sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from entrepot.api.models import (
    EvictedImage,
    EvictionSnapshot,
    RefreshedTag,
    RepositorySnapshot,
    TagSnapshot,
)
from entrepot.formatting import ago, counted, duration, short_digest, since, size, what_stays
from tui.presentation.status import day
from widgets.row_list import Cell, Row


class RepositoryRow(Row):
    """Name, source, tags, size and last pull of a cached repository, put into words when somebody
    looks: there may be ten thousand."""

    __slots__ = ("_clock", "found")

    def __init__(self, found: RepositorySnapshot, clock: Callable[[], float]) -> None:
        super().__init__(found.name, ())
        self.found = found
        self._clock = clock

    def build_cells(self) -> tuple[Cell, ...]:
        """The cells."""
        found = self.found
        return (
            Cell(f"{found.name}  locked" if found.locked else found.name, "accent"),
            Cell(found.source_repository, "dim"),
            Cell(f"{found.tags:,}"),
            Cell(size(found.size)),
            Cell(ago(found.last_pull, self._clock()), "dim"),
        )

    def search(self) -> str:
        """Where a filter looks: also in the name of the rule."""
        found = self.found
        return f"{found.name} {found.source_repository} {found.rule or ''}{' locked' if found.locked else ''}"

    def values(self) -> tuple[str, str, int, int, float]:
        """The order of each column."""
        found = self.found
        return found.name, found.source_repository, found.tags, found.size, found.last_pull or 0.0


def repository_lines(found: RepositorySnapshot, now: float) -> tuple[str, ...]:
    """A cached repository in sentences."""
    rule = f"rule {found.rule}" if found.rule else "no rule any more: what is held stays pullable"
    locked = "locked: neither evicted nor deleted   " if found.locked else ""
    used = f", the last {since(found.last_pull, now)}" if found.last_pull is not None else ""
    return (
        f"from {found.source_repository}   {rule}",
        f"{locked}{counted(found.pulls, 'pull')}{used}   {counted(found.manifests, 'manifest')}   since {day(found.created)}",
    )


def repository_facts(found: RepositorySnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A cached repository as names and values."""
    return (
        ("Source", found.source_repository),
        ("Rule", found.rule or "none any more: what is held stays pullable"),
        ("Cached since", day(found.created)),
        *((("Locked", "yes: neither evicted nor deleted"),) if found.locked else ()),
        ("", ""),
        ("Tags", f"{found.tags:,}"),
        ("Manifests", f"{found.manifests:,}"),
        ("Size", size(found.size)),
        ("Pulls", f"{found.pulls:,}"),
        ("Last pull", f"{since(found.last_pull, now)}" if found.last_pull is not None else "never"),
    )


def tag_row(tag: TagSnapshot, clock: Callable[[], float]) -> Row:
    """Tag, platforms, size, age, last pull and state."""
    platforms = " ".join(platform.removeprefix("linux/") for platform in tag.platforms)

    def cells() -> tuple[Cell, ...]:
        now = clock()
        word, tone = tag_state(tag, now)
        return (
            Cell(tag.name, "accent"),
            Cell(platforms or "-"),
            Cell(size(tag.size)),
            Cell(ago(tag.cached, now), "dim"),
            Cell(ago(tag.last_pull, now), "dim"),
            Cell(word, tone),
        )

    words = f"{tag.name} {' '.join(tag.platforms)} {tag.digest}{' locked' if tag.locked else ''}{' gone' if tag.gone else ''}"
    trust = (tag.gone, tag.locked, tag.fresh_until or math.inf)
    return Row(
        tag.name,
        cells,
        search=words,
        order=(
            natural_order(tag.name),
            platforms,
            tag.size,
            tag.cached,
            tag.last_pull or 0.0,
            trust,
        ),
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """By what versions are sorted: 1.9 comes before 1.27."""
    return [
        (int(number) if number else -1, letters)
        for number, letters in re.findall(r"([0-9]+)|([^0-9]+)", name)
    ]


def tag_lines(tag: TagSnapshot, now: float) -> tuple[str, ...]:
    """A tag in sentences."""
    word, _ = tag_state(tag, now)
    used = f"pulled {since(tag.last_pull, now)}" if tag.last_pull is not None else "never pulled"
    return (tag.digest, f"{word}   cached {since(tag.cached, now)}   {used}")


def tag_facts(tag: TagSnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A tag as names and values."""
    return (
        ("Digest", tag.digest),
        ("Platforms", ", ".join(tag.platforms) or "none held"),
        ("Size", size(tag.size)),
        ("", ""),
        ("State", tag_state(tag, now)[0]),
        *((("Locked", "yes: neither evicted nor deleted"),) if tag.locked else ()),
        ("Cached", f"{since(tag.cached, now)}"),
        ("Checked", f"{since(tag.checked, now)}"),
        ("Last pull", f"{since(tag.last_pull, now)}" if tag.last_pull is not None else "never"),
    )


def tag_state(tag: TagSnapshot, now: float) -> tuple[str, str]:
    """How much a tag is to be believed, in words, and the tone of them."""
    if tag.locked:
        return ("locked, gone at source", "warn") if tag.gone else ("locked", "good")
    if tag.gone:
        return "gone at its source, kept", "warn"
    if tag.fresh_until is None:
        return "kept, never checked", "good"
    if tag.fresh_until > now:
        return f"fresh, {duration(tag.fresh_until - now)} left", "good"
    return f"checked {since(tag.checked, now)}", "dim"


def eviction_lines(found: EvictionSnapshot, now: float, *, shown: int = 6) -> str:
    """What an eviction takes, the image used least recently first."""
    images = [
        f"  {evicted_image(each)}   {size(each.freed)}   {since(each.last_used, now)}"
        for each in found.images[:shown]
    ]
    more = (
        [f"  and {counted(len(found.images) - shown, 'more image')}"]
        if len(found.images) > shown
        else []
    )
    missed = (
        [
            f"\nThe goal is missed by {size(found.shortfall)}: {what_stays(found.locked, found.in_use, found.recent)}."
        ]
        if found.shortfall
        else []
    )
    return "\n".join(
        [
            f"{size(found.held)} are held. {size(found.freed)} go, the images used least recently:",
            *images,
            *more,
            *missed,
        ]
    )


def nothing_to_evict(plan: EvictionSnapshot) -> str:
    """Why no image would go."""
    reason = (
        what_stays(plan.locked, plan.in_use, plan.recent)
        if plan.shortfall
        else f"{size(plan.held)} are held, which is no more than that"
    )
    return f"Nothing would go: {reason}."


def evicted_image(found: EvictedImage) -> str:
    """An image as one would pull it, and its platform."""
    name = (
        f"{found.repository}:{found.tags[0]}"
        if found.tags
        else f"{found.repository}@{found.digest[:19]}"
    )
    return f"{name} {(found.platform or '').removeprefix('linux/')}".rstrip()


def refreshed_text(done: RefreshedTag) -> tuple[str, bool]:
    """What the source said about a tag that was asked for on purpose, and whether there is
    something to pull now."""
    name, server = (
        f"{done.repository}:{done.tag}",
        done.source_repository.partition("/")[0] or "its source",
    )
    if done.problem is not None:
        return f"{server} could not be asked: {done.problem}", False
    if done.gone:
        return f"{name} is gone at {server}. What is held of it stays.", False
    if done.before is None:
        return f"{name} is new here: it points to {short_digest(done.digest)}.", True
    if done.moved:
        return (
            f"{name} has moved from {short_digest(done.before)} to {short_digest(done.digest)}.",
            True,
        )
    return f"{name} is unchanged at {server}.", False
