"""Format numbers, times, tables and foreign text for people."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

_UNITS = ("kB", "MB", "GB", "TB")
_WIDE = frozenset("WF")
_JOINED = frozenset({"Mn", "Me", "Cf", "Cc"})
"""Categories of Unicode whose characters take no cell of a terminal."""

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


@dataclass(frozen=True, slots=True)
class TableColumn:
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


def what_stays(locked: int, in_use: int, recent: int) -> str:
    """Why an eviction misses its goal: which bytes stay for which reason.

    All three are 0 where an older engine did not count them.
    """
    parts = [
        f"{size(count)} {reason}"
        for count, reason in (
            (locked, "are locked"),
            (in_use, "are being pulled"),
            (recent, "were used within the last minute, and can go when it has passed"),
        )
        if count
    ]
    return (
        " and ".join((", ".join(parts[:-1]), parts[-1]))
        if len(parts) > 1
        else "".join(parts) or "what is left is locked or in use"
    )


def parse_size(text: str) -> int:
    """Bytes from what a person writes; raises ValueError.

    ``500 GB``, ``50GiB``, ``1.5 TB``, or a number of bytes.
    """
    # At most 30 digits, so that the number is not infinite.
    quantity = re.fullmatch(
        r"\s*(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?)\s*"
        r"(?:(?P<prefix>[kmgtp]?)(?P<binary>i?)b)?\s*",
        text[:100],
        re.IGNORECASE | re.ASCII,
    )
    if quantity is None or len(text) > 100 or (quantity["binary"] and not quantity["prefix"]):
        raise ValueError(f"{text[:100]!r} is not a size")
    base = 1024.0 if quantity["binary"] else 1000.0
    return round(float(quantity["number"]) * base ** _POWERS[(quantity["prefix"] or "").lower()])


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 pull``, ``1,204 pulls``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def ago(then: float | None, now: float) -> str:
    """How long ago, for a column: ``2 min``, ``3 d``, ``never``.

    ``now`` below a minute: a count of seconds would change at each refresh.
    """
    if then is None:
        return "never"
    return "now" if now - then < 60 else duration(now - then)


def since(then: float | None, now: float) -> str:
    """How long ago, in a sentence: ``just now``, ``2 min ago``; ``never``."""
    age = ago(then, now)
    return {"never": "never", "now": "just now"}.get(age, f"{age} ago")


def moment(then: float, now: float) -> str:
    """A time on this machine's clock: ``14:03``, ``23 Nov`` or ``2025-11-23``.

    The date only on another day, the year only in another year.
    """
    local_then, local_now = time.localtime(then), time.localtime(now)
    if local_then[:3] == local_now[:3]:
        return time.strftime("%H:%M", local_then)
    return (
        f"{local_then.tm_mday} {time.strftime('%b', local_then)}"
        if local_then.tm_year == local_now.tm_year
        else time.strftime("%Y-%m-%d", local_then)
    )


def day(then: float) -> str:
    """The day of a time in UTC: ``2026-12-24``."""
    return time.strftime("%Y-%m-%d", time.gmtime(then))


def rate(speed: float) -> str:
    """Bytes per second, in two or three digits: ``5.3 MB/s``, ``31 MB/s``."""
    number, _, unit = size(float(f"{speed:.3g}")).partition(" ")
    return f"{float(number):.0f} {unit}/s" if float(number) >= 10 else f"{number} {unit}/s"


def out_of(part: float, whole: float) -> str:
    """A part of a size, with one unit where both have the same: ``41.2 of 80.0 GB``."""
    part_size, whole_size = size(part), size(whole)
    number, _, unit = part_size.partition(" ")
    return f"{number if whole_size.endswith(f' {unit}') else part_size} of {whole_size}"


def duration(seconds: float) -> str:
    """A length of time in its largest unit: ``45 s``, ``2 min``, ``5 h``, ``3 d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def table(columns: Sequence[TableColumn], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under their titles; nothing is cut.

    Cells may have foreign text: each becomes one printable line, and wide characters take two
    cells.
    """
    lines = [
        [column.title for column in columns],
        *([printable(cell) for cell in row] for row in rows),
    ]
    widths = [max(cells(line[index]) for line in lines) for index in range(len(columns))]

    def format_line(texts: Sequence[str]) -> str:
        return "  ".join(
            padded(text, width, right=column.right)
            for text, width, column in zip(texts, widths, columns, strict=True)
        ).rstrip()

    return "\n".join(format_line(line) for line in lines)


def cells(text: str) -> int:
    """The number of terminal cells of a line.

    Characters of East Asian width take two, combining ones none.
    """
    if text.isascii():
        return len(text)
    # rich has better tables, but doubles the time of all imports of a command.
    from unicodedata import category, east_asian_width

    return sum(
        0 if category(character) in _JOINED else 2 if east_asian_width(character) in _WIDE else 1
        for character in text
    )


def padded(text: str, width: int, *, right: bool = False) -> str:
    """A line padded with blanks to *width* cells, aligned to the *right* or left.

    A longer line stays as it is.
    """
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def last_cells(text: str, width: int) -> str:
    """The end of a line in at most *width* cells.

    A character of two cells is never split.
    """
    for start in range(len(text)):
        if cells(text[start:]) <= width:
            return text[start:]
    return ""


def bar(share: float, width: int) -> str:
    """A progress bar of plain characters: ``[####----]``."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return f"[{'#' * filled}{'-' * (width - filled)}]"


def printable(text: str, limit: int | None = None) -> str:
    """Foreign text as one line without anything that a terminal or a log would obey.

    White space becomes single spaces. Escapes such as ``\\x1b`` replace control characters (C0 and
    C1), formats such as those that turn the direction of writing, lone surrogates, and unassigned
    characters. A line of more than *limit* characters is cut and ends in an ellipsis.
    """
    line = escaped(" ".join(text.split()))
    return line if limit is None or len(line) <= limit else f"{line[: max(0, limit - 1)]}…"


def printable_lines(text: str) -> str:
    """A text of our own, with escapes for what a terminal would obey.

    For text that has foreign text in it. Line breaks and blanks stay.
    """
    return text if text.isprintable() else "\n".join(escaped(line) for line in text.split("\n"))


def printable_json(document: str) -> str:
    """The same JSON document with ``\\u`` escapes for what a terminal would obey.

    JSON allows such characters in a string (C1, directions of writing).
    """
    # A line at a time: the listing of 100,000 repositories has 28 million characters.
    return "\n".join(
        line
        if line.isprintable()
        else "".join(
            character if character.isprintable() else _json_escape(character) for character in line
        )
        for line in document.split("\n")
    )


def escaped(line: str) -> str:
    """A line with escapes such as ``\\x1b`` for unprintable characters.

    Blanks stay, and other white space becomes blanks.
    """
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else _escape(character) for character in line
    )


def _escape(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
    # A character beyond the first 65,536 takes two escapes (RFC 8259, 7).
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2)
    )


def short_digest(digest: str) -> str:
    """The first twelve characters of a digest's value, as docker shows it.

    Empty for other text.
    """
    return digest.partition(":")[2][:12]
