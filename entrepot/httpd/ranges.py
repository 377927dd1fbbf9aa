"""Byte ranges (RFC 9110, 14): parsing of a Range header, and multipart bodies.

Clients of partial pulls send one request for many parts, and depend on the form of the response.
containers/image (podman, buildah, skopeo; zstd:chunked) sends up to 1,024 ranges in ascending
order and fails unless exactly as many parts come back in that order. Its first request asks for two
ranges that are eight bytes apart (``bytes=3832641-3852897,3852906-3869099``), and ranges that touch
are common. So only overlapping ranges are merged, which such a client never sends.
stargz-snapshotter and SOCI merge before they send a request, and read the Content-Range of each
part (F72).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from entrepot.errors import RangeUnsatisfiable
from entrepot.httpd.sendfile import SMALL_SPAN, FileSpan
from entrepot.store.partial_blob import FilePart

BlobPieces = AsyncIterator[bytes | FilePart | FileSpan]
"""Bytes of a blob, or parts of files with such bytes."""

ReadBlob = Callable[[int, int], BlobPieces]
"""Reads the bytes of a blob from a start (inclusive) to an end (exclusive)."""

MAX_HEADER = 32 * 1024
"""Bytes of all Range headers of a request together; a longer one is ignored.

1,024 ranges of a blob of some gigabytes take 22 kB. The HTTP server accepts 8,190 bytes of a line
and answers 400 to more; containers/image then requests half as many ranges, with the bytes between
them."""

MAX_PARTS = 1024
"""Parts of a response, as many as containers/image requests.

A request for more gets the whole blob."""

MAX_POSITION = 10**19
"""The value of a position of more than 19 digits. No blob is that large."""

# [0-9] and not \d, which matches the digits of other scripts too.
_SPECIFIER = re.compile(r"([0-9]*+)-([0-9]*+)")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes *start* (inclusive) to *end* (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start

    def header(self, blob_size: int) -> bytes:
        """The value of its Content-Range."""
        return b"bytes %d-%d/%d" % (self.start, self.end - 1, blob_size)


@dataclass(frozen=True, slots=True)
class RequestedRange:
    """One range as it was requested: ``first-last``, ``first-`` or ``-suffix``."""

    first: int | None
    last: int | None

    def within(self, size: int) -> ByteRange | None:
        """The range within a blob of *size* bytes; None for a range outside it."""
        if self.first is None:
            start, end = max(0, size - (self.last or 0)), size
        else:
            start, end = self.first, size if self.last is None else min(self.last + 1, size)
        return ByteRange(start, end) if start < end else None


def parse_ranges(header: bytes | None) -> tuple[RequestedRange, ...]:
    """Parse a Range header (RFC 9110, 14.2).

    Empty without one, and for a header that is ignored. The response is the whole blob then. A
    header that is no set of byte ranges is ignored: another unit, a word among the ranges, a last
    position before the first, more than `MAX_HEADER` bytes.
    """
    if header is None or len(header) > MAX_HEADER:
        return ()
    unit, _, text = header.decode("latin-1").partition("=")
    if unit.strip(" \t").lower() != "bytes":
        return ()
    ranges = []
    for element in text.split(","):
        # A list may have empty elements (RFC 9110, 5.6.1.2).
        if not (element := element.strip(" \t")):
            continue
        match = _SPECIFIER.fullmatch(element)
        first, last = (
            (_position(match[1]), _position(match[2])) if match is not None else (None, None)
        )
        if first is None and last is None:
            return ()
        if first is not None and last is not None and last < first:
            return ()
        ranges.append(RequestedRange(first, last))
    return tuple(ranges)


def _position(digits: str) -> int | None:
    if not digits:
        return None
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= 19 else MAX_POSITION


def parts_within(ranges: Sequence[RequestedRange], size: int) -> tuple[ByteRange, ...]:
    """The requested parts of a blob of *size* bytes, in the order of *ranges*.

    Empty when the response is the whole blob: without ranges, and for more than `MAX_PARTS` parts.
    Overlapping parts are merged, so that no byte is sent twice. Raises `RangeUnsatisfiable` when no
    range lies within the blob.
    """
    if not ranges:
        return ()
    parts = [part for requested in ranges if (part := requested.within(size)) is not None]
    if not parts:
        raise RangeUnsatisfiable(
            f"The range lies outside the blob, which has {size:,} bytes.",
            "Request a part of it, or all of it.",
            size=size,
        )
    parts = _merge_overlapping(parts)
    return tuple(parts) if len(parts) <= MAX_PARTS else ()


def _merge_overlapping(parts: Sequence[ByteRange]) -> list[ByteRange]:
    """The same bytes, each once; a merged part takes the place of its first part."""
    merged: list[tuple[int, int, int]] = []
    for start, place, end in sorted(
        (part.start, place, part.end) for place, part in enumerate(parts)
    ):
        if merged and start < merged[-1][2]:
            first_place, merged_start, merged_end = merged[-1]
            merged[-1] = (min(place, first_place), merged_start, max(end, merged_end))
        else:
            merged.append((place, start, end))
    return [ByteRange(start, end) for _, start, end in sorted(merged)]


class MultipartBody:
    """Several parts of a blob as one body of ``multipart/byteranges`` (RFC 9110, 14.6)."""

    def __init__(self, parts: Sequence[ByteRange], blob_size: int) -> None:
        # 128 random bits are unknown to the creator of a blob, so no blob contains the boundary.
        self._boundary = secrets.token_hex(16).encode()
        self._parts = [(self._head(part, blob_size), part) for part in parts]
        self._end = b"\r\n--%b--\r\n" % self._boundary
        self.length = sum(len(head) + part.size for head, part in self._parts) + len(self._end)
        """Length of the body in bytes."""

    @property
    def content_type(self) -> bytes:
        """The value of the response's Content-Type."""
        return b"multipart/byteranges; boundary=" + self._boundary

    def _head(self, part: ByteRange, blob_size: int) -> bytes:
        content_range = part.header(blob_size)
        lines = [
            b"",
            b"--" + self._boundary,
            b"content-type: application/octet-stream",
            b"content-range: " + content_range,
            b"",
            b"",
        ]
        return b"\r\n".join(lines)

    async def pieces(self, read: ReadBlob) -> BlobPieces:
        """The body, with the bytes that *read* gives of the blob."""
        for head, part in self._parts:
            yield head
            async for piece in read(part.start, part.end):
                yield piece
        yield self._end


async def coalesced(pieces: BlobPieces) -> BlobPieces:
    """The same bytes in fewer pieces.

    Hundreds of small parts are not sent one by one. Not for a growing blob: bytes that have arrived
    must not wait for later ones.
    """
    small = bytearray()
    async for piece in pieces:
        if isinstance(piece, bytes) and len(small) + len(piece) <= SMALL_SPAN:
            small += piece
            continue
        if small:
            yield bytes(small)
            small.clear()
        yield piece
    if small:
        yield bytes(small)
