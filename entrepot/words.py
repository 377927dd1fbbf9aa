"""Numbers, times and tables in the words of people."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

_UNITS = ("kB", "MB", "GB", "TB")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a listing."""

    title: str
    right: bool = False


def size(count: float) -> str:
    """Bytes in decimal units, as registries show them: ``71.2 MB``."""
    if count < 1000:
        return f"{count:.0f} B"
    power = 1
    while count >= 999.95 * 1000 and power < len(_UNITS):
        count /= 1000
        power += 1
    return f"{count / 1000:.1f} {_UNITS[power - 1]}"


def parse_size(text: str) -> int:
    """Bytes from what a person writes: ``500 GB``, ``50GiB``, ``1.5 TB``, or a plain number of bytes; raises ValueError."""
    # What is longer is none; the number is one of at most 30 digits, so that it is not infinite.
    found = re.fullmatch(r"\s*(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?)\s*(?:(?P<prefix>[kmgtp]?)(?P<binary>i?)b)?\s*", text[:100], re.IGNORECASE | re.ASCII)
    if found is None or len(text) > 100 or (found["binary"] and not found["prefix"]):
        raise ValueError(f"{text[:100]!r} is not a size")
    base = 1024.0 if found["binary"] else 1000.0
    return round(float(found["number"]) * base ** _POWERS[(found["prefix"] or "").lower()])


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 pull``, ``1,204 pulls``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def ago(then: float | None, now: float) -> str:
    """How long ago, for a column: ``now`` below a minute (what counts seconds is never at rest), ``2 min``, ``3 d``; ``never``."""
    if then is None:
        return "never"
    return "now" if now - then < 60 else duration(now - then)


def since(then: float | None, now: float) -> str:
    """How long ago, in a sentence: ``just now``, ``2 min ago``; ``never``."""
    told = ago(then, now)
    return {"never": "never", "now": "just now"}.get(told, f"{told} ago")


def moment(then: float, now: float) -> str:
    """When, on this machine's clock: ``14:03``; another day ``23 Nov``, another year ``2025-11-23``."""
    there, here = time.localtime(then), time.localtime(now)
    if there[:3] == here[:3]:
        return time.strftime("%H:%M", there)
    return f"{there.tm_mday} {time.strftime('%b', there)}" if there.tm_year == here.tm_year else time.strftime("%Y-%m-%d", there)


def rate(speed: float) -> str:
    """Bytes a second, as precise as anybody can follow: ``5.3 MB/s``, ``31 MB/s``."""
    number, _, unit = size(float(f"{speed:.3g}")).partition(" ")
    return f"{float(number):.0f} {unit}/s" if float(number) >= 10 else f"{number} {unit}/s"


def out_of(part: float, whole: float) -> str:
    """A part of a size, its unit said once where it can be: ``41.2 of 80.0 GB``."""
    told, all_of_it = size(part), size(whole)
    number, _, unit = told.partition(" ")
    return f"{number if all_of_it.endswith(f' {unit}') else told} of {all_of_it}"


def duration(seconds: float) -> str:
    """A length of time in its largest unit: ``45 s``, ``2 min``, ``5 h``, ``3 d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under their titles; nothing is cut."""
    widths = [max(len(column.title), *(len(row[index]) for row in rows)) if rows else len(column.title) for index, column in enumerate(columns)]
    lines = [[column.title for column in columns], *rows]

    def line(cells: Sequence[str]) -> str:
        placed = (cell.rjust(width) if column.right else cell.ljust(width) for cell, width, column in zip(cells, widths, columns, strict=True))
        return "  ".join(placed).rstrip()

    return "\n".join(line(cells) for cells in lines)


def bar(share: float, width: int) -> str:
    """A progress bar of plain characters: ``[####----]``."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return f"[{'#' * filled}{'-' * (width - filled)}]"


def printable(text: str, limit: int | None = None) -> str:
    """Foreign text as one line that no terminal and no log obeys: white space becomes single spaces, the rest escapes such as ``\\x1b``.

    What can't be printed are control characters (C0 and C1), formats such as those that turn the direction of writing, lone surrogates, and what has no meaning
    in Unicode. *limit* is the most characters that are given; what is longer ends in an ellipsis.
    """
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in line)
    return line if limit is None or len(line) <= limit else f"{line[: max(0, limit - 1)]}…"


def short_digest(digest: str) -> str:
    """The beginning of a digest's value, as docker and podman show it; empty for what is no digest."""
    return digest.partition(":")[2][:12]
