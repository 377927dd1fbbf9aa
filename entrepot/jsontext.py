"""JSON as registries send it: with a byte order mark before it, or with other bytes after it."""

from __future__ import annotations

import re
from codecs import BOM_UTF8

import msgspec

_TRAILING = re.compile(r"trailing characters \(byte ([0-9]{1,12})\)")
"""What msgspec says of bytes after the JSON value, and the number of the first."""

_ESCAPE = re.compile(
    rb"(?P<whole>\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""A backslash, a pair of surrogates, or half of a pair."""


def first_value(content: bytes) -> bytes:
    r"""The JSON value with which *content* begins, without a byte order mark and what follows it
    (F82).

    Half of a pair of surrogates (``\ud800``) is U+FFFD, as Go's encoding/json reads it. *content*
    itself where it is no JSON: whoever decodes it says why. A digest is always that of the bytes as
    they came, and never of these.
    """
    text = content.removeprefix(BOM_UTF8)
    end = _end(text)
    if end is None and b"\\u" in text:
        text = _ESCAPE.sub(lambda escape: escape["whole"] or b"\\ufffd", text)
        end = _end(text)
    return text[:end]


def _end(text: bytes) -> int | None:
    """How many bytes of *text* are its JSON value; None where it is no JSON."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        trailing = _TRAILING.search(str(error))
        return int(trailing[1]) - 1 if trailing is not None else None
    return len(text)
