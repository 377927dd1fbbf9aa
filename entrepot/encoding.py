"""Decode text and JSON that editors, tools and registries wrote (F82, F87)."""

from __future__ import annotations

import codecs
import re

import msgspec

_OTHER_BYTE_ORDER_MARKS = (
    # That of UTF-32 begins with that of UTF-16.
    ("UTF-32", codecs.BOM_UTF32_LE),
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
)

_TRAILING = re.compile(r"trailing characters \(byte ([0-9]{1,12})\)")
"""msgspec's message about bytes after a JSON value, and the number of the first of them."""

_ESCAPE = re.compile(
    rb"(?P<whole>\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""A backslash or a pair of surrogates (*whole*), or half of a pair."""


class NotUtf8(ValueError):
    """Bytes that are not UTF-8 text.

    The error does not repeat them, they may be a secret. ``encoding`` names their encoding where
    that is known; ``offset`` is that of the first wrong byte.
    """

    def __init__(self, encoding: str | None, offset: int) -> None:
        self.encoding = encoding
        self.offset = offset
        super().__init__(f"is not UTF-8 text but {encoding or 'perhaps Latin-1 (ISO 8859-1)'}")

    @property
    def sentence(self) -> str:
        """``It is not UTF-8 text but UTF-16: save it as UTF-8.``"""
        return f"It {self}: save it as UTF-8."


def without_byte_order_mark(content: bytes) -> bytes:
    """The bytes without a UTF-8 byte order mark, which some editors and servers write."""
    return content.removeprefix(codecs.BOM_UTF8)


def decode_text(content: bytes) -> str:
    """Decode UTF-8 text, with or without a byte order mark; raises `NotUtf8`."""
    for encoding, mark in _OTHER_BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise NotUtf8(encoding, 0)
    # Without a mark, UTF-16 of Western text has a zero in every other byte, and would pass for
    # UTF-8.
    if len(content) >= 4 and len(content) % 2 == 0 and any(content[1::2]) != any(content[::2]):
        raise NotUtf8("UTF-16", 0)
    text = without_byte_order_mark(content)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(None, len(content) - len(text) + error.start) from None


def first_json_value(content: bytes) -> bytes:
    r"""The JSON value at the start of *content* (F82).

    Registries send a byte order mark before it, or other bytes behind it. Half of a pair of
    surrogates (``\ud800``) becomes U+FFFD, as Go's encoding/json reads it. Returns *content* itself
    where it is not JSON, so that its decoder can say why. A digest is always that of the original
    bytes, never of these.
    """
    text = without_byte_order_mark(content)
    end = _json_length(text)
    if end is None and b"\\u" in text:
        text = _ESCAPE.sub(lambda escape: escape["whole"] or b"\\ufffd", text)
        end = _json_length(text)
    return text[:end]


def _json_length(text: bytes) -> int | None:
    """The length of the JSON value at the start of *text*, in bytes.

    None if there is none.
    """
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        trailing = _TRAILING.search(str(error))
        return int(trailing[1]) - 1 if trailing is not None else None
    return len(text)
