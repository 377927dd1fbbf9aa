"""Byte ranges (RFC 9110, 14): which part of a blob a client asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from entrepot.errors import RangeUnsatisfiable, RequestInvalid

MAX_HEADER = 8192
"""Bytes of all Range headers of a request together that are read, at the most. A longer one asks for many ranges, and gets the whole blob as those do."""

# [0-9] and not \d, which takes the digits of other scripts too.
_SPECIFIER = re.compile(r"([0-9]{0,19}+)-([0-9]{0,19}+)")


class RangeInvalid(RequestInvalid):
    """A Range header that can't be read."""

    code = "RangeInvalid"
    oci_code = "RANGE_INVALID"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes *start* (inclusive) to *end* (exclusive)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class AskedRange:
    """One range as it was asked for: ``first-last``, ``first-`` or ``-suffix``."""

    first: int | None
    last: int | None

    def within(self, size: int) -> ByteRange:
        """The range within a blob of *size* bytes; raises `RangeUnsatisfiable`."""
        if self.first is None:
            assert self.last is not None  # parse_range() refuses "-"
            start, end = max(0, size - self.last), size
        else:
            start, end = self.first, size if self.last is None else min(self.last + 1, size)
        if start >= end:
            raise RangeUnsatisfiable(f"The range lies outside the blob, which has {size:,} bytes.", "Ask for a part of it, or for all of it.", size=size)
        return ByteRange(start, end)


def parse_range(header: bytes | None) -> AskedRange | None:
    """Read a Range header; None when there is none, when it has more than `MAX_HEADER` bytes, or when it asks for several ranges or in another unit.

    Then the whole blob is the answer. Raises `RangeInvalid`.
    """
    if header is None or len(header) > MAX_HEADER:
        return None
    unit, equals, text = header.decode("latin-1").partition("=")
    if equals and unit.strip().lower() != "bytes":
        return None
    specifiers = [part.strip() for part in text.split(",")]
    matches = [_SPECIFIER.fullmatch(part) for part in specifiers]
    pairs = [(int(match[1]) if match[1] else None, int(match[2]) if match[2] else None) for match in matches if match]
    if not equals or len(pairs) < len(specifiers) or any(pair == (None, None) for pair in pairs):
        raise _invalid(header)
    if any(first is not None and last is not None and last < first for first, last in pairs):
        raise _invalid(header)
    return AskedRange(*pairs[0]) if len(pairs) == 1 else None


def _invalid(header: bytes) -> RangeInvalid:
    return RangeInvalid(f"The header Range: {header.decode('latin-1')[:80]!r} can't be read.", "Write it as: Range: bytes=0-1023", field="Range")
