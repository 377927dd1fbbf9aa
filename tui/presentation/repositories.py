"""Cached repositories, their tags, and evictions as rows and sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from entrepot.api.labels import (
    LOCKED,
    evicted_image_name,
    refreshed_tag_text,
    tag_platforms,
    tag_state,
)
from entrepot.api.models import (
    EvictedImage,
    EvictionSnapshot,
    RefreshedTag,
    RepositorySnapshot,
    TagSnapshot,
)
from entrepot.core.artifact_kinds import IMAGE
from entrepot.formatting import ago, counted, since, size, what_stays
from tui.presentation.status import day
from widgets.row_list import Cell, Row


class RepositoryRow(Row):
    """Name, source, tags, size and last pull of a cached repository.

    The cells are formatted when the row is drawn: there may be ten thousand rows.
    """

    __slots__ = ("_clock", "repository")

    def __init__(self, repository: RepositorySnapshot, clock: Callable[[], float]) -> None:
        super().__init__(repository.name, ())
        self.repository = repository
        self._clock = clock

    def build_cells(self) -> tuple[Cell, ...]:
        """The cells."""
        repository = self.repository
        return (
            Cell(f"{repository.name}  locked" if repository.locked else repository.name, "accent"),
            Cell(repository.source_repository, "dim"),
            Cell(f"{repository.tags:,}"),
            Cell(size(repository.size)),
            Cell(ago(repository.last_pull, self._clock()), "dim"),
        )

    def search(self) -> str:
        """The text that a filter searches: also the name of the rule."""
        repository = self.repository
        texts = (repository.name, repository.source_repository, repository.rule or "")
        return f"{' '.join(texts)}{' locked' if repository.locked else ''}"

    def values(self) -> tuple[str, str, int, int, float]:
        """The values by which each column is sorted."""
        repository = self.repository
        return (
            repository.name,
            repository.source_repository,
            repository.tags,
            repository.size,
            repository.last_pull or 0.0,
        )


def repository_lines(repository: RepositorySnapshot, now: float) -> tuple[str, ...]:
    """A cached repository in sentences."""
    rule = (
        f"rule {repository.rule}"
        if repository.rule
        else "no rule any more: what is cached can still be pulled"
    )
    locked = "locked: neither evicted nor deleted   " if repository.locked else ""
    used = (
        f", the last {since(repository.last_pull, now)}" if repository.last_pull is not None else ""
    )
    return (
        f"from {repository.source_repository}   {rule}",
        f"{locked}{counted(repository.pulls, 'pull')}{used}   "
        f"{counted(repository.manifests, 'manifest')}   since {day(repository.created)}",
    )


def repository_facts(repository: RepositorySnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A cached repository as names and values."""
    return (
        ("Source", repository.source_repository),
        ("Rule", repository.rule or "none any more: what is cached can still be pulled"),
        ("Cached since", day(repository.created)),
        *((("Locked", LOCKED),) if repository.locked else ()),
        ("", ""),
        ("Tags", f"{repository.tags:,}"),
        ("Manifests", f"{repository.manifests:,}"),
        ("Size", size(repository.size)),
        ("Pulls", f"{repository.pulls:,}"),
        (
            "Last pull",
            f"{since(repository.last_pull, now)}" if repository.last_pull is not None else "never",
        ),
    )


def tag_row(tag: TagSnapshot, clock: Callable[[], float]) -> Row:
    """Tag, platforms, size, age, last pull and state."""
    platforms = tag_platforms(
        (platform.removeprefix("linux/") for platform in tag.platforms), tag.kind
    )

    def cells() -> tuple[Cell, ...]:
        now = clock()
        word, tone = tag_state(tag, now), tag_tone(tag, now)
        return (
            Cell(tag.name, "accent"),
            Cell(platforms or "-"),
            Cell(size(tag.size)),
            Cell(ago(tag.cached, now), "dim"),
            Cell(ago(tag.last_pull, now), "dim"),
            Cell(word, tone),
        )

    marks = f"{' locked' if tag.locked else ''}{' gone' if tag.gone else ''}"
    kind = "" if tag.kind == IMAGE else f" {tag.kind} {tag.artifact_type or ''}"
    words = f"{tag.name} {' '.join(tag.platforms)} {tag.digest}{kind}{marks}"
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
    """The sort key of a version: 1.9 comes before 1.27."""
    return [
        (int(number) if number else -1, letters)
        for number, letters in re.findall(r"([0-9]+)|([^0-9]+)", name)
    ]


def tag_lines(tag: TagSnapshot, now: float) -> tuple[str, ...]:
    """A tag in sentences."""
    used = f"pulled {since(tag.last_pull, now)}" if tag.last_pull is not None else "never pulled"
    return (tag.digest, f"{tag_state(tag, now)}   cached {since(tag.cached, now)}   {used}")


def tag_facts(tag: TagSnapshot, now: float) -> tuple[tuple[str, str], ...]:
    """A tag as names and values."""
    return (
        ("Digest", tag.digest),
        *_contents_of(tag),
        ("Size", size(tag.size)),
        ("", ""),
        ("State", tag_state(tag, now)),
        *((("Locked", LOCKED),) if tag.locked else ()),
        ("Cached", f"{since(tag.cached, now)}"),
        ("Checked", f"{since(tag.checked, now)}"),
        ("Last pull", f"{since(tag.last_pull, now)}" if tag.last_pull is not None else "never"),
    )


def _contents_of(tag: TagSnapshot) -> Iterator[tuple[str, str]]:
    """The platforms of an image; of another artifact what it is."""
    if tag.kind == IMAGE:
        yield "Platforms", ", ".join(tag.platforms) or "none cached"
    else:
        yield "Kind", tag.kind
        yield "Artifact type", tag.artifact_type or "none"


def tag_tone(tag: TagSnapshot, now: float) -> str:
    """The tone of a tag's state."""
    if tag.gone:
        return "warn"
    is_fresh = tag.fresh_until is None or tag.fresh_until > now
    return "good" if tag.locked or is_fresh else "dim"


def eviction_lines(eviction: EvictionSnapshot, now: float, *, limit: int = 6) -> str:
    """What an eviction removes, the least recently used image first.

    At most *limit* images are named.
    """
    images = [
        f"  {evicted_image(image)}   {size(image.freed)}   {since(image.last_used, now)}"
        for image in eviction.images[:limit]
    ]
    if len(eviction.images) > limit:
        images.append(f"  and {counted(len(eviction.images) - limit, 'more image')}")
    lines = [
        f"{size(eviction.cached)} are cached. {size(eviction.freed)} are evicted, "
        "the least recently used images:",
        *images,
    ]
    if eviction.shortfall:
        reason = what_stays(eviction.locked, eviction.in_use, eviction.recent)
        lines.append(f"\nThe goal is missed by {size(eviction.shortfall)}: {reason}.")
    return "\n".join(lines)


def nothing_to_evict(plan: EvictionSnapshot) -> str:
    """Why no image would be evicted."""
    reason = (
        what_stays(plan.locked, plan.in_use, plan.recent)
        if plan.shortfall
        else f"{size(plan.cached)} are cached, which is no more than that"
    )
    return f"Nothing to evict: {reason}."


def evicted_image(image: EvictedImage) -> str:
    """The name under which an image was pulled, and its platform."""
    platform = (image.platform or "").removeprefix("linux/")
    return f"{evicted_image_name(image)} {platform}".rstrip()


def refreshed_text(refreshed: RefreshedTag) -> tuple[str, bool]:
    """The source registry's answer about a tag, and whether there is news to pull."""
    has_news = refreshed.problem is None and not refreshed.gone and refreshed.moved
    return refreshed_tag_text(refreshed, short=True), has_news
