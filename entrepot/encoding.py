"""Text out of the bytes of a file that a person, an editor or another tool wrote (F87)."""

from __future__ import annotations

import codecs

_BYTE_ORDER_MARKS = (
    # That of UTF-32 begins with that of UTF-16.
    ("UTF-32", codecs.BOM_UTF32_LE),
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
)


class NotUtf8(ValueError):
    """Bytes that are not UTF-8 text. They are not repeated: they may be a secret.

    ``encoding`` names what they are, where that is known; ``offset`` is that of the first wrong
    byte.
    """

    def __init__(self, encoding: str | None, offset: int) -> None:
        self.encoding = encoding
        self.offset = offset
        super().__init__(f"is not UTF-8 text but {encoding or 'perhaps Latin-1 (ISO 8859-1)'}")

    @property
    def sentence(self) -> str:
        """What to say of a file: ``It is not UTF-8 text but UTF-16: save it as UTF-8.``"""
        return f"It {self}: save it as UTF-8."


def decode_text(content: bytes) -> str:
    """UTF-8 text without the byte order mark that some editors put before it; raises `NotUtf8`."""
    for encoding, mark in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise NotUtf8(encoding, 0)
    # Without a mark, UTF-16 of Western text has a zero in every other byte, and would pass for
    # UTF-8.
    if len(content) >= 4 and len(content) % 2 == 0 and any(content[1::2]) != any(content[::2]):
        raise NotUtf8("UTF-16", 0)
    text = content.removeprefix(codecs.BOM_UTF8)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(None, len(content) - len(text) + error.start) from None
