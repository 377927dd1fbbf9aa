"""Warnings of sources, read as clients get them."""

from __future__ import annotations

import httpx
import pytest

from entrepot.source.warnings import NO_NOTE, WARNING_LENGTH, SourceNote

UNCONFIRMED = "The source registry serves a copy that it could not confirm."


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ('299 - "The repository is deprecated."', "The repository is deprecated."),
        ('299 cache.example "Old."', "Old."),
        ('110 entrepot "Stale." "Tue, 01 Dec 2026 12:00:00 GMT"', "Stale."),
        (r'299 - "A \"quoted\" word \\ and more"', 'A "quoted" word \\ and more'),
        ('214 - "Transformed", 299 - "Old."', "Old."),
        ('299 - "First.", 299 - "Second."', "First."),
        ('299 - "Red \x1b[31m\u202e"', "Red \\x1b[31m\\u202e"),
    ],
)
def test_the_text_of_a_warning_is_read_and_made_printable(header: str, text: str) -> None:
    headers = httpx.Headers([(b"warning", header.encode())])
    assert SourceNote.of(headers) == SourceNote(text)


@pytest.mark.parametrize(
    "header", ["", "299", "299 - unquoted", '299 - "', '1299 - "x"', '299 - ""', '199 - "x"']
)
def test_what_is_no_warning_is_passed_over(header: str) -> None:
    assert SourceNote.of({"warning": header}) is NO_NOTE


def test_a_long_warning_is_cut() -> None:
    note = SourceNote.of({"warning": '299 - "{}"'.format("word " * 700)})
    assert note.warning is not None
    assert len(note.warning) == WARNING_LENGTH
    # Only its start is read, which has no end of the text.
    assert SourceNote.of({"warning": '299 - "{}"'.format("\\" * 100_000)}) is NO_NOTE


def test_a_stale_copy_of_another_cache_has_a_warning_in_any_case() -> None:
    stale = SourceNote.of({"entrepot-origin": "stale", "warning": '299 - "It is down."'})
    assert stale == SourceNote("It is down.", is_stale=True)
    assert SourceNote.of({"entrepot-origin": "stale"}) == SourceNote(UNCONFIRMED, is_stale=True)
    assert SourceNote.of({"entrepot-origin": "cache"}) == NO_NOTE
