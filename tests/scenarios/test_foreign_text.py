"""Every pattern that sees what clients send reads the largest text that passes in a moment (S01): a
line of 8,190 bytes, or 128 of them joined.

Patterns that need more than linear time for it would take minutes or years, so the bound is
generous.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from entrepot import formatting
from entrepot.core import reference
from entrepot.errors import EntrepotError
from entrepot.httpd import accept, ranges
from entrepot.httpd.accept import Accept
from entrepot.httpd.exchange import _origin_form
from entrepot.httpd.ranges import parse_ranges
from entrepot.server import access, paging, registry
from entrepot.server.host_check import LocalHosts

LINE = 8190
"""Bytes of a request's first line, or of one header, that aiohttp lets through at the most."""

LINES = 128
"""Headers of a request at the most; those of one name are joined."""

BOUND = 1.0
"""Seconds, on a machine that is busy with other tests. One text takes a few milliseconds."""

UNITS = [
    "; ",
    ";",
    " ",
    ", ",
    ",",
    "a",
    "a/b;",
    "a/b,",
    'a/b;c="',
    '"',
    "\\",
    "q=0;",
    "0",
    "1-,",
    "-",
    "0-0,",
    "=",
    "/",
    "-a",
    "._",
    "a__a",
    "a--",
    "/blobs/",
    "[",
    ":",
    "\t;",
]
"""What patterns were slow with, or could be."""

BEGINNINGS = ["", "a/b", "bytes=", "/v2/", "/v2/a/manifests/", "sha256:", "http://"]
ENDS = ["", "@", "\x00", ";q=", "/tags/list"]


def hostile(longest: int) -> Iterator[str]:
    for beginning in BEGINNINGS:
        for unit in UNITS:
            for end in ENDS:
                room = longest - len(beginning) - len(end)
                yield beginning + (unit * (room // len(unit) + 1))[:room] + end


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """All patterns of the modules that see what clients send; one that is added is tried without
    being named here."""
    for module in (accept, access, paging, ranges, registry, reference):
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", value


def in_time(read: Callable[[str], object], longest: int) -> None:
    for text in hostile(longest):
        started_at = time.thread_time()
        with suppress(EntrepotError):
            read(text)
        seconds = time.thread_time() - started_at
        assert seconds < BOUND, f"{seconds:.1f} s for {text[:40]!r}..."


def test_all_patterns_are_seen() -> None:
    assert {
        "accept._ELEMENT",
        "registry._ADDRESS",
        "reference._REPOSITORY",
        "ranges._SPECIFIER",
    } <= {name for name, _ in patterns()}


@pytest.mark.parametrize(
    "pattern", [pytest.param(pattern, id=name) for name, pattern in patterns()]
)
def test_s01_a_pattern_reads_the_longest_line_in_a_moment(pattern: re.Pattern[str]) -> None:
    in_time(pattern.fullmatch, LINE)


def _allowed(text: str) -> bool:
    return LocalHosts(_nothing)._is_allowed(text)


async def _nothing(*_: object) -> None:
    """Answers nothing."""


READERS: dict[str, Callable[[str], object]] = {
    "Accept": lambda text: Accept.parse(text.encode("latin-1")),
    "Range": lambda text: parse_ranges(text.encode("latin-1")),
    "Host": _allowed,
    "repository": reference.parse_repository,
    "reference": reference.parse_reference,
    "image": reference.ImageReference.parse,
    "n": lambda text: paging.page_size(text, 1000),
    "target": _origin_form,
    "printable": formatting.printable,
}


@pytest.mark.parametrize("name", READERS)
def test_s01_the_longest_text_that_passes_is_read_in_a_moment(name: str) -> None:
    in_time(READERS[name], LINE)


@pytest.mark.parametrize("name", ["Accept", "Range", "Host"])
def test_s01_headers_that_are_joined_are_read_in_a_moment(name: str) -> None:
    for unit in UNITS:
        line = (unit * LINE)[:LINE]
        text = ", ".join([line] * LINES)
        started_at = time.thread_time()
        with suppress(EntrepotError):
            READERS[name](text)
        assert time.thread_time() - started_at < BOUND
